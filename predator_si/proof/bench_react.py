"""`bench react`: each fault of the trigger table planted in a small live platform, and the seconds until the loop acts.

What belongs here: planting, asking the loop's own functions in the order in which its sensors ask them, taking the time. What must not: a rule of its own.

The service answers over HTTP on loopback with a trained tiny reranker; the faults sit in what it loads (a slow, failing or upside-down part), in what it is
sent (documents that cannot be indexed, deletions, bad ratings), or in the price table. The clock runs from the fault to the first action: the option that
``chosen_action`` takes, or the diagnosis where the row trains. The loop's waits between looks are not sat through but counted at their longest.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from predator_si import __version__
from predator_si.errors import Unavailable
from predator_si.monitor import TRIGGERS, Skip, TriggerRule
from predator_si.orchestration.loop import Loop
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.processes import wait_until
from predator_si.records import CycleState, utc_now

Say = Callable[[str], None]
GUARD_SECONDS, TICK_SECONDS, SENSOR_SECONDS = 60.0, 900.0, 60.0
"""``service_guard_sensor``, the snapshot's schedule, ``quality_gate_sensor``: what a fault waits for them at the longest."""
_REQUESTS = 60
"""Searches of one window: more than any gate's minimum sample."""
_LONGEST = 240.0
_LAST = ("recall_at_20_down", "index_errors_up")
"""Rows whose faults stay: documents that are gone, letters that nobody settled."""


@dataclass
class Faults:
    """What is wrong with the service now."""

    errors: bool = False
    seconds: float = 0.0
    upside_down: bool = False
    refuses: bool = False
    held: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.held.set()

    def mend(self) -> None:
        """Nothing is wrong any more."""
        self.errors = self.upside_down = self.refuses = False
        self.seconds = 0.0
        self.held.set()

    def prepare(self, documents: Sequence[Any]) -> None:
        """The embedding of new documents: it waits while it is held, and fails while it refuses."""
        self.held.wait(_LONGEST)
        if self.refuses:
            raise ValueError("planted: these documents cannot be embedded")


@dataclass(frozen=True)
class Sizes:
    """How long the planted faults take to show: ``small`` lowers two limits by gate overrides, so that nobody sits through a minute of lag."""

    lag_limit: float | None
    p95_limit: float | None
    slow_seconds: float


SIZES = {"full": Sizes(None, None, 0.9), "small": Sizes(3.0, 250.0, 0.3)}


class Reactions:
    """A ground, its service in this process with faults in it, and the rows.

    Parameters
    ----------
    folder
        Home of the ground; an earlier one there is removed, anything else is not touched.
    """

    def __init__(self, folder: Path, cache: Path, sizes: Sizes, seed: int, say: Say) -> None:
        self.ground = Ground.prepare(folder, cache, seed, say)
        free = {"cycle_interval": timedelta(0), "max_cycles_per_day": 96, "cool_down": timedelta(0)}  # no other cycle stands in a row's way
        settings = self.ground.settings
        self.settings = settings.model_copy(update={"values": settings.values.model_copy(update=free)})
        self.loop, self.faults, self.sizes = Loop(self.settings), Faults(), sizes
        self._queries = self.loop.corpus.queries(split="train")["text"].to_list()
        self._asked: list[str] = []
        self._service: tuple[Any, threading.Thread] | None = None

    # ------------------------------------------------------------------ the platform

    @contextmanager
    def running(self) -> Iterator[None]:
        """The reconciler and the search service in threads of this process."""
        from predator_si.release.reconcile import LocalReconciler

        home, loop = self.loop.home, self.loop
        reconciler = LocalReconciler(home.gitops_bare, home.reconcile, home.applied, loop.contour, home.models)
        stop = threading.Event()

        def follow() -> None:
            while not stop.wait(0.1):
                reconciler.tick()

        reconciler.tick()
        follower = threading.Thread(target=follow, name="reconciler", daemon=True)
        follower.start()
        try:
            self._start()
            yield
        finally:
            self.faults.mend()
            self._stop()
            stop.set()
            follower.join(30)

    def _start(self) -> None:
        import uvicorn

        from predator_si.search.app import create_app

        app = create_app(
            self.loop.home.path,
            contour=self.loop.contour,
            embedder=self.loop.plan.embedder,
            load_index=self._load_index,
            load_reranker=self._load_reranker,
            prepare=self.faults.prepare,
            flush_seconds=0.2,
        )
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=self.settings.ports.search, log_config=None, access_log=False))
        serving = threading.Thread(target=server.run, name="search service", daemon=True)
        serving.start()
        self._service = (server, serving)
        wait_until(lambda: server.started, 180.0, "the search service")

    def _stop(self) -> None:
        if self._service is not None:
            server, serving = self._service
            server.should_exit = True
            serving.join(30)
            self._service = None

    def _load_index(self, folder: Path) -> Any:
        from predator_si.search.retrieve import Candidates, HybridIndex, load_embedder

        faults = self.faults

        class Failing(HybridIndex):
            def candidates(self, queries: Sequence[str], depth: int) -> list[Candidates]:
                if faults.errors:
                    raise RuntimeError("planted: the index does not answer")
                return super().candidates(queries, depth)

        return Failing.load(folder, load_embedder(self.loop.plan.embedder))

    def _load_reranker(self, folder: Path) -> Any:
        from predator_si.search.rerank import load_reranker

        return _Faulty(load_reranker(folder), self.faults)

    # ------------------------------------------------------------------ traffic

    def traffic(self, n: int = _REQUESTS, seconds: float = _LONGEST) -> None:
        """Searches of people, one after the other; failures are what the service makes of them."""
        deadline = time.monotonic() + seconds
        with httpx.Client(base_url=self.loop.search_url, timeout=60.0, trust_env=False) as client:
            for number in range(n):
                text = self._queries[7 * number % len(self._queries)]  # of every part
                answer = client.post("/search", json={"query": text, "k": 10, "client_id": f"c{number}", "simulated": True})
                if answer.status_code == 200:
                    self._asked.append(str(answer.json()["query_id"]))
                if time.monotonic() > deadline:
                    return
        self.loop.flush()

    def _post(self, path: str, body: dict[str, Any]) -> None:
        httpx.post(f"{self.loop.search_url}{path}", json=body, timeout=60.0, trust_env=False).raise_for_status()

    # ------------------------------------------------------------------ planting

    def plant(self, rule: TriggerRule) -> str:
        """Plant the fault of a row; what it is, in words."""
        return getattr(self, f"_{rule.type}")()  # type: ignore[no-any-return]

    def _error_rate_up(self) -> str:
        self.faults.errors = True
        self.traffic()
        return "the index fails at every search"

    def _index_errors_up(self) -> str:
        self.faults.refuses = True
        rows = [{"doc_id": f"bad-{number}", "title": "bad", "text": f"bad document {number}"} for number in range(5)]
        self._post("/documents", {"documents": rows})
        wait_until(lambda: self.loop.info()["ingest"]["dead_letters"] > 3, _LONGEST, "the dead letters", every=0.1)
        self.faults.refuses = False
        return "five documents cannot be embedded"

    def _ndcg_at_10_down(self) -> str:
        self.faults.upside_down = True
        self.traffic()
        return "the reranker's scores are upside down"

    def _recall_at_20_down(self) -> str:
        import polars as pl

        from predator_si.search.index_versions import IndexVersions

        self._override("ndcg_at_10", 0.0, "this row is about recall")
        relevant = self.loop.corpus.judgments(split="dev").filter(relevance=1.0)["doc_id"].unique().sort().to_list()
        nothing = pl.DataFrame(schema={"doc_id": pl.String, "title": pl.String, "text": pl.String})
        self._stop()
        IndexVersions(self.loop.home.index).publish(self.loop.index().updated(nothing, relevant[: len(relevant) // 2]))
        self._start()
        self.traffic()
        return "the index lacks half of the documents that people want, and nobody was told"

    def _p95_latency_ms_up(self) -> str:
        if self.sizes.p95_limit is not None:
            self._override("p95_latency_ms", self.sizes.p95_limit, "a smaller limit")
        self.faults.seconds = self.sizes.slow_seconds
        self.traffic()
        return f"the reranker takes {self.sizes.slow_seconds:g} s longer"

    def _etl_lag_seconds_up(self) -> str:
        if self.sizes.lag_limit is not None:
            self._override("etl_lag_seconds", self.sizes.lag_limit, "a smaller limit")
        self.faults.held.clear()
        self._post("/documents", {"documents": [{"doc_id": "held", "title": "held", "text": "a document that waits"}]})
        return "the embedding of new documents stands still"

    def _user_satisfaction_down(self) -> str:
        self.traffic()
        for query_id in self._asked[-40:]:
            self._post("/events", {"query_id": query_id, "action_name": "rating", "value": 2.0})
        self.loop.flush()
        return "forty people rate what they found with 2 of 5"

    def _cost_per_1k_requests_up(self) -> str:
        prices = self.settings.values.prices.model_copy(update={"usd_per_vcpu_hour": 100_000.0})
        self.loop = Loop(self.settings.model_copy(update={"values": self.settings.values.model_copy(update={"prices": prices})}))
        self.traffic()
        return "the price of a processor hour rises to 100,000 USD"

    def _override(self, metric: str, threshold: float, reason: str) -> None:
        self.loop.control.override_gate(self.loop.contour, metric, threshold, "bench", f"bench react: {reason}", old=None, expires_in=timedelta(hours=1))

    def mend(self) -> None:
        """Everything as it was before a row, and a healthy window seen."""
        self.faults.mend()
        self.loop = Loop(self.settings)
        for metric in self.loop.control.gate_overrides(self.loop.contour):
            self.loop.control.end_override(self.loop.contour, metric, "bench", "the row is done")

    # ------------------------------------------------------------------ a row

    def row(self, rule: TriggerRule) -> dict[str, Any]:
        """Plant a row's fault, and let the loop find it: its guard or its tick, its snapshot, its decision, its first action."""
        from predator_si.orchestration.steps import observe

        self.traffic()
        observe.take_snapshot(self.loop)
        began = time.monotonic()
        fault = self.plant(rule)
        planted = time.monotonic() - began
        if rule.watched_each_minute:
            self._guarded(rule)
        observe.take_snapshot(self.loop)
        answer = observe.next_step(self.loop)
        counted = (GUARD_SECONDS if rule.watched_each_minute else TICK_SECONDS) + SENSOR_SECONDS
        row: dict[str, Any] = {"signal": rule.type, "limit_seconds": rule.react_within_seconds, "fault": fault, "planting_seconds": planted}
        row["counted_seconds"] = counted
        row["counted"] = f"{counted:g} s: the longest wait for {'the guard' if rule.watched_each_minute else 'the tick'} and the sensor of gates"
        if isinstance(answer, Skip) or answer.trigger.type != rule.type:
            why = answer.reason if isinstance(answer, Skip) else f"another row came first: {answer.trigger.type}"
            return {**row, "seconds": None, "measured_seconds": None, "action": None, "why": why, "within": False}
        cycle = self.loop.control.open_cycle(self.loop.contour, answer.trigger, "quality_gate_sensor", answer.reason)
        action, why = self._act(cycle.cycle_id)
        measured = time.monotonic() - began
        if self.loop.control.cycle(cycle.cycle_id).state not in (CycleState.REJECTED, CycleState.FAILED):
            self.loop.control.transition(cycle.cycle_id, CycleState.CANCELLED, "bench react: the row is measured", "bench")
        seconds = measured + counted
        return {**row, "seconds": seconds, "measured_seconds": measured, "action": action, "why": why, "within": seconds <= rule.react_within_seconds}

    def _guarded(self, rule: TriggerRule) -> None:
        from predator_si.orchestration.sensors import guard_reasons

        def seen() -> bool:
            self.loop.flush()
            return any(reason.startswith(rule.metrics) for reason in guard_reasons(self.loop))

        wait_until(seen, _LONGEST, f"the guard's word about {rule.metrics[0]}", every=0.5)

    def _act(self, cycle_id: str) -> tuple[str, str]:
        """The cycle's first job, step by step; what it did, and why."""
        from predator_si.orchestration.steps import act, prepare
        from predator_si.train.tracking import NullTracker

        loop = self.loop
        report = prepare.report_causes(loop, cycle_id)
        if not act.begins_with_action(loop, loop.control.cycle(cycle_id)):
            return "diagnose", f"{report.root_cause_analysis.type}; then {', '.join(loop.control.cycle(cycle_id).trigger.actions[1:])}"
        plan = act.act(loop, cycle_id, NullTracker())
        return plan.action or ("train" if plan.train else "none"), plan.reason


class _Faulty:
    """A reranker with the faults that are on."""

    def __init__(self, inner: Any, faults: Faults) -> None:
        self._inner, self._faults = inner, faults
        self.digest, self.card = inner.digest, inner.card

    def score(self, query: str, texts: Any) -> Any:
        time.sleep(self._faults.seconds)
        return self._bent(self._inner.score(query, texts))

    def score_pairs(self, pairs: Any) -> Any:
        return self._bent(self._inner.score_pairs(pairs))

    def _bent(self, scores: Any) -> Any:
        return -np.asarray(scores) if self._faults.upside_down else scores


def bench_react(
    folder: Path,
    cache: Path,
    *,
    scale: str = "full",
    seed: int = 0,
    signals: Sequence[str] = (),
    say: Say = lambda text: None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """The figures of CONTRACT.md section 7: a row for each trigger of the table.

    Parameters
    ----------
    folder
        The bench's own home lies in it.
    signals
        Only these rows; empty: all.
    """
    began = time.monotonic()
    bench = Reactions(folder, cache, SIZES[scale], seed, say)
    wanted = sorted((rule for rule in TRIGGERS if not signals or rule.type in signals), key=lambda rule: _LAST.index(rule.type) if rule.type in _LAST else -1)
    rows: list[dict[str, Any]] = []
    with bench.running():
        for number, rule in enumerate(wanted):
            say(f"{rule.type}: a fault is planted")
            try:
                rows.append(bench.row(rule))
            except Unavailable as error:
                row = {"signal": rule.type, "seconds": None, "limit_seconds": rule.react_within_seconds, "action": None, "why": str(error), "within": False}
                rows.append(row)
            bench.mend()
            if on_progress is not None:
                on_progress(number + 1, len(wanted))
    order = [rule.type for rule in TRIGGERS]
    rows.sort(key=lambda row: order.index(str(row["signal"])))
    return {
        "rows": rows,
        "within": all(row["within"] for row in rows),
        "seconds": time.monotonic() - began,
        "scale": scale,
        "cores": os.cpu_count(),
        "versions": {"predator_si": __version__, "python": platform.python_version()},
        "seed": seed,
        "at": utc_now().isoformat(),
    }
