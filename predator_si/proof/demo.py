"""One whole real pass of the loop on this machine, and a drill: the command behind ``make demo``.

The only simulated part is who searches: real queries of the corpus' train split over HTTP, clicks from a click model, marked ``simulated``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from predator_si.errors import Refused, Unavailable
from predator_si.experiment.plan import reason_to_wait
from predator_si.monitor import Skip, probe
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import improve, keep
from predator_si.orchestration.steps import observe as observing
from predator_si.orchestration.steps.trial import trial_progress
from predator_si.proof.drive import Dagster
from predator_si.proof.machines import Memory, services
from predator_si.proof.prepare import build_first_index, check_twin, prepare_home, register_champion, take_time
from predator_si.provenance import provenance
from predator_si.records import CycleState, Evaluation, Rollback, ServingConfig, Trigger, utc_now
from predator_si.release.patch import load_patch
from predator_si.reports import ComparisonRow
from predator_si.search.traffic import ReplayResult, replay
from predator_si.settings import DemoScale, Settings
from predator_si.statistics import paired_interval

Progress = Callable[[int, int], None]
_INGEST_SECONDS = 900.0
_DOCUMENT_BATCH = 200
_MORE_TRAFFIC = 50
"""Searches at a time while a trial goes on."""


class Narrator:
    """Tells what happens, how far it is, and how long each stage took."""

    def __init__(self, say: Callable[[str], None], on_progress: Progress) -> None:
        self.say, self.on_progress = say, on_progress
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Name a stage and time it."""
        self.say(name)
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - began, 1)


def run_demo(
    settings: Settings,
    scale: DemoScale,
    corpus: str = "python-docs",
    base: Path | None = None,
    shift: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
    on_progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """Run it; the figures of CONTRACT.md section 7.

    Raises
    ------
    PredatorError
        Something a user can mend: a busy port, a missing model, an unwritable folder.
    """
    told = Narrator(say, on_progress)
    _port_is_free(settings)
    with told.stage("set-up: corpus and models"):
        loop = prepare_home(settings, scale.model_copy(update={"hurries": True}), corpus, base, shift, say, on_progress)
    began = time.monotonic()
    try:
        with Memory() as memory:
            figures = _whole_loop(loop, scale, told)
    finally:
        take_time(loop)
    seconds = time.monotonic() - began
    figures |= {"seconds": round(seconds, 1), "peak_rss_mb": round(memory.peak_mb), "stage_seconds": told.seconds, **provenance(scale.name, scale.seed)}
    (Path(figures["artifacts"]) / "demo.json").write_text(json.dumps(figures, indent=2, sort_keys=True, default=str) + "\n")
    return figures


def _port_is_free(settings: Settings) -> None:
    import socket

    with socket.socket() as probe_socket:
        probe_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe_socket.bind(("127.0.0.1", settings.ports.search))
        except OSError as error:
            raise Unavailable(
                f"port {settings.ports.search} (search) is busy ({error.strerror}). Stop what uses it, or move it: PREDATOR_SI_PORTS=search=8180."
            ) from error


class _Traffic:
    """Replays and counts them: a demo answers for every request it sent."""

    def __init__(self, loop: Loop, told: Narrator) -> None:
        self._loop, self._told = loop, told
        self.requests = self.failed = 0
        self._seed = 0

    def send(self, part: Literal["base", "shift"], n: int, *, first_stage: bool = False) -> ReplayResult:
        """``n`` searches of a part's train queries, with clicks."""
        self._seed += 1
        seed = self._loop.plan.scale.seed + self._seed
        result = replay(self._loop.search_url, self._loop.corpus, part, n=n, seed=seed, first_stage=first_stage, on_progress=self._told.on_progress)
        self.requests += result.requests
        self.failed += result.failed + result.degraded
        return result


def _whole_loop(loop: Loop, scale: DemoScale, told: Narrator) -> dict[str, Any]:
    dagster = Dagster(loop.settings)
    with told.stage("index the base documents"):
        build_first_index(loop, told.on_progress)
    with told.stage("check the champion's fast twin"):
        check = check_twin(loop)
    register_champion(loop)
    with services(loop):
        traffic = _Traffic(loop, told)
        with told.stage("traffic before the shift"):
            traffic.send("base", scale.baseline_requests)
        with told.stage("snapshot and baseline"):
            _must(dagster, "observe_job")
        with told.stage("new documents arrive"):
            _ingest(loop, loop.corpus.documents("shift"), told)
        with told.stage("people ask about them"):
            traffic.send("shift", scale.shift_requests)
            traffic.send("shift", scale.log_requests, first_stage=True)
        with told.stage("snapshot: the gates look"):
            _must(dagster, "observe_job")
        answer = observing.next_step(loop)
        if isinstance(answer, Skip):
            raise Refused(f"no gate asked for a cycle: {'; '.join(answer.reasons)}")
        cycle = loop.control.open_cycle(loop.contour, answer.trigger, "quality_gate", answer.reason)
        told.say(f"cycle {cycle.cycle_id}: {answer.reason}")
        cycle_id = cycle.cycle_id
        released = _cycle(loop, scale, told, dagster, traffic, cycle_id)
        figures = _figures(loop, scale, told, traffic, cycle_id, released) | {"twin_check": check, "trigger": answer.reason}
        if released:
            with told.stage("drill: a damaged model is pushed past the gates"):
                figures["drill"] = _drill(loop, scale, told, dagster)
            keep.write_report(loop, cycle_id, summary=comparison(figures))
        return figures


def _must(dagster: Dagster, job: str, cycle_id: str | None = None, config: Mapping[str, Any] | None = None) -> None:
    if not dagster.run(job, cycle_id, config):
        raise Unavailable(f"{job} failed: {dagster.last_failure}. Its log is in the Dagster UI: `predator-si up`.")


def _ingest(loop: Loop, documents: pl.DataFrame, told: Narrator) -> None:
    """Send documents to the ingest queue and wait until all of them can be found."""
    import httpx

    wanted = int(loop.info()["index"]["documents"]) + documents.height
    rows = documents.select("doc_id", "title", "text").to_dicts()
    with httpx.Client(base_url=loop.search_url, timeout=60.0, trust_env=False) as client:
        for start in range(0, len(rows), _DOCUMENT_BATCH):
            batch = [{**row, "text": row["text"][:200_000]} for row in rows[start : start + _DOCUMENT_BATCH]]
            response = client.post("/documents", json={"documents": batch})
            if response.status_code != 202:
                raise Unavailable(f"the service did not take documents: {response.status_code} {response.text[:200]}")
    deadline = time.monotonic() + _INGEST_SECONDS
    before = wanted - documents.height
    while (found := int(loop.info()["index"]["documents"])) < wanted:
        if time.monotonic() > deadline:
            raise Unavailable(f"{found} of {wanted} documents are indexed after {_INGEST_SECONDS:g} s. See the service's log and its dead letters in /info.")
        told.on_progress(found - before, documents.height)
        time.sleep(0.5)


def _cycle(loop: Loop, scale: DemoScale, told: Narrator, dagster: Dagster, traffic: _Traffic, cycle_id: str) -> bool:
    """Drive one cycle through its jobs; whether it ended with a stable release."""
    stages = {
        "cycle_prepare_job": "diagnose, and make training data",
        "cycle_train_job": "train, and make it fast",
        "cycle_evaluate_job": "evaluate on sealed queries",
        "cycle_trial_job": "put the challenger on trial",
    }
    for job, words in stages.items():
        with told.stage(words):
            dagster.run(job, cycle_id)
        if _ended(loop, cycle_id, dagster, told, job):
            return False
    with told.stage("trial traffic"):
        traffic.send("shift", scale.trial_requests)
    with told.stage("judge the trial, measure latency"):
        _must(dagster, "cycle_judge_job", cycle_id)
    while loop.control.cycle(cycle_id).state is CycleState.ON_TRIAL:  # neither shown nor harmful: it goes on until its maximum
        with told.stage("more trial traffic, another look"):
            _until_due(loop, cycle_id, traffic)
            _must(dagster, "cycle_judge_job", cycle_id)
    with told.stage("release"):
        dagster.run("cycle_release_job", cycle_id)
    if _ended(loop, cycle_id, dagster, told, "cycle_release_job"):
        return False
    with told.stage("watch"):
        return _watch(loop, scale, told, dagster, traffic, cycle_id, scale.watch_requests) is CycleState.STABLE


def _until_due(loop: Loop, cycle_id: str, traffic: _Traffic) -> None:
    """Traffic in parts until the trial may be looked at again."""
    while reason_to_wait(*trial_progress(loop, cycle_id), utc_now()) is not None:
        traffic.send("shift", _MORE_TRAFFIC)


def _ended(loop: Loop, cycle_id: str, dagster: Dagster, told: Narrator, job: str) -> bool:
    cycle = loop.control.cycle(cycle_id)
    if cycle.state in (CycleState.REJECTED, CycleState.FAILED, CycleState.CANCELLED, CycleState.ROLLED_BACK, CycleState.EXPIRED):
        told.say(f"the cycle ended {cycle.state.value}: {cycle.reason}")
        keep.write_report(loop, cycle_id)
        return True
    if dagster.last_failure is not None:
        raise Unavailable(f"{job} of {cycle_id} failed: {dagster.last_failure}")
    return False


def _watch(loop: Loop, scale: DemoScale, told: Narrator, dagster: Dagster, traffic: _Traffic, cycle_id: str, requests: int) -> CycleState:
    """Traffic and checks in turn until the watch keeps the release or asks for its rollback, which then runs."""
    checks = keep.watch_plan(loop, cycle_id).planned_checks
    for _ in range(checks + 2):
        traffic.send("shift", -(-requests // checks))
        dagster.run("watch_job", cycle_id)
        state = loop.control.cycle(cycle_id).state
        answer = json.loads((loop.artifacts(cycle_id) / "watch.json").read_text())["answer"]
        if state is CycleState.STABLE:
            return state
        if answer == "rollback":
            _must(dagster, "rollback_job", cycle_id)
            return loop.control.cycle(cycle_id).state
    return loop.control.cycle(cycle_id).state


def _drill(loop: Loop, scale: DemoScale, told: Narrator, dagster: Dagster) -> dict[str, Any]:
    """Release a damaged model by an explicit drill, and see the watch take it back."""
    from predator_si.train.damage import damage

    traffic = _Traffic(loop, told)
    traffic._seed = 500
    before = loop.serving()
    bad = damage(loop.models, before.model, scale.seed, scale.max_length)
    reason = "drill: a deliberately damaged model"
    trigger = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=None, baseline=None, delta=None, actions=("drill",), reason=reason)
    cycle = loop.control.open_cycle(loop.contour, trigger, "drill", reason)
    improve.evaluate_drill(loop, cycle.cycle_id, ServingConfig(model=bad, depth=before.depth, fusion_weight=before.fusion_weight))
    config = {"ops": {f"cycle__{name}": {"config": {"drill": True}} for name in ("release_decision", "helm_patch")}}
    _must(dagster, "cycle_release_job", cycle.cycle_id, config)
    state = _watch(loop, scale, told, dagster, traffic, cycle.cycle_id, scale.drill_requests)
    if traffic.requests < scale.drill_requests:
        traffic.send("shift", scale.drill_requests - traffic.requests)
    folder = loop.artifacts(cycle.cycle_id)
    back = Rollback.read(folder / "rollback.json") if (folder / "rollback.json").is_file() else None
    after = str(loop.info()["variants"]["champion"]["model_sha"])
    return {
        "cycle_id": cycle.cycle_id,
        "rolled_back": state is CycleState.ROLLED_BACK and back is not None and back.verified and after == before.model,
        "requests": traffic.requests,
        "failed_requests": traffic.failed,
        "bad_digest": bad,
        "digest_after": after,
        "seconds_to_old_digest": back.seconds if back is not None else None,
        "reason": back.reason if back is not None else None,
    }


def _figures(loop: Loop, scale: DemoScale, told: Narrator, traffic: _Traffic, cycle_id: str, released: bool) -> dict[str, Any]:
    """What the demo measured: before is the champion on the full index, after the released digest asked over HTTP."""
    folder = loop.artifacts(cycle_id)
    found: dict[str, Any] = {
        "cycle_id": cycle_id,
        "artifacts": str(folder),
        "state": loop.control.cycle(cycle_id).state.value,
        "reason": loop.control.cycle(cycle_id).reason,
    }
    found |= dict.fromkeys(
        ("ndcg_before", "ndcg_after", "ndcg_gain_ci", "n_queries", "p95_before_ms", "p95_after_ms", "ndcg_noninferior", "released_digest", "commit", "drill")
    )
    if (folder / "evaluation.json").is_file():
        evaluation = Evaluation.read(folder / "evaluation.json")
        gain = evaluation.ndcg_difference
        found |= {"old_digest": evaluation.champion.model, "ndcg_before": evaluation.ndcg_champion, "n_queries": evaluation.n_queries,
                  "offline_gain": gain.estimate, "offline_gain_ci": [gain.low, gain.high]}  # fmt: skip
    if (folder / "latency.json").is_file():
        latency = json.loads((folder / "latency.json").read_text())
        found |= {"p95_before_ms": latency["champion"]["p95_ms"], "p95_after_ms": latency["challenger"]["p95_ms"],
                  "p50_before_ms": latency["champion"]["p50_ms"], "p50_after_ms": latency["challenger"]["p50_ms"]}  # fmt: skip
    if released:
        with told.stage("ask the released model over HTTP"):
            frame = pl.read_parquet(folder / evaluation.per_query)
            asked = probe(loop.search_url, frame.select("query_id", "text"), loop.corpus.judgments(split="test"), k=20, on_progress=told.on_progress)
        traffic.requests += asked.n
        traffic.failed += asked.failed
        both = (
            asked.per_query.drop_nulls("ndcg_at_10")
            .select("query_id", after="ndcg_at_10")
            .join(frame.select("query_id", before="ndcg_champion"), on="query_id")
        )
        gain = paired_interval((both["after"] - both["before"]).to_numpy(), seed=scale.seed, n_boot=scale.resamples)
        found |= {
            "ndcg_after": float(np.mean(both["after"].to_numpy())),
            "ndcg_gain": gain.estimate,
            "ndcg_gain_ci": [gain.low, gain.high],
            "ndcg_gain_p": gain.p_value,
            "ndcg_noninferior": gain.low > -0.01,
            "released_digest": next(iter(asked.digests)) if len(asked.digests) == 1 else None,
            "commit": load_patch(folder, "promote").commit,
        }  # fmt: skip
        found |= _costs(loop, cycle_id, evaluation)
    return found | {"requests": traffic.requests, "failed_requests": traffic.failed}


def _costs(loop: Loop, cycle_id: str, evaluation: Evaluation) -> dict[str, Any]:
    """USD per 1,000 searches of both models during the trial: price table times measured CPU seconds, an estimate."""
    experiment = json.loads((loop.artifacts(cycle_id) / "ab_test_results.json").read_text())
    from datetime import datetime

    from predator_si.search.events import read_events

    started, ended = datetime.fromisoformat(experiment["started_at"]), datetime.fromisoformat(experiment["ended_at"])
    events = read_events(loop.home.events, started, ended, open_text=False).search
    served = events.filter(~pl.col("probe") & pl.col("stands_for").is_null() & pl.col("cpu_seconds").is_not_null())
    price = loop.settings.prices.usd_per_vcpu_hour / 3600.0 * 1000.0
    means = dict(served.group_by("model_digest").agg(pl.col("cpu_seconds").mean()).iter_rows())
    return {
        f"cost_per_1k_{side}": means[digest] * price if digest in means else None
        for side, digest in (("before", evaluation.champion.model), ("after", evaluation.challenger.model))
    }


def comparison(figures: Mapping[str, Any]) -> list[ComparisonRow]:
    """The table that a manager reads, as rows."""
    gain = figures.get("ndcg_gain_ci")
    drill = figures.get("drill") or {}
    return [
        ComparisonRow(
            "NDCG@10",
            figures["ndcg_before"],
            figures["ndcg_after"],
            better="up",
            interval=(gain[0], gain[1]) if gain else None,
            source="sealed queries over HTTP",
        ),
        ComparisonRow("P95 of search", figures["p95_before_ms"], figures["p95_after_ms"], unit="ms", better="down", source="closed loop, arms interleaved"),
        ComparisonRow(
            "Cost per 1,000 searches", figures.get("cost_per_1k_before"), figures.get("cost_per_1k_after"), unit="USD", better="down", source="estimated"
        ),
        ComparisonRow("Requests failed", None, float(figures["failed_requests"]), better="down", after_of=int(figures["requests"]), source="all of the demo"),
        ComparisonRow(
            "Requests failed in the drill",
            None,
            drill.get("failed_requests"),
            better="down",
            after_of=drill.get("requests"),
            source="damaged model released and taken back",
        ),
    ]


__all__ = ["comparison", "run_demo"]
