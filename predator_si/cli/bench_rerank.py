"""`bench rerank`: what a user would run beside what we serve.

What belongs here: options and how figures look. What must not: measuring (``proof.bench_rerank``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.corpus import open_corpus
from predator_si.cli.evaluation import open_index, record_opening
from predator_si.cli.screen import progress, remark, say, show_json, show_table, stages
from predator_si.errors import BadInput
from predator_si.settings import Settings

if TYPE_CHECKING:
    from predator_si.proof.bench_rerank import Collection

_MODEL = "ms-marco-MiniLM-L-12-v2"
_FLOOR_LENGTHS = (64, 96, 128, 192, 256)


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command("rerank")(rerank)


def rerank(
    context: typer.Context,
    corpus: Annotated[list[str] | None, typer.Option(help="python-docs:shift, the name of an imported corpus, or a built one's folder; several times.")] = None,
    split: Annotated[str, typer.Option(help="Whose queries give the NDCG that is reported: dev or test.")] = "test",
    depth: Annotated[int, typer.Option(min=20, max=200, help="Candidates scored per query.")] = 50,
    queries: Annotated[int, typer.Option(min=2, help="Judged queries of each corpus, at most.")] = 320,
    dev_queries: Annotated[int, typer.Option(min=10, help="Judged dev queries of each corpus on which the variant is chosen, at most.")] = 100,
    train_queries: Annotated[int, typer.Option(min=10, help="Train queries of each corpus that teach the students, without their labels, at most.")] = 400,
    timing_queries: Annotated[int, typer.Option(min=4, help="Queries that are timed, in all; 60 give the P95 ratio an interval.")] = 60,
    layers: Annotated[str, typer.Option(help="Layers of the students, the largest first.")] = "6,4,3",
    length: Annotated[list[int] | None, typer.Option(min=16, max=512, help="Input length in tokens to try; several times [default: 128].")] = None,
    reference_length: Annotated[int, typer.Option(min=16, max=512, help="Input length of the reference; 512 is the model's own.")] = 512,
    fusion_weight: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the first stage in our score; the reference has none.")] = 0.3,
    student_minutes: Annotated[float, typer.Option(min=0.1, help="Training of all students together, at most.")] = 15.0,
    variant: Annotated[list[str] | None, typer.Option(help="Digest of a torch model of this home to take as a student, in place of making some.")] = None,
    floor: Annotated[bool, typer.Option(help="Only measure what scoring costs by backend, layers and length.")] = False,
    embedder: Annotated[str, typer.Option(help="The first stage's bi-encoder: a fetched model's name.")] = "all-MiniLM-L6-v2",
    seed: Annotated[int, typer.Option(help="Of samples and intervals.")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Time the zero-shot cross-encoder as sentence-transformers runs it against smaller, faster ones on the same candidates, and what these cost in NDCG.

    Exit code 1 when the chosen variant is not ten times faster at the P95, or is inferior.

    Example: `predator-si bench rerank --corpus python-docs:shift --corpus scifact --corpus stackfaq --json rerank.json`
    """
    from predator_si.evaluate import PairScores
    from predator_si.proof.bench_rerank import RerankPlan, bench_rerank
    from predator_si.search.models import ModelStore, fetch_models
    from predator_si.train.recipe import TrainingRecipe
    from predator_si.train.students import StudentPlan

    settings = settings_of(context)
    settings.folders.ensure()
    if split not in ("dev", "test"):
        raise BadInput(f"--split {split!r}: the reported figures are of dev or of test.")
    lengths = tuple(dict.fromkeys(length or [128]))
    collections = [collection_named(settings, reference, embedder) for reference in corpus or _found(settings)]
    with progress(f"fetching {_MODEL}") as report:
        zero_shot = fetch_models(settings.cache, (_MODEL,), report)[_MODEL]
    if floor:
        _floor(collections, zero_shot, depth, _numbers(layers), json_file)
        return
    recipe = TrainingRecipe(loss="distil", learning_rate=1e-4, epochs=2.0, max_length=max(lengths), seed=seed)
    students = StudentPlan(layers=_numbers(layers), recipe=recipe, seconds=60 * student_minutes)
    plan = RerankPlan(split, depth, queries, dev_queries, train_queries, timing_queries, lengths, reference_length, fusion_weight, students, seed)
    if split == "test":
        for one in collections:
            record_opening(settings, one.corpus, _MODEL, one.queries("test", queries, seed).height)
    work = settings.home / "bench-rerank"
    with stages() as (tell, report), PairScores(settings.folders.pair_scores) as scores:
        found = bench_rerank(
            collections,
            zero_shot,
            ModelStore(settings.folders.models),
            work,
            plan,
            variants=variant or (),
            scores=scores,
            usd_per_vcpu_hour=settings.prices.usd_per_vcpu_hour,
            tell=tell,
            on_progress=report,
        )
    if json_file is not None:
        show_json(found, json_file)
    if json_file is None or str(json_file) != "-":
        _show(found)
    if found["p95_ratio"] < 10 or not found["ndcg_noninferior"]:
        raise typer.Exit(1)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise BadInput(f"--layers {text!r}: numbers with commas between them, such as 6,4,3.") from error


def _found(settings: Settings) -> list[str]:
    """The embedded corpus' shift, and every corpus that was imported into this home."""
    imported = sorted(path.parent.name for path in settings.folders.corpus.glob("*/manifest.json"))
    return ["python-docs:shift", *imported]


def collection_named(settings: Settings, reference: str, embedder: str) -> Collection:
    """The collection that a person means by ``python-docs:shift`` or the name of a corpus, with its index."""
    from predator_si.proof.bench_rerank import Collection

    name, colon, part = reference.rpartition(":")
    if not colon or part not in ("base", "shift"):
        name, part = reference, ""
    found = open_corpus(settings, name)
    return Collection(reference if part else found.name, found, open_index(settings, found, embedder), part or None)


def _floor(collections: list[Collection], zero_shot: Path, depth: int, layers: tuple[int, ...], json_file: Path | None) -> None:
    from predator_si.proof.rerank_floor import floor_table
    from predator_si.provenance import provenance

    asked = collections[0].asked("train", 8, 0)
    found = collections[0].index.candidates(asked, depth)
    with progress("timing") as report:
        rows = floor_table(zero_shot, asked, found, depth=depth, layers=(12, *layers), lengths=_FLOOR_LENGTHS, on_progress=report)
    if json_file is not None:
        show_json({**provenance("small", 0), "corpus": collections[0].name, "depth": depth, "rows": rows}, json_file)
    if json_file is None or str(json_file) != "-":
        shown = [(row["backend"], row["layers"], row["max_length"], f"{row['p50_ms']:.0f}", f"{row['pairs_per_second']:.0f}") for row in rows]
        show_table(f"Depth {depth}", ("backend", "layers", "tokens", "P50 ms", "pairs/s"), shown, "nothing was timed")


def _show(found: dict[str, Any]) -> None:
    rows = [
        (row["name"], f"{row['p50_ms']:.0f}", f"{row['p95_ms']:.0f}", f"{row['pairs_per_second']:.0f}", f"{row['p95_ratio']:.1f}",
         "-" if row["ndcg"] is None else f"{row['ndcg']:.4f}",
         "-" if "ndcg_difference" not in row else f"{row['ndcg_difference']:+.4f} [{row['ndcg_difference_ci'][0]:+.4f}, {row['ndcg_difference_ci'][1]:+.4f}]")
        for row in found["variants"]
    ]  # fmt: skip
    show_table(f"Depth {found['depth']}, {found['split']}", ("arm", "P50 ms", "P95 ms", "pairs/s", "times", "NDCG@10", "difference"), rows, "nothing was timed")
    for one in found["corpora"]:
        say(f"{one['name']}: {one['ndcg_difference']:+.4f} [{one['ci'][0]:+.4f}, {one['ci'][1]:+.4f}] on {one['n_queries']} queries")
    low, high = found["ndcg_difference_ci"]
    gap = f"NDCG@10 {found['ndcg_difference']:+.4f} [{low:+.4f}, {high:+.4f}], n={found['n_queries']}"
    say(f"{found['chosen']}: P95 {found['p95_ratio']:.1f} times lower, {gap}; {found['power']}")
    say(f"the same weights, length and depth: P95 {found['p95_ratio_same_weights']:.1f} times lower (bf16 on this chip: {str(found['bf16']).lower()})")
    if not found["twin"]["same"]:
        remark("the fast twin of the reference did not rank alike: its NDCG was computed in fp32")
