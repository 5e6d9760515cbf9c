"""`corpus list`, `corpus build`, `corpus import`: judged collections."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import progress, remark, say, show_json, show_table
from predator_si.errors import BadInput, Missing
from predator_si.settings import Settings

if TYPE_CHECKING:
    from predator_si.corpora import Corpus

app = typer.Typer(help="Documents, queries and judgments.", no_args_is_help=True)


def built(settings: Settings) -> list[Corpus]:
    """Corpora of this home and of the cache, each name's own home first."""
    from predator_si.corpora import load_corpus

    folders = [*sorted(settings.folders.corpus.glob("*/manifest.json")), *sorted((settings.cache / "corpora").glob("*/manifest.json"))]
    return [load_corpus(manifest.parent) for manifest in folders]


def open_corpus(settings: Settings, reference: str) -> Corpus:
    """The corpus that a person means: ``python-docs``, the name of an imported one, or the folder of a built one.

    Raises
    ------
    Missing
        Nothing of that name.
    BadInput
        A BEIR folder that has not been imported.
    """
    from predator_si.corpora import build_python_docs, load_corpus

    folder = Path(reference)
    if (folder / "manifest.json").is_file():
        return load_corpus(folder)
    if folder.exists():
        raise BadInput(f"{folder}: not a built corpus; run `predator-si corpus import {folder}` first, then use the name that it prints.")
    known = {corpus.folder.name: corpus for corpus in built(settings)}
    if reference in known:
        return known[reference]
    if reference == "python-docs":
        with progress("building python-docs") as report:
            return build_python_docs(settings.cache, on_progress=report)
    raise Missing(f"no corpus {reference!r}; there are: {', '.join(['python-docs', *known])}. `predator-si corpus import DIR` adds a BEIR folder.")


@app.command("list")
def list_corpora(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List corpora that were built or imported.

    Example: `predator-si corpus list --json`
    """
    corpora = built(settings_of(context))
    if as_json:
        show_json([_summary(corpus) for corpus in corpora])
        return
    rows = [(c.folder.name, *(c.manifest["counts"][key] for key in ("documents", "queries", "judgments")), c.folder) for c in corpora]
    show_table("", ("name", "documents", "queries", "judgments", "folder"), rows, "none yet; `predator-si corpus build` makes python-docs")


def _summary(corpus: Corpus) -> dict[str, Any]:
    return {"name": corpus.name, "folder": str(corpus.folder), **corpus.manifest["counts"], "sha256": corpus.manifest["sha256"]}


@app.command()
def build(
    context: typer.Context,
    limit_per_package: Annotated[int | None, typer.Option(min=1, help="At most so many documents of each package.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Build python-docs from the docstrings on this machine; the same packages give the same corpus.

    Example: `predator-si corpus build`
    """
    from predator_si.corpora import build_python_docs

    with progress("reading docstrings") as report:
        corpus = build_python_docs(settings_of(context).cache, limit_per_package=limit_per_package, on_progress=report)
    _tell(corpus, as_json)


@app.command("import")
def import_corpus(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(help="BEIR folder or .zip: corpus.jsonl, queries.jsonl, qrels.tsv or qrels/*.tsv, .gz or not.")],
    shift: Annotated[Path | None, typer.Option(help="A second one, whose documents and queries arrive later.")] = None,
    name: Annotated[str | None, typer.Option(help="Name to keep it under [default: the folder's].")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Import a judged collection; bad lines are named, dangling judgments refused.

    Example: `predator-si corpus import ./scifact --name scifact`
    """
    from predator_si.corpora import import_beir

    settings = settings_of(context)
    chosen = name or source.resolve().stem
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", chosen):
        raise BadInput(f"{chosen!r} cannot be a corpus name: letters, digits, dot, dash, underscore; choose one with --name.")
    for path in (source, shift):
        if path is not None and not path.exists():
            raise BadInput(f"{path}: no such folder or file.")
    with progress("importing"):
        corpus = import_beir(source, settings.folders.ensure().corpus / chosen, name=chosen, shift=shift)
    for line in corpus.manifest["bad_lines_first"]:
        remark(f"left out: {line}")
    if corpus.manifest["bad_lines"] > len(corpus.manifest["bad_lines_first"]):
        remark(f"left out: {corpus.manifest['bad_lines']} lines in all")
    _tell(corpus, as_json)


def _tell(corpus: Corpus, as_json: bool) -> None:
    if as_json:
        show_json(_summary(corpus))
    else:
        counts = corpus.manifest["counts"]
        say(f"{corpus.folder.name}: {counts['documents']} documents, {counts['queries']} queries, {counts['judgments']} judgments in {corpus.folder}")
