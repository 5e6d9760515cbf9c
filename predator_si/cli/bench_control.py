"""`bench control`: reads, triggers and stops against a small live platform.

What belongs here: options and how figures look. What must not: measuring (``proof.bench_control``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.screen import say, show_json, show_table, stages
from predator_si.errors import BadInput


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command("control")(control)


def control(
    context: typer.Context,
    scale: Annotated[str, typer.Option(help="full, or small: few requests, to see that it works.")] = "full",
    rate: Annotated[float | None, typer.Option(min=1, help="Reads a second [default: the scale's].")] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="How long [default: the scale's].")] = None,
    triggers: Annotated[int | None, typer.Option(min=1, help="At once [default: the scale's].")] = None,
    stops: Annotated[int | None, typer.Option(min=0, help="In the middle of training, one after another [default: the scale's].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the collection, the model, and the moments of the stops.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the bench's own home [default: HOME/control-bench].")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Ask a small live platform for status and metrics while a cycle trains, trigger it many times at once, stop trainings. Your own home is not touched.

    Exit code 1 when P99 is 50 ms or more, a read failed, more than one cycle began, a stop took over 5 s, or anything was released after one.

    Example: `predator-si bench control --json control.json`
    """
    from predator_si.proof.bench_control import SIZES, bench_control

    if scale not in SIZES:
        raise BadInput(f"--scale {scale!r}: there are {' and '.join(SIZES)}.")
    given = {"rate": rate, "seconds": seconds, "triggers": triggers, "stops": stops}
    sizes = replace(SIZES[scale], **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]
    settings = settings_of(context)
    folder = (settings.home / "control-bench" if out is None else out).absolute()
    with stages() as (tell, report):
        found = bench_control(folder, settings.cache, scale=scale, seed=seed, sizes=sizes, say=tell, on_progress=report)
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        slowest = found["stop_max_seconds"]
        rows = [
            (
                "reads",
                f"{found['requests_per_second']:.0f} a second, P50 {found['p50_ms'] or 0:.1f} ms, P99 {found['p99_ms'] or 0:.1f} ms, {found['errors']} errors",
            ),
            ("training steps meanwhile", found["training_steps"]),
            ("triggers at once", f"{found['triggers']}: {found['cycles_started']} cycle began"),
            ("stops", f"{found['stops']}, the slowest {slowest:.2f} s" if slowest is not None else "none"),
            ("released after a stop", found["released_after_stop"]),
        ]
        show_table("Control plane", ("", ""), rows, "")
        say("within its limits" if found["within"] else "NOT within its limits")
    if not found["within"]:
        raise typer.Exit(1)
