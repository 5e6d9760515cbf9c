"""`drill NAME`: faults done on purpose to a small real platform, and what must hold after each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.screen import say, show_json, stages


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command()(drill)


def drill(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="rollback, swap, kill, partition or race.")],
    n: Annotated[int | None, typer.Option("--n", help="Rollbacks, swaps, kills of each process (0: at every point), or rounds [default: the scale's].")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the models, the collection and the order of faults.")] = 0,
    scale: Annotated[str, typer.Option(help="full, or small (one or a few of each, for CI).")] = "full",
    out: Annotated[Path | None, typer.Option(help="Folder of figures and pages; the drill's own home lies in it [default: HOME/drills].")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Break a small platform of real processes and tiny models, again and again, and count what must never happen. Your own home is not touched.

    Exit code 1 when it did happen, or when the drill's goal was missed.

    Example: `predator-si drill rollback --n 200 --json drill-rollback.json`
    """
    from predator_si.proof.drill.plan import DrillPlan
    from predator_si.proof.drill.run import run_drill

    settings = settings_of(context)
    plan = DrillPlan.of(name, scale, n, seed)
    folder = (settings.home / "drills" if out is None else out).absolute()
    with stages() as (tell, report):
        found = run_drill(plan, folder, settings.cache, tell, report)
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        _show(found, folder)
    if found["violations"] or found["within_goal"] is False:
        raise typer.Exit(1)


def _show(found: dict[str, Any], folder: Path) -> None:
    say(f"drill {found['drill']}: {found['n']} done in {found['seconds']:.0f} s, {found['violations']} violations")
    say(f"{found['requests']:,} searches, {found['failed_requests']} failed, {found['excused_requests']} while the service was down on purpose")
    if found["p95_seconds"] is not None:
        say(f"commit to ready: {found['p50_seconds']:.2f} s at the median, P95 {found['p95_seconds']:.2f} s")
    if found["within_goal"] is not None:
        say(f"goal, P95 within {found['goal_seconds']:g} s: {'reached' if found['within_goal'] else 'missed'}")
    if found["rss_slope_mb_per_1000"] is not None:
        low, high = found["rss_slope_ci"]
        say(f"memory of the search service: {found['rss_slope_mb_per_1000']:+.1f} MB per 1,000 swaps [{low:+.1f}, {high:+.1f}]")
    for one in found["violated"]:
        say(f"violated: {one}")
    say(f"page: {folder / ('drill-' + found['drill'] + '.html')}")
