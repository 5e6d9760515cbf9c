"""Ensemble teachers: weighted sums worked out by hand, members that fail or are silent, real tiny models through the real score cache."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from pathlib import Path
from statistics import fmean, pstdev
from typing import ClassVar

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.augment.teacher import CROSS_ENCODER, LARGER, BiEncoder, CrossEncoder, EnsembleTeacher, agreement, ensemble_of
from predator_si.errors import BadInput
from predator_si.evaluate.pair_scores import PairScores, score_pairs
from predator_si.search.rerank import load_reranker
from predator_si.search.retrieve import HybridIndex
from predator_si_tests.support.tiny_models import HashingEmbedder, store_tiny, toy_texts

SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=4)


class Fixed:
    """A member with given answers."""

    def __init__(self, name: str, *answers: Sequence[float] | None) -> None:
        self.name = name
        self.answers = [None if answer is None else np.array(answer, float) for answer in answers]

    def score(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> list[np.ndarray | None]:
        return self.answers


def z(values: Sequence[float]) -> list[float]:
    mean, spread = fmean(values), pstdev(values)
    return [(value - mean) / spread if spread else 0.0 for value in values]


def asked(*sizes: int) -> tuple[list[str], list[list[str]], list[list[str]]]:
    return [f"q{n}" for n in range(len(sizes))], [[f"d{i}" for i in range(size)] for size in sizes], [[f"t{i}" for i in range(size)] for size in sizes]


def test_scores_are_the_weighted_sum_of_standardised_votes():
    crossed, dense, lexical = [9.0, -4.9, -11.3, 2.0], [0.71, 0.69, 0.1, 0.3], [3.0, 12.5, 0.0, 1.0]
    teacher = EnsembleTeacher([Fixed(CROSS_ENCODER, crossed), Fixed("dense", dense), Fixed("lexical", lexical)])
    expected = [a + 0.5 * b + 0.5 * c for a, b, c in zip(z(crossed), z(dense), z(lexical), strict=True)]
    assert teacher.score(*asked(4))[0].tolist() == pytest.approx(expected)
    own = EnsembleTeacher([Fixed(CROSS_ENCODER, crossed), Fixed("dense", dense)], {"dense": 0.8})
    assert own.score(*asked(4))[0].tolist() == pytest.approx([a + 0.8 * b for a, b in zip(z(crossed), z(dense), strict=True)])
    assert own.name == "1 cross-encoder + 0.8 dense" and own.members == (CROSS_ENCODER, "dense")


def test_whoever_tells_nothing_apart_adds_nothing():
    teacher = EnsembleTeacher([Fixed(CROSS_ENCODER, [1.0, 2.0], [1.0, 2.0]), Fixed("dense", [0.4, 0.4], None)])
    level, silent = teacher.label(*asked(2, 2))
    for labels in (level, silent):
        assert labels.scores.tolist() == pytest.approx([-1.0, 1.0])
        assert set(labels.votes) == {CROSS_ENCODER} and labels.best == 1
        assert labels.confidence is None, "one voter cannot agree with anybody"
    assert labels.without(CROSS_ENCODER, teacher.weights).tolist() == [0.0, 0.0]


def test_one_candidate_no_candidates_no_queries():
    teacher = EnsembleTeacher([Fixed(CROSS_ENCODER, [3.0], []), Fixed("dense", [0.2], [])])
    one, none = teacher.label(*asked(1, 0))
    assert one.scores.tolist() == [0.0] and one.confidence is None and one.best == 0
    assert none.scores.shape == (0,) and none.confidence is None and none.best is None
    index = HybridIndex.build(pl.DataFrame({"doc_id": ["d0"], "title": [""], "text": ["sort a list"]}), HashingEmbedder(8))
    real = ensemble_of(index, lambda pairs: np.zeros(len(pairs)), bi_encoders=[BiEncoder("other", HashingEmbedder(8))])
    assert real.label([], [], []) == []
    assert [labels.scores.tolist() for labels in real.label(["sort", "list"], [["d0"], []], [["sort a list"], []])] == [[0.0], []]


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.integers(0, 2**32 - 1), st.floats(0.1, 50.0), st.floats(-5.0, 5.0))
def test_scale_and_order_of_a_member_do_not_matter(sizes: list[int], seed: int, factor: float, shift: float):
    """Logits of any scale give the same labels, and permuted candidates permuted labels."""
    rng = np.random.default_rng(seed)
    one, two = [rng.normal(size=size) for size in sizes], [rng.normal(size=size) for size in sizes]
    plain = EnsembleTeacher([Fixed("a", *one), Fixed("b", *two)]).label(*asked(*sizes))
    moved = EnsembleTeacher([Fixed("a", *(factor * x + shift for x in one)), Fixed("b", *two)]).label(*asked(*sizes))
    turned = EnsembleTeacher([Fixed("a", *(x[::-1] for x in one)), Fixed("b", *(x[::-1] for x in two))]).label(*asked(*sizes))
    for x, y, back in zip(plain, moved, turned, strict=True):
        assert y.scores == pytest.approx(x.scores, abs=1e-6)
        assert back.scores[::-1] == pytest.approx(x.scores, abs=1e-9)
        assert back.confidence == pytest.approx(x.confidence)


class TestAgreement:
    W: ClassVar[dict[str, float]] = {"a": 1.0, "b": 0.5, "c": 0.5}

    def test_unanimous_is_one_and_a_lone_vote_is_nothing(self):
        same = np.array([2.0, 0.0, -2.0])
        assert agreement(dict.fromkeys("abc", same), self.W) == pytest.approx(1.0)
        assert agreement({"a": same}, self.W) is None and agreement({}, self.W) is None

    def test_by_hand(self):
        """Place 0 is the ensemble's best: nobody stands above it for a, two for b, and one is level with it for c."""
        votes = {"a": np.array([1.5, 0.0, -0.5, -1.0]), "b": np.array([0.0, 0.5, 0.6, -1.1]), "c": np.array([0.8, 0.8, -0.6, -1.0])}
        assert agreement(votes, self.W) == pytest.approx((1.0 + 0.5 * exp(-2 / 4) + 0.5 * exp(-0.5 / 4)) / 2.0)


class TestRefusals:
    def test_members_and_weights(self):
        for members, weights, said in (
            ([], None, "different names"),
            ([Fixed("a"), Fixed("a")], None, "different names"),
            ([Fixed("a")], {"b": 1.0}, "'b'"),
            ([Fixed("a")], {"a": 0.0}, "Leave a member out"),
            ([Fixed("a")], {"a": float("nan")}, "positive"),
        ):
            with pytest.raises(BadInput, match=said):
                EnsembleTeacher(members, weights)

    def test_answers_that_are_missing_or_no_numbers_name_the_member(self):
        good = Fixed("dense", [1.0, 2.0])
        for bad in ([1.0, float("nan")], [1.0], [1.0, 2.0, 3.0]):
            with pytest.raises(BadInput, match="rubbish"):
                EnsembleTeacher([good, Fixed("rubbish", bad)]).score(*asked(2))
        with pytest.raises(BadInput, match="1 scores for 2 pairs"):
            EnsembleTeacher([CrossEncoder(lambda pairs: np.zeros(1))]).score(*asked(2))
        with pytest.raises(BadInput, match="0 answers to 1"):
            EnsembleTeacher([Fixed("rubbish")]).score(*asked(2))
        with pytest.raises(BadInput, match="each document of each query"):
            EnsembleTeacher([good]).score(["q"], [["a", "b"]], [["only one"]])


class Counting:
    """A bi-encoder that counts what it embeds."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._real = HashingEmbedder(32)

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.seen += texts
        return self._real.encode(texts)


def test_a_bi_encoder_embeds_a_text_once_and_prefixes_queries_only():
    embedder = Counting()
    member = BiEncoder("other", embedder, "find: ")
    first = member.score(["sort a list", "merge"], [["a", "b"], ["b"]], [["how to sort", "how to merge"], ["how to merge"]])
    again = member.score(["sort a list"], [["a", "b"]], [["how to sort", "how to merge"]])
    assert [text for text in embedder.seen if text.startswith("how")] == ["how to sort", "how to merge"]
    assert [text for text in embedder.seen if not text.startswith("how")] == ["find: sort a list", "find: merge", "find: sort a list"]
    real = HashingEmbedder(32)
    assert first[0].tolist() == pytest.approx((real.encode(["how to sort", "how to merge"]) @ real.encode(["find: sort a list"])[0]).tolist())
    assert again[0].tolist() == first[0].tolist()


def test_cheap_is_what_is_left_without_models():
    index = HybridIndex.build(pl.DataFrame({"doc_id": ["a", "b"], "title": ["", ""], "text": ["sort", "merge"]}), HashingEmbedder(8))
    other, clicks = BiEncoder("other", HashingEmbedder(8)), Fixed("clicks")
    full = ensemble_of(index, np.zeros, larger=np.zeros, bi_encoders=[other], signals=[clicks], weights={"dense": 0.7})
    assert full.members == (CROSS_ENCODER, LARGER, "dense", "lexical", "other", "clicks")
    cheap = full.cheap()
    assert cheap is not None and cheap.weights == {"dense": 0.7, "lexical": 0.5, "clicks": 1.0}
    assert EnsembleTeacher([CrossEncoder(np.zeros)]).cheap() is None


def test_real_tiny_models_through_the_score_cache(tmp_path: Path):
    """The whole way: reranker, cache, index with both legs; equal to a sum by hand, the same again, and nothing is computed twice."""
    store, digest = store_tiny(tmp_path)
    reranker = load_reranker(store.path(digest))
    texts = [*toy_texts(), "как отсортировать таблицу", "表をソートする方法", ""]
    index = HybridIndex.build(pl.DataFrame({"doc_id": [f"d{i}" for i in range(len(texts))], "title": "", "text": texts}), HashingEmbedder(32))
    queries = ["how to sort a table", "отсортировать таблицу", "表を", "???"]
    found = index.candidates(queries, 6)
    doc_ids, candidates = [one.doc_ids for one in found], [one.texts for one in found]
    computed: list[int] = []

    class Watched:
        digest, card = reranker.digest, reranker.card

        def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
            computed.append(len(pairs))
            return reranker.score_pairs(pairs)

    with PairScores(tmp_path / "scores.sqlite") as cache:
        teacher = ensemble_of(index, lambda pairs: score_pairs(Watched(), pairs, cache))  # type: ignore[arg-type]
        first = teacher.score(queries, doc_ids, candidates)
        once = sum(computed)
        second = teacher.score(queries, doc_ids, candidates)
    assert sum(computed) == once == sum(len(ids) for ids in doc_ids), "the second time everything was in the cache"
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    vectors, bare = HashingEmbedder(32).encode(texts), HashingEmbedder(32).encode(queries)
    for row, (query, ids, own) in enumerate(zip(queries, doc_ids, candidates, strict=True)):
        logits = reranker.score(query, own).tolist()
        cosines = [float(vectors[int(doc_id[1:])] @ bare[row]) for doc_id in ids]
        lexical = index.lexical_scores([query], [ids])[0].tolist()
        expected = [a + 0.5 * b + 0.5 * c for a, b, c in zip(z(logits), z(cosines), z(lexical), strict=True)]
        assert first[row].tolist() == pytest.approx(expected, abs=1e-4)


def test_documents_that_are_not_indexed_silence_the_legs_of_their_query_only():
    index = HybridIndex.build(pl.DataFrame({"doc_id": ["a", "b"], "title": ["", ""], "text": ["sort a list", "merge a list"]}), HashingEmbedder(16))
    teacher = ensemble_of(index, lambda pairs: np.arange(len(pairs), dtype=float))
    strange, known = teacher.label(["sort", "sort"], [["a", "written by a model"], ["a", "b"]], [["sort a list", "sort"], ["sort a list", "merge a list"]])
    assert set(strange.votes) == {CROSS_ENCODER}
    assert set(known.votes) == {CROSS_ENCODER, "dense", "lexical"}
