from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.search.traffic import _order, measure_latency, replay
from predator_si_tests.support.search_fakes import FakeCorpus
from predator_si_tests.support.waiting import free_port


@pytest.mark.parametrize("split", ["dev", "test", "validation"])
def test_judging_queries_never_become_traffic(split: str) -> None:
    with pytest.raises(Refused, match="kept for judging"):
        replay("http://127.0.0.1:1", FakeCorpus(), "base", split=split, n=1)  # type: ignore[arg-type]


def test_nothing_to_send_and_numbers_out_of_range_are_said() -> None:
    with pytest.raises(Missing, match="no train queries"):
        replay("http://127.0.0.1:1", FakeCorpus(), "shift", n=1)  # type: ignore[arg-type]
    for wrong in ({"n": 0}, {"n": 1, "rate": 0.0}, {"n": 1, "concurrency": 0}, {"n": 1, "clients": 0}):
        with pytest.raises(BadInput):
            replay("http://127.0.0.1:1", FakeCorpus(), "base", **wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        measure_latency("http://127.0.0.1:1", [], None, 1)


def test_a_corpus_that_hands_out_other_splits_is_filtered(monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaky(FakeCorpus):
        def queries(self, split: str | None = None, part: str | None = None) -> pl.DataFrame:
            return super().queries("test", part)

    with pytest.raises(Missing, match="no train queries"):
        replay("http://127.0.0.1:1", Leaky(), "base", n=1)  # type: ignore[arg-type]


def test_every_query_comes_once_before_any_comes_again() -> None:
    order = _order(7, 20, seed=3)
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7)) and len(order) == 20
    assert np.array_equal(order, _order(7, 20, seed=3)) and not np.array_equal(order, _order(7, 20, seed=4))


def test_a_service_that_is_not_there_fails_every_request_and_no_latency_is_made_up() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    seen: list[tuple[int, int]] = []
    result = replay(url, FakeCorpus(), "base", n=5, on_progress=lambda done, total: seen.append((done, total)))  # type: ignore[arg-type]
    assert (result.requests, result.failed, result.failures, len(result.latencies)) == (5, 5, {"ConnectError": 5}, 0)
    assert seen == [(i, 5) for i in range(1, 6)]
    with pytest.raises(Unavailable, match="Is the search service running"):
        measure_latency(url, ["x"], ["champion"], 1)


def test_a_replay_stops_when_told() -> None:
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > 3

    fake: Any = FakeCorpus()
    assert replay(f"http://127.0.0.1:{free_port()}", fake, "base", n=100, should_stop=stop).requests == 3
