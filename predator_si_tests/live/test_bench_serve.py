"""`bench serve` with a tiny model: a real service, the shadow's real process at its low priority, shared lists; its times say nothing here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest

from predator_si.errors import BadInput, Unavailable
from predator_si.proof.bench_serve import ServePlan, bench_serve
from predator_si.search.retrieve import HybridIndex
from predator_si.search.shadow import WorkerProcess
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder
from predator_si_tests.support.tiny_models import TOPICS, store_tiny
from predator_si_tests.support.waiting import wait_until

pytestmark = pytest.mark.live


def _job(digest: str, **more: Any) -> dict[str, Any]:
    found = {"doc_ids": [f"d{i}" for i in range(6)], "texts": [f"how to {topic} a table" for topic in TOPICS[:6]], "scores": [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]}
    arm = {"digest": digest, "depth": 6, "weight": 0.0, "rule": None, "found": found}
    return {"query": "how to sort", "k": 3, "first": "served", "served": arm, "shadow": {**arm, "found": None}, **more}


def test_the_shadow_works_in_a_process_of_its_own_that_may_die_at_any_time(tmp_path: Path) -> None:
    store, digest = store_tiny(tmp_path)
    worker = WorkerProcess(store.root, threads=1, longest_seconds=300)
    try:
        answer = worker.ask(_job(digest))
        assert len(answer["results"]) == 3 and answer["served"]["scored"] == answer["shadow"]["scored"] == 6
        assert answer["served"]["ms"] > 0 and answer["shadow"]["cpu_seconds"] > 0
        process = psutil.Process(worker.pid)
        assert worker.priority in ("idle", "nice 19")
        if worker.priority == "idle":
            assert os.sched_getscheduler(process.pid) == os.SCHED_IDLE
        else:
            assert process.nice() == 19
        with pytest.raises(Unavailable, match="could not score: Missing"):
            worker.ask(_job(f"sha256:{'0' * 64}"))
        assert worker.ask(_job(digest))["results"] == answer["results"], "one job's failure is not the next one's"
        process.kill()
        process.wait(20)
        with pytest.raises(Unavailable, match="ended"):
            worker.ask(_job(digest))
        assert worker.ask(_job(digest))["results"] == answer["results"], "the next job starts another"
    finally:
        worker.close()
    wait_until(lambda: worker.pid is None, 5, "the end of the worker")


def test_a_worker_that_does_not_answer_in_time_is_ended(tmp_path: Path) -> None:
    worker = WorkerProcess(tmp_path, longest_seconds=0.01)  # no interpreter starts that fast
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(Unavailable, match="shadow worker ended"):
        worker.ask({"warm": []})
    assert worker.pid is None and {child.pid for child in psutil.Process().children()} <= before


def test_the_worker_ends_with_the_service_that_started_it(tmp_path: Path) -> None:
    parent = (
        "import sys, time; from pathlib import Path; from predator_si.search.shadow import WorkerProcess\n"
        "w = WorkerProcess(Path(sys.argv[1])); w.ask({'warm': []}); print(w.pid, flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", parent, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    process.kill()
    process.wait(20)
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 30, "the end of the orphan")


def test_three_arms_of_one_service_by_turns(tmp_path: Path) -> None:
    texts = [f"how to {topic} a table with the {topic} function number {i}" for i in range(4) for topic in TOPICS]
    model = tiny_cross_encoder(tmp_path / "tiny", texts, 3, hidden=32, max_length=64)
    documents = pl.DataFrame({"doc_id": [f"d{i}" for i in range(len(texts))], "title": [""] * len(texts), "text": texts})
    embedder = HashingEmbedder()
    progress: list[tuple[int, int]] = []
    began = time.monotonic()
    found = bench_serve(
        [f"how to {topic}" for topic in TOPICS],
        HybridIndex.build(documents, embedder),
        embedder.save(tmp_path / "embedder"),
        model,
        tmp_path / "home",
        ServePlan(rounds=2, requests=4, share=1.0, depth=5, length=32, threads=1),
        on_progress=lambda *each: progress.append(each),
    )
    assert json.loads(json.dumps(found, allow_nan=False)) and time.monotonic() - began < 600
    assert [arm["name"] for arm in found["arms"]] == ["plain", "shadow", "interleave"] and {arm["n"] for arm in found["arms"]} == {8}
    assert all(0 < arm["p50_ms"] <= arm["p95_ms"] <= arm["p99_ms"] and arm["p95_ci"][0] <= arm["p95_ms"] <= arm["p95_ci"][1] for arm in found["arms"])
    by_name = {arm["name"]: arm for arm in found["arms"]}
    assert found["p95_ratio"]["shadow"] == pytest.approx(by_name["shadow"]["p95_ms"] / by_name["plain"]["p95_ms"])
    assert (found["requests"], found["failed_requests"], found["scale"]) == (24, 0, "small") and progress[-1] == (24, 24)
    shadow = found["shadow"]
    assert shadow["priority"] in ("idle", "nice 19") and shadow["failed"] == 0 and shadow["scored"] + shadow["dropped"] >= 8
    assert abs(shadow["log_ratio_cpu"]) < 2 and found["interleaved"] >= 8


def test_a_run_that_measures_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="at least one query"):
        bench_serve([], None, tmp_path, tmp_path, tmp_path, ServePlan())  # type: ignore[arg-type]
