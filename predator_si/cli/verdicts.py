"""`eval replay` and `eval verdict`: a cycle's verdicts again from what is stored, and as a rollout's analysis asks for them.

What belongs here: telling. What must not: recomputing (``release.replay``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.screen import progress, say, show_json
from predator_si.errors import Missing

if TYPE_CHECKING:
    from predator_si.release.replay import Replayed

JsonFile = Annotated[Path | None, typer.Option("--json", help="Write it here as JSON; - is standard output.")]
Cycle = Annotated[str, typer.Argument(help="si_YYYY_MM_DD_NNN, as `predator-si cycle list` shows it.")]


_LOOK_SECONDS = 60.0
"""Between two looks at a verdict that is waited for."""


def register(app: typer.Typer) -> None:
    """Put the commands of this module into ``app``."""
    app.command("replay")(replay)
    app.command("verdict")(verdict)


def replay(context: typer.Context, cycle_id: Cycle, json_file: JsonFile = None) -> None:
    """Judge a cycle again from its stored evidence: exit code 0 where every verdict comes out the same bit by bit, 1 with the first difference named.

    Example: `predator-si eval replay si_2026_11_23_001`
    """
    _, found = _replayed(context, cycle_id)
    if json_file is not None:
        rows = [{"name": one.name, "same": one.same, "difference": one.difference} for one in found]
        show_json({"cycle_id": cycle_id, "same": all(one.same for one in found), "verdicts": rows}, json_file)
    if json_file is None or str(json_file) != "-":
        for one in found:
            say(f"{'same   ' if one.same else 'DIFFERS'} {one.name}" + ("" if one.same else f": {one.difference}"))
    if not all(one.same for one in found):
        raise typer.Exit(1)


def verdict(
    context: typer.Context,
    cycle_id: Cycle,
    json_file: JsonFile = None,
    wait: Annotated[float, typer.Option(min=0, help="Hours to wait while the verdict is neither promote nor reject and the cycle goes on.")] = 0.0,
) -> None:
    """A cycle's newest verdict as one JSON object for an Argo Rollouts analysis; exit code 0 promote, 1 anything else.

    Example: `predator-si eval verdict si_2026_11_23_001 --json -`
    """
    _await_verdict(context, cycle_id, wait * 3600.0)
    folder, found = _replayed(context, cycle_id)
    answer = _answer(folder, found)
    if json_file is not None:
        show_json(answer, json_file)
    if json_file is None or str(json_file) != "-":
        say(f"{answer['verdict']} ({answer['stage']}): {answer['reason']}")
    if answer["verdict"] != "promote":
        raise typer.Exit(1)


def _answer(folder: Path, replayed: list[Replayed]) -> dict[str, Any]:
    """What an analysis is told, from what is stored."""
    from predator_si.records import Decision, ExperimentResult, WatchResult
    from predator_si.release.replay import analysis_of

    def newest(*names: str) -> Path | None:
        return next((folder / name for name in names if (folder / name).is_file()), None)

    decided, tried, watched = newest("decision-promote.json", "decision-trial.json"), newest("ab_test_results.json"), newest("watch.json")
    return analysis_of(
        replayed,
        Decision.read(decided) if decided is not None else None,
        ExperimentResult.read(tried) if tried is not None else None,
        WatchResult.read(watched) if watched is not None else None,
    )


def _await_verdict(context: typer.Context, cycle_id: str, seconds: float) -> None:
    """Return once the stored verdict is promote or reject, the cycle has ended, or the time is over: judging again, which takes long, waits for that."""
    import time

    from predator_si.control import ACTIVE
    from predator_si.orchestration.loop import Loop

    loop, ends = Loop(settings_of(context)), time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        going_on = loop.control.cycle(cycle_id).state in ACTIVE
        if not going_on or _answer(loop.home.artifacts / cycle_id, [])["verdict"] != "inconclusive":
            return
        time.sleep(min(_LOOK_SECONDS, left))


def _replayed(context: typer.Context, cycle_id: str) -> tuple[Path, list[Replayed]]:
    from predator_si.orchestration.loop import Loop
    from predator_si.release.replay import replay_cycle

    loop = Loop(settings_of(context))
    folder = loop.home.artifacts / cycle_id
    if not folder.is_dir():
        raise Missing(f"{folder}: there is no such cycle in this home. `predator-si cycle list` shows what there is.")
    with progress(f"judging {cycle_id} again") as report:
        records = loop.control.records(500, cycle_id=cycle_id)  # the newest decision of a stage last: a dict keeps it
        noted = {
            stage: one.payload["given"] for one in records for stage in ("trial", "promote") if one.action == f"decision_{stage}" and "given" in one.payload
        }
        found = replay_cycle(folder, noted=noted, on_progress=report)
    return folder, found
