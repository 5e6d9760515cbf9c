"""Drift of the newest window against healthy ones: reading both sides, the report's JSON, evidently's page.

What belongs here: which windows and documents are compared. What must not: the comparison itself (``monitor.drift``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from predator_si.errors import BadInput, Missing, PredatorError
from predator_si.monitor import healthy_windows
from predator_si.monitor.drift import Documents, measure_drift, write_quality_report
from predator_si.monitor.intake import read_window
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import references
from predator_si.privacy import open_text
from predator_si.records import DriftReport, MetricsSnapshot, utc_now
from predator_si.search.index_builds import embedder_of
from predator_si.search.index_versions import IndexVersions
from predator_si.search.personal import existing_vault
from predator_si.search.retrieve import load_embedder

_REQUESTS = 2000
"""Requests of each side at most, drawn at random: opening sealed text, and evidently, take their time."""
_ENOUGH = 1000
"""Requests from which no further healthy window is added to the reference."""
_DOCUMENTS = 500


def measure(loop: Loop) -> tuple[DriftReport, Path | None] | PredatorError:
    """The drift report of the newest window, stored as JSON, and evidently's page beside its snapshot where both sides have enough requests.

    The reference are the champion's first healthy windows, as many as hold a thousand requests: the same ones at every tick. The error is given back where
    there is nothing to compare with.
    """
    windows = references.history(loop)
    if len(windows) < 2:
        return BadInput("two windows are needed to compare; there is one so far.")
    newest = windows[-1]
    healthy = healthy_windows(windows[:-1], newest.champion)[0] if newest.champion is not None else []
    if not healthy:
        return BadInput(f"no healthy window of {newest.champion or 'an unnamed champion'} before this one; drift needs one to compare with.")
    try:
        reference, chosen = _reference(loop, healthy)
        current = _people(loop, newest)
        embedder = load_embedder(loop.plan.embedder)
        report = measure_drift(
            reference,
            current,
            newest,
            created_at=utc_now(),
            reference_window=(chosen[0].window_start, chosen[-1].window_end),
            embed=lambda texts: embedder.encode(list(texts)),
            documents=_documents(loop, newest),
            alpha=loop.settings.values.evidence.drift_alpha,
            min_clients=loop.settings.values.privacy.min_clients,
            seed=loop.plan.scale.seed,
        )
        page = loop.home.snapshots / f"{newest.snapshot_id}.drift.html"
        try:
            write_quality_report(reference, current, page)
        except BadInput:  # too few requests for evidently; our own report says so item by item
            page.unlink(missing_ok=True)
        report = report.model_copy(update={"html": page.name if page.is_file() else None})
        references.write(loop.home.snapshots / "drift" / f"{newest.snapshot_id}.json", report)
    except PredatorError as error:
        return error
    return report, page if page.is_file() else None


def _reference(loop: Loop, healthy: Sequence[MetricsSnapshot]) -> tuple[pl.DataFrame, list[MetricsSnapshot]]:
    frames: list[pl.DataFrame] = []
    for window in healthy:
        frames.append(_people(loop, window))
        if sum(frame.height for frame in frames) >= _ENOUGH:
            break
    return pl.concat(frames), list(healthy[: len(frames)])


def _people(loop: Loop, window: MetricsSnapshot) -> pl.DataFrame:
    """What people asked in a window of the champion or its stand-ins, with the texts that can still be opened."""
    found = read_window(loop.home.telemetry, window.window_start, window.window_end).search.filter(~pl.col("probe"))
    ours = found.filter(pl.col("model_digest").is_null() | (pl.col("model_digest") == window.champion) | pl.col("stands_for").is_not_null())
    return open_text(ours.sample(min(_REQUESTS, ours.height), seed=0), existing_vault(loop.home.path)).sort("timestamp")


def _documents(loop: Loop, newest: MetricsSnapshot) -> tuple[Documents, Documents] | None:
    """A sample of the documents when this champion was first looked at, and one of now; null where no index lies here."""
    versions = IndexVersions(loop.home.index)
    try:
        version = versions.current()
    except Missing:
        return None
    embedder = embedder_of(versions.folder(version), loop.plan.embedder).name
    champion = hashlib.sha256(f"{newest.champion} {embedder}".encode()).hexdigest()[:16]
    kept = loop.home.snapshots / "drift" / f"documents-{champion}.npz"
    now = _sample(versions.folder(version), str(version), loop.plan.scale.seed)
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f".{kept.name}.partial.npz")
        np.savez(partial, keys=np.array(now.keys), vectors=now.vectors, generation=np.array(now.generation))
        partial.replace(kept)
        return None
    with np.load(kept, allow_pickle=False) as stored:
        before = Documents(tuple(stored["keys"].tolist()), stored["vectors"], str(stored["generation"]))
    return before, now


def _sample(folder: Path, generation: str, seed: int) -> Documents:
    try:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
        texts = pl.scan_parquet(folder / "documents.parquet").select(pl.concat_str("title", "text", separator="\n", ignore_nulls=True)).collect().to_series()
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise BadInput(f"{folder}: the index cannot be sampled ({str(error).splitlines()[0]}). Reindex.") from error
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), min(_DOCUMENTS, len(vectors)), replace=False))
    keys = tuple(hashlib.sha256(text.encode()).hexdigest()[:24] for text in texts.gather(rows).to_list())
    return Documents(keys, np.asarray(vectors[rows], dtype=np.float32), generation)
