"""A home of its own with a trained tiny reranker, its reconciler and its search service, and the people who search it.

What belongs here: what runs, and what is sent to it. What must not: what is planted, what is measured.

Service and reconciler run in threads of this process, so that a fault can be planted in what they load; they answer over HTTP on loopback and follow Git as
anywhere. Copies of the service are readers of the same home, as many as the applied release file says: a cluster's part, played by the bench.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl

from predator_si.orchestration.loop import Loop
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.processes import free_port, wait_until
from predator_si.proof.react.faults import Faults, FaultyReranker
from predator_si.records import utc_now
from predator_si.search.index_versions import IndexVersions

Say = Callable[[str], None]
REQUESTS = 60
"""Searches of one window: more than any gate's minimum sample."""
WAITING = 8
"""Searches that may wait in the service; more are refused with 503. The real service holds 512: nobody needs so many clients here to see it full."""
LONGEST = 240.0
_START_SECONDS = 180.0


class Peak:
    """The longest lag that the ingest queue says it has, from now until it is empty."""

    def __init__(self, state: Callable[[], dict[str, Any]]) -> None:
        self._state, self._highest, self._looks = state, 0.0, 0
        self._ended = threading.Event()
        threading.Thread(target=self._look, name="lag", daemon=True).start()

    def wait(self) -> tuple[float, int]:
        """Seconds, and how often the queue was asked.

        Raises
        ------
        Unavailable
            The queue does not get empty.
        """
        wait_until(self._ended.is_set, LONGEST, "the end of the ingest queue", every=0.05)
        return self._highest, self._looks

    def _look(self) -> None:
        deadline = time.monotonic() + LONGEST
        while time.monotonic() < deadline:
            state = self._state()
            self._highest, self._looks = max(self._highest, float(state["lag_seconds"])), self._looks + 1
            if state["queued"] == 0:
                self._ended.set()
                return
            time.sleep(0.05)


class Platform:
    """A ground, its service in this process with faults in it, and its clients.

    Parameters
    ----------
    folder
        Home of the ground; an earlier one there is removed, anything else is not touched.
    """

    def __init__(self, folder: Path, cache: Path, seed: int, say: Say) -> None:
        self.ground = Ground.prepare(folder, cache, seed, say)
        free = {"cycle_interval": timedelta(0), "max_cycles_per_day": 96, "cool_down": timedelta(0)}  # no other cycle stands in a row's way
        settings = self.ground.settings
        self.settings = settings.model_copy(update={"values": settings.values.model_copy(update=free)})
        self.faults, self.loop, self.asked = Faults(), Loop(self.settings), list[str]()
        self.champion = self.ground.champion
        self._queries = self.loop.corpus.queries(split="train")["text"].to_list()
        self._healthy = self.loop.index()
        self._owner: tuple[Any, threading.Thread] | None = None
        self._copies: list[tuple[Any, threading.Thread, str]] = []

    # ------------------------------------------------------------------ what runs

    @contextmanager
    def running(self) -> Iterator[None]:
        """The reconciler and the search service in threads of this process; what the service has to say goes into its log.

        A backend that is slow is slow for everybody on this machine: the loop's own timing of a served model meets the faults as well.
        """
        from predator_si.orchestration.steps import improve
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
        plain = improve.served_reranker
        improve.served_reranker = lambda loop, digest: FaultyReranker(plain(loop, digest), self.faults)
        try:
            with _logged(home.logs / "search.log"):
                try:
                    self.start()
                    yield
                finally:
                    self.faults.mend()
                    self.stop()
        finally:
            improve.served_reranker = plain
            stop.set()
            follower.join(30)

    def start(self) -> None:
        """Start the service."""
        self._owner = self._serve(self.settings.ports.search, reader=False)

    def stop(self) -> None:
        """End the service and its copies."""
        for server, serving, _ in self._copies:
            _end(server, serving)
        self._copies = []
        if self._owner is not None:
            _end(*self._owner)
            self._owner = None

    def scale(self) -> None:
        """As many copies as the applied release file says."""
        from predator_si.release.release_file import parse_release

        path = self.loop.home.release_file(self.loop.contour)
        wanted = parse_release(path.read_text(encoding="utf-8"), path.name).replicas - 1
        while len(self._copies) > wanted:
            server, serving, _ = self._copies.pop()
            _end(server, serving)
        while len(self._copies) < wanted:
            port = free_port()
            self._copies.append((*self._serve(port, reader=True), f"http://127.0.0.1:{port}"))

    @property
    def addresses(self) -> list[str]:
        """Of the service and its copies."""
        return [self.loop.search_url, *(address for _, _, address in self._copies)]

    def _serve(self, port: int, *, reader: bool) -> tuple[Any, threading.Thread]:
        import uvicorn

        from predator_si.search.app import create_app
        from predator_si.search.rerank import load_reranker

        app = create_app(
            self.loop.home.path,
            contour=self.loop.contour,
            embedder=self.loop.plan.embedder,
            load_reranker=lambda folder: FaultyReranker(load_reranker(folder), self.faults),
            prepare=self.faults.prepare,
            flush_seconds=0.2,
            max_waiting=WAITING,
            reader=reader,
        )
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, access_log=False))
        serving = threading.Thread(target=server.run, name=f"search service {port}", daemon=True)
        serving.start()
        wait_until(lambda: server.started, _START_SECONDS, "the search service")
        return server, serving

    # ------------------------------------------------------------------ what is sent

    def traffic(self, n: int = REQUESTS, clients: int = 1, pause: float = 0.0) -> None:
        """Searches of people, shared evenly by the copies; each client sends its next one ``pause`` seconds after the last one was answered."""
        deadline = time.monotonic() + LONGEST
        addresses = self.addresses

        def search(client_number: int) -> None:
            with httpx.Client(base_url=addresses[client_number % len(addresses)], timeout=60.0, trust_env=False) as client:
                time.sleep(pause * client_number / clients)  # not all at once
                for number in range(client_number, n, clients):
                    text = self._queries[7 * number % len(self._queries)]  # of every part
                    answer = client.post("/search", json={"query": text, "k": 10, "client_id": f"c{number}", "simulated": True})
                    if answer.status_code == 200:
                        self.asked.append(str(answer.json()["query_id"]))
                    if time.monotonic() > deadline:
                        return
                    time.sleep(pause)

        people = [threading.Thread(target=search, args=(number,), name=f"client-{number}", daemon=True) for number in range(clients)]
        for one in people:
            one.start()
        for one in people:
            one.join(LONGEST)
        for address in addresses:
            httpx.post(f"{address}/flush", timeout=30.0, trust_env=False).raise_for_status()

    def post(self, path: str, body: dict[str, Any]) -> None:
        """Something for the service that owns the home."""
        httpx.post(f"{self.loop.search_url}{path}", json=body, timeout=60.0, trust_env=False).raise_for_status()

    def feed(self, name: str, texts: list[str]) -> None:
        """New documents."""
        rows = [{"doc_id": f"{name}-{number}", "title": name, "text": text} for number, text in enumerate(texts)]
        self.post("/documents", {"documents": rows})

    def queue(self) -> dict[str, Any]:
        """What the ingest queue says about itself."""
        found: dict[str, Any] = self.loop.info()["ingest"]
        return found

    # ------------------------------------------------------------------ as it was

    def lose_documents(self, doc_ids: list[str]) -> None:
        """Documents vanish from the index, and nobody is told."""
        nothing = pl.DataFrame(schema={"doc_id": pl.String, "title": pl.String, "text": pl.String})
        self._publish(self._healthy.updated(nothing, doc_ids))

    def mend(self) -> None:
        """Everything as it was: no fault, no bent gate, the first index."""
        self.faults.mend()
        self.loop = Loop(self.settings)
        for metric in self.loop.control.gate_overrides(self.loop.contour):
            self.loop.control.end_override(self.loop.contour, metric, "bench", "the row is done")
        if self.loop.index().fingerprint != self._healthy.fingerprint:
            wait_until(lambda: self.queue()["queued"] == 0, LONGEST, "the end of the ingest queue", every=0.05)
            self._publish(self._healthy)

    def _publish(self, index: Any) -> None:
        self.stop()
        IndexVersions(self.loop.home.index).publish(index)
        self.start()
        self.scale()

    def bend_gate(self, metric: str, threshold: float, reason: str) -> None:
        """Another limit for a gate, for an hour."""
        control, contour = self.loop.control, self.loop.contour
        control.override_gate(contour, metric, threshold, "bench", f"bench react: {reason}", old=None, expires_in=timedelta(hours=1), now=utc_now())


def _end(server: Any, serving: threading.Thread) -> None:
    server.should_exit = True
    serving.join(30)


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """What the service logs goes into a file: a hundred planted failures are not what somebody at a terminal waits for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log, handler = logging.getLogger("predator_si.search"), logging.FileHandler(path)
    before, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = before
        handler.close()
