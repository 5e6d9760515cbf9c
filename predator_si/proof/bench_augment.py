"""`bench augment`: how long a month's training data take on this machine, and what each generator and filter is worth.

What belongs here: arms, clocks, tables. What must not: generators, filters, training of its own.

Made without clicks: the log is the text of the train queries, their labels are unread. The evaluation's dev and test queries are the guard; gains are on dev.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.augment import Dataset, Filters, Guard, Sizes, build_dataset, write_dataset
from predator_si.augment.pseudo_labels import Budget
from predator_si.augment.recipe import STEPS
from predator_si.augment.teacher import EnsembleTeacher
from predator_si.corpora import Corpus
from predator_si.errors import BadInput
from predator_si.proof.machines import Memory
from predator_si.provenance import provenance
from predator_si.records import DiagnosticReport, DistributionChange, RootCause, XaiInsights, utc_now
from predator_si.search.retrieve import HybridIndex

LIMIT_SECONDS, LIMIT_MB = 600.0, 3_000.0
"""Of 45,000 examples on two cores without a language model or a cross-encoder."""
Tell = Callable[[str], None]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Ground:
    """What data sets are made from: a corpus, its index, its report and log."""

    corpus: Corpus
    index: HybridIndex
    report: DiagnosticReport
    log: pl.DataFrame
    documents: pl.DataFrame
    guard: Guard

    def build(
        self,
        sizes: Sizes,
        seed: int,
        *,
        filters: Filters | None = None,
        teacher: EnsembleTeacher | None = None,
        budget: Budget | None = None,
        without: str | None = None,
        on_progress: Progress = lambda done, total: None,
    ) -> Dataset:
        """A data set, leaving out one source where ``without`` names it."""
        from predator_si.augment.generators.standard import standard_generators

        generators = [generator for generator in standard_generators() if generator.source != without]
        return build_dataset(
            self.report.cycle_id, self.report, self.log, self.documents, self.index, self.guard, teacher, sizes, seed, on_progress, filters=filters,
            generators=generators, categories=self.categories, budget=budget,
        )  # fmt: skip

    @property
    def categories(self) -> dict[str, str]:
        """Document id -> package, where the corpus has packages."""
        column = next((name for name in ("package", "category") if name in self.documents.columns), None)
        return {} if column is None else dict(self.documents.select("doc_id", column).drop_nulls().iter_rows())


def ground(corpus: Corpus, index: HybridIndex) -> Ground:
    """Aimed at the part that arrives later, where the corpus has one."""
    judged = [(corpus.queries(split=split), corpus.judgments(split=split)) for split in ("dev", "test")]
    guard = Guard(
        [text for queries, _ in judged for text in queries["text"].to_list()],
        frozenset(doc_id for _, judgments in judged for doc_id in judgments["doc_id"].to_list()),
    )
    texts = corpus.queries(split="train")["text"].to_list()
    nothing: list[list[str]] = [[] for _ in texts]
    log = pl.DataFrame(
        {"text": texts, "clicked": nothing, "impressions": nothing},
        schema={"text": pl.String, "clicked": pl.List(pl.String), "impressions": pl.List(pl.String)},
    )
    documents = corpus.documents().filter(pl.col("doc_id").is_in(index.doc_ids))
    return Ground(corpus, index, _report(corpus), log, documents, guard)


def _report(corpus: Corpus) -> DiagnosticReport:
    shifted = bool((corpus.documents()["part"] == "shift").any())
    now = utc_now()
    return DiagnosticReport(
        cycle_id=f"si_{now:%Y_%m_%d}_001",
        timestamp=now,
        trigger="bench",
        current_value=0.0,
        baseline=0.0,
        delta=0.0,
        root_cause_analysis=RootCause(
            type="domain_shift" if shifted else "unknown",
            affected_categories=["shift"] if shifted else [],
            distribution_change=DistributionChange(new_tokens=[], coverage=None),
        ),
        xai_insights=XaiInsights(low_coverage_tokens=[], importance_scores={}, suggested_action="augment"),
        recommended_actions=[],
    )


def sizes_for(examples: int, *, log_groups: int = 0) -> Sizes:
    """So many (query, document) examples, in groups of one positive, four mined negatives and a random one."""
    sizes = Sizes()
    group = 1 + sizes.candidate_negatives + sizes.random_negatives
    return replace(sizes, click_groups=0, log_groups=log_groups, document_groups=-(-examples // group))


def bench_speed(
    place: Ground, examples: int, seed: int = 0, *, tell: Tell = lambda text: None, on_progress: Progress = lambda done, total: None
) -> dict[str, Any]:
    """Seconds and memory of ``examples`` examples without teacher and language model, from the log and the index to the files.

    Memory is that of the whole process with the index in it. Loading the index is not counted: the service has it.

    Raises
    ------
    BadInput
        Fewer than 60 examples.
    """
    if examples < 60:
        raise BadInput(f"--examples {examples}: give at least 60.")
    tell(f"{examples:,} examples from {place.documents.height:,} documents and {place.log.height:,} log queries")
    place.index.embedder.encode(["warm"])
    folder = Path(tempfile.mkdtemp(prefix="predator-si-augment-"))
    try:
        with Memory(0.5) as memory:
            began, worked = time.perf_counter(), time.process_time()
            dataset = place.build(sizes_for(examples), seed, on_progress=on_progress)
            built = time.perf_counter()
            paths = write_dataset(folder, dataset)
            ended, cpu = time.perf_counter(), time.process_time() - worked
        sizes = {name: path.stat().st_size for name, path in paths.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found = dataset.statistics
    seconds, enough = ended - began, found["total_examples"] >= 0.99 * examples
    return {
        "corpus": place.corpus.name,
        "documents": place.documents.height,
        "log_queries": place.log.height,
        "wanted_examples": examples,
        "examples": found["total_examples"],
        "groups": found["groups"],
        "seconds": seconds,
        "cpu_seconds": cpu,
        "write_seconds": ended - built,
        "phase_seconds": found["seconds"],
        "peak_rss_mb": memory.peak_mb,
        "limit_seconds": LIMIT_SECONDS,
        "limit_mb": LIMIT_MB,
        "holds": bool(enough and seconds < LIMIT_SECONDS and memory.peak_mb < LIMIT_MB),
        "yield": found["yield"],
        "groups_by_source": found["groups_by_source"],
        "diversity_score": found["diversity_score"],
        "cluster_entropy": found["cluster_entropy"],
        "leakage": found["leakage"],
        "bytes": sizes,
    }


def bench_augment(
    place: Ground,
    examples: int,
    seed: int,
    ablation: Callable[[], dict[str, Any]] | None = None,
    labels: Callable[[], dict[str, Any]] | None = None,
    *,
    tell: Tell = lambda text: None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """The figures of ``bench augment``: speed, and the ablation and the teacher's labels where they are given."""
    speed = bench_speed(place, examples, seed, tell=tell, on_progress=on_progress)
    found = {**provenance("full" if examples >= 45_000 else "small", seed), **speed}
    jobs = {"labels": labels, "ablation": ablation}
    return found | {name: job() for name, job in jobs.items() if job is not None}


def ablation_arms(base: Dataset, only: Sequence[str] = ()) -> list[tuple[str, str | None, Filters]]:
    """(name, source left out, filters) of every arm of a leave-one-out run: a source that gave no group, or a filter that took nothing, has none.

    Parameters
    ----------
    only
        Sources and filters to leave out in turn; empty takes all.
    """
    gave, took = base.statistics["groups_by_source"], _took(base)
    arms: list[tuple[str, str | None, Filters]] = [(f"without {source}", source, Filters()) for source in gave if not only or source in only]
    arms += [(f"without filter {step}", None, Filters(off=frozenset({step}))) for step in STEPS if took.get(step) and (not only or step in only)]
    return arms


def _took(base: Dataset) -> dict[str, int]:
    """How many each step that can be left out took."""
    yields: dict[str, dict[str, int]] = base.statistics["yield"]
    names = list(yields)
    lost = {step: sum(yields[before].values()) - sum(yields[step].values()) for before, step in itertools.pairwise(names)}
    dropped = base.statistics["negatives_dropped"]
    same = {"per_document": lost.get("per_document_cap", 0), "same_text": dropped["same_text"]}
    return {**lost, **same, "teacher": dropped["teacher"] + lost.get("relevance_floor", 0)}
