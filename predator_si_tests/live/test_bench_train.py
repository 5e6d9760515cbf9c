"""`bench train` with a tiny model: the keys that CONTRACT.md asks for, both arms on the same pairs in processes of their own. Its ratio says nothing here."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from predator_si.corpora import Corpus
from predator_si.corpora.beir import load_corpus
from predator_si.errors import BadInput, Unavailable
from predator_si.proof import bench_train as bench
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder
from predator_si_tests.support.platform import write_toy_corpus

KEYS = {"pairs_per_second", "reference_pairs_per_second", "ratio", "dev_ndcg", "reference_dev_ndcg", "bf16", "scale", "cores", "versions", "seed"}


@pytest.fixture
def toy(tmp_path: Path) -> tuple[Corpus, HybridIndex, Path]:
    corpus = load_corpus(write_toy_corpus(tmp_path / "toy"))
    documents = corpus.documents()
    model = tiny_cross_encoder(tmp_path / "tiny", documents["text"].to_list(), 3, hidden=32, max_length=64)
    return corpus, HybridIndex.build(documents, HashingEmbedder()), model


@pytest.mark.live
@pytest.mark.slow
def test_both_arms_by_turns(toy: tuple[Corpus, HybridIndex, Path]):
    said: list[str] = []
    progress: list[tuple[int, int]] = []
    found = bench.bench_train(
        *toy, steps=5, groups_per_step=2, max_length=32, learning_rate=1e-3, dev_queries=6, tell=said.append, on_progress=lambda *each: progress.append(each)
    )  # fmt: skip
    assert set(found) >= KEYS
    assert found["ratio"] == pytest.approx(found["pairs_per_second"] / found["reference_pairs_per_second"])
    assert found["pairs_per_step"] == 12 and found["scale"] == "small"
    assert all(0 <= found[key] <= 1 for key in ("dev_ndcg", "reference_dev_ndcg", "start_dev_ndcg"))
    low, high = found["dev_difference_ci"]
    assert low <= found["dev_ndcg"] - found["reference_dev_ndcg"] <= high
    assert {name: len(turns) for name, turns in found["seconds_per_turn"].items()} == {"lean": 2, "sentence-transformers": 2}
    assert progress[-1] == (6, 10) and len(progress) == 6, "by turns: after steps 1 and 3 of each, and at their ends"


def test_groups_have_one_relevant_document_and_none_among_the_negatives(toy: tuple[Corpus, HybridIndex, Path]):
    corpus, index, _ = toy
    groups = bench.training_groups(corpus, index, 12, 4)
    relevant = {
        (query, index.text(doc_id))
        for query, doc_id in corpus.judgments(split="train").join(corpus.queries(split="train"), on="query_id").select("text", "doc_id").iter_rows()
    }
    for row in groups.iter_rows(named=True):
        assert ((row["query"], row["text"]) in relevant) == (row["label"] == 1.0)
    assert groups.group_by("group_id").agg(pl.len(), pl.col("label").sum(), pl.col("text").n_unique())["len"].to_list() == [6] * 12
    assert groups["query"].n_unique() == 12
    assert groups.equals(bench.training_groups(corpus, index, 12, 4))
    with pytest.raises(BadInput, match="training groups, 100000 are needed"):
        bench.training_groups(corpus, index, 100_000, 4)


def test_what_cannot_be_measured(toy: tuple[Corpus, HybridIndex, Path], monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(BadInput, match="at least three"):
        bench.bench_train(*toy, steps=2)
    monkeypatch.setattr(bench, "ARMS", ("magic",))
    with pytest.raises(Unavailable, match=r"(?s)ended with code 1 .*unknown trainer 'magic'"):
        bench.bench_train(*toy, steps=3, groups_per_step=1, max_length=32, dev_queries=0)
