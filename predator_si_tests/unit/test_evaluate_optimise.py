"""Which backend is chosen, and against what it is judged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.evaluate import optimise as optimising
from predator_si.evaluate.optimise import Optimisation, fast_backends, optimise
from predator_si.search.models import ModelStore
from predator_si.search.rerank import reference_backend
from predator_si.search.retrieve import Candidates
from predator_si_tests.support.tiny_models import TOPICS, store_tiny, toy_texts

TEXTS = toy_texts()
QUERIES = pl.DataFrame({"query_id": [f"q{i}" for i in range(len(TOPICS))], "text": [f"how to {topic}" for topic in TOPICS]})
JUDGMENTS = pl.DataFrame({"query_id": QUERIES["query_id"], "doc_id": [f"d{i}" for i in range(len(TOPICS))], "relevance": [1.0] * len(TOPICS)})
PAIRS = [(f"what is {topic}", text) for topic, text in zip(TOPICS, TEXTS, strict=True)]


def candidates(texts: list[str], depth: int) -> list[Candidates]:
    ids, ranks = [f"d{i}" for i in range(len(TEXTS))], np.arange(1, len(TEXTS) + 1)
    return [Candidates(ids, TEXTS, 1.0 / (60.0 + ranks), ranks, ranks) for _ in texts]


def choose(store: ModelStore, digest: str, **more: object) -> Optimisation:
    return optimise(store, digest, 32, QUERIES, JUDGMENTS, candidates, 8, 0.2, timing_queries=4, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("margin", [10.0, -10.0], ids=["all are good enough", "none is"])
def test_the_fastest_that_keeps_the_ranking_or_the_weights_themselves(tmp_path: Path, margin: float):
    store, digest = store_tiny(tmp_path)
    found = choose(store, digest, calibration=PAIRS, margin=margin)
    assert sorted(variant.backend for variant in found.variants) == sorted(fast_backends())
    speeds = [variant.p50_ms for variant in found.variants]
    assert speeds == sorted(speeds) and all(variant.p95_ms >= variant.p50_ms for variant in found.variants)
    chosen = store.card(found.chosen)
    if margin > 0:
        assert chosen.backend == found.variants[0].backend and found.variants[0].non_inferior
        assert [variant.non_inferior for variant in found.variants[1:]] == [None] * (len(found.variants) - 1), "slower ones are not judged"
    else:
        assert chosen.backend == "torch-fp32" and "fp32 weights are served" in found.reason
        assert all(variant.non_inferior is False for variant in found.variants)
    assert chosen.source_digest == digest and chosen.max_length == 32


def test_int8_is_not_tried_without_pairs_to_calibrate_on(tmp_path: Path):
    store, digest = store_tiny(tmp_path)
    found = choose(store, digest)
    assert "openvino-int8" not in {variant.backend for variant in found.variants} and len(found.variants) == len(fast_backends()) - 1


def test_a_reference_that_ranks_otherwise_is_not_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, digest = store_tiny(tmp_path)
    names = []
    real = optimising.evaluate_model

    def spying(*given: object, **more: object) -> pl.DataFrame:
        names.append(given[3].card.backend)  # type: ignore[attr-defined]
        return real(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(optimising, "evaluate_model", spying)
    monkeypatch.setattr(optimising, "_AGREEMENT", -1.0)
    choose(store, digest, margin=10.0)
    monkeypatch.setattr(optimising, "_AGREEMENT", 1.1)
    choose(store, digest, margin=10.0)
    assert names[0] == reference_backend() and names[2] == "torch-fp32"
