"""What each generator and filter is worth: data sets without one of them, the same training on each, dev queries; the gain over the number of examples.

What belongs here: the arms, their training and their comparison, the tables. What must not: opening a test query.

All arms have the same number of groups, start, recipe and dev candidates. Groups that two arms share are the same to the last negative.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.augment import Dataset, Sizes
from predator_si.augment.teacher import EnsembleTeacher
from predator_si.errors import BadInput
from predator_si.evaluate import evaluate_model
from predator_si.proof.bench_augment import Ground, Progress, Tell, ablation_arms, sizes_for
from predator_si.records import Interval, ServingConfig
from predator_si.search.models import ModelStore
from predator_si.search.rerank import load_reranker
from predator_si.statistics import paired_interval
from predator_si.train.recipe import TrainingRecipe

BEGIN, END = "<!-- bench-augment:begin -->", "<!-- bench-augment:end -->"
_CURVE = (0.125, 0.25, 0.5, 1.0)


@dataclass(frozen=True)
class AblationPlan:
    """Sizes of an ablation.

    Attributes
    ----------
    examples
        (query, document) pairs of each arm.
    log_groups
        Groups of log queries beside them; they need a teacher.
    dev_queries
        Judged dev queries, at most.
    depth, fusion_weight
        Of the comparison.
    backend
        What arms are exported to before they score dev; null scores with the trained weights as they are.
    only
        Sources and filters to leave out in turn; empty takes all that gave or took anything.
    minutes
        No arm begins that would end later, by what the slowest arm took; arms that were left out are named.
    """

    examples: int = 3_000
    log_groups: int = 0
    dev_queries: int = 300
    depth: int = 20
    fusion_weight: float = 0.0
    backend: str | None = None
    minutes: float = 60.0
    only: tuple[str, ...] = ()
    seed: int = 0


@dataclass
class _Arm:
    name: str
    groups: int
    ndcg: pl.Series
    seconds: float


def ablate(
    place: Ground,
    store: ModelStore,
    start: str,
    recipe: TrainingRecipe,
    plan: AblationPlan,
    teacher: EnsembleTeacher | None = None,
    *,
    tell: Tell = lambda text: None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Leave-one-out by generator and filter, and the curve of the gain over the number of examples.

    Returns
    -------
    dict
        ``start_ndcg``; ``arms``: ``name, groups, ndcg, gain`` over the start with ``gain_ci``, ``worth`` (all minus this arm: that much is what
        was left out worth) with ``worth_ci``; ``curve``: ``examples, gain, gain_ci``; ``left_out``: arms for which there was no time; ``n_queries``.

    Raises
    ------
    BadInput
        The corpus has fewer than two judged dev queries with a candidate.
    """
    began = time.monotonic()
    sizes = sizes_for(plan.examples, log_groups=plan.log_groups if teacher is not None else 0)
    measure = _Measure(place, store, plan)
    tell(f"the start on {measure.n_queries} dev queries")
    before = measure.ndcg(start)
    tell("all generators and filters")
    base = place.build(sizes, plan.seed, teacher=teacher)
    train = _Training(store, start, recipe, measure)
    whole = train.arm("all", base)
    arms: list[_Arm] = [whole]
    curve: list[_Arm] = []
    left_out: list[str] = []
    jobs: list[tuple[str, Callable[[], Dataset]]] = [(f"{share:g}", _part_of(base, share, plan.seed)) for share in _CURVE if share < 1.0]
    jobs += [(name, _built(place, sizes, plan.seed, teacher, without, off)) for name, without, off in ablation_arms(base, plan.only)]
    slowest = whole.seconds
    for number, (name, make) in enumerate(jobs):
        if time.monotonic() - began + slowest > 60.0 * plan.minutes:
            left_out += [other for other, _ in jobs[number:]]
            break
        tell(name if name.startswith("without") else f"{float(name):.1%} of the groups")
        arm = train.arm(name, make())
        slowest = max(slowest, arm.seconds)
        (arms if name.startswith("without") else curve).append(arm)
        on_progress(number + 1, len(jobs))
    curve.append(whole)
    return {
        "start": start,
        "start_ndcg": float(np.mean(before.to_numpy())),
        "n_queries": measure.n_queries,
        "split": "dev",
        "examples": base.statistics["total_examples"],
        "teacher": base.statistics["teacher"],
        "recipe": recipe.model_dump(mode="json"),
        "depth": plan.depth,
        "fusion_weight": plan.fusion_weight,
        "arms": [_row(arm, before, whole.ndcg, plan.seed) for arm in arms],
        "curve": sorted((_row(arm, before, None, plan.seed) for arm in curve), key=lambda row: row["groups"]),
        "left_out": left_out,
        "minutes": (time.monotonic() - began) / 60.0,
    }


class _Measure:
    """NDCG@10 per dev query, always over the same queries and candidates."""

    def __init__(self, place: Ground, store: ModelStore, plan: AblationPlan) -> None:
        queries = place.corpus.queries(split="dev")
        if (queries["part"] == "shift").any():
            queries = queries.filter(pl.col("part") == "shift")
        if queries.height > plan.dev_queries:
            queries = queries.sample(plan.dev_queries, seed=plan.seed, shuffle=True)
        if queries.height < 2:
            raise BadInput(f"corpus {place.corpus.name}: {queries.height} dev queries; a comparison needs at least two. Import a collection with more.")
        self._place, self._store, self._plan = place, store, plan
        self._queries, self._judgments = queries, place.corpus.judgments(split="dev")
        self._found = place.index.candidates(queries["text"].to_list(), plan.depth)
        self.n_queries = 0

    def ndcg(self, digest: str) -> pl.Series:
        """One value a query."""
        from predator_si.train.export import export

        served = digest if self._plan.backend is None else export(self._store, digest, self._plan.backend, self._store.card(digest).max_length)
        reranker = load_reranker(self._store.path(served))
        config = ServingConfig(model=served, depth=self._plan.depth, fusion_weight=self._plan.fusion_weight)
        found = evaluate_model(self._queries, self._judgments, self._found, reranker, config)["ndcg_at_10"]
        self.n_queries = len(found)
        return found


class _Training:
    def __init__(self, store: ModelStore, start: str, recipe: TrainingRecipe, measure: _Measure) -> None:
        self._store, self._start, self._recipe, self._measure = store, start, recipe, measure

    def arm(self, name: str, dataset: Dataset) -> _Arm:
        """Train on the data set from the same start, and measure."""
        from predator_si.train.fit import fine_tune

        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="predator-si-ablation-") as work:
            trained = fine_tune(self._store, self._start, dataset.examples, self._recipe, Path(work), name=f"ablation: {name}")
        return _Arm(name, dataset.statistics["groups"], self._measure.ndcg(trained.digest), time.monotonic() - began)


def _built(place: Ground, sizes: Sizes, seed: int, teacher: EnsembleTeacher | None, without: str | None, filters: Any) -> Callable[[], Dataset]:
    return lambda: place.build(sizes, seed, filters=filters, teacher=teacher, without=without)


def _part_of(base: Dataset, share: float, seed: int) -> Callable[[], Dataset]:
    """A random part of the groups of a data set; larger shares hold the smaller ones."""

    def make() -> Dataset:
        ids = base.examples["group_id"].unique(maintain_order=True).to_numpy()
        chosen = np.random.default_rng(seed).permutation(ids)[: max(2, round(share * len(ids)))]
        part = base.examples.filter(pl.col("group_id").is_in(chosen.tolist()))
        return Dataset(base.dataset_id, part, {**base.statistics, "groups": len(chosen), "total_examples": part.height})

    return make


def _row(arm: _Arm, before: pl.Series, whole: pl.Series | None, seed: int) -> dict[str, Any]:
    gain = paired_interval((arm.ndcg - before).to_numpy(), seed=seed)
    row = {"name": arm.name, "groups": arm.groups, "ndcg": float(np.mean(arm.ndcg.to_numpy())), "gain": gain.estimate, "gain_ci": [gain.low, gain.high]}
    if whole is None or arm.name == "all":
        return row
    worth: Interval = paired_interval((whole - arm.ndcg).to_numpy(), seed=seed)
    return {**row, "worth": worth.estimate, "worth_ci": [worth.low, worth.high]}


def tables(figures: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [
        f"`predator-si bench augment` on {figures['corpus']}, scale {figures['scale']}, seed {figures['seed']}, {figures['cores']} cores.",
        "",
        "| examples | seconds | peak memory | distinct-2 | spread over topics |",
        "|---|---|---|---|---|",
        f"| {figures['examples']:,} | {figures['seconds']:.0f} | {figures['peak_rss_mb'] / 1000:.2f} GB | {_figure(figures['diversity_score'])} "
        f"| {_figure(figures['cluster_entropy'])} |",
        "",
        *_yield_table(figures["yield"]),
    ]
    found = figures.get("ablation")
    if found is not None:
        lines += ["", *_ablation_tables(found)]
    return "\n".join(lines)


def _yield_table(steps: Mapping[str, Mapping[str, int]]) -> list[str]:
    sources = list(dict.fromkeys(source for left in steps.values() for source in left))
    rows = [f"| {step} | {' | '.join(f'{left.get(source, 0):,}' for source in sources)} |" for step, left in steps.items()]
    return [f"| left after | {' | '.join(sources)} |", f"|---|{'---|' * len(sources)}", *rows]


def _ablation_tables(found: Mapping[str, Any]) -> list[str]:
    lines = [
        f"Trained on {found['examples']:,} examples, teacher: {found['teacher'] or 'none'}; {found['n_queries']} dev queries, NDCG@10 of the start "
        f"{found['start_ndcg']:.4f}. Gain is over the start; worth is what the whole set has over the one without. 95% intervals of paired differences.",
        "",
        "| data | groups | NDCG@10 | gain | worth of what is left out |",
        "|---|---|---|---|---|",
        *(f"| {row['name']} | {row['groups']} | {row['ndcg']:.4f} | {_interval(row, 'gain')} | {_interval(row, 'worth')} |" for row in found["arms"]),
        "",
        "| groups | gain |",
        "|---|---|",
        *(f"| {row['groups']} | {_interval(row, 'gain')} |" for row in found["curve"]),
    ]
    if found["left_out"]:
        lines += ["", f"Not run for want of time: {', '.join(found['left_out'])}."]
    return lines


def _interval(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        return ""
    low, high = row[f"{name}_ci"]
    return f"{row[name]:+.4f} [{low:+.4f}, {high:+.4f}]"


def _figure(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def write_tables(path: Path, figures: Mapping[str, Any]) -> None:
    """Put the tables between their marks into a Markdown file; a file without the marks gets them at its end.

    Raises
    ------
    BadInput
        The file has one mark and not the other.
    """
    old = path.read_text(encoding="utf-8") if path.is_file() else "# Benchmarks\n\n## bench augment\n"
    block = f"{BEGIN}\n{tables(figures)}\n{END}"
    if (BEGIN in old) != (END in old) or old.find(END) < old.find(BEGIN):
        raise BadInput(f"{path}: it needs {BEGIN} and after it {END}, or neither. Put the missing mark back.")
    new = f"{old.rstrip()}\n\n{block}\n" if BEGIN not in old else old[: old.index(BEGIN)] + block + old[old.index(END) + len(END) :]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(new, encoding="utf-8")


def recipe_for(seconds: float, *, teacher: bool, max_length: int = 128, learning_rate: float = 2e-5, seed: int = 0) -> TrainingRecipe:
    """What every arm is trained by: on the teacher's scores where there is one, else on the labels."""
    return TrainingRecipe(loss="distil" if teacher else "listwise", learning_rate=learning_rate, max_length=max_length, seconds=seconds, seed=seed)
