"""Closed-loop clients that search all the while, count every answer, and remember which model gave it and when.

What belongs here: requests and their count. What must not: judging what was answered.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import httpx

from predator_si.errors import Unavailable

_TIMEOUT = httpx.Timeout(60.0, connect=5.0)
_KEPT = 50_000
"""Newest answers that are remembered one by one."""
_PEOPLE = 200
"""Client ids in turn: what a service keeps for each person must not look like what it keeps for each swap."""
_OUT_OF_ORDER = 1.0
"""Seconds by which one client may note its answer later than another one that was answered after it."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One search: when it was sent and answered (seconds since 1970), and the digest of the model that ranked it."""

    sent: float
    received: float
    digest: str


class Load:
    """Clients that each send the next search as soon as the last one is answered.

    Attributes
    ----------
    requests, failed
        Searches, and those among them without a usable answer: another status than 200, none, or one that no model had ranked. One that fails while
        the service was killed on purpose is counted in ``excused`` instead.
    failures
        Failed searches by reason.
    """

    def __init__(self, url: str, queries: Sequence[str], clients: int = 2, k: int = 10) -> None:
        self.requests = self.failed = self.excused = 0
        self.failures: Counter[str] = Counter()
        self._url, self._queries, self._clients, self._k = url, list(queries), clients, k
        self._answers: deque[Answered] = deque(maxlen=_KEPT)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self.pause = 0.0
        """Seconds that a client waits between two searches: for drills in which something else is to be done meanwhile."""
        self._excusing = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._search, args=(number,), name=f"client-{number}", daemon=True) for number in range(self._clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(90)

    # ------------------------------------------------------------------ what was answered

    def answers(self, since: float = 0.0) -> list[Answered]:
        """Remembered answers received from ``since`` on, oldest first."""
        found: list[Answered] = []
        with self._lock:
            for answer in reversed(self._answers):
                if answer.received < since - _OUT_OF_ORDER:
                    break
                found.append(answer)
        return sorted((answer for answer in found if answer.received >= since), key=lambda answer: answer.received)

    def by(self, digest: str, since: float = 0.0) -> list[Answered]:
        """Those among them that one model gave."""
        return [answer for answer in self.answers(since) if answer.digest == digest]

    def wait_for(self, digest: str, since: float, seconds: float, n: int = 1) -> Answered:
        """The first answer by a model received from ``since`` on, once there are ``n`` of them.

        Raises
        ------
        Unavailable
            There are not as many within ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while len(found := self.by(digest, since)) < n:
            if time.monotonic() > deadline:
                raise Unavailable(f"{len(found)} of {n} answers came from {digest} within {seconds:g} s; failures so far: {dict(self.failures) or 'none'}.")
            time.sleep(0.005)
        return found[0]

    @contextmanager
    def excusing(self) -> Iterator[None]:
        """Failures inside are those of a service that is down on purpose."""
        with self._lock:
            self._excusing += 1
        try:
            yield
        finally:
            with self._lock:
                self._excusing -= 1

    # ------------------------------------------------------------------ a client

    def _search(self, client_number: int) -> None:
        number = client_number
        with httpx.Client(base_url=self._url, timeout=_TIMEOUT, trust_env=False) as client:
            while not self._stop.is_set():
                text = self._queries[number % len(self._queries)]
                body = {"query": text, "k": self._k, "client_id": f"drill-{number % _PEOPLE}", "simulated": True}
                number += self._clients
                with self._lock:
                    excused = self._excusing > 0
                sent = time.time()
                failure, digest = _ask(client, body)
                received = time.time()
                with self._lock:
                    self.requests += 1
                    if failure is None:
                        self._answers.append(Answered(sent, received, digest))
                    elif excused or self._excusing:
                        self.excused += 1
                    else:
                        self.failed += 1
                        self.failures[failure] += 1
                if failure is not None:
                    self._stop.wait(0.02)  # a service that is down answers at once; a client does not hammer it
                elif self.pause:
                    self._stop.wait(self.pause)


def _ask(client: httpx.Client, body: dict[str, Any]) -> tuple[str | None, str]:
    """Why a search has no usable answer (null where it has one), and the digest of the model that ranked it."""
    try:
        response = client.post("/search", json=body)
        if response.status_code != 200:
            return f"HTTP {response.status_code}", ""
        answer = response.json()
        digest = answer["model_digest"]
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return type(error).__name__, ""
    if not digest or answer.get("degraded"):
        return "not reranked", ""
    return None, str(digest)
