"""Models in shadow: requests that were answered are scored again, by a model that answers nobody, and never at a user's cost.

What belongs here: the bounded queue, the worker's life, the events of it. What must not: scoring (``shadow_worker``), who is sampled (``variants``).

The user's answer waits for nothing here: a job is put into a bounded queue or, when that is full, dropped and counted. A worker that dies or hangs is started
again for the next job; whatever happens to it is a number in the metrics and an event, never an error of a request.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

from predator_si.errors import Unavailable
from predator_si.privacy import trace
from predator_si.records import ScoredDocument, ShadowEvent
from predator_si.search.answer import Arm
from predator_si.search.rerank import Reranker
from predator_si.search.retrieve import Candidates
from predator_si.search.shadow_worker import LoadedModels, score_both

log = logging.getLogger(__name__)
_LONGEST_SECONDS = 120.0
"""For one job, loading the models included; a worker at idle priority may wait long for the processor."""


class ShadowScorer(Protocol):
    """What does the work: a process (``WorkerProcess``), or this one (``InThread``)."""

    @property
    def priority(self) -> str | None:
        """``idle``, ``nice 19``, ``normal``; null while there is no worker."""
        ...

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job of ``shadow_worker``; raises where there is none."""
        ...

    def close(self) -> None:
        """End the worker; the next job starts another."""
        ...


class InThread:
    """Scores in the thread that asks: for tests and for stand-ins of the backends, which no other process could load."""

    priority = "normal"

    def __init__(self, load: Callable[[str], Reranker]) -> None:
        self._models = LoadedModels(load)

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to a job."""
        if "warm" in job:
            return {"warm": [self._models.of(digest).digest for digest in job["warm"]]}
        return score_both(job, self._models.of)

    def close(self) -> None:
        """Nothing to end."""


class WorkerProcess:
    """The process of ``shadow_worker``, started when it is needed.

    Parameters
    ----------
    models
        Folder of the model store.
    threads
        Of the backends.
    longest_seconds
        A worker that has not answered by then is ended.
    """

    def __init__(self, models: Path, threads: int | None = None, longest_seconds: float = _LONGEST_SECONDS) -> None:
        self._command = [sys.executable, "-m", "predator_si.search.shadow_worker", "--models", str(models)]
        self._command += [] if threads is None else ["--threads", str(threads)]
        self._longest = longest_seconds
        self._process: subprocess.Popen[str] | None = None
        self._closing = threading.Lock()
        self.priority: str | None = None
        self.pid: int | None = None

    def ask(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """The worker's answer.

        Raises
        ------
        Unavailable
            It died, does not answer in time, or says that the job failed.
        """
        try:
            process = self._process or self._start()
            assert process.stdin is not None
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
            answer = self._answer(process)
        except (OSError, ValueError) as error:
            self.close()
            raise Unavailable(
                f"the shadow worker ended ({type(error).__name__}). The next job starts another; the service's log has its last words."
            ) from error
        if "error" in answer:
            raise Unavailable(f"the shadow worker could not score: {answer['error']}. The service's log has the details.")
        return answer

    def close(self) -> None:
        """End the worker, whatever it does."""
        with self._closing:
            process, self._process, self.priority, self.pid = self._process, None, None, None
        if process is not None:
            process.kill()
            process.wait(30)
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):  # what was not written yet has nobody to read it
                        stream.close()

    def _start(self) -> subprocess.Popen[str]:
        # Threads of OpenMP that spin while they wait would take the processor from nobody, but they would count as processor time.
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, env=environment)
        with self._closing:
            self._process = process
        hello = self._answer(process)
        self.priority, self.pid = str(hello["priority"]), int(hello["pid"])
        log.info("shadow worker %d runs at priority %s", self.pid, self.priority)
        return process

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        waiting = select.poll()  # select() refuses descriptors from 1024 on, which a busy service has
        waiting.register(process.stdout, select.POLLIN)
        if not waiting.poll(self._longest * 1e3):
            raise ValueError(f"no answer within {self._longest:g} s")
        line = process.stdout.readline()
        found = json.loads(line)  # an empty line, where the worker is gone, is no JSON
        if not isinstance(found, dict):
            raise ValueError("an answer that is no object")
        return found


@dataclass(frozen=True, slots=True)
class ShadowJob:
    """An answered request that a model in shadow is to score again.

    Attributes
    ----------
    role
        A candidate in a trial of mode ``shadow``, or the previous champion.
    served, shadow
        The arm that answered, and the one in shadow; both have a model.
    found
        The candidates that ``served`` had.
    """

    query_id: str
    timestamp: datetime
    role: Literal["candidate", "previous"]
    release: str
    query: str
    k: int
    served: Arm
    shadow: Arm
    found: Candidates
    first: Literal["served", "shadow"]
    simulated: bool = False
    probe: bool = False

    def event(self, status: Literal["scored", "dropped", "failed"], **more: Any) -> ShadowEvent:
        """What became of it."""
        known = {"query_id": self.query_id, "timestamp": self.timestamp, "role": self.role, "status": status, "release": self.release,
                 "served_digest": self.served.digest, "shadow_digest": self.shadow.digest, "depth": self.shadow.depth,
                 "simulated": self.simulated, "probe": self.probe}  # fmt: skip
        return ShadowEvent.model_validate({**known, **more})

    def wire(self) -> dict[str, Any]:
        """As ``shadow_worker.score_both`` takes it."""
        enough = self.shadow.index is self.served.index and self.shadow.depth <= max(self.served.depth, self.k)
        own = None if enough else self.shadow.index.candidates([self.query], max(self.shadow.depth, self.k))[0]
        return {
            "query": self.query,
            "k": self.k,
            "first": self.first,
            "served": _wire(self.served, self.found),
            "shadow": _wire(self.shadow, own),
        }


@dataclass(frozen=True, slots=True)
class ShadowState:
    """Counts since the start, how many jobs wait or are at work, the worker's priority (null: none runs), and what went wrong last."""

    scored: int
    dropped: int
    failed: int
    queued: int
    priority: str | None
    error: str | None


class ShadowQueue:
    """Jobs on their way to the worker.

    Parameters
    ----------
    scorer
        Does the work.
    record
        Takes each job's event, also of those that were dropped or failed.
    size
        Jobs that wait at most.
    clock
        Seconds, for ``waited_ms``.
    """

    def __init__(self, scorer: ShadowScorer, record: Callable[[ShadowEvent], None], size: int = 64, clock: Callable[[], float] = time.perf_counter) -> None:
        self.scorer, self._record, self._clock = scorer, record, clock
        self._jobs: queue.Queue[tuple[ShadowJob, float] | tuple[str, ...] | None] = queue.Queue(size)
        self._lock = threading.Lock()
        self._counts = {"scored": 0, "dropped": 0, "failed": 0}
        self._pending = 0
        self._error: str | None = None
        self._wanted: tuple[str, ...] = ()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Start the thread that feeds the worker."""
        self._thread.start()

    def stop(self) -> None:
        """End the worker and the thread; what still waits counts as dropped."""
        self._stopping.set()
        if self._thread.is_alive():
            with contextlib.suppress(queue.Full):  # then the thread has jobs to wake up for
                self._jobs.put_nowait(None)
            deadline = time.monotonic() + 30
            while self._thread.is_alive() and time.monotonic() < deadline:
                self.scorer.close()  # it may be starting one just now
                self._thread.join(0.2)
        self.scorer.close()
        while not self._jobs.empty():
            self._give_up(self._jobs.get_nowait())

    def offer(self, job: ShadowJob) -> bool:
        """Take a job; False when the queue is full and it was dropped. Never waits."""
        with self._lock:
            self._pending += 1
        try:
            self._jobs.put_nowait((job, self._clock()))
            return True
        except queue.Full:
            self._done(job.event("dropped"))
            return False

    def follow(self, digests: Collection[str]) -> None:
        """Have these models loaded before the first job comes; with none, let the worker go. Never waits, never raises."""
        self._wanted = tuple(sorted(digests))
        with contextlib.suppress(queue.Full):  # then there are jobs, which load what they need
            self._jobs.put_nowait(self._wanted)

    def state(self) -> ShadowState:
        """Where it stands."""
        with self._lock:
            return ShadowState(**self._counts, queued=self._pending, priority=self.scorer.priority, error=self._error)

    def _run(self) -> None:
        while not self._stopping.is_set():
            found = self._jobs.get()
            if self._stopping.is_set():
                self._give_up(found)
            elif found and isinstance(found[0], ShadowJob):
                self._score(*found)  # type: ignore[arg-type]
            elif found:
                self._warm(found)
            if not self._wanted and self._jobs.empty():
                self.scorer.close()

    def _give_up(self, found: tuple[Any, ...] | None) -> None:
        if found and isinstance(found[0], ShadowJob):
            self._done(found[0].event("dropped"))

    def _warm(self, digests: tuple[Any, ...]) -> None:
        try:
            self.scorer.ask({"warm": list(digests)})
        except Exception as error:  # the first job will say so again
            self._fault(error)

    def _score(self, job: ShadowJob, offered: float) -> None:
        waited = max(0.0, (self._clock() - offered) * 1e3)
        try:
            answer = self.scorer.ask(job.wire())
            served, shadow = answer["served"], answer["shadow"]
            results = tuple(
                ScoredDocument(object_id=one, score=score, first_stage_score=first, rerank_score=own) for one, score, first, own in answer["results"]
            )
            if shadow["failed"]:
                raise Unavailable(f"model {job.shadow.digest} could not score in shadow. The service's log has the details.")
            event = job.event(
                "scored",
                results=results,
                served_ms=None if served["failed"] else served["ms"],
                shadow_ms=shadow["ms"],
                served_cpu_seconds=None if served["failed"] else served["cpu_seconds"],
                shadow_cpu_seconds=shadow["cpu_seconds"],
                served_scored=served["scored"],
                shadow_scored=shadow["scored"],
                scored_first=job.first,
                waited_ms=waited,
            )
        except Exception as error:  # nobody waits for this; it is counted, and the next job is tried
            self._fault(error)
            event = job.event("failed", waited_ms=waited)
        self._done(event)

    def _fault(self, error: Exception) -> None:
        if not self._stopping.is_set():
            log.error("shadow: %s", error if isinstance(error, Unavailable) else trace(error))
        with self._lock:
            self._error = str(error) if isinstance(error, Unavailable) else type(error).__name__

    def _done(self, event: ShadowEvent) -> None:
        with self._lock:
            self._counts[event.status] += 1
            if event.status == "scored":
                self._error = None
        try:
            self._record(event)
        except Unavailable:  # the spool is closed: the service is ending
            log.warning("a shadow event came after the end of the spool")
        with self._lock:
            self._pending -= 1


def _wire(arm: Arm, found: Candidates | None) -> dict[str, Any]:
    rule = None if arm.rule is None else arm.rule.to_json()
    known = None if found is None else {"doc_ids": found.doc_ids, "texts": found.texts, "scores": [float(score) for score in found.scores]}
    return {"digest": arm.digest, "depth": arm.depth, "weight": arm.fusion_weight, "rule": rule, "found": known}
