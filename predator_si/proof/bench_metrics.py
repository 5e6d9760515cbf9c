"""`bench metrics`: the metrics engine from Parquet to the full snapshot, beside three peers on the same requests.

What belongs here: arms, clocks, and the figures of CONTRACT.md section 7. What must not: any metric of its own.

Ours is measured in a process of its own, so that its memory is not mixed with that of making files or of the peers.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.errors import BadInput, Unavailable
from predator_si.proof import synthetic_events as synthetic
from predator_si.provenance import provenance

PEER_QUERIES = 200_000
MEASURES = ("nDCG@10", "R@20", "P@10", "RR", "AP")
"""What all four compute; ours computes the other measures of its default set as well, in the same time."""
_PACKAGES = ("pytrec-eval-terrier", "ranx", "ir-measures", "numba", "pyarrow")
_ROUNDS = 3
_TICK = 1_000_000
Tell = Callable[[str], None]
OnProgress = Callable[[int, int], None]


def bench_metrics(
    events: int, seed: int = 0, *, folder: Path | None = None, tell: Tell = lambda _: None, on_progress: OnProgress | None = None
) -> dict[str, Any]:
    """Measure the engine and its peers.

    Parameters
    ----------
    events
        Requests, a multiple of 100,000.
    folder
        Where the files go for the time of the run; a temporary folder unless said.

    Returns
    -------
    dict
        The keys of CONTRACT.md section 7, row ``bench metrics``, and more beside them.

    Raises
    ------
    BadInput
        Too few events, or no multiple.
    Unavailable
        Too little room on the disk, or a peer is not installed.
    """
    if events < synthetic.PART or events % synthetic.PART:
        raise BadInput(f"--events {events}: give a multiple of {synthetic.PART:,}, at least {synthetic.PART:,}.")
    _require_peers()
    base = Path(folder or tempfile.gettempdir())
    needed, free = events * synthetic.BYTES_PER_EVENT, shutil.disk_usage(base).free
    tell(f"{events:,} requests with twenty documents each take {needed / 1e9:.1f} GB in {base}; {free / 1e9:.1f} GB are free")
    if free < 1.1 * needed:
        raise Unavailable(f"{base}: {needed / 1e9:.1f} GB are needed for the files, {free / 1e9:.1f} are free. Give fewer --events, or a roomier --folder.")
    with tempfile.TemporaryDirectory(prefix="predator-si-bench-", dir=base) as scratch:
        telemetry = Path(scratch)
        tell("making events and judgments")
        synthetic.write_events(telemetry, events, seed, on_progress)
        size = sum(path.stat().st_size for path in telemetry.rglob("*.parquet"))
        peers = _against_peers(telemetry, min(events, PEER_QUERIES), tell)
        scaling = _scaling(telemetry, events, tell)
        tick = _alone({"do": "tick", "telemetry": str(telemetry)}) if events >= _TICK else None
    largest = scaling[-1]
    found = provenance("full" if events >= 10_000_000 else "small", seed)
    found["versions"] |= {name: _version(name) for name in _PACKAGES}
    return {
        **found,
        "events": events,
        "seconds": largest["seconds"],
        "peak_rss_mb": largest["peak_mb"],
        **peers,
        "slope": _slope(scaling),
        "tick_seconds": None if tick is None else tick["seconds"],
        "tick_cpu_seconds": None if tick is None else tick["cpu_seconds"],
        "tick_peak_mb": None if tick is None else tick["peak_mb"],
        "late_tick_seconds": None if tick is None else tick["late_seconds"],
        "tick_intake_seconds": None if tick is None else tick["intake_seconds"],
        "tick_read_seconds": None if tick is None else tick["read_seconds"],
        "scaling": scaling,
        "disk_bytes": size,
        "warm_file_cache": True,
        "measures": largest["measures"],
        "cells": largest["cells"],
    }


def _require_peers() -> None:
    import importlib.util

    missing = [name for name in ("pytrec_eval", "ranx", "ir_measures") if importlib.util.find_spec(name) is None]
    if missing:
        raise Unavailable(f"peers that are compared with are not installed: {', '.join(missing)}. Install them: pip install 'predator_si[bench]'.")


def _version(name: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(name)


# --------------------------------------------------------------------------- ours


def measure(telemetry: Path, events: int, workers: int | None = None) -> dict[str, Any]:
    """From the first ``events`` requests to the snapshot, window by window; seconds, and what came out."""
    from predator_si.monitor.aggregate import Aggregate
    from predator_si.monitor.parts import aggregate_parts
    from predator_si.monitor.snapshot import snapshot_of

    began, worked = time.perf_counter(), time.process_time()
    windows: dict[str, dict[str, list[Path]]] = {}
    for kind in ("search", "actions", "judgments"):
        for path in sorted((telemetry / kind).glob("window=*/*.parquet"))[: events // synthetic.PART]:
            windows.setdefault(path.parent.name, {}).setdefault(kind, []).append(path)
    found = Aggregate({}, {})
    for parts in windows.values():
        found = Aggregate.added([found, aggregate_parts(parts["search"], parts["actions"], parts["judgments"], _plan(), workers=workers)])
    counted = time.perf_counter()
    now = synthetic.START + timedelta(days=1)
    snapshot = snapshot_of(found, synthetic.START, now, now, champion=synthetic.CHAMPION, contour="local")
    seconds = time.perf_counter() - began
    cell = found.cell(found.cells)
    return {
        "events": found.counts["events"],
        "seconds": seconds,
        "cpu_seconds": time.process_time() - worked,
        "snapshot_seconds": time.perf_counter() - counted,
        "means": {name: cell.families["judged"].sum(name) / cell.families["judged"].observations for name in MEASURES},
        "measures": list(cell.families["judged"].names),
        "cells": len(snapshot.cells),
        "judged": cell.count("judged"),
        "exact_percentiles": cell.latencies.exact,
        "p95_latency_ms": snapshot.metrics["p95_latency_ms"].value,
    }


def _plan() -> Any:
    from predator_si.monitor import requests

    return requests.Plan(measures=tuple(dict.fromkeys((*requests.MEASURES, *MEASURES))), segment="script")


def tick(telemetry: Path) -> dict[str, Any]:
    """A tick when the newest window, a million requests, has just closed and all before it are measured; then one after late events in the oldest."""
    from predator_si.monitor.intake import WINDOW, window_start
    from predator_si.monitor.snapshot import snapshot_of
    from predator_si.monitor.windows import Windows

    names = sorted(path.name[7:] for path in (telemetry / "search").iterdir())
    newest, oldest = window_start(names[-1]), window_start(names[0])
    windows, now = Windows(telemetry, _plan()), newest + WINDOW
    windows.tick(newest)  # everything before

    def once() -> float:
        began = time.perf_counter()
        changed = windows.tick(now)
        for one in changed:
            end = one.window + WINDOW
            snapshot_of(windows.load(one.window, one.revision), one.window, end, now, champion=synthetic.CHAMPION, contour="local", revision=one.revision)
        assert len(changed) == 1, changed
        return time.perf_counter() - began

    worked = time.process_time()
    seconds = once()
    cpu = time.process_time() - worked
    taking = _take_in(telemetry, names[-1], newest, now)
    part = next(iter(sorted((telemetry / "search" / f"window={names[0]}").glob("*.parquet"))))
    late = pl.read_parquet(part, n_rows=1000, hive_partitioning=False).with_columns(query_id=pl.format("late-{}", "query_id"))
    late.write_parquet(part.with_name("b99999999.parquet"))
    late_seconds = once()
    return {"seconds": seconds, "cpu_seconds": cpu, "late_seconds": late_seconds, "late_revision": windows.revision(oldest), "windows": len(names), **taking}


def _take_in(telemetry: Path, window: str, start: datetime, end: datetime) -> dict[str, Any]:
    """The rest of a tick over the newest window: its events taken in from Parquet files of another service (rules, identities, redaction, sealing), and
    read back for the account of losses. Not in ``seconds``: the loop takes events in as they come, this is what a whole window costs at once.
    """
    from predator_si.monitor.intake import Intake, read_window
    from predator_si.monitor.sources import EventFiles
    from predator_si.search.personal import open_vault

    with tempfile.TemporaryDirectory(prefix="predator-si-intake-", dir=telemetry.parent) as scratch:
        home = Path(scratch)
        for kind in ("search", "actions"):
            for path in sorted((telemetry / kind / f"window={window}").glob("*.parquet")):
                (home / "events" / kind).mkdir(parents=True, exist_ok=True)
                os.link(path, home / "events" / kind / path.name)
        began, worked = time.perf_counter(), time.process_time()
        report = Intake(home / "telemetry", open_vault(home)).run([EventFiles(home / "events")], end)
        taken, cpu = time.perf_counter() - began, time.process_time() - worked
        began = time.perf_counter()
        read = read_window(home / "telemetry", start, end, results=False).search.height
        return {
            "intake_seconds": taken,
            "intake_cpu_seconds": cpu,
            "intake_events": report.good.get("search", 0),
            "read_seconds": time.perf_counter() - began,
            "read_events": read,
        }


def _alone(task: dict[str, Any]) -> dict[str, Any]:
    """A task in a process of its own, with the peak of that process's memory (PSS)."""
    environment = os.environ | {"POLARS_MAX_THREADS": str(provenance("small", 0)["cores"])}
    done = subprocess.run(
        [sys.executable, "-m", "predator_si.proof.bench_metrics", json.dumps(task)], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise Unavailable(f"measuring ended with code {done.returncode}: {done.stderr.strip()[-400:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _task(text: str) -> None:
    from predator_si.proof.machines import Memory

    task = json.loads(text)
    _warm()
    with Memory(every=0.2) as memory:
        found = tick(Path(task["telemetry"])) if task["do"] == "tick" else measure(Path(task["telemetry"]), task["events"])
    sys.stdout.write(json.dumps(found | {"peak_mb": memory.peak_mb}))


def _warm() -> None:
    """Import what the engine imports inside functions: a tick runs in a process that has long done so."""
    import importlib

    for name in ("pyarrow.compute", "pyarrow.parquet", "scipy.stats", "scipy.special"):
        importlib.import_module(name)


def _scaling(telemetry: Path, events: int, tell: Tell) -> list[dict[str, Any]]:
    sizes = [size for size in (100_000, 300_000, 1_000_000, 3_000_000, 10_000_000) if size < events] + [events]
    found = []
    for size in sizes:
        runs = [_alone({"do": "measure", "telemetry": str(telemetry), "events": size}) for _ in range(_ROUNDS if size <= 1_000_000 else 1)]
        seconds = statistics.median(run["seconds"] for run in runs)
        found.append(runs[0] | {"seconds": seconds, "all_seconds": [run["seconds"] for run in runs], "peak_mb": max(run["peak_mb"] for run in runs)})
        tell(f"ours, {size:,} requests: {seconds:.2f} s, {found[-1]['peak_mb']:.0f} MB")
    return found


def _slope(scaling: list[dict[str, Any]]) -> float | None:
    if len(scaling) < 2:
        return None
    return float(np.polyfit(np.log([one["events"] for one in scaling]), np.log([one["seconds"] for one in scaling]), 1)[0])


# --------------------------------------------------------------------------- peers


def _against_peers(telemetry: Path, queries: int, tell: Tell) -> dict[str, Any]:
    parts = {kind: sorted((telemetry / kind).glob("window=*/*.parquet"))[: queries // synthetic.PART] for kind in ("search", "judgments")}
    _warm()
    _ranx(*_dictionaries(parts, 500))  # numba compiles at the first call; that is not counted
    measure(telemetry, synthetic.PART)
    arms: dict[str, list[dict[str, float]]] = {"ours": [], "pytrec_eval": [], "ir_measures": [], "ranx": []}
    values: dict[str, dict[str, dict[str, float]]] = {}
    means: dict[str, float] = {}
    for turn in range(_ROUNDS):
        worked = time.process_time()
        own = measure(telemetry, queries)
        means = own["means"]
        arms["ours"].append({"total": own["seconds"], "cpu": time.process_time() - worked})
        for name, evaluate in (("pytrec_eval", _pytrec), ("ir_measures", _ir_measures), ("ranx", _ranx)):
            if name != "pytrec_eval" and turn:
                continue  # they take much longer, and their ratios are far from what is asked
            began, worked = time.perf_counter(), time.process_time()
            qrels, run = _dictionaries(parts, None)
            built = time.perf_counter()
            values[name] = evaluate(qrels, run)
            arms[name].append({"total": time.perf_counter() - began, "dictionaries": built - began, "cpu": time.process_time() - worked})
            del qrels, run
            tell(f"{name}, {queries:,} requests, round {turn + 1}: {arms[name][-1]['total']:.2f} s (ours {own['seconds']:.2f} s)")
    seconds = {name: {key: statistics.median(one[key] for one in runs) for key in runs[0]} for name, runs in arms.items()}
    return {
        "peer_queries": queries,
        **{f"ratio_{name}": seconds[name]["total"] / seconds["ours"]["total"] for name in ("pytrec_eval", "ranx", "ir_measures")},
        "max_abs_difference": _difference(parts, values, means),
        "compared": {name: len(found) for name, found in values.items()},
        "peer_seconds": seconds,
        "all_seconds": {name: [one["total"] for one in runs] for name, runs in arms.items()},
        "rounds": {name: len(runs) for name, runs in arms.items()},
    }


def _dictionaries(parts: dict[str, list[Path]], limit: int | None) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """What the peers take: judgments and rankings as dictionaries. The order shown is the ranking, so scores are made from places."""
    events = pl.concat([pl.read_parquet(path, columns=["query_id", "results"], n_rows=limit, hive_partitioning=False) for path in parts["search"]])
    shown = events.select("query_id", documents=pl.col("results").list.eval(pl.element().struct.field("object_id")))
    scores = [float(100 - place) for place in range(100)]
    run = {
        query: dict(zip(documents, scores, strict=False)) for query, documents in zip(shown["query_id"].to_list(), shown["documents"].to_list(), strict=True)
    }
    judgments = pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in parts["judgments"]])
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in zip(
        judgments["query_id"].to_list(), judgments["doc_id"].to_list(), judgments["relevance"].cast(pl.Int64).to_list(), strict=True
    ):
        qrels.setdefault(query, {})[document] = grade
    return qrels, run


_PYTREC = {"nDCG@10": "ndcg_cut_10", "R@20": "recall_20", "P@10": "P_10", "RR": "recip_rank", "AP": "map"}
_RANX = {"nDCG@10": "ndcg@10", "R@20": "recall@20", "P@10": "precision@10", "RR": "mrr", "AP": "map"}


def _pytrec(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    import pytrec_eval

    found = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "recall.20", "P.10", "recip_rank", "map"}).evaluate(run)
    return {query: {ours: values[theirs] for ours, theirs in _PYTREC.items()} for query, values in found.items()}


def _ir_measures(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    import ir_measures

    measures = [ir_measures.parse_measure(name) for name in MEASURES]
    found: dict[str, dict[str, float]] = {}
    for metric in ir_measures.iter_calc(measures, qrels, run):
        found.setdefault(metric.query_id, {})[str(metric.measure)] = metric.value
    return found


def _ranx(qrels: dict[str, dict[str, int]], run: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    import ranx  # type: ignore[import-untyped]

    shared = [query for query in qrels if run.get(query)]
    judged, shown = ranx.Qrels({query: qrels[query] for query in shared}), ranx.Run({query: run[query] for query in shared})
    ranx.evaluate(judged, shown, list(_RANX.values()), make_comparable=False)
    found: dict[str, dict[str, float]] = {}
    for ours, theirs in _RANX.items():
        for query, value in shown.scores[theirs].items():
            found.setdefault(query, {})[ours] = float(value)
    return found


def _difference(parts: dict[str, list[Path]], values: dict[str, dict[str, dict[str, float]]], means: dict[str, float]) -> float:
    """Largest difference between ours and any peer, query by query, and between our aggregate's means and those of pytrec_eval."""
    from predator_si.measures import per_query

    events = pl.concat([pl.read_parquet(path, columns=["query_id", "status", "results"], hive_partitioning=False) for path in parts["search"]])
    answered = events.filter(pl.col("status") < 400)
    shown = answered.select("query_id", doc_id=pl.col("results").list.eval(pl.element().struct.field("object_id"))).filter(pl.col("doc_id").list.len() > 0)
    run = shown.with_columns(rank=pl.int_ranges(1, pl.col("doc_id").list.len() + 1)).explode("doc_id", "rank")
    judgments = pl.concat([pl.read_parquet(path, hive_partitioning=False) for path in parts["judgments"]])
    known = judgments.join(answered.select("query_id"), on="query_id", how="semi", maintain_order="left")
    ours = per_query(run, known, MEASURES)
    worst = 0.0
    for found in values.values():
        theirs = pl.DataFrame({"query_id": list(found), **{name: [one[name] for one in found.values()] for name in MEASURES}})
        both = ours.join(theirs, on="query_id", suffix=" theirs")
        worst = max(worst, *(float((both[name] - both[f"{name} theirs"]).abs().max() or 0.0) for name in MEASURES))  # type: ignore[arg-type]
    return max(worst, *(abs(float(ours[name].mean() or 0.0) - means[name]) for name in MEASURES))  # type: ignore[arg-type]


if __name__ == "__main__":
    _task(sys.argv[1])
