"""`bench train`: our training loop beside sentence-transformers' trainer.

What belongs here: options and how figures look. What must not: measuring (``proof.bench_train``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.corpus import open_corpus
from predator_si.cli.evaluation import model_folder, open_index
from predator_si.cli.screen import say, show_json, show_table, stages
from predator_si.errors import BadInput

_GOAL, _NEVER_SLOWER = 2.5, 1.0


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command("train")(train)


def train(
    context: typer.Context,
    corpus: Annotated[str, typer.Option(help="python-docs, the name of an imported corpus, or the folder of a built one.")] = "python-docs",
    model: Annotated[str, typer.Option(help="The cross-encoder to start from: a fetched model's name, or a folder.")] = "ms-marco-MiniLM-L-12-v2",
    steps: Annotated[int, typer.Option(min=3, help="Of each arm; the first is not timed.")] = 40,
    groups: Annotated[int, typer.Option(min=1, max=64, help="Groups of six pairs in a step.")] = 8,
    max_length: Annotated[int, typer.Option(min=16, max=512, help="Tokens of a pair.")] = 128,
    loss: Annotated[str, typer.Option(help="listwise, bce or lambda; bce is the other trainer's default.")] = "bce",
    dev_queries: Annotated[int, typer.Option(min=0, help="Judged dev queries that both models rank; 0 leaves the NDCG out.")] = 200,
    embedder: Annotated[str, typer.Option(help="The first stage's bi-encoder: a fetched model's name.")] = "all-MiniLM-L6-v2",
    seed: Annotated[int, typer.Option(help="Of samples, batches and intervals.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Train the same model on the same pairs with our loop and with CrossEncoderTrainer's defaults, by turns: pairs per second and NDCG@10 on dev queries.

    Exit code 1 when ours is not 2.5 times as fast on a chip with bf16, or slower elsewhere, or ranks worse (interval below zero).

    Example: `predator-si bench train --corpus python-docs --steps 40 --json train.json`
    """
    from predator_si.proof.bench_train import bench_train
    from predator_si.train.recipe import LABEL_LOSSES

    if loss not in LABEL_LOSSES:
        raise BadInput(f"--loss {loss!r}: there are {', '.join(LABEL_LOSSES)}.")
    settings = settings_of(context)
    settings.folders.ensure()
    collection = open_corpus(settings, corpus)
    index = open_index(settings, collection, embedder)
    folder = model_folder(settings, model)
    with stages() as (tell, report):
        found = bench_train(
            collection, index, folder, steps=steps, groups_per_step=groups, max_length=max_length, loss=loss, dev_queries=dev_queries, seed=seed, tell=tell,
            on_progress=report,
        )  # fmt: skip
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        rows = [
            (name, f"{found[f'{key}pairs_per_second']:.1f}", f"{found[f'{key}tokens_per_second']:.0f}", _ndcg(found[f"{key}dev_ndcg"]))
            for name, key in (("ours", ""), ("sentence-transformers", "reference_"))
        ]
        show_table("Training", ("trainer", "pairs/s", "tokens/s", "dev NDCG@10"), rows, "nothing was measured")
        say(f"{found['ratio']:.2f} times as fast, {'with' if found['bf16'] else 'without'} bf16; untrained {_ndcg(found['start_dev_ndcg'])}")
    worse = found["dev_difference_ci"] is not None and found["dev_difference_ci"][1] < 0
    if worse or found["ratio"] < (_GOAL if found["chip_has_bf16"] else _NEVER_SLOWER):
        raise typer.Exit(1)


def _ndcg(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4f}"
