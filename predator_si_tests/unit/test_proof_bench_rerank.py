"""`bench rerank` with tiny models: every key of the contract, arms on the same candidates, no label before its time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.corpora import import_beir
from predator_si.corpora.beir import Corpus
from predator_si.errors import BadInput
from predator_si.evaluate import optimise as optimising
from predator_si.proof import bench_rerank as bench
from predator_si.proof.bench_rerank import SAME, USER, Collection, RerankPlan, bench_rerank
from predator_si.proof.rerank_floor import floor_table
from predator_si.search.models import ModelStore
from predator_si.search.rerank import reference_backend
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.students import StudentPlan

WORDS = ("sort", "parse", "join", "plot", "cache", "merge", "train", "index", "filter", "group", "window", "cast")
KEYS = {
    "p95_ratio", "p95_ratio_same_weights", "bf16", "ndcg_difference", "ndcg_difference_ci", "n_queries", "corpora", "depth", "variants",
    "scale", "cores", "versions", "seed",
}  # fmt: skip


def collection(root: Path, name: str, n: int = 120) -> Collection:
    """Each query names two words; the document with both is relevant."""
    import json

    folder = root / name
    folder.mkdir()
    pairs = [(a, b) for a in WORDS for b in WORDS if a < b]
    documents = [{"_id": f"d{i}", "title": "", "text": f"how to {a} and {b} a {name} table, number {i}"} for i, (a, b) in enumerate(pairs)]
    queries = [{"_id": f"q{i}", "text": f"{name} {pairs[i % len(pairs)][0]} with {pairs[i % len(pairs)][1]} variant {i}"} for i in range(n)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    (folder / "qrels.tsv").write_text("\n".join(f"q{i}\td{i % len(pairs)}\t1" for i in range(n)))
    corpus = import_beir(folder, root / f"{name}-built", name=name)
    return Collection(name, corpus, HybridIndex.build(corpus.documents(), HashingEmbedder()))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Collection], Path]:
    root = tmp_path_factory.mktemp("bench")
    folder = tiny_cross_encoder(root / "tiny", [*WORDS, "how to and a table number with variant red blue"], 0, layers=3, hidden=32)
    return [collection(root, "red"), collection(root, "blue", 60)], folder


def plan(**more: Any) -> RerankPlan:
    recipe = TrainingRecipe(loss="distil", learning_rate=1e-3, epochs=1.0, max_length=24)
    small: dict[str, Any] = {"depth": 20, "split": "dev", "dev_queries": 12, "train_queries": 12, "timing_queries": 5, "lengths": (24,), "reference_length": 48}
    return RerankPlan(**{**small, "students": StudentPlan(layers=(2, 1), recipe=recipe), **more})


@pytest.fixture(scope="module", autouse=True)
def cheap() -> Iterator[None]:
    """Two backends: the bench is looked at here, not int8."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optimising, "fast_backends", lambda: (reference_backend(), "torch-bf16"))
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model store for all: exports of the same weights are made once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def found(places: tuple[list[Collection], Path], home: Path) -> dict[str, Any]:
    return bench_rerank(places[0], places[1], ModelStore(home / "models"), home / "work", plan(), usd_per_vcpu_hour=0.04)


def test_the_contracts_keys_and_rows(found: dict[str, Any]):
    assert set(found) >= KEYS and found["scale"] == "small"
    assert all({"name", "p50_ms", "p95_ms", "p99_ms", "pairs_per_second", "ndcg"} <= set(row) for row in found["variants"])
    names = [row["name"] for row in found["variants"]]
    assert {USER, SAME, found["chosen"]} <= set(names) and len(names) == len(set(names))
    assert [one["name"] for one in found["corpora"]] == ["red", "blue"] and found["n_queries"] == sum(one["n_queries"] for one in found["corpora"])
    pooled = sum(one["ndcg_difference"] * one["n_queries"] for one in found["corpora"]) / found["n_queries"]
    assert found["ndcg_difference"] == pytest.approx(pooled)
    low, high = found["ndcg_difference_ci"]
    assert low <= found["ndcg_difference"] <= high and found["ndcg_noninferior"] == (low > -0.01)


def test_ratios_are_those_of_the_rows(found: dict[str, Any]):
    rows = {row["name"]: row for row in found["variants"]}
    assert found["p95_ratio"] == pytest.approx(rows[USER]["p95_ms"] / rows[found["chosen"]]["p95_ms"])
    assert found["p95_ratio_same_weights"] == pytest.approx(rows[USER]["p95_ms"] / rows[SAME]["p95_ms"])
    assert rows[SAME]["max_length"] == 48 and rows[SAME]["depth"] == 20 and rows[SAME]["layers"] == 3
    assert found["p95_ratio_ci"] is None, "five queries give a P95 no interval"
    assert all(row["timed_queries"] == 5 for row in rows.values())
    assert rows[USER]["ndcg"] is not None and rows[USER]["ndcg"] == pytest.approx(rows[SAME]["ndcg_not_fused"]), "one model, one ranking"


def test_students_and_the_choice_are_told(found: dict[str, Any]):
    assert [student["layers"] for student in found["students"]] == [2, 1]
    assert found["choice"]["chosen_name"] == found["chosen"] or found["chosen"] == SAME
    assert found["twin"]["same"] and found["twin"]["n_queries"] > 1


def test_students_that_are_given_are_not_made_again(places: tuple[list[Collection], Path], home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ModelStore(home / "models")
    student = store.add(tiny_cross_encoder(tmp_path / "own", [*WORDS], 5, layers=1, hidden=32), name="own", backend="torch-fp32", max_length=48)
    monkeypatch.setattr(bench, "distil", lambda *_, **__: pytest.fail("a student was given"))
    got = bench_rerank(places[0][:1], places[1], store, tmp_path / "work", plan(queries=8), variants=[student])
    assert got["students"] == [] and any(variant["source"] == student for variant in got["choice"]["variants"])


def test_no_label_is_read_before_the_students_are_made_and_none_of_train_ever(
    places: tuple[list[Collection], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read: list[str] = []
    real = Corpus.judgments

    def watched(self: Corpus, split: str | None = None, part: str | None = None) -> pl.DataFrame:
        read.append(str(split))
        return real(self, split, part)

    def teaching(*_: Any, **__: Any) -> Any:
        read.append("students")
        raise KeyboardInterrupt

    monkeypatch.setattr(Corpus, "judgments", watched)
    monkeypatch.setattr(bench, "distil", teaching)
    with pytest.raises(KeyboardInterrupt):
        bench_rerank(places[0], places[1], ModelStore(tmp_path / "models"), tmp_path / "work", plan(split="test"))
    assert set(read) == {"dev", "students"} and "test" not in read


def test_the_floor_has_a_row_for_each_backend_size_and_length(places: tuple[list[Collection], Path]):
    one = places[0][0]
    asked = one.asked("train", 4, 0)
    rows = floor_table(places[1], asked, one.index.candidates(asked, 20), depth=20, layers=(3, 1), lengths=(16,), backends=("openvino-f32", "torch-bf16"))
    assert [(row["backend"], row["layers"], row["max_length"]) for row in rows] == [
        (backend, layers, 16) for backend in ("openvino-f32", "torch-bf16") for layers in (3, 1)
    ]
    assert all(row["timed_queries"] == 2 and row["pairs_per_second"] > 0 and np.isfinite(row["p95_ms"]) for row in rows)


def test_no_collection_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="needs a judged collection"):
        bench_rerank([], tmp_path, ModelStore(tmp_path), tmp_path, plan())
