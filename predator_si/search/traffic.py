"""Traffic over HTTP: a corpus' training queries with simulated clicks, and latency measured at the client.

What belongs here: sending requests and counting what came back. What must not: dev or test queries (they are sealed for judging), any other way into the
service than its HTTP face, opinions about the numbers.

This is the one simulated part of the platform: each request and each action says ``simulated: true``.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import httpx
import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.corpora import Corpus
from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.records import utc_now
from predator_si.search.clicks import ClickModel

FloatArray = npt.NDArray[np.float64]
_TIMEOUT = httpx.Timeout(60.0, connect=5.0)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What a replay did and met.

    Attributes
    ----------
    requests, failed
        Searches sent, and those among them without a usable answer (another status than 200, or none).
    latencies
        Milliseconds at the client for each answered search, in the order of completion. With a rate, from the moment the request was *due*, so a service that
        falls behind shows it (no coordinated omission); in a closed loop, from the moment it was sent.
    seconds
        Duration of the whole replay.
    variants, digests
        Answered searches by variant and by model digest; lists that two models share count as ``interleaved`` in both.
    degraded
        Answered searches whose reranker had failed.
    failures
        Failed searches by reason: ``HTTP 503``, ``ConnectError`` ...
    actions, failed_actions
        Clicks, dwells and ratings by name, and how many could not be delivered.
    started_at, ended_at
        The window to read events for.
    """

    requests: int
    failed: int
    latencies: FloatArray
    seconds: float
    variants: dict[str, int]
    digests: dict[str, int]
    degraded: int
    failures: dict[str, int]
    actions: dict[str, int]
    failed_actions: int
    started_at: datetime
    ended_at: datetime


@dataclass(slots=True)
class _Tally:
    """Counts of a running replay; one lock for all."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    done: int = 0
    latencies: list[float] = field(default_factory=list)
    variants: Counter[str] = field(default_factory=Counter)
    digests: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    degraded: int = 0
    failed_actions: int = 0


def replay(
    url: str,
    corpus: Corpus,
    part: Literal["base", "shift"] | None,
    *,
    split: str = "train",
    rate: float | None = None,
    n: int,
    concurrency: int = 1,
    seed: int = 0,
    clicks: ClickModel | None = None,
    k: int = 10,
    clients: int | None = None,
    first_stage: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ReplayResult:
    """Send a corpus' training queries to a service, and the clicks, dwells and ratings of a simulated user after each.

    Queries come in a seeded random order, all of them before any comes again. Every draw depends on ``seed`` and the number of the request alone, so the
    same seed and the same rankings give the same clicks however the threads interleave.

    Parameters
    ----------
    url
        Base address of the service.
    corpus, part
        Whose queries and judgments; ``part`` None takes both.
    split
        ``train``; anything else is refused.
    rate
        Requests per second on average, at random times (a Poisson process), or None for a closed loop: each of ``concurrency`` clients sends the next request
        as soon as it has its answer.
    n
        How many searches.
    concurrency
        Requests in flight at most. With a rate it should be large enough that nobody waits for a free client; waiting counts as latency.
    clicks
        The simulated user; by default a ``ClickModel`` with the highest grade of the corpus' judgments.
    clients
        Number of different client ids; by default every request comes from a client of its own, so that requests are independent in a trial.
    first_stage
        Leave the reranker out (see ``SearchRequest.first_stage``): a query log at a fraction of the time, useless for quality and latency.
    on_progress
        Called with the number of searches done and ``n``.
    should_stop
        Asked before each search; True ends the replay early.

    Raises
    ------
    Refused
        Another split than train.
    Missing
        The corpus has no training queries there.
    BadInput
        A number out of its range.
    """
    if split != "train":
        raise Refused(f"traffic is never made from {split} queries: they are kept for judging. Replay the train split.")
    if n < 1 or concurrency < 1 or (rate is not None and not rate > 0) or (clients is not None and clients < 1):
        raise BadInput(f"traffic: n ({n}), concurrency ({concurrency}), rate ({rate}) and clients ({clients}) must be positive.")
    queries = corpus.queries(split=split, part=part)
    if "split" in queries.columns:  # whatever a corpus answers, no other query leaves this function
        queries = queries.filter(pl.col("split") == "train")
    if queries.is_empty():
        raise Missing(f"corpus {corpus.name} has no train queries in part {part}. Build it again, or choose another part.")
    judgments = corpus.judgments(split=split, part=part)
    grades: dict[str, dict[str, float]] = {}
    for query_id, doc_id, relevance in judgments.select("query_id", "doc_id", "relevance").iter_rows():
        grades.setdefault(query_id, {})[doc_id] = float(relevance)
    model = clicks or ClickModel(max_grade=max([1.0, *(grade for one in grades.values() for grade in one.values())]))
    rows = queries.sort("query_id").select("query_id", "text").rows()
    order = _order(len(rows), n, seed)
    due = np.cumsum(np.random.default_rng([seed, 1]).exponential(1.0 / rate, n)) if rate is not None else None
    tally, numbers = _Tally(), itertools.count()
    started_at, start = utc_now(), time.perf_counter()

    def client_loop() -> None:
        with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
            while True:
                with tally.lock:
                    number = next(numbers)
                if number >= n or (should_stop is not None and should_stop()):
                    return
                since = start + float(due[number]) if due is not None else None
                if since is not None and (wait := since - time.perf_counter()) > 0:
                    time.sleep(wait)
                query_id, text = rows[order[number]]
                _one_search(client, text, grades.get(query_id, {}), number, since, model, seed, k, clients, first_stage, tally)
                if on_progress is not None:
                    with tally.lock:
                        on_progress(tally.done, n)

    with ThreadPoolExecutor(min(concurrency, n)) as pool:
        for running in [pool.submit(client_loop) for _ in range(min(concurrency, n))]:
            running.result()
    return ReplayResult(
        requests=tally.done,
        failed=sum(tally.failures.values()),
        latencies=np.array(tally.latencies, np.float64),
        seconds=time.perf_counter() - start,
        variants=dict(tally.variants),
        digests=dict(tally.digests),
        degraded=tally.degraded,
        failures=dict(tally.failures),
        actions=dict(tally.actions),
        failed_actions=tally.failed_actions,
        started_at=started_at,
        ended_at=utc_now(),
    )


def measure_latency(
    url: str,
    queries: Sequence[str],
    variants: Sequence[str] | None,
    n: int,
    concurrency: int = 1,
    warmup: int = 3,
    k: int = 10,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, FloatArray]:
    """Milliseconds at the client of ``n`` searches a variant, closed loop, the arms interleaved query by query.

    Each round sends one query to every arm; the order of the arms turns around from round to round, so that neither drift of the machine nor a warm cache
    favours one. All requests are probes. With ``concurrency`` above 1 that many rounds run side by side.

    Parameters
    ----------
    queries
        Texts, used in turn.
    variants
        Arms to pin, such as ``["champion", "candidate"]``; None pins nothing, and the result is keyed by the variant that answered.
    n, warmup
        Measured and unmeasured requests for each arm.

    Raises
    ------
    Unavailable
        A request failed: a latency with holes is none.
    BadInput
        No queries, or a number out of its range.
    """
    if not queries or n < 1 or concurrency < 1 or warmup < 0 or (variants is not None and not variants):
        raise BadInput("latency: at least one query, one arm, n of 1 or more, concurrency of 1 or more and warmup of 0 or more are needed.")
    arms: list[str | None] = list(variants) if variants is not None else [None]
    found: dict[str, list[float]] = {arm: [] for arm in arms if arm is not None}
    lock, rounds, total, done = threading.Lock(), itertools.count(-warmup), n * len(arms), 0

    def client_loop() -> None:
        nonlocal done
        with httpx.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
            while True:
                with lock:
                    number = next(rounds)
                if number >= n:
                    return
                for arm in arms if number % 2 == 0 else arms[::-1]:
                    body: dict[str, Any] = {"query": queries[number % len(queries)], "k": k, "probe": True, "simulated": True}
                    if arm is not None:
                        body["variant"] = arm
                    sent = time.perf_counter()
                    try:
                        response = client.post("/search", json=body)
                    except httpx.HTTPError as error:
                        raise Unavailable(f"{url}: a probe failed ({type(error).__name__}: {error}). Is the search service running?") from error
                    took = (time.perf_counter() - sent) * 1e3
                    if response.status_code != 200:
                        raise Unavailable(f"{url}: a probe of {arm or 'the service'} got status {response.status_code}: {response.text[:300]}")
                    answer = response.json()
                    if answer.get("degraded"):
                        raise Unavailable(f"{url}: a probe was answered without reranking, because {answer['model_digest']} failed; its latency means nothing.")
                    if number >= 0:
                        with lock:
                            found.setdefault(answer["variant"], []).append(took)
                            done += 1
                            if on_progress is not None:
                                on_progress(done, total)

    with ThreadPoolExecutor(concurrency) as pool:
        for running in [pool.submit(client_loop) for _ in range(concurrency)]:
            running.result()
    return {arm: np.array(times, np.float64) for arm, times in found.items()}


def _order(available: int, n: int, seed: int) -> npt.NDArray[np.int64]:
    """``n`` positions below ``available``: random permutations, one after the other."""
    rng = np.random.default_rng([seed, 0])
    return np.concatenate([rng.permutation(available) for _ in range(-(-n // available))])[:n].astype(np.int64)


def _one_search(
    client: httpx.Client,
    text: str,
    grades: Mapping[str, float],
    number: int,
    since: float | None,
    model: ClickModel,
    seed: int,
    k: int,
    clients: int | None,
    first_stage: bool,
    tally: _Tally,
) -> None:
    rng = np.random.default_rng([seed, 2, number])
    client_id = f"sim-{seed}-{number if clients is None else int(rng.integers(clients))}"
    body = {"query": text[:1000], "k": k, "client_id": client_id, "session_id": f"{client_id}-s{number}", "simulated": True, "first_stage": first_stage}
    sent = time.perf_counter()
    failure: str | None = None
    answer: dict[str, Any] = {}
    try:
        response = client.post("/search", json=body)
        if response.status_code == 200:
            answer = response.json()
            if not {"query_id", "variant", "model_digest", "results"} <= answer.keys():
                failure = "malformed answer"
        else:
            failure = f"HTTP {response.status_code}"
    except (httpx.HTTPError, ValueError) as error:
        failure = type(error).__name__
    took = (time.perf_counter() - (since if since is not None else sent)) * 1e3
    with tally.lock:
        tally.done += 1
        if failure is not None:
            tally.failures[failure] += 1
        else:
            tally.latencies.append(took)
            tally.variants[answer["variant"]] += 1
            tally.digests[answer["model_digest"] or answer["variant"]] += 1
            tally.degraded += bool(answer.get("degraded"))
    if failure is None:
        _act(client, answer, grades, model, rng, client_id, tally)


def _act(
    client: httpx.Client, answer: Mapping[str, Any], grades: Mapping[str, float], model: ClickModel, rng: np.random.Generator, client_id: str, tally: _Tally
) -> None:
    """What the simulated user does with an answer, delivered in one call."""
    ranking = [result["object_id"] for result in answer["results"]]
    common = {"query_id": answer["query_id"], "client_id": client_id, "simulated": True}
    events: list[dict[str, Any]] = []
    for click in model.clicks(ranking, grades, rng):
        shown = {**common, "object_id": click.object_id, "position": click.position}
        events += [{**shown, "action_name": "click"}, {**shown, "action_name": "dwell", "value": min(click.dwell_seconds, 86_400.0)}]
    rating = model.rating(ranking, grades, rng)
    if rating is not None:
        events.append({**common, "action_name": "rating", "value": rating})
    if not events:
        return
    try:
        delivered = client.post("/events", json={"events": events}).status_code == 202
    except httpx.HTTPError:
        delivered = False
    with tally.lock:
        if delivered:
            tally.actions.update(event["action_name"] for event in events)
        else:
            tally.failed_actions += len(events)
