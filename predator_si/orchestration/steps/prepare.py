"""Why it got worse, and what to train on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import polars as pl

from predator_si.augment import Dataset, DatasetRepo, Guard, Sizes, build_dataset, dataset_card, update_manifest, write_dataset
from predator_si.augment.generators.standard import standard_generators
from predator_si.augment.pseudo_labels import Budget
from predator_si.corpora.vocabulary import shared_words
from predator_si.diagnose import diagnose
from predator_si.errors import Missing
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.compare import reference_of, window_of
from predator_si.orchestration.steps.explain import explain_causes
from predator_si.orchestration.steps.teach import fitted_propensities, home_teacher
from predator_si.orchestration.steps.writers import written_queries
from predator_si.orchestration.traces import traced
from predator_si.privacy import open_text, protect
from predator_si.records import CycleState, DiagnosticReport, utc_now
from predator_si.reports.dataset_card import write_dataset_card
from predator_si.search.events import EventFrames, read_events

_LOG_REACH = timedelta(hours=24)
Progress = Callable[[int, int], None]


@traced
def report_causes(loop: Loop, cycle_id: str) -> DiagnosticReport:
    """Diagnose the drop that opened the cycle, from the snapshot of its window and the log before and in it."""
    cycle = loop.control.cycle(cycle_id)
    snapshots = [snapshot for snapshot in loop.snapshots() if snapshot.created_at <= cycle.opened_at]
    if not snapshots:
        raise Missing(f"cycle {cycle_id} has no metrics snapshot before {cycle.opened_at}; take one first (observe/metrics_snapshot).")
    current, healthy = snapshots[-1], reference_of(loop, snapshots)
    reference = healthy or snapshots[0]
    events = read_events(loop.home.events, current.window_start, current.window_end)
    before = read_events(loop.home.events, reference.window_start, reference.window_end)
    index = loop.index()
    corpus = loop.corpus
    now = window_of(loop, current, events)
    then = None if healthy is None else window_of(loop, healthy, before)
    listable = listable_words(loop, events)
    report = diagnose(
        cycle_id,
        cycle.trigger,
        current,
        loop.probes(current.snapshot_id),
        corpus.judgments(split="dev"),
        _texts(before),
        _texts(events),
        index.document_frequencies(),
        dict(corpus.documents().select("doc_id", "package").iter_rows()),
        loop.plan.scale.seed,
        events=events.search.filter(~pl.col("probe") & pl.col("stands_for").is_null()),
        indexed_ids=index.doc_ids,
        depth=loop.plan.scale.depth,
        listable=listable,
        reference=then,
        actions=now.actions,
        index=now.index,
    )
    report = explain_causes(loop, report, loop.probes(current.snapshot_id), corpus.judgments(split="dev"), _texts(before), _texts(events), index, listable)
    loop.save(cycle_id, "diagnostic_report.json", report)
    return report


def listable_words(loop: Loop, events: EventFrames) -> frozenset[str]:
    """Words of people's queries that enough different clients used to be shown to others."""
    asked = events.search.filter(~pl.col("probe"))
    askers = asked.select(pl.coalesce("client_id", "query_id")).to_series().to_list()
    return shared_words(asked["user_query"].to_list(), askers, loop.settings.values.privacy.min_clients)


def _texts(events: EventFrames) -> list[str]:
    return events.search.filter(~pl.col("probe"))["user_query"].drop_nulls().to_list()


def query_log(loop: Loop) -> pl.DataFrame:
    """The last day's searches of people (or of their replay), oldest first, with what was shown, clicked and read: text, impressions, clicked, dwell.

    ``sealed`` is the text as it may be stored, ``client_id`` who asked, as a hash; searches whose text was erased are left out.
    """
    now = utc_now()
    events, vault = read_events(loop.home.events, now - _LOG_REACH, now, open_text=False), loop.vault()
    asked = protect(events.search.filter(~pl.col("probe") & (pl.col("status") == 200)), vault, stored=True)
    shown = (
        asked.with_columns(sealed="user_query")
        .pipe(open_text, vault)
        .drop_nulls("user_query")
        .sort("timestamp", maintain_order=True)
        .select("query_id", "sealed", "client_id", text="user_query", impressions=pl.col("results").list.eval(pl.element().struct.field("object_id")))
    )
    clicks = events.actions.filter(pl.col("action_name") == "click").select("query_id", "object_id").unique(maintain_order=True)
    dwell = events.actions.filter(pl.col("action_name") == "dwell").group_by("query_id", "object_id").agg(pl.col("value").max().alias("seconds"))
    clicked = (
        clicks.join(dwell, on=["query_id", "object_id"], how="left", maintain_order="left")
        .group_by("query_id", maintain_order=True)
        .agg(clicked=pl.col("object_id"), dwell=pl.col("seconds"))
    )
    joined = shown.join(clicked, on="query_id", how="left", maintain_order="left")
    return joined.with_columns(pl.col("clicked").fill_null([]), pl.col("dwell").fill_null([]))


@traced
def build_data(loop: Loop, cycle_id: str, on_progress: Progress = lambda done, total: None) -> Dataset:
    """Training groups from clicks and documents, written, versioned with DVC, and bound to the cycle; the cycle is then prepared.

    Where the contour gives a teacher time, it answers log queries and scores what it gets to; the rest is trained on labels.
    """
    folder = loop.artifacts(cycle_id)
    report = DiagnosticReport.read(folder / "diagnostic_report.json")
    corpus, scale = loop.corpus, loop.plan.scale
    judged = [corpus.queries(split=split) for split in ("dev", "test")]
    index = loop.index()
    documents = corpus.documents().filter(pl.col("doc_id").is_in(index.doc_ids))
    guard = Guard(
        eval_queries=[text for frame in judged for text in frame["text"].to_list()],
        eval_doc_ids=frozenset(doc_id for split in ("dev", "test") for doc_id in corpus.judgments(split=split)["doc_id"].to_list()),
    )
    log, seconds = query_log(loop), loop.settings.values.training.teacher_seconds
    dataset = build_dataset(
        cycle_id,
        report,
        log,
        documents,
        index,
        guard,
        home_teacher(loop, log) if seconds else None,
        Sizes(
            click_groups=scale.click_groups,
            log_groups=scale.click_groups if seconds else 0,
            document_groups=scale.document_groups,
            candidate_negatives=scale.negatives,
            validation_share=0.0,
        ),
        scale.seed,
        on_progress,
        loop.should_stop(cycle_id),
        categories=dict(corpus.documents().select("doc_id", "package").iter_rows()),
        budget=Budget(seconds=seconds) if seconds else None,
        generators=[*standard_generators(fitted_propensities(loop), least_clients=loop.settings.values.privacy.min_clients), *written_queries(loop, cycle_id)],
    )
    paths = write_dataset(folder, dataset)
    version = DatasetRepo.of(loop.home.path).commit(list(paths.values()), dataset.dataset_id)
    stored = update_manifest(paths["manifest"], dvc={"path": version["path"], "hash": version["hash"]})
    write_dataset_card(folder, dataset_card(replace(dataset, manifest=stored)))
    loop.control.append("dataset_versioned", "loop", cycle_id, f"{dataset.dataset_id}: {dataset.examples.height} examples", dict(version))
    loop.control.transition(
        cycle_id, CycleState.PREPARED, f"data set {dataset.dataset_id} with {dataset.examples.height} examples", "loop", {"dataset": dataset.dataset_id}
    )
    return dataset
