"""Each branch of the tree names its own fault on small made-up windows, says nothing on healthy ones, and says what it cannot tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.diagnose import Levels, Window, diagnose
from predator_si.diagnose.ranking_faults import pair
from predator_si.diagnose.tree import ask_branches, rank_causes
from predator_si.diagnose.window import Finding, at_least, ndcg, one_sided
from predator_si.measures import per_query
from predator_si.records import Metric, MetricsSnapshot, Trigger
from predator_si.search.index_facts import index_facts
from predator_si.search.rerank import fuse

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
QUERIES, DOCUMENTS, DEPTH = 120, 400, 8
TEXT = "a text of some forty characters about things and others"


class World:
    """A search of made-up scores: two legs, reciprocal rank fusion, a reranker, a weight; every part can be changed by itself."""

    def __init__(self, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.relevant = {f"q{i}": f"d{i}" for i in range(QUERIES)}
        self.lexical = {q: self._leg(d, rng, 0.75) for q, d in self.relevant.items()}
        self.dense = {q: self._leg(d, rng, 0.75) for q, d in self.relevant.items()}
        self.logits = {q: {f"d{j}": float(rng.normal(3.0 if f"d{j}" == d else 0.0, 1.0)) for j in range(DOCUMENTS)} for q, d in self.relevant.items()}
        self.weights, self.weight = (1.0, 1.0), 0.4
        self.documents = pl.DataFrame({"doc_id": [f"d{j}" for j in range(DOCUMENTS)], "title": [""] * DOCUMENTS, "text": [TEXT] * DOCUMENTS})
        self.labels = {q: {d: 1.0} for q, d in self.relevant.items()}
        self.new: dict[str, str] = {}

    @staticmethod
    def _leg(relevant: str, rng: np.random.Generator, found: float) -> list[str]:
        others = [f"d{j}" for j in rng.choice(DOCUMENTS, size=30, replace=False) if f"d{j}" != relevant]
        place = int(rng.integers(0, 4)) if rng.random() < found else int(rng.integers(10, 28))
        return [*others[:place], relevant, *others[place:]]

    def spoil(self, leg: dict[str, list[str]], share: float, seed: int = 5) -> None:
        """The leg finds other documents for a share of the queries."""
        rng = np.random.default_rng(seed)
        for q, d in self.relevant.items():
            if rng.random() < share:
                leg[q] = [f"d{j}" for j in rng.choice(DOCUMENTS, size=30, replace=False) if f"d{j}" != d]

    def window(self, texts: Callable[[str], str] = lambda q: f"words of {q}", **changes: Any) -> Window:
        known, rows = set(self.documents["doc_id"]), []
        for q in [*self.relevant, *self.new]:
            lexical, dense = ([d for d in leg[q] if d in known] for leg in (self.lexical, self.dense))
            first: dict[str, float] = {}
            for weight, leg in zip(self.weights, (lexical, dense), strict=True):
                for rank, doc in enumerate(leg, start=1):
                    first[doc] = first.get(doc, 0.0) + weight / (60 + rank)
            candidates = sorted(first, key=lambda doc, s=first: -s[doc])[:20]
            read = candidates[:DEPTH]
            mixed = fuse(np.array([self.logits[q][d] for d in read]), np.array([first[d] for d in read]), self.weight)
            results = [*(read[i] for i in np.argsort(-mixed, kind="stable")), *candidates[DEPTH:]]
            scores = [self.logits[q][d] if d in read else None for d in results]
            rows.append((q, texts(q), ndcg(results, self.labels[q]), results, candidates, scores, [first[d] for d in results], lexical, dense))
        names = ["query_id", "text", "ndcg_at_10", "result_ids", "candidate_ids", "rerank_scores", "first_scores", "lexical_ids", "dense_ids"]
        labels = [(q, d, g) for q, found in self.labels.items() for d, g in found.items()]
        window = Window(
            snapshot=snapshot(),
            probes=pl.DataFrame(rows, schema=names, orient="row"),
            judgments=pl.DataFrame(labels, schema=["query_id", "doc_id", "relevance"], orient="row"),
            events=events(),
            actions=clicks(),
            index={"version": 1, "built_at": "2026-11-22T11:00:00+00:00", "facts": index_facts(self.documents)},
            indexed_ids=tuple(self.documents["doc_id"]),
            queries=tuple(texts(q) for q in [*self.relevant, *self.new]),
        )
        return replace(window, **changes)


def snapshot(**values: float) -> MetricsSnapshot:
    metrics = {name: Metric(name=name, value=value, n=500) for name, value in {"ndcg_at_10": 0.7, "error_rate": 0.0, "etl_lag_seconds": 1.0, **values}.items()}
    return MetricsSnapshot(snapshot_id="s", contour="local", created_at=NOW, window_start=NOW, window_end=NOW, champion="sha256:a", metrics=metrics)


def events(
    n: int = 200, *, retrieve: float = 10.0, rerank: float = 20.0, queue: float = 0.0, failed: int = 0, degraded: int = 0, seed: int = 3
) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    stage = {name: mean * np.exp(0.3 * rng.standard_normal(n)) for name, mean in (("queue_ms", queue), ("retrieve_ms", retrieve), ("rerank_ms", rerank))}
    return pl.DataFrame(
        {
            "query_id": [f"e{i}" for i in range(n)],
            "client_id": [f"c{i % 25}" for i in range(n)],
            "status": [500 if i < failed else 200 for i in range(n)],
            "degraded": [failed <= i < failed + degraded for i in range(n)],
            "latency_ms": sum(stage.values()),
            **stage,
        }
    )


def clicks(n: int = 200, spam: Sequence[str] = (), each: int = 8, seed: int = 4) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    rows = [(f"e{i}", f"d{j}", "click") for i in range(n) for j in range(10) if rng.random() < (each / 10 if f"c{i % 25}" in spam else 0.05)]
    return pl.DataFrame(rows, schema=["query_id", "object_id", "action_name"], orient="row")


def names(reference: Window, current: Window, metric: str = "ndcg_at_10") -> list[str]:
    causes, _ = rank_causes(ask_branches(reference, current, Levels(), 0), metric)
    return [f"{one['type']}:{one['detail']}" if one["detail"] else one["type"] for one in causes]


def moved_labels(world: World) -> None:
    for number, q in enumerate(world.relevant):
        if number % 8 == 0:
            world.labels[q] = {f"d{DOCUMENTS - 1 - number}": 1.0}


def wrong_decoding(world: World) -> None:
    russian = pl.int_range(pl.len()) % 5 == 0
    world.documents = world.documents.with_columns(text=pl.when(russian).then(pl.lit("текст о вещах".encode().decode("latin-1"))).otherwise("text"))


def cut(world: World) -> None:
    world.documents = world.documents.with_columns(text=pl.when(pl.int_range(pl.len()) % 5 == 0).then(pl.col("text").str.head(12)).otherwise("text"))
    world.spoil(world.lexical, 0.3)
    world.spoil(world.dense, 0.3)


def worse_reranker(world: World) -> None:
    rng = np.random.default_rng(9)
    world.logits = {q: {d: s + float(rng.normal(0, 3)) for d, s in scores.items()} for q, scores in world.logits.items()}


FAULTS: dict[str, Callable[[World], Any]] = {
    "retrieval_miss:lexical": lambda world: world.spoil(world.lexical, 0.6),
    "retrieval_miss:dense": lambda world: world.spoil(world.dense, 0.6),
    "rerank_miss:reranker": worse_reranker,
    "rerank_miss:fusion_weight": lambda world: setattr(world, "weight", 1.0),
    "data_fault:shrunken_index": lambda world: setattr(world, "documents", world.documents.filter(pl.int_range(pl.len()) % 9 != 0)),
    "data_fault:encoding": wrong_decoding,
    "data_fault:truncated_documents": cut,
    "judgment_artefact:label_noise": moved_labels,
}


@pytest.mark.parametrize("right", FAULTS)
def test_a_part_that_changed_is_named_first(right: str) -> None:
    world = World()
    reference = world.window()
    FAULTS[right](world)
    assert names(reference, world.window())[:1] == [right]


def test_the_fusion_of_the_legs_is_blamed_when_both_legs_are_as_they_were() -> None:
    world = World()
    world.spoil(world.dense, 0.7)  # the weaker leg, which the other weights below trust alone
    world.weight = 1.0
    reference = world.window()
    world.weights = (0.02, 1.0)
    assert names(reference, world.window())[0] == "retrieval_miss:fusion"


@pytest.mark.parametrize("seed", range(6))
def test_healthy_windows_with_growth_and_other_traffic_raise_nothing(seed: int) -> None:
    world = World(seed)
    reference = world.window()
    fresh = pl.DataFrame({"doc_id": [f"n{j}" for j in range(20)], "title": [""] * 20, "text": [TEXT] * 20})
    world.documents = pl.concat([world.documents.filter(pl.int_range(pl.len()) != 399), fresh])
    for leg in (world.lexical, world.dense):
        for q in list(leg)[:: 7 + seed]:
            leg[q] = [*leg[q][:3], f"n{seed}", *leg[q][3:]]
    for scores in world.logits.values():
        scores[f"n{seed}"] = -1.0
    current = world.window(events=events(seed=seed + 10, retrieve=10.5, rerank=21.0), actions=clicks(seed=seed + 20))
    assert names(reference, current, "manual") == []


def test_documents_that_never_arrived_are_a_stale_index_and_gone_ones_are_not() -> None:
    world = World()
    reference = world.window()
    for number in range(15):
        q = f"late{number}"
        world.new[q], world.labels[q] = q, {f"missing{number}": 1.0}
        world.lexical[q], world.dense[q] = (list(leg[f"q{number}"]) for leg in (world.lexical, world.dense))
        world.logits[q] = world.logits[f"q{number}"]
    assert names(reference, world.window())[0] == "data_fault:stale_index"
    assert "data_fault:stale_index" not in names(reference, replace(world.window(), indexed_ids=tuple(f"missing{i}" for i in range(15))))


def shifted() -> tuple[Window, Window]:
    """A fifth of the queries is new, in other words, and its documents are indexed and badly found."""
    world = World()
    reference = world.window(queries=tuple(f"words of number {i}" for i in range(200)))
    for number in range(30):
        q = f"new{number}"
        world.new[q], world.labels[q] = q, {f"d{number}": 1.0}
        world.lexical[q] = world.dense[q] = [f"d{j}" for j in range(60, 90)] + [f"d{number}"]
        world.logits[q] = world.logits[f"q{number}"]
    told = {q: f"tensor gradient{number} backward" for number, q in enumerate(world.new)}
    return reference, world.window(texts=lambda q: told.get(q, "words of number 1"))


def test_new_words_that_are_badly_answered_are_a_shifted_domain() -> None:
    assert names(*shifted())[0] == "domain_shift"


@pytest.mark.parametrize(("stage", "changes"), [("retrieve", {"retrieve": 40.0}), ("rerank", {"rerank": 60.0}), ("queue", {"queue": 30.0})])
def test_the_stage_that_got_slower_is_named(stage: str, changes: dict[str, float]) -> None:
    world = World()
    assert names(world.window(), world.window(events=events(seed=8, **changes)), "p95_latency_ms") == [f"latency:{stage}"]


@pytest.mark.parametrize(("kind", "stage"), [("failed", "retrieval"), ("degraded", "reranker")])
def test_failed_and_degraded_requests_are_a_service_fault_of_their_stage(kind: str, stage: str) -> None:
    world = World()
    found = ask_branches(world.window(), world.window(events=events(**{kind: 14})), Levels(), 0)
    assert found[0].answer == "yes" and found[0].evidence["stage"] == stage
    assert ask_branches(world.window(), world.window(events=events(**{kind: 2})), Levels(), 0)[0].answer == "no"


def test_a_few_clients_that_click_everything_are_spam_and_a_busy_one_is_not() -> None:
    world = World()
    assert names(world.window(), world.window(actions=clicks(spam=("c1", "c2"))), "click_through")[0] == "judgment_artefact:click_spam"
    busy = events().with_columns(client_id=pl.when(pl.int_range(pl.len()) < 60).then(pl.lit("c0")).otherwise("client_id"))
    assert names(world.window(), world.window(events=busy)) == []


def test_without_what_a_branch_needs_it_is_unknown_and_the_report_says_so() -> None:
    world = World()
    blind = ("lexical_ids", "dense_ids", "rerank_scores", "candidate_ids")
    bare = [
        replace(
            window, probes=window.probes.with_columns(pl.lit(None).alias(column) for column in blind), index=None, indexed_ids=None, events=None, actions=None
        )
        for window in (world.window(), world.window())
    ]
    found = {one.name: one for one in ask_branches(*bare, Levels(), 0)}
    for name in ("retrieval_miss:dense", "rerank_miss:reranker", "data_fault:shrunken_index", "data_fault:stale_index", "judgment_artefact:click_spam"):
        assert found[name].answer == "unknown" and found[name].reason
    _, cannot = rank_causes(list(found.values()), "ndcg_at_10")
    assert any("the service told no index facts" in sentence for sentence in cannot)


def test_two_causes_of_like_size_are_said_not_to_be_told_apart() -> None:
    pair_of = [Finding("retrieval_miss", leg, "yes", explained_loss=loss) for leg, loss in (("lexical", 0.05), ("dense", 0.045))]
    causes, cannot = rank_causes(pair_of, "ndcg_at_10")
    assert [one["detail"] for one in causes] == ["lexical", "dense"]
    assert len(cannot) == 1 and "lexical and retrieval_miss:dense" in cannot[0]
    assert rank_causes([replace(pair_of[0]), replace(pair_of[1], explained_loss=0.01)], "ndcg_at_10")[1] == []


def test_a_leg_that_lost_with_the_documents_follows_from_them() -> None:
    world = World()
    reference = world.window()
    cut(world)
    causes, _ = rank_causes(ask_branches(reference, world.window(), Levels(), 0), "ndcg_at_10")
    assert causes[0]["detail"] == "truncated_documents"
    assert all(one["evidence"]["follows_from"] == "data_fault:truncated_documents" for one in causes if one["type"] == "retrieval_miss")


def test_the_trigger_decides_between_a_slow_stage_and_a_worse_model() -> None:
    world = World()
    reference = world.window()
    worse_reranker(world)
    both = world.window(events=events(seed=8, retrieve=60.0))
    assert names(reference, both)[0] == "rerank_miss:reranker"
    assert names(reference, both, "p95_latency_ms")[0] == "latency:retrieve"


def test_the_report_carries_causes_their_actions_and_does_not_retrain_a_model_that_is_fine() -> None:
    world = World()
    reference = world.window()
    world.spoil(world.dense, 0.6)
    now = world.window()
    trigger = Trigger(type="ndcg_down", metric="ndcg_at_10", value=0.6, baseline=0.7, delta=-0.1, actions=("diagnose",), reason="test")
    arguments = (trigger, now.snapshot, now.probes, now.judgments, reference.queries, now.queries, None, {}, 1)
    report = diagnose(
        "si_2026_11_22_001", *arguments, events=now.events, indexed_ids=now.indexed_ids, reference=reference, actions=now.actions, index=now.index
    )
    cause = report.root_cause_analysis
    assert (cause.type, cause.detail) == ("retrieval_miss", "dense") and cause.causes[0]["actions"][0]["type"] == "choose_embedder"
    assert report.recommended_actions[0]["type"] == report.xai_insights.suggested_action == "choose_embedder"
    assert not {"retrain_reranker", "augment"} & {action["type"] for action in report.recommended_actions}
    assert {"retrieval_miss:dense", "losses"} <= {entry["branch"] for entry in cause.evidence}
    alone = diagnose("si_2026_11_22_001", *arguments, events=now.events)
    assert alone.root_cause_analysis.causes == [] and "no reference window" in alone.root_cause_analysis.cannot_tell[0]


def test_ndcg_agrees_with_measures_and_the_binomial_with_its_sum() -> None:
    window = World().window()
    run = window.probes.select("query_id", doc_id="result_ids").with_columns(rank=pl.int_ranges(1, pl.col("doc_id").list.len() + 1)).explode("doc_id", "rank")
    expected = per_query(run, window.judgments, ["nDCG@10"])["nDCG@10"].to_list()
    assert window.probes["ndcg_at_10"].to_list() == pytest.approx(expected)
    from math import comb

    assert at_least(3, 10, 0.2) == pytest.approx(sum(comb(10, k) * 0.2**k * 0.8 ** (10 - k) for k in range(3, 11)))
    assert one_sided(np.zeros(5), 0) == 1.0 and one_sided(np.ones(12), 0) == pytest.approx(2**-12)
    assert pair(window, window).drop == 0.0


def test_only_levels_of_the_tree_make_an_alarm() -> None:
    world = World()
    reference = world.window()
    world.documents = world.documents.filter(pl.int_range(pl.len()) % 100 != 0)  # one in a hundred is an ordinary day
    assert names(reference, world.window(events=events(seed=5)), "manual") == []
    assert Levels(alarm=0.02).each == pytest.approx(0.02 / 14)
