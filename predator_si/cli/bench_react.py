"""`bench react`: seconds from a fault to the loop's action, for each row of the trigger table, and what each action changes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    rows_only: Annotated[bool, typer.Option("--rows-only", help="Leave out the actions that no row took.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the collection and the model.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder of the bench's own home [default: HOME/react].")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Plant each fault of the trigger table in a small live platform, take the time until the loop acts, and measure what each action changes.

    Your own home is not touched. Waits between two looks of the loop are counted at their longest, not sat through; the figures say so part by part. Each
    action that needs no training is then put into force by a commit, and its signal is read again while the fault stays on. Exit code 1 when a row is too
    slow, or nothing reacted.

    Example: `predator-si bench react --json react.json`
    """
    from predator_si.monitor import TRIGGERS
    from predator_si.proof.bench_react import STRENGTHS, bench_react

    known = {rule.type for rule in TRIGGERS}
    if scale not in STRENGTHS or set(signal or ()) - known:
        raise BadInput(f"--scale is {' or '.join(STRENGTHS)}, --signal one of {', '.join(sorted(known))}.")
    settings = settings_of(context)
    folder = (settings.home / "react" if out is None else out).absolute()
    with stages() as (tell, report):
        found = bench_react(folder, settings.cache, scale=scale, seed=seed, signals=tuple(signal or ()), only_rows=rows_only, say=tell, on_progress=report)
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        show_table(
            "Reactions", ("signal", "seconds", "of them counted", "limit", "action", "why"), [_row(row) for row in found["rows"]], "no row was asked for"
        )
        show_table("Effects", ("action", "signal", "before", "after", "effect", "unknown because"), [_effect(one) for one in found["actions"]], "none")
    if not found["within"]:
        raise typer.Exit(1)


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    seconds = "never" if row["seconds"] is None else f"{row['seconds']:.0f}"
    return row["signal"], seconds, f"{row['counted_seconds']:.0f}", f"{row['limit_seconds']:.0f}", row["action"] or "", row["why"][:100]


def _effect(one: dict[str, Any]) -> tuple[str, ...]:
    before, after, effect = ("" if one.get(key) is None else f"{one[key]:.4g}" for key in ("before", "after", "effect"))
    return one["action"], one["signal"], before, after, effect or "unknown", (one["effect_why"] or "")[:100]
