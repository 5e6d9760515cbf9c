"""`search serve`: the search service alone, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from predator_si.cli.choices import settings_of

app = typer.Typer(help="The search service.", no_args_is_help=True)


@app.callback()
def search() -> None:
    """The search service."""


@app.command()
def serve(
    context: typer.Context,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free one [default: the contour's].")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the reranker [default: the backend's own choice].")] = None,
    score_cache: Annotated[int, typer.Option(min=0, help="Scores of pairs kept in memory; 0 keeps none, so that latencies compare.")] = 0,
    embedder: Annotated[Path | None, typer.Option(help="Folder of the bi-encoder [default: the one that the index was built with].")] = None,
) -> None:
    """Serve searches of this home's index with the released model until Ctrl-C; `predator-si up` starts everything together.

    Example: `predator-si search serve --port 8081`
    """
    from predator_si.search.__main__ import main

    settings = settings_of(context)
    words = ["--home", str(settings.home), "--contour", settings.contour, "--port", str(settings.ports.search if port is None else port)]
    words += [] if threads is None else ["--threads", str(threads)]
    words += [] if not score_cache else ["--score-cache", str(score_cache)]
    words += [] if embedder is None else ["--embedder", str(embedder)]
    raise typer.Exit(main(words))
