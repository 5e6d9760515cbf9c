"""`traffic replay`: a corpus' training queries sent to the live service, with simulated clicks."""

from __future__ import annotations

from typing import Annotated, Literal, cast

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.corpus import open_corpus
from predator_si.cli.screen import progress, say, show_json, show_table
from predator_si.errors import BadInput

app = typer.Typer(help="Simulated people at the live search service.", no_args_is_help=True)


@app.callback()
def traffic() -> None:
    """Simulated people at the live search service."""


@app.command()
def replay(
    context: typer.Context,
    corpus: Annotated[str, typer.Option(help="python-docs, the name of an imported corpus, or the folder of a built one.")] = "python-docs",
    part: Annotated[str, typer.Option(help="base, shift or both.")] = "both",
    requests: Annotated[int, typer.Option("--requests", "-n", min=1, help="Searches to send.")] = 100,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Searches a second on average; as fast as answered when left out.")] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Searches in flight at most.")] = 2,
    clients: Annotated[int | None, typer.Option(min=1, help="Different client ids; one for each search when left out.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and rankings give the same clicks.")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """Send training queries over HTTP, with clicks and dwell from a click model; every event says `simulated`. Exit code 1 when a search failed.

    Example: `predator-si traffic replay --corpus python-docs --requests 200 --rate 5`
    """
    from predator_si.search.traffic import replay as send

    if part not in ("base", "shift", "both"):
        raise BadInput(f"--part {part!r}: there are base, shift and both.")
    settings = settings_of(context)
    chosen = None if part == "both" else cast(Literal["base", "shift"], part)
    collection = open_corpus(settings, corpus)
    with progress(f"searching at {settings.search_url}") as report:
        result = send(settings.search_url, collection, chosen, n=requests, rate=rate, concurrency=concurrency, clients=clients, seed=seed, on_progress=report)
    figures = {
        "requests": result.requests,
        "failed_requests": result.failed,
        "failures": result.failures,
        "degraded": result.degraded,
        "seconds": result.seconds,
        **_percentiles(result.latencies.tolist()),
        "variants": result.variants,
        "digests": result.digests,
        "actions": result.actions,
        "failed_actions": result.failed_actions,
        "started_at": result.started_at,
        "ended_at": result.ended_at,
        "simulated": True,
    }
    if as_json:
        show_json(figures)
    else:
        show_table("", ("", ""), [(key, value) for key, value in figures.items() if value not in ({}, None)], "")
        say("every search was answered" if not result.failed else f"{result.failed} of {result.requests} searches failed")
    raise typer.Exit(1 if result.failed else 0)


def _percentiles(latencies: list[float]) -> dict[str, float | None]:
    """Client-side P50 and P95 in milliseconds; null without an answered search."""
    if not latencies:
        return {"p50_ms": None, "p95_ms": None}
    from predator_si.measures import percentiles

    found = percentiles(latencies, (0.5, 0.95))
    return dict(zip(("p50_ms", "p95_ms"), found["value"].to_list(), strict=True))
