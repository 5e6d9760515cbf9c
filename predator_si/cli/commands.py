"""The root of the command line: global options, and which module holds which command.

What belongs here: putting the commands together. What must not: any command's body.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from predator_si import __version__
from predator_si.cli import (
    adapt,
    audit,
    backup,
    bench,
    chart,
    corpus,
    cycle,
    dataset,
    demo,
    drill,
    erase,
    evaluation,
    judgments,
    machine,
    models,
    notifications,
    optimizer,
    permission,
    report,
    serve,
    simulate,
    switch,
    token,
    traffic,
    warehouse,
)
from predator_si.cli.choices import Choices

app = typer.Typer(
    name="predator-si",
    help="Search that improves itself: watch, explain, retrain, prove, release, take back.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"predator-si {__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    home: Annotated[Path | None, typer.Option(help="Where everything of one installation lies [default: $PREDATOR_SI_HOME or ./.predator].")] = None,
    contour: Annotated[str | None, typer.Option(help="local, dev-mac, edge-oracle, compute-nvidia [default: $PREDATOR_SI_CONTOUR or local].")] = None,
    values: Annotated[Path | None, typer.Option(help="One more values file, laid over the contour's.")] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Search that improves itself: watch, explain, retrain, prove, release, take back."""
    context.obj = Choices(contour, home, values)


demo.register(app)
machine.register(app)
switch.register(app)
erase.register(app)
evaluation.register(app)
adapt.register(app)
simulate.register(app)
drill.register(app)
permission.register(app, cycle.app)
app.add_typer(cycle.app, name="cycle")
app.add_typer(corpus.app, name="corpus")
app.add_typer(dataset.app, name="dataset")
app.add_typer(judgments.app, name="judgments")
app.add_typer(models.app, name="models")
app.add_typer(audit.app, name="audit")
app.add_typer(backup.app, name="backup")
app.add_typer(notifications.app, name="notify")
app.add_typer(report.app, name="report")
app.add_typer(optimizer.app, name="optimizer")
app.add_typer(token.app, name="token")
app.add_typer(bench.app, name="bench")
app.add_typer(chart.app, name="chart")
app.add_typer(serve.app, name="search")
app.add_typer(traffic.app, name="traffic")
app.add_typer(warehouse.app, name="warehouse")
