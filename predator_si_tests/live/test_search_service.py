"""The search service as a process: killed, swapped, refused; and traffic over a real socket."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from predator_si.search.clicks import ClickModel
from predator_si.search.events import read_events
from predator_si.search.interleave import credited_clicks
from predator_si.search.personal import open_vault
from predator_si.search.traffic import ReplayResult, measure_latency, replay
from predator_si_tests.support.search_fakes import FakeCorpus, FakeHome, fake_home, load_fake_index
from predator_si_tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.live
CORPUS: Any = FakeCorpus()


@pytest.fixture
def home(tmp_path: Path) -> FakeHome:
    found = fake_home(tmp_path)
    found.release(found.model("first"))
    return found


class Process:
    """A running service and where it is."""

    def __init__(self, home: FakeHome, flush_seconds: float = 1.0) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen([sys.executable, "-m", "predator_si_tests.support.search_fakes", str(home.path), str(port), str(flush_seconds)])
        try:
            wait_until(self.answers, 30, "the start of the service")
        except TimeoutError:
            self.end(signal.SIGKILL)
            raise

    def answers(self) -> bool:
        assert self.process.poll() is None, "the service ended"
        try:
            return httpx.get(f"{self.url}/health", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    def info(self) -> dict[str, Any]:
        return httpx.get(f"{self.url}/info").json()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(30)


@contextmanager
def running(home: FakeHome, flush_seconds: float = 1.0) -> Iterator[Process]:
    process = Process(home, flush_seconds)
    try:
        yield process
    finally:
        if process.process.poll() is None:
            process.end()


def sample(service: Process, name: str) -> float:
    """A Prometheus sample; 0 while it is not there."""
    lines = httpx.get(f"{service.url}/metrics").text.splitlines()
    return next((float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"predator_si_{name} ")), 0.0)


def around_now() -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - timedelta(hours=2), now + timedelta(hours=1)


def test_kill_9_loses_what_was_not_flushed_and_every_lost_event_is_counted(home: FakeHome) -> None:
    with running(home, flush_seconds=600) as service:
        durable = replay(service.url, CORPUS, "base", n=60, concurrency=2)
        assert httpx.post(f"{service.url}/flush").json()["pending"] == 0
        burst = replay(service.url, CORPUS, "base", n=40, concurrency=2, seed=1)
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
    assert durable.failed == burst.failed == 0
    frames = read_events(home.events, *around_now())
    assert (len(frames.search), len(frames.actions)) == (60, sum(durable.actions.values()))
    assert dict(zip(frames.losses["kind"], frames.losses["lost"], strict=True)) == {"search": 40, "action": sum(burst.actions.values())}
    assert frames.lost == 40 + sum(burst.actions.values()) and frames.unknown == ()
    with running(home) as service:  # the next process goes on in the same home
        replay(service.url, CORPUS, "base", n=10)
        service.end()
    after = read_events(home.events, *around_now())
    assert (len(after.search), after.lost) == (70, frames.lost)
    assert set(after.search["simulated"]) == set(after.actions["simulated"]) == {True}


def test_what_is_older_than_a_second_survives_kill_9(home: FakeHome) -> None:
    with running(home) as service:
        result = replay(service.url, CORPUS, "base", n=25)
        deadline = time.monotonic() + 1.5  # the promise is a second; half of one more for a busy machine to write it down
        wait_until(lambda: sample(service, "events_pending") == 0, deadline - time.monotonic(), "the flush")
        service.end(signal.SIGKILL)
    frames = read_events(home.events, *around_now())
    assert (len(frames.search), len(frames.actions), frames.lost) == (25, sum(result.actions.values()), 0)


def test_a_clean_end_loses_nothing(home: FakeHome) -> None:
    with running(home) as service:
        result = replay(service.url, CORPUS, "base", n=30, concurrency=3)
        service.end()
    frames = read_events(home.events, *around_now())
    assert (len(frames.search), len(frames.actions), frames.lost, frames.unknown) == (30, sum(result.actions.values()), 0, ())


def test_accepted_documents_survive_kill_9(home: FakeHome) -> None:
    with running(home) as service:
        for number in range(5):
            documents = [{"doc_id": f"n{number}-{i}", "text": "new"} for i in range(10)]
            assert httpx.post(f"{service.url}/documents", json={"documents": documents}).status_code == 202
        service.end(signal.SIGKILL)
    with running(home) as service:
        wait_until(lambda: service.info()["ingest"]["queued"] == 0, 20, "the empty queue")
        assert service.info()["index"]["documents"] == 62
        service.end()
    pointer = home.path / "service" / "index" / "current"
    assert load_fake_index(pointer.with_name(pointer.read_text().strip())).n_documents == 62


def test_replayed_traffic_is_answered_through_trial_swap_and_refused_release(home: FakeHome) -> None:
    first, second = home.model("first"), home.model("second", "reverse", load_seconds=0.3)
    with running(home) as service:
        results: list[ReplayResult] = []
        stop = threading.Event()
        traffic = threading.Thread(target=lambda: results.append(replay(service.url, CORPUS, "base", n=100_000, concurrency=3, should_stop=stop.is_set)))
        traffic.start()
        home.release(first, second, 0.2)
        wait_until(lambda: service.info()["variants"]["candidate"] is not None, 20, "the trial")
        wait_until(lambda: sample(service, 'search_requests_total{status="200",variant="candidate"}') > 0, 20, "traffic on the candidate")
        home.release(second)
        wait_until(lambda: service.info()["model_sha"] == second, 20, "the promotion")
        home.write("release-local.yaml", "not: a release")
        wait_until(lambda: service.info()["release"]["error"] is not None, 20, "the refusal")
        home.deny(second)
        home.release(first)
        wait_until(lambda: service.info()["model_sha"] == first, 20, "the way back")
        stop.set()
        traffic.join(30)
        [result] = results
        assert result.failed == 0 and result.failed_actions == 0 and result.degraded == 0
        assert set(result.digests) == {first, second} and set(result.variants) == {"champion", "candidate"}
        assert result.requests == sum(result.digests.values()) == len(result.latencies)
        service.end()
    frames = read_events(home.events, *around_now())
    assert len(frames.search) == result.requests and frames.lost == 0


def test_clicks_on_shared_lists_credit_the_ranker_that_puts_what_was_judged_first(home: FakeHome) -> None:
    first, second = home.model("backwards", "reverse"), home.model("forwards")
    home.release(first, reranker={"champion": first, "candidate": second, "candidateWeight": 1.0, "candidateMode": "interleave", "depth": 12})
    with running(home) as service:
        result = replay(service.url, CORPUS, "base", n=400, concurrency=3, clicks=ClickModel(attraction_floor=0.0))
        assert (result.failed, result.variants, result.digests) == (0, {"interleaved": 400}, {"interleaved": 400})
        service.end()
    frames = read_events(home.events, *around_now())
    assert frames.exposures.height == 400 and set(frames.exposures["teams"].list.len()) == {10} and frames.lost == 0
    found = credited_clicks(frames.search, frames.exposures, frames.actions)
    # query i wants d<i>, i < 10: the candidate puts d0, d1 ... on top, the champion d11 and d10, which nobody wants: some 53 clicks against 16
    assert found["candidate_clicks"].sum() > found["champion_clicks"].sum()


def test_arrivals_follow_the_rate_and_the_same_seed_gives_the_same_clicks(home: FakeHome) -> None:
    with running(home) as service:
        rated = replay(service.url, CORPUS, "base", n=60, rate=100.0, concurrency=4, seed=5)
        closed = replay(service.url, CORPUS, "base", n=60, concurrency=1, seed=5)
        assert 0.3 < rated.seconds < 3
        assert rated.actions == closed.actions and rated.actions["click"] == rated.actions["dwell"] > 20
        few = replay(service.url, CORPUS, "base", n=40, seed=6, clients=3)
        assert few.failed == 0
        service.end()
    frames = read_events(home.events, *around_now())
    vault = open_vault(home.path)
    clients = frames.search.filter(pl.col("client_id").is_in([vault.client_hash(f"sim-6-{i}") for i in range(3)]))["client_id"]
    assert clients.n_unique() == 3 and len(clients) == 40
    queries = set(frames.search["user_query"])
    assert queries <= {f"train question {i}" for i in range(10)}
    clicks = frames.actions.filter(frames.actions["action_name"] == "click")
    judged = clicks.join(frames.search.select("query_id", "user_query"), on="query_id")
    relevant = [row["object_id"] == f"d{row['user_query'].split()[-1]}" for row in judged.iter_rows(named=True)]
    assert np.mean(relevant) > 0.3  # by chance it would be one in ten


def test_latency_arms_are_pinned_interleaved_and_told_apart(home: FakeHome) -> None:
    home.release(home.model("fast", seconds=0.001), home.model("slow", seconds=0.03), 0.0)
    with running(home) as service:
        found = measure_latency(service.url, ["one", "two"], ["champion", "candidate"], n=12, warmup=2)
        assert {arm: len(times) for arm, times in found.items()} == {"champion": 12, "candidate": 12}
        assert np.median(found["candidate"]) - np.median(found["champion"]) == pytest.approx(29, abs=12)
        assert list(measure_latency(service.url, ["one"], None, n=3)) == ["champion"]
        service.end()
    searches = read_events(home.events, *around_now()).search.sort("seq")
    assert set(searches["probe"]) == {True}
    assert searches["variant"].to_list()[:8] == ["champion", "candidate", "candidate", "champion"] * 2


def command_line(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PREDATOR_SI_CACHE": "/nonexistent"}
    return subprocess.run([sys.executable, "-m", "predator_si.search", *arguments], capture_output=True, text=True, timeout=60, check=False, env=environment)


def one_message(done: subprocess.CompletedProcess[str], *said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    for word in said:
        assert word in done.stderr


def test_what_stops_a_start_is_one_message_and_exit_code_2(home: FakeHome, tmp_path: Path) -> None:
    port = str(free_port())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = str(taken.getsockname()[1])
        one_message(command_line("--home", str(home.path), "--port", busy), f"port {busy}", "--port")
    one_message(command_line("--home", str(tmp_path / "none"), "--port", port), "no index")
    one_message(command_line("--home", str(home.path), "--port", port), "embedder")
    named = ["--home", str(home.path), "--port", port, "--embedder", str(tmp_path / "no-embedder")]
    home.write("release-local.yaml", "reranker: {champion: latest}")
    one_message(command_line(*named), "release-local.yaml", "reranker.champion")
    home.release("sha256:" + "0" * 64)
    one_message(command_line(*named), "0" * 64)
