"""`bench react`: seconds from a fault to the loop's action, for each row of the trigger table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.screen import show_json, show_table, stages
from predator_si.errors import BadInput


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command("react")(react)


def react(
    context: typer.Context,
    scale: Annotated[str, typer.Option(help="full, or small: two limits are lowered, so that a minute of lag need not be sat through.")] = "full",
    signal: Annotated[list[str] | None, typer.Option(help="Only this row, such as error_rate_up; may be given several times.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the collection and the model.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the bench's own home [default: HOME/react].")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Plant each fault of the trigger table in a small live platform and take the time until the loop acts. Your own home is not touched.

    Waits between two looks of the loop are counted at their longest, not sat through. Exit code 1 when a row is too slow, or nothing reacted.

    Example: `predator-si bench react --json react.json`
    """
    from predator_si.monitor import TRIGGERS
    from predator_si.proof.bench_react import SIZES, bench_react

    known = {rule.type for rule in TRIGGERS}
    if scale not in SIZES or set(signal or ()) - known:
        raise BadInput(f"--scale is {' or '.join(SIZES)}, --signal one of {', '.join(sorted(known))}.")
    settings = settings_of(context)
    folder = (settings.home / "react" if out is None else out).absolute()
    with stages() as (tell, report):
        found = bench_react(folder, settings.cache, scale=scale, seed=seed, signals=tuple(signal or ()), say=tell, on_progress=report)
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        rows = [
            (
                row["signal"],
                "never" if row["seconds"] is None else f"{row['seconds']:.0f}",
                f"{row['limit_seconds']:.0f}",
                row["action"] or "",
                row["why"][:100],
            )
            for row in found["rows"]
        ]
        show_table("Reactions", ("signal", "seconds", "limit", "action", "why"), rows, "no row was asked for")
    if not found["within"]:
        raise typer.Exit(1)
