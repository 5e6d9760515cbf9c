"""`bench serve`: what shadow and shared lists cost the person who searches.

What belongs here: options and how figures look. What must not: measuring (``proof.bench_serve``).
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.corpus import open_corpus
from predator_si.cli.evaluation import model_folder, open_index
from predator_si.cli.screen import say, show_json, show_table, stages
from predator_si.errors import BadInput


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command("serve")(serve)


def serve(
    context: typer.Context,
    corpus: Annotated[str, typer.Option(help="python-docs, the name of an imported corpus, or the folder of a built one.")] = "python-docs",
    model: Annotated[str, typer.Option(help="The cross-encoder: a fetched model's name, or a folder.")] = "ms-marco-MiniLM-L-12-v2",
    backend: Annotated[str, typer.Option(help="What both models run on; auto is the fast one that computes what torch does.")] = "auto",
    length: Annotated[int, typer.Option(min=24, max=512, help="Input of the champion in tokens; the other model has eight less.")] = 128,
    depth: Annotated[int, typer.Option(min=1, max=200, help="Candidates scored per query.")] = 20,
    share: Annotated[float, typer.Option(min=0.001, max=1.0, help="Of the requests that are scored in shadow.")] = 0.1,
    rounds: Annotated[int, typer.Option(min=2, help="In each round every arm is served once.")] = 20,
    requests: Annotated[int, typer.Option(min=2, help="Timed requests of each arm in a round.")] = 40,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the models' backend [default: its own choice].")] = None,
    embedder: Annotated[str, typer.Option(help="The first stage's bi-encoder: a fetched model's name.")] = "all-MiniLM-L6-v2",
    seed: Annotated[int, typer.Option(help="Of the order of arms, the queries and the intervals.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Time one closed-loop client of a real service: plain, with a share of the requests in shadow, and with shared lists, by turns.

    Queries are train queries. Exit code 1 when the P95 with the shadow is more than 5% above plain, or a request failed.

    Example: `predator-si bench serve --corpus python-docs --rounds 20 --json serve.json`
    """
    from predator_si.proof.bench_serve import ServePlan, bench_serve
    from predator_si.search.rerank import BACKENDS, reference_backend

    chosen = reference_backend() if backend == "auto" else backend
    if chosen not in BACKENDS:
        raise BadInput(f"--backend {backend!r}: there are auto, {', '.join(BACKENDS)}.")
    settings = settings_of(context)
    settings.folders.ensure()
    collection = open_corpus(settings, corpus)
    index = open_index(settings, collection, embedder)
    folder = model_folder(settings, model)
    queries = collection.queries("train").sort("query_id").sample(fraction=1.0, shuffle=True, seed=seed)["text"].to_list()
    plan = ServePlan(rounds, requests, share, depth, length, chosen, threads, seed)
    with tempfile.TemporaryDirectory(prefix="bench-serve-") as work, stages() as (tell, report):
        encoder = settings.cache / "models" / embedder
        found = bench_serve(queries, index, encoder, folder, Path(work), plan, tell=tell, on_progress=report)
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        _show(found)
    if not found["within_limit"] or found["failed_requests"]:
        raise typer.Exit(1)


def _show(found: dict[str, Any]) -> None:
    rows = []
    for one in found["arms"]:
        ratio, bounds = found["p95_ratio"].get(one["name"]), found["p95_ratio_ci"].get(one["name"])
        times = [f"{one[f'p{q}_ms']:.1f} [{one[f'p{q}_ci'][0]:.1f}, {one[f'p{q}_ci'][1]:.1f}]" for q in (50, 95, 99)]
        rows.append((one["name"], str(one["n"]), *times, "-" if ratio is None else f"{ratio:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"))
    show_table("One closed-loop client", ("arm", "n", "P50 ms", "P95 ms", "P99 ms", "P95 / plain"), rows, "nothing was timed")
    shadow = found["shadow"]
    say(f"shadow at priority {shadow['priority']}: {shadow['scored']} scored, {shadow['dropped']} dropped, {shadow['failed']} failed")
    say(f"{found['requests']} requests, {found['failed_requests']} failed; {found['interleaved']} shared lists")
