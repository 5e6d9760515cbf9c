"""The first stage against a plain reimplementation, and an index that is whole or refused."""

from __future__ import annotations

import json
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.corpora.text import words
from predator_si.errors import BadInput, Missing
from predator_si.search import retrieve
from predator_si.search.retrieve import Candidates, HybridIndex, load_embedder
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder
from predator_si_tests.support.tiny_models import toy_texts

WORDS = ["sort", "parse", "join", "plot", "cache", "merge", "table", "index"]
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join), min_size=1, max_size=14)
QUERIES = st.lists(st.lists(st.sampled_from([*WORDS, "unheard", "!"]), max_size=4).map(" ".join), min_size=1, max_size=4)


def frame(texts: list[str], start: int = 0) -> pl.DataFrame:
    return pl.DataFrame(
        {"doc_id": [f"d{i + start}" for i in range(len(texts))], "title": ["" for _ in texts], "text": texts},
        schema=dict.fromkeys(["doc_id", "title", "text"], pl.String),
    )


def bm25(query: str, texts: list[str], k1: float = 1.5, b: float = 0.75) -> list[float]:
    """Robertson's BM25 with Lucene's idf, straight from the formula; a word asked twice counts twice."""
    bags = [Counter(words(text) or [""]) for text in texts]
    mean = sum(sum(bag.values()) for bag in bags) / len(bags)
    scores = []
    for bag in bags:
        total = 0.0
        for word in words(query):
            n = sum(word in other for other in bags)
            if n:
                idf = math.log(1 + (len(bags) - n + 0.5) / (n + 0.5))
                total += idf * bag[word] / (bag[word] + k1 * (1 - b + b * sum(bag.values()) / mean))
        scores.append(total)
    return scores


def ranks(scores: list[float], k: int, above: float = -math.inf) -> dict[int, int]:
    order = sorted((i for i in range(len(scores)) if scores[i] > above), key=lambda i: (-scores[i], i))[:k]
    return {index: place for place, index in enumerate(order, start=1)}


def fused(one: dict[int, int], two: dict[int, int]) -> list[tuple[int, Fraction]]:
    """Reciprocal rank fusion in exact arithmetic; best first, ties by position."""
    scores = {index: sum((Fraction(1, 60 + leg[index]) for leg in (one, two) if index in leg), Fraction(0)) for index in one.keys() | two.keys()}
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def plain(found: Candidates) -> tuple[list[str], list[str], list[float], list[int], list[int]]:
    return found.doc_ids, found.texts, found.scores.tolist(), found.bm25_ranks.tolist(), found.dense_ranks.tolist()


@settings(max_examples=60, deadline=None)
@given(TEXTS, QUERIES, st.integers(0, 20), st.sampled_from([100, 3]))
def test_candidates_are_the_fusion_of_both_legs(texts: list[str], queries: list[str], depth: int, leg: int):
    embedder = HashingEmbedder(16)
    index = HybridIndex.build(frame(texts), embedder)
    before, retrieve.LEG_DEPTH = retrieve.LEG_DEPTH, leg
    try:
        found = index.candidates(queries, depth)
    finally:
        retrieve.LEG_DEPTH = before
    vectors = embedder.encode(texts)
    for query, one in zip(queries, found, strict=True):
        # The legs' scores are floating point: near-equal ones (1e-5) are made equal before ranking, here as there.
        lexical = ranks([round(score, 5) for score in bm25(query, texts)], leg, above=0.0)
        dense = ranks([round(float(score), 5) for score in vectors @ embedder.encode([query])[0]], leg)
        expected = fused(lexical, dense)[:depth]
        assert [(d, lexical.get(int(d[1:]), 0), dense.get(int(d[1:]), 0)) for d in one.doc_ids] == list(
            zip(one.doc_ids, one.bm25_ranks.tolist(), one.dense_ranks.tolist(), strict=True)
        )
        assert one.doc_ids == [f"d{index}" for index, _ in expected]
        assert one.scores == pytest.approx([float(score) for _, score in expected])
        assert one.texts == [texts[index] for index, _ in expected]


@settings(max_examples=30, deadline=None)
@given(TEXTS, QUERIES)
def test_a_query_is_answered_the_same_alone_and_among_others(texts: list[str], queries: list[str]):
    index = HybridIndex.build(frame(texts), HashingEmbedder(16))
    assert [plain(found) for found in index.candidates(queries, 10)] == [plain(index.candidates([query], 10)[0]) for query in queries]


def test_ties_are_in_document_order():
    index = HybridIndex.build(frame(["sort a table"] * 7), HashingEmbedder())
    for _ in range(3):
        (found,) = index.candidates(["sort table"], 5)
        assert found.doc_ids == ["d0", "d1", "d2", "d3", "d4"]
        assert found.bm25_ranks.tolist() == found.dense_ranks.tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("query", ["", "   ", "?!", "wordnobodyusesinanydocument", "слово"])
def test_a_query_without_known_words_gets_the_dense_leg_alone(query: str):
    index = HybridIndex.build(frame(["sort a table", "plot a line", "cache a result"]), HashingEmbedder())
    (found,) = index.candidates([query], 10)
    assert sorted(found.doc_ids) == ["d0", "d1", "d2"]
    assert found.bm25_ranks.tolist() == [0, 0, 0]
    assert found.scores == pytest.approx([1 / 61, 1 / 62, 1 / 63])


def test_documents_without_words_and_without_titles():
    documents = pl.DataFrame({"doc_id": ["a", "b", "c"], "title": ["", "Title", ""], "text": ["", "", "?!"]})
    index = HybridIndex.build(documents, HashingEmbedder())
    (found,) = index.candidates(["title"], 1)
    assert found.doc_ids == ["b"]
    assert index.text("b") == "Title\n"
    assert index.title("b") == "Title"
    assert index.document_frequencies() == {"title": 1}
    assert index.candidates([], 5) == []
    assert index.candidates(["title"], 0)[0].doc_ids == []
    with pytest.raises(BadInput, match="depth -1"):
        index.candidates(["title"], -1)


def test_what_cannot_be_an_index():
    with pytest.raises(BadInput, match="at least one document"):
        HybridIndex.build(frame([]), HashingEmbedder())
    with pytest.raises(BadInput, match="same doc_id"):
        HybridIndex.build(pl.concat([frame(["a"]), frame(["b"])]), HashingEmbedder())


# --------------------------------------------------------------------------- updates


@settings(max_examples=40, deadline=None)
@given(TEXTS, TEXTS, st.integers(0, 20), st.lists(st.integers(0, 20), max_size=5), QUERIES)
def test_an_updated_index_is_a_fresh_build_of_the_same_documents(old: list[str], new: list[str], start: int, deletes: list[int], queries: list[str]):
    index = HybridIndex.build(frame(old), HashingEmbedder(16))
    fresh = frame(new, start)
    gone = {f"d{number}" for number in deletes} | set(fresh["doc_id"])
    expected = HybridIndex.build(pl.concat([frame(old).filter(~pl.col("doc_id").is_in(list(gone))), fresh]), HashingEmbedder(16))
    updated = index.updated(fresh, [f"d{number}" for number in deletes])
    assert updated.fingerprint == expected.fingerprint
    assert updated.documents().equals(expected.documents())
    assert [plain(found) for found in updated.candidates(queries, 50)] == [plain(found) for found in expected.candidates(queries, 50)]
    assert index.documents().equals(frame(old)), "the old index is as it was"


def test_only_new_texts_are_embedded_and_deleting_embeds_nothing():
    class Counting(HashingEmbedder):
        asked: list[str] = []  # noqa: RUF012

        def encode(self, texts, on_progress=None):  # type: ignore[no-untyped-def]
            self.asked.extend(texts)
            return super().encode(texts, on_progress)

    embedder = Counting(16)
    index = HybridIndex.build(frame(["one", "two", "three"]), embedder)
    Counting.asked.clear()
    changed = index.updated(frame(["other"], 1))
    assert Counting.asked == ["other"]
    left = changed.updated(frame([]), ["d0"])
    assert Counting.asked == ["other"]
    assert left.doc_ids == ["d2", "d1"]
    with pytest.raises(BadInput, match="at least one document"):
        left.updated(frame([]), ["d1", "d2"])


def test_the_last_of_two_upserts_of_a_document_holds():
    index = HybridIndex.build(frame(["one"]), HashingEmbedder())
    assert index.updated(pl.concat([frame(["first"]), frame(["second"])])).text("d0") == "second"


# --------------------------------------------------------------------------- on disk


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    index = HybridIndex.build(frame([f"{word} a {other}" for word in WORDS for other in WORDS]), HashingEmbedder(16))
    index.save(tmp_path / "index")
    return tmp_path / "index"


def test_a_loaded_index_answers_like_the_one_saved(saved: Path):
    built = HybridIndex.build(frame([f"{word} a {other}" for word in WORDS for other in WORDS]), HashingEmbedder(16))
    loaded = HybridIndex.load(saved, HashingEmbedder(16))
    assert loaded.fingerprint == built.fingerprint
    assert loaded.n_documents == 64
    assert "d3" in loaded and "d64" not in loaded
    queries = ["sort table", "cache", "", "unheard plot plot"]
    assert [plain(found) for found in loaded.candidates(queries, 20)] == [plain(found) for found in built.candidates(queries, 20)]
    assert loaded.updated(frame(["new"], 100)).fingerprint == built.updated(frame(["new"], 100)).fingerprint
    loaded.save(saved)
    assert HybridIndex.load(saved, HashingEmbedder(16)).fingerprint == built.fingerprint
    assert [path.name for path in saved.parent.iterdir()] == ["index"], "no half-made folder stays"


def test_the_fingerprint_is_of_documents_and_embedder():
    one = HybridIndex.build(frame(["a", "b"]), HashingEmbedder(16))
    assert HybridIndex.build(frame(["a", "b"]), HashingEmbedder(16)).fingerprint == one.fingerprint
    assert HybridIndex.build(frame(["a", "c"]), HashingEmbedder(16)).fingerprint != one.fingerprint
    assert HybridIndex.build(frame(["a", "b"], 1), HashingEmbedder(16)).fingerprint != one.fingerprint
    assert HybridIndex.build(frame(["a", "b"]), HashingEmbedder(8)).fingerprint != one.fingerprint


def test_every_damaged_file_is_refused(saved: Path):
    for path in sorted(saved.rglob("*")):
        if not path.is_file():
            continue
        whole = path.read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 0xFF
        for damage in (b"", whole[: len(whole) // 2], bytes(flipped)):
            path.write_bytes(damage)
            with pytest.raises(BadInput, match="index"):
                HybridIndex.load(saved, HashingEmbedder(16))
        path.unlink()
        with pytest.raises(BadInput, match="index"):
            HybridIndex.load(saved, HashingEmbedder(16))
        path.write_bytes(whole)
    assert HybridIndex.load(saved, HashingEmbedder(16)).n_documents == 64


def test_an_older_index_without_file_hashes_is_still_checked(saved: Path):
    meta = json.loads((saved / "index.json").read_text())
    del meta["files"]
    (saved / "index.json").write_text(json.dumps(meta))
    assert HybridIndex.load(saved, HashingEmbedder(16)).n_documents == 64
    vectors = np.load(saved / "vectors.npy")
    for wrong in (vectors[:-1], np.where(vectors == vectors.max(), np.nan, vectors)):
        np.save(saved / "vectors.npy", wrong)
        with pytest.raises(BadInput, match=r"vectors\.npy"):
            HybridIndex.load(saved, HashingEmbedder(16))
    np.save(saved / "vectors.npy", vectors)
    frame(["x"] * 64).write_parquet(saved / "documents.parquet")
    with pytest.raises(BadInput, match="fingerprint"):
        HybridIndex.load(saved, HashingEmbedder(16))


def test_another_embedder_is_refused(saved: Path):
    with pytest.raises(BadInput, match="hashing@16, but hashing@8"):
        HybridIndex.load(saved, HashingEmbedder(8))


def test_an_index_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(retrieve.np, "save", full)
    with pytest.raises(OSError, match="No space"):
        HybridIndex.build(frame(["a"]), HashingEmbedder()).save(tmp_path / "index")
    assert not list(tmp_path.iterdir())


# --------------------------------------------------------------------------- embedders


def test_hashed_words_are_unit_vectors_whatever_the_batch(tmp_path: Path):
    embedder = HashingEmbedder(128)
    texts = ["sort a table", "Sort, a TABLE", "plot", "", "привіт"]
    vectors = embedder.encode(texts)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    assert vectors[0] @ vectors[2] < 0.5
    assert np.array_equal(np.concatenate([embedder.encode([text]) for text in texts]), vectors)
    assert embedder.encode([]).shape == (0, 128)
    assert np.array_equal(load_embedder(embedder.save(tmp_path / "e")).encode(texts), vectors)
    assert load_embedder(tmp_path / "e").name == "hashing@128"


def test_folders_that_hold_no_embedder(tmp_path: Path):
    with pytest.raises(BadInput, match=r"modules\.json"):
        load_embedder(tmp_path)
    (tmp_path / "hashing_embedder.json").write_text("{}")
    with pytest.raises(BadInput, match=r"hashing_embedder\.json"):
        load_embedder(tmp_path)
    with pytest.raises(BadInput, match="dimension=0"):
        HashingEmbedder(0)


def test_many_texts_and_few_texts_get_the_same_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Many go through OpenVINO, few through torch."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    body = Transformer(str(tiny_cross_encoder(tmp_path / "tiny", toy_texts(), 0, hidden=32, max_length=128)), max_seq_length=64)
    SentenceTransformer(modules=[body, Pooling(32, pooling_mode="mean"), Normalize()], device="cpu").save(str(tmp_path / "embedder"))
    embedder = load_embedder(tmp_path / "embedder")
    monkeypatch.setattr(retrieve, "_FEW", 100)
    rng, seen = np.random.default_rng(0), []
    texts = [" ".join(rng.choice(toy_texts()[0].split(), int(rng.integers(1, 60)))) for _ in range(200)]
    many = embedder.encode(texts, lambda *step: seen.append(step))
    few = np.concatenate([embedder.encode(texts[start : start + 50]) for start in range(0, 200, 50)])
    assert many.dtype == np.float32 and many.shape == (200, 32) and seen[-1] == (200, 200)
    assert np.linalg.norm(many, axis=1) == pytest.approx(np.ones(200), abs=1e-5)
    assert (many * few).sum(axis=1).min() > 0.999
    assert embedder.encode([]).size == 0


@settings(max_examples=30, deadline=None)
@given(TEXTS, QUERIES, st.data())
def test_each_leg_tells_what_it_thinks_of_given_documents(texts: list[str], queries: list[str], data: st.DataObject):
    embedder = HashingEmbedder(16)
    index = HybridIndex.build(frame(texts), embedder)
    places = [data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=5)) for _ in queries]
    doc_ids = [[f"d{place}" for place in some] for some in places]
    vectors = embedder.encode(texts)
    for query, some, dense, lexical in zip(queries, places, index.dense_scores(queries, doc_ids), index.lexical_scores(queries, doc_ids), strict=True):
        assert dense.tolist() == pytest.approx([float(vectors[place] @ embedder.encode([query])[0]) for place in some], abs=1e-5)
        assert lexical.tolist() == pytest.approx([bm25(query, texts)[place] for place in some], abs=1e-4)


def test_legs_refuse_documents_they_do_not_have():
    index = HybridIndex.build(frame(["sort a list"]), HashingEmbedder(16))
    for leg in (index.dense_scores, index.lexical_scores):
        assert leg([], []) == []
        with pytest.raises(Missing, match="'nobody'"):
            leg(["sort"], [["d0", "nobody"]])
