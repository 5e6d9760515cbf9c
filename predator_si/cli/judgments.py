"""`judgments import`, `judgments export`, `judgments list`: labels and where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import remark, say, show_json, show_table
from predator_si.errors import BadInput

app = typer.Typer(help="Relevance labels, each with its origin.", no_args_is_help=True)

_SHOWN = 10


@app.command("list")
def list_judgments(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List the judgment sets of this home, with their labels by origin.

    Example: `predator-si judgments list --json`
    """
    from predator_si.monitor.judgments import JudgmentStore

    store = JudgmentStore(settings_of(context).folders.judgments)
    found = {name: store.load(name) for name in store.names()}
    if as_json:
        show_json([{"name": name, "labels": one.height, "queries": one.frame["query_id"].n_unique(), "origins": one.counts} for name, one in found.items()])
        return
    rows = [(name, one.height, one.frame["query_id"].n_unique(), ", ".join(f"{o} {n}" for o, n in one.counts.items())) for name, one in found.items()]
    show_table("", ("name", "labels", "queries", "origins"), rows, "none yet; `predator-si judgments import FILE` takes Quepid's CSV")


@app.command("import")
def import_judgments(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Quepid's CSV: query,docid,rating; a book with a column for each judge; or the detailed case export.")],
    name: Annotated[str | None, typer.Option(help="Name to keep them under [default: the file's].")] = None,
    origin: Annotated[str, typer.Option(help="Who judged: human, feedback or llm.")] = "human",
    scale: Annotated[float, typer.Option(min=1, help="Highest grade of the scale.")] = 3.0,
    corpus: Annotated[str | None, typer.Option(help="Corpus whose query ids the texts take where it knows them.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Import judgments from Quepid; bad lines are named and left out.

    Example: `predator-si judgments import case_6_judgements.csv --name team`
    """
    from predator_si.cli.corpus import open_corpus
    from predator_si.monitor.judgments import JudgmentStore, read_quepid

    if origin not in ("human", "feedback", "llm"):
        raise BadInput(f"--origin {origin}: judgments that somebody gave are of origin human, feedback or llm.")
    settings = settings_of(context)
    ids = dict(open_corpus(settings, corpus).queries().select("text", "query_id").iter_rows()) if corpus else None
    read = read_quepid(file, origin=origin, scale=scale, ids=ids)  # type: ignore[arg-type]  # checked above
    chosen = name or file.stem
    JudgmentStore(settings.folders.ensure().judgments).save(chosen, read.judgments)
    for line in read.bad[:_SHOWN]:
        remark(f"left out: {line}")
    if len(read.bad) > _SHOWN:
        remark(f"left out: {len(read.bad)} in all")
    summary = {
        "name": chosen,
        "format": read.format,
        "labels": read.judgments.height,
        "queries": read.judgments.frame["query_id"].n_unique(),
        "origins": read.judgments.counts,
        "bad": len(read.bad),
        "unrated": read.unrated,
    }
    if as_json:
        show_json(summary)
    else:
        say(f"{chosen}: {summary['labels']} labels on {summary['queries']} queries, origin {origin}; {len(read.bad)} bad, {read.unrated} unrated")


@app.command("export")
def export_judgments(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A set of `judgments list`.")],
    file: Annotated[Path, typer.Argument(help="CSV file to write.")],
    book: Annotated[bool, typer.Option("--book", help="A column for each judge, instead of one rating.")] = False,
    prefer: Annotated[str | None, typer.Option(help="Where a set has several origins: whose label counts first, like human,llm,click.")] = None,
) -> None:
    """Export judgments as Quepid imports them.

    Example: `predator-si judgments export team ratings.csv`
    """
    from predator_si.monitor.judgments import JudgmentStore, write_quepid

    order = tuple(part.strip() for part in prefer.split(",")) if prefer else None
    lines = write_quepid(file, JudgmentStore(settings_of(context).folders.judgments).load(name), book=book, prefer=order)
    say(f"{file}: {lines} lines")
