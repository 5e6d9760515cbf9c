"""`bench augment`: a month's training data on this machine, and what each generator and filter is worth.

What belongs here: options and how figures look. What must not: measuring (``proof.bench_augment``, ``proof.augment_ablation``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.corpus import open_corpus
from predator_si.cli.evaluation import open_index
from predator_si.cli.screen import say, show_json, show_table, stages

if TYPE_CHECKING:
    from collections.abc import Callable

    from predator_si.proof.bench_augment import Ground
    from predator_si.search.models import ModelStore
    from predator_si.settings import Settings


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command("augment")(augment)


def augment(
    context: typer.Context,
    corpus: Annotated[str, typer.Option(help="python-docs, the name of an imported corpus, or the folder of a built one.")] = "python-docs",
    examples: Annotated[int, typer.Option(min=60, help="(query, document) examples to make: 45,000 are a month's.")] = 45_000,
    ablation: Annotated[
        bool, typer.Option("--ablate", help="Also leave out each generator and filter in turn, train on the rest, and measure dev queries.")
    ] = False,
    model: Annotated[str, typer.Option(help="With --ablate: what is trained, a fetched model's name.")] = "ms-marco-MiniLM-L-12-v2",
    ablation_examples: Annotated[int, typer.Option(min=60, help="With --ablate: examples of each arm.")] = 3_000,
    log_groups: Annotated[int, typer.Option(min=0, help="With --ablate and a teacher: groups of log queries beside them.")] = 200,
    teacher: Annotated[bool, typer.Option(help="With --ablate: soft labels by the model and both legs of the index.")] = True,
    dev_queries: Annotated[int, typer.Option(min=10, help="With --ablate: judged dev queries, at most.")] = 300,
    train_seconds: Annotated[float, typer.Option(min=1.0, help="With --ablate: training of each arm, at most.")] = 240.0,
    budget_minutes: Annotated[float, typer.Option(min=0.1, help="With --ablate: no arm begins that would end later.")] = 120.0,
    labels: Annotated[bool, typer.Option("--labels", help="Also time the teacher's labels for the 5,000 most useful examples.")] = False,
    only: Annotated[list[str] | None, typer.Option(help="With --ablate: only this source or filter is left out; several times.")] = None,
    embedder: Annotated[str, typer.Option(help="The first stage's bi-encoder: a fetched model's name.")] = "all-MiniLM-L6-v2",
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    table: Annotated[Path | None, typer.Option(help="Put the tables between their marks into this Markdown file, as docs/benchmarks.md.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Time the making of training data without a language model and a cross-encoder; with `--ablate`, measure what each part of it is worth.

    Exit code 1 when 45,000 examples do not come within 600 s and 3 GB, or their labels (`--labels`) within 480 s more.

    Example: `predator-si bench augment --examples 45000 --ablate --table docs/benchmarks.md --json augment.json`
    """
    from predator_si.proof.augment_ablation import write_tables
    from predator_si.proof.bench_augment import bench_augment, ground

    settings = settings_of(context)
    collection = open_corpus(settings, corpus)
    place = ground(collection, open_index(settings, collection, embedder))
    with stages() as (tell, report):
        job = None
        if ablation:
            sizes = {
                "only": tuple(only or ()),
                "examples": ablation_examples,
                "log_groups": log_groups,
                "dev_queries": dev_queries,
                "minutes": budget_minutes,
                "seed": seed,
            }
            job = _ablation(settings, place, model, sizes, train_seconds, teacher, tell, report)
        timed = _labels(settings, place, model, examples, seed, tell, report) if labels else None
        found = bench_augment(place, examples, seed, job, timed, tell=tell, on_progress=report)
    if table is not None:
        write_tables(table, found)
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        say(f"{found['examples']:,} examples: {found['seconds']:.0f} s, {found['peak_rss_mb']:.0f} MB at the peak")
        sources = list(dict.fromkeys(source for left in found["yield"].values() for source in left))
        rows = [(step, *(left.get(source, 0) for source in sources)) for step, left in found["yield"].items()]
        show_table("Left after", ("step", *sources), rows, "nothing was proposed")
        for row in found.get("ablation", {}).get("arms", ()):
            worth = f", what is left out is worth {row['worth']:+.4f} [{row['worth_ci'][0]:+.4f}, {row['worth_ci'][1]:+.4f}]" if "worth" in row else ""
            say(f"{row['name']}: gain {row['gain']:+.4f} [{row['gain_ci'][0]:+.4f}, {row['gain_ci'][1]:+.4f}]{worth}")
        if "labels" in found:
            told = found["labels"]
            say(f"labels of {told['examples']:,} examples by {told['teacher']}: {told['seconds']:.0f} s, {told['pairs']:,} pairs")
    if examples >= 45_000 and not (found["holds"] and found.get("labels", {"holds": True})["holds"]):
        raise typer.Exit(1)


def _ablation(
    settings: Settings,
    place: Ground,
    model: str,
    sizes: dict[str, Any],
    train_seconds: float,
    with_teacher: bool,
    tell: Callable[[str], None],
    report: Callable[[int, int], None],
) -> Callable[[], dict[str, Any]]:
    """The job, with its models fetched and exported before any clock starts."""
    from predator_si.augment.teacher import ensemble_of
    from predator_si.evaluate.pair_scores import PairScores, score_pairs
    from predator_si.proof.augment_ablation import AblationPlan, ablate, recipe_for
    from predator_si.search.rerank import load_reranker, reference_backend
    from predator_si.train.export import export

    folders = settings.folders.ensure()
    store, start = _fetched(settings, model)
    backend = reference_backend()
    plan = AblationPlan(backend=None if backend.startswith("torch-fp32") else backend, **sizes)
    recipe = recipe_for(train_seconds, teacher=with_teacher, seed=plan.seed)

    def run() -> dict[str, Any]:
        if not with_teacher:
            return ablate(place, store, start, recipe, plan, None, tell=tell, on_progress=report)
        champion = load_reranker(store.path(start if plan.backend is None else export(store, start, plan.backend, 128)))
        with PairScores(folders.pair_scores) as scores:
            told = ensemble_of(place.index, lambda pairs: score_pairs(champion, pairs, scores))
            return ablate(place, store, start, recipe, plan, told, tell=tell, on_progress=report)

    return run


def _labels(
    settings: Settings, place: Ground, model: str, examples: int, seed: int, tell: Callable[[str], None], report: Callable[[int, int], None]
) -> Callable[[], dict[str, Any]]:
    """The job, with its model fetched, exported and warm before any clock starts; no score is remembered."""
    from predator_si.augment.teacher import ensemble_of
    from predator_si.augment.teacher_models import installed_bi_encoders
    from predator_si.proof.bench_labels import bench_labels
    from predator_si.search.rerank import load_reranker, reference_backend
    from predator_si.train.export import export

    store, start = _fetched(settings, model)
    champion = load_reranker(store.path(export(store, start, reference_backend(), 128)))
    champion.score("warm", ["warm"])
    others = installed_bi_encoders(settings.cache, besides=place.index.embedder.name)
    teacher = ensemble_of(place.index, champion.score_pairs, bi_encoders=others)
    return lambda: bench_labels(place, teacher, examples, seed, tell=tell, on_progress=report)


def _fetched(settings: Settings, model: str) -> tuple[ModelStore, str]:
    """The home's model store with the fetched model in it, cut at 128 tokens."""
    from predator_si.search.models import ModelStore, fetch_models
    from predator_si.train.export import export

    store = ModelStore(settings.folders.ensure().models)
    raw = store.add(fetch_models(settings.cache, (model,))[model], name=model, backend="torch-fp32", max_length=512, base=model)
    return store, export(store, raw, "torch-fp32", 128)
