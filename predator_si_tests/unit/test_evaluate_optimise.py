"""Which backend is chosen, and against what it is judged."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from predator_si.evaluate import optimise as optimising
from predator_si.evaluate.optimise import EarlyExit, Optimisation, fast_backends, optimise
from predator_si.evaluate.pareto import Variant, order_of_tests
from predator_si.search.adaptive_depth import kept_rule
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


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelStore, str]:
    """One store for all: what one test exported the next finds there."""
    return store_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Two backends are enough where the rule is looked at and not the backends; one is the reference."""
    backends = (reference_backend(), "torch-bf16")
    monkeypatch.setattr(optimising, "fast_backends", lambda: backends)
    return backends


def choose(store: ModelStore, digest: str, **more: object) -> Optimisation:
    return optimise(store, digest, 32, QUERIES, JUDGMENTS, candidates, 8, 0.2, timing_queries=4, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("margin", [10.0, -10.0], ids=["all are good enough", "none is"])
def test_the_fastest_that_keeps_the_ranking_or_the_weights_themselves(tiny: tuple[ModelStore, str], margin: float):
    store, digest = tiny
    found = choose(store, digest, calibration=PAIRS, margin=margin)
    assert sorted(variant.backend for variant in found.variants) == sorted(fast_backends())
    speeds = [variant.p50_ms for variant in found.variants]
    assert speeds == sorted(speeds) and all(variant.p99_ms >= variant.p95_ms >= variant.p50_ms for variant in found.variants)
    assert all(0 <= variant.agreement <= 1 for variant in found.variants)
    chosen, order = store.card(found.chosen), order_of_tests(found.variants)
    judged = {variant.name for variant in found.variants if variant.non_inferior is not None}
    if margin > 0:
        assert chosen.backend == found.variants[0].backend == found.chosen_name and found.variants[0].non_inferior
        assert judged == {variant.name for variant in order} and found.tests == len(order)
    else:
        assert chosen.backend == "torch-fp32" == found.chosen_name and "fp32 weights are served" in found.reason
        assert judged == {order[0].name} and found.tests == 1, "the first failure ends the sequence"
    assert chosen.source_digest == digest and chosen.max_length == 32
    assert set(found.front) <= judged and Optimisation.model_validate_json(found.to_json()) == found


def test_int8_is_not_tried_without_pairs_to_calibrate_on(tiny: tuple[ModelStore, str]):
    store, digest = tiny
    found = choose(store, digest)
    assert "openvino-int8" not in {variant.backend for variant in found.variants} and len(found.variants) == len(fast_backends()) - 1


def test_a_reference_that_ranks_otherwise_is_not_the_reference(tiny: tuple[ModelStore, str], monkeypatch: pytest.MonkeyPatch, cheap: tuple[str, ...]):
    store, digest = tiny
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
    assert names[0] == reference_backend() and "torch-fp32" in names


# --------------------------------------------------------------------------- many variants


def planted(monkeypatch: pytest.MonkeyPatch, truth: dict[str, float], n: int = 200, sd: float = 0.1) -> list[str]:
    """Variants whose true differences are known, in place of measured ones; returns the names in the order in which they are judged."""
    asked: list[str] = []
    rng = np.random.default_rng()

    def test(self: object, variant: Variant, model: object, rule: object = None) -> Variant:
        asked.append(variant.name)
        gap = optimising.paired_interval(rng.normal(truth[variant.name], sd, n), n_boot=300)
        return variant.model_copy(update={"ndcg": 0.5, "ndcg_difference": gap, "non_inferior": gap.low > -0.01})

    monkeypatch.setattr(optimising._Judge, "test", test)
    return asked


def sequence(truth: dict[str, float], rng: np.random.Generator, n: int = 200, sd: float = 0.1) -> str | None:
    """The rule of the module on normal differences: names in the order of ``truth``, stop at the first failure."""
    chosen = None
    for name, mean in truth.items():
        sample = rng.normal(mean, sd, n)
        if sample.mean() - 1.96 * sample.std(ddof=1) / n**0.5 <= -0.01:
            break
        chosen = name
    return chosen


def test_an_inferior_variant_is_chosen_no_more_often_than_by_a_single_test():
    """Twelve variants at the border: testing the fastest first would choose one of them in a quarter of the runs."""
    rng = np.random.default_rng(0)
    truth = {f"v{number}": -0.01 for number in range(12)}
    wrong = sum(sequence(truth, rng) is not None for _ in range(2_000))
    naive = sum(any(sequence({name: mean}, rng) is not None for name, mean in truth.items()) for _ in range(400))
    assert wrong / 2_000 < 0.025 + 3 * (0.025 * 0.975 / 2_000) ** 0.5
    assert naive / 400 > 0.15


def test_students_and_depths_are_tried_and_a_failure_ends_it(tiny: tuple[ModelStore, str], monkeypatch: pytest.MonkeyPatch, cheap: tuple[str, ...]):
    store, digest = tiny
    small = store_tiny(store.root.parent, seed=3, layers=1)[1]
    found = choose(store, digest, students=[small], depths=[4], margin=10.0, usd_per_vcpu_hour=0.04)
    assert len(found.variants) == 2 * 2 * 2, "two backends with both sizes and depths"
    kinds = {(variant.layers, variant.max_length, variant.depth) for variant in found.variants}
    assert kinds == {(layers, length, depth) for layers in (1, 2) for length in (32,) for depth in (4, 8)}
    assert len({variant.name for variant in found.variants}) == len(found.variants)
    assert all(variant.usd_per_1k == pytest.approx(variant.cpu_seconds * 0.04 / 3.6) for variant in found.variants)
    assert all(variant.mean_depth == variant.depth for variant in found.variants)
    assert found.depth == next(variant.depth for variant in found.variants if variant.name == found.chosen_name)
    order = [variant.name for variant in order_of_tests(found.variants)]
    truth = dict.fromkeys(order, 0.05) | {order[len(order) // 2]: -0.2}
    asked = planted(monkeypatch, truth)
    monkeypatch.setattr(optimising, "time_arms", lambda arms, *_: {name: _frozen(found, name) for name in arms})
    monkeypatch.setattr(optimising, "_measured", lambda name, *_: next(variant for variant in found.variants if variant.name == name))
    again = choose(store, digest, students=[small], depths=[4])
    assert asked == order[: len(order) // 2 + 1], "nothing after the first failure is looked at"
    assert again.chosen_name == order[len(order) // 2 - 1]


class _frozen:
    def __init__(self, found: Optimisation, name: str) -> None:
        self.orders: list[list[str]] = []


def test_no_time_left_is_said_and_the_weights_remain(tiny: tuple[ModelStore, str], cheap: tuple[str, ...]):
    store, digest = tiny
    found = choose(store, digest, margin=10.0, budget_seconds=1e-6)
    assert store.card(found.chosen).backend == "torch-fp32" and found.reason.startswith("the time was over before") and found.tests == 0


def test_early_exit_is_calibrated_tested_and_kept(tiny: tuple[ModelStore, str], cheap: tuple[str, ...]):
    store, digest = tiny
    asked = [f"{word} {topic}" for word in "abcdefgh" for topic in TOPICS]
    found = choose(store, digest, margin=10.0, early_exit=EarlyExit(asked))
    assert found.rule is not None and found.rule.depth == 8 and found.confidence == 0.975 and found.tests >= 2
    exits = [variant for variant in found.variants if variant.early_exit]
    assert len(exits) == 1 and exits[0].non_inferior and exits[0].name.endswith("early exit")
    kept = kept_rule(store.path(found.chosen))
    assert (kept == found.rule) if found.early_exit else (kept is None)
