"""Pair scores survive a crash, are never mixed between models, and come back fast."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from predator_si.errors import BadInput, Refused, Unavailable
from predator_si.evaluate import PairScores, score_pairs
from predator_si.records import ModelCard


def card(digest="sha256:" + "a" * 64, backend="torch-fp32", max_length=128):
    return ModelCard(name="m", digest=digest, backend=backend, max_length=max_length)


class Scorer:
    """Scores a pair by its lengths and remembers what it was asked."""

    def __init__(self, **fields):
        self.card = card(**fields)
        self.digest = self.card.digest
        self.asked = []

    def score_pairs(self, pairs):
        self.asked.append(list(pairs))
        return np.array([len(q) + len(t) / 1000 for q, t in pairs], dtype=np.float32)

    def score(self, query, texts):
        return self.score_pairs([(query, text) for text in texts])


PAIRS = [(f"query {i}", "text " * (i % 7 + 1)) for i in range(50)]


def test_scores_come_back_and_other_models_see_none_of_them(tmp_path):
    with PairScores(tmp_path / "deep" / "scores.sqlite") as store:
        store.put(card(), PAIRS[:30], np.arange(30.0))
        assert store.get(card(), PAIRS[:30]).tolist() == list(range(30))
        assert np.isnan(store.get(card(), PAIRS[30:])).all()
        for other in (card(digest="sha256:" + "b" * 64), card(backend="torch-bf16"), card(max_length=256)):
            assert np.isnan(store.get(other, PAIRS[:30])).all()
        assert len(store) == 30
    with PairScores(tmp_path / "deep" / "scores.sqlite") as again:
        assert again.get(card(), PAIRS[:30]).tolist() == list(range(30))


def test_the_border_between_query_and_text_is_part_of_the_key(tmp_path):
    with PairScores(tmp_path / "s") as store:
        store.put(card(), [("ab", "c")], [1.0])
        assert np.isnan(store.get(card(), [("a", "bc"), ("abc", ""), ("ab\0c", "")])).all()


def test_only_missing_pairs_are_computed_and_equal_ones_once(tmp_path):
    model, seen = Scorer(), []
    pairs = [*PAIRS, PAIRS[3], PAIRS[3]]
    with PairScores(tmp_path / "s") as store:
        first = score_pairs(model, pairs, store, chunk=20, on_progress=lambda *step: seen.append(step))
        assert sum(map(len, model.asked)) == len(PAIRS) and seen[-1] == (52, 52)
        assert first.tolist() == pytest.approx([len(q) + len(t) / 1000 for q, t in pairs])
        assert score_pairs(model, pairs, store).tolist() == first.tolist()
        assert sum(map(len, model.asked)) == len(PAIRS)


def test_a_stop_keeps_what_was_computed(tmp_path):
    model = Scorer()
    with PairScores(tmp_path / "s") as store:
        with pytest.raises(Refused, match="stopped after 20 of 50"):
            score_pairs(model, PAIRS, store, chunk=10, should_stop=lambda: len(model.asked) == 2)
        assert len(store) == 20
        score_pairs(model, PAIRS, store)
        assert sum(map(len, model.asked)) == 50


def test_without_a_store_nothing_is_needed():
    assert score_pairs(Scorer(), []).shape == (0,)
    assert score_pairs(Scorer(), PAIRS).shape == (50,)


@pytest.mark.parametrize("answer", [[float("nan")] * 50, [1.0] * 49])
def test_a_model_that_does_not_score_is_refused_and_nothing_stored(tmp_path, answer):
    model = Scorer()
    model.score_pairs = lambda pairs: np.array(answer, dtype=np.float32)
    with PairScores(tmp_path / "s") as store:
        with pytest.raises(BadInput):
            score_pairs(model, PAIRS, store)
        with pytest.raises(BadInput, match="nothing was stored"):
            store.put(card(), PAIRS, answer)
        assert len(store) == 0


def test_twenty_thousand_pairs_take_less_than_a_second_each_way(tmp_path):
    pairs = [(f"how does function number {i // 20} work", f"{i} " + "some document text " * 30) for i in range(20_000)]
    with PairScores(tmp_path / "s") as store:
        times = []
        for call in (lambda: store.put(card(), pairs, np.arange(20_000.0)), lambda: store.get(card(), pairs)):
            begun = time.process_time()  # processor time: the machine is shared
            call()
            times.append(time.process_time() - begun)
    assert max(times) < 1.0, times


def test_a_writer_killed_in_the_middle_leaves_whole_batches(tmp_path):
    path = tmp_path / "s"
    code = f"""
from predator_si.evaluate import PairScores
from predator_si.records import ModelCard
from pathlib import Path
card = ModelCard(name="m", digest="sha256:{"a" * 64}", backend="torch-fp32", max_length=128)
store = PairScores(Path({str(path)!r}))
for batch in range(10_000):
    store.put(card, [(f"{{batch}}", f"{{i}}") for i in range(100)], [float(batch)] * 100)
    print(batch, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    written = [int(process.stdout.readline()) for _ in range(3)]
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    with PairScores(path) as store:
        assert written == [0, 1, 2] and len(store) >= 300 and len(store) % 100 == 0
        assert store.get(card(), [("2", "7")]).tolist() == [2.0]


def test_two_processes_may_hold_it(tmp_path):
    with PairScores(tmp_path / "s") as one, PairScores(tmp_path / "s") as two:
        one.put(card(), PAIRS[:1], [1.0])
        two.put(card(), PAIRS[1:2], [2.0])
        assert one.get(card(), PAIRS[:2]).tolist() == [1.0, 2.0]


def test_a_foreign_file_and_a_busy_store_are_named(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"this is not a database, not at all" * 100)
    with pytest.raises(BadInput, match="delete it"):
        PairScores(tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="writable"):
        PairScores(tmp_path / "file" / "s")
    monkeypatch.setattr("predator_si.evaluate.pair_scores._BUSY_SECONDS", 0.05)
    with PairScores(tmp_path / "s") as store:
        other = sqlite3.connect(tmp_path / "s", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            store.put(card(), PAIRS[:1], [1.0])
        other.execute("ROLLBACK")
        other.close()
        store.put(card(), PAIRS[:1], [1.0])
