"""`warehouse build` and `warehouse query`: the marts without Dagster."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.errors import BadInput

app = typer.Typer(help="The marts of the telemetry, made by dbt.", no_args_is_help=True)
TargetOption = Annotated[str | None, typer.Option("--target", help="duckdb or postgres [default: the contour's].")]


@app.callback()
def warehouse() -> None:
    """The marts of the telemetry, made by dbt."""


@app.command()
def build(
    context: typer.Context,
    target: TargetOption = None,
    full_refresh: Annotated[bool, typer.Option("--full-refresh", help="Make everything anew from what the raw layer still holds.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Make and test the marts of what has changed since the last build. Exit code 1 when a test failed or a model could not be made.

    Example: `predator-si warehouse build --target postgres`
    """
    from predator_si.warehouse import build as make
    from predator_si.warehouse import fast_path_agreement

    settings = settings_of(context)
    chosen = _target(target, settings.warehouse)
    report = make(settings.folders, chosen, full_refresh=full_refresh, usd_per_vcpu_hour=settings.prices.usd_per_vcpu_hour)
    found = fast_path_agreement(settings.folders, chosen) if report.good else None
    figures = {
        "target": chosen,
        "windows": report.windows,
        "snapshots": report.snapshots,
        "seconds": report.load_seconds + report.dbt_seconds,
        "models": sum(node.kind == "model" for node in report.nodes),
        "tests": sum(node.kind == "test" for node in report.nodes),
        "wrong": [{"name": node.name, "status": node.status, "message": node.message} for node in report.wrong],
        "fast_path": found.answer if found else "unknown",
        "fast_path_reason": found.reason if found else "the build is not good",
    }
    if as_json:
        show_json(figures)
    else:
        show_table("", ("", ""), [(key, value) for key, value in figures.items() if value != []], "")
        say("every model was made and every test passed" if report.good else f"{len(report.wrong)} models or tests are wrong")
    raise typer.Exit(0 if report.good else 1)


@app.command()
def query(
    context: typer.Context,
    sql: Annotated[str, typer.Argument(help="A question in SQL; the marts lie in schema warehouse.")],
    target: TargetOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Ask the marts a question; nothing is changed.

    Example: `predator-si warehouse query "select window_start, p95_latency_ms from warehouse.mart_window_latency where segment_kind = 'all'"`
    """
    from predator_si.warehouse import open_warehouse

    settings = settings_of(context)
    with open_warehouse(settings.folders, _target(target, settings.warehouse), read_only=True) as opened:
        columns, rows = opened.answer(sql)
    if as_json:
        show_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        show_table("", tuple(columns), rows, "no rows")


def _target(given: str | None, default: str) -> Literal["duckdb", "postgres"]:
    if (given or default) == "duckdb":
        return "duckdb"
    if (given or default) == "postgres":
        return "postgres"
    raise BadInput(f"--target {given!r}: there are duckdb and postgres.")
