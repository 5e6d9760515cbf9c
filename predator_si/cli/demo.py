"""`demo`: the whole loop on this machine, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.screen import show_json
from predator_si.errors import BadInput


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command()(demo)


def demo(
    context: typer.Context,
    scale: Annotated[str, typer.Option(help="full, or small (tiny seeded models).")] = "full",
    corpus: Annotated[str, typer.Option(help="python-docs (the documentation of this machine's Python), or the name of an imported corpus.")] = "python-docs",
    base: Annotated[Path | None, typer.Option(help="BEIR folder that is indexed from the start; needs --shift.")] = None,
    shift: Annotated[Path | None, typer.Option(help="BEIR folder that arrives later; needs --base.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Run the whole loop once: search gets worse, the loop finds out why, improves it, releases it, and takes back a bad model.

    Example: `predator-si demo --scale small --json demo.json`
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from predator_si.proof.demo import run_demo
    from predator_si.settings import DEMO_SCALES

    if scale not in DEMO_SCALES:
        raise BadInput(f"--scale {scale!r}: there are {' and '.join(DEMO_SCALES)}.")
    if (base is None) != (shift is None):
        raise BadInput("--base and --shift belong together: one collection that is there from the start, one that arrives later.")
    settings = settings_of(context)
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
    ) as bar:
        task = bar.add_task("starting", total=1)

        def say(text: str) -> None:
            bar.console.print(f"[bold]{text}[/bold]", highlight=False)
            bar.reset(task, description=text, total=1)

        figures = run_demo(settings, DEMO_SCALES[scale], corpus, base, shift, say, lambda done, total: bar.update(task, completed=done, total=max(1, total)))
    if json_file is not None:
        show_json(figures, json_file)
    if json_file is None or str(json_file) != "-":
        _show(figures)
    drill = figures.get("drill") or {}
    if figures["state"] != "stable" or not drill.get("rolled_back"):
        raise typer.Exit(1)


def _show(figures: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from predator_si.proof.demo import comparison

    console = Console()
    table = Table(title=f"Cycle {figures['cycle_id']}: {figures['state']}", title_justify="left")
    for column in ("", "before", "after", "difference"):
        table.add_column(column, justify="left" if not column else "right")

    def number(value: float | None, unit: str) -> str:
        return "unknown" if value is None else f"{value:,.4f}" if abs(value) < 10 and unit != "count" else f"{value:,.0f}"

    for row in comparison(figures):
        unit = f", {row.unit}" if row.unit else ""
        if row.after_of is not None or row.name.startswith("Requests"):
            table.add_row(row.name, "", f"{row.after:.0f} of {row.after_of}" if row.after is not None else "unknown", "")
            continue
        difference = "unknown" if row.difference is None else f"{row.difference:+,.4f}" if abs(row.difference) < 10 else f"{row.difference:+,.0f}"
        if row.interval is not None:
            difference += f" [{row.interval[0]:+.4f}, {row.interval[1]:+.4f}]"
        table.add_row(row.name + unit, number(row.before, row.unit), number(row.after, row.unit), difference)
    console.print(table)
    drill = figures.get("drill")
    if drill:
        word = "rolled back" if drill["rolled_back"] else "NOT rolled back"
        console.print(
            f"Drill: a damaged model was released past the gates and {word} in {drill['seconds_to_old_digest'] or float('nan'):.1f} s ({drill['cycle_id']})."
        )
    else:
        console.print(f"Nothing was released: {figures['reason']}")
    console.print(
        f"{figures['n_queries']} sealed queries, {figures['seconds']:.0f} s after set-up, {figures['peak_rss_mb']:,} MB at the peak. "
        f"Report: {figures['artifacts']}/report.html",
        soft_wrap=True,
    )
