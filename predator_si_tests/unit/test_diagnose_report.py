"""The diagnosis finds what was planted, stays quiet when nothing was, and counts misses exactly."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from predator_si.diagnose import Limits, diagnose
from predator_si.errors import BadInput
from predator_si.records import DiagnosticReport, Metric, MetricsSnapshot, Trigger

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
COMMON = ("return", "the", "array", "value", "of", "index", "sorted", "mean", "over", "axis", "string", "parse", "file", "read")


def snapshot(**values: float | None) -> MetricsSnapshot:
    metrics = {name: Metric(name=name, value=value, n=500) for name, value in {"error_rate": 0.0, "etl_lag_seconds": 1.0, **values}.items()}
    return MetricsSnapshot(snapshot_id="s", contour="local", created_at=NOW, window_start=NOW, window_end=NOW, champion="sha256:a", metrics=metrics)


def trigger(metric: str = "ndcg_at_10") -> Trigger:
    return Trigger(type=f"{metric}_down", metric=metric, value=0.5, baseline=0.6, delta=-0.1, actions=("diagnose",), reason="test")


def planted(seed: int, *, shuffled: bool = False, kind: str = "rerank") -> tuple[pl.DataFrame, pl.DataFrame, dict[str, str]]:
    """300 probes; 60 of package torch say "tensor" or "gradient" and lose 0.35 of NDCG; every tenth probe finds nothing at all."""
    rng = np.random.default_rng(seed)
    rows, judgments, categories = [], [], {}
    for number in range(300):
        weak = number < 60
        words = list(rng.choice(COMMON, size=5, replace=False))
        if weak:
            words[0] = ("tensor", "gradient")[number % 2]
        ndcg = float(np.clip(rng.normal(0.35 if weak else 0.7, 0.2), 0, 1))
        relevant = f"d{number}"
        missing = number % 10 == 0 or (weak and kind == "retrieval")
        hit = ndcg > 0.2 and not missing
        candidates = [f"x{j}" for j in range(19)] + ([] if missing else [relevant])
        results = ([relevant] if hit else []) + [f"x{j}" for j in range(10)]
        rows.append((f"q{number}", " ".join(words), ndcg, results, candidates, "shift" if weak else "base"))
        judgments.append((f"q{number}", relevant, 1.0))
        categories[relevant] = "torch" if weak else ("numpy", "scipy", "polars")[number % 3]
    probes = pl.DataFrame(rows, schema=["query_id", "text", "ndcg_at_10", "result_ids", "candidate_ids", "part"], orient="row")
    if shuffled:
        probes = probes.with_columns(ndcg_at_10=pl.Series(rng.permutation(probes["ndcg_at_10"].to_numpy())))
    return probes, pl.DataFrame(judgments, schema=["query_id", "doc_id", "relevance"], orient="row"), categories


REFERENCE = [" ".join(np.random.default_rng(i).choice(COMMON, size=5, replace=False)) for i in range(200)]


def run(probes: pl.DataFrame, judgments: pl.DataFrame, categories: dict[str, str], **changes: object) -> DiagnosticReport:
    arguments: dict = {
        "trigger": trigger(),
        "snapshot": snapshot(),
        "reference_queries": REFERENCE,
        "current_queries": probes["text"].to_list(),
        "document_frequency": {"tensor": 40, "gradient": 30},
        "seed": 1,
        **changes,
    }
    return diagnose("si_2026_11_22_001", probes=probes, judgments=judgments, categories=categories, **arguments)


def test_planted_words_slice_and_shift_are_found():
    report = run(*planted(0))
    assert report.root_cause_analysis.type == "domain_shift"
    assert {"torch", "shift"} <= set(report.root_cause_analysis.affected_categories)
    assert not {"numpy", "scipy", "polars", "base"} & set(report.root_cause_analysis.affected_categories)
    assert {"tensor", "gradient"} <= set(report.xai_insights.importance_scores)
    assert sum(report.xai_insights.importance_scores.values()) == pytest.approx(1.0)
    assert [row["token"] for row in report.root_cause_analysis.distribution_change.new_tokens] == ["gradient", "tensor"]
    assert report.root_cause_analysis.distribution_change.new_tokens[0] == {"token": "gradient", "count": 30, "df": 30}
    assert report.root_cause_analysis.distribution_change.coverage == pytest.approx(1 - 60 / 1500, abs=0.002)
    augment = next(action for action in report.recommended_actions if action["type"] == "augment")
    assert {"tensor", "gradient"} <= set(augment["target_tokens"]) and augment["estimated_examples"] >= 500
    assert DiagnosticReport.model_validate_json(report.to_json()) == report


def test_misses_are_counted_exactly():
    probes, judgments, categories = planted(0)
    report = run(probes, judgments, categories)
    lost = sum(number % 10 == 0 for number in range(300))
    ranked_low = sum(number % 10 != 0 and ndcg <= 0.2 for number, ndcg in enumerate(probes["ndcg_at_10"]))
    assert report.misses["retrieval_misses"] == lost
    assert report.misses["rerank_misses"] == ranked_low
    assert report.misses["hits"] == 300 - lost - ranked_low
    assert report.misses["found_in_candidates"] == 300 - lost


def test_shuffled_scores_give_no_finding_at_the_false_discovery_rate():
    found = [bool(report.xai_insights.importance_scores) for report in (run(*planted(seed, shuffled=True)) for seed in range(10))]
    assert sum(found) <= 3, "under the null at most 10% of the reports may name a word"


def test_loss_before_the_reranker_is_a_retrieval_miss_and_says_widen():
    probes, judgments, categories = planted(0, kind="retrieval")
    report = run(probes, judgments, categories, reference_queries=probes["text"].to_list())
    assert report.root_cause_analysis.type == "retrieval_miss"
    assert report.recommended_actions[0]["type"] == "widen_candidates"


def test_known_words_with_loss_in_the_ranking_are_a_rerank_miss():
    probes, judgments, categories = planted(0)
    report = run(probes, judgments, categories, reference_queries=probes["text"].to_list())
    assert report.root_cause_analysis.type == "rerank_miss"
    assert report.recommended_actions[0]["type"] == "augment"


def test_errors_and_missing_documents_come_before_any_blame_of_the_model():
    probes, judgments, categories = planted(0)
    assert run(probes, judgments, categories, snapshot=snapshot(error_rate=0.2)).root_cause_analysis.type == "service_fault"
    report = run(probes, judgments, categories, indexed_ids=[f"d{i}" for i in range(60, 300)])
    assert report.root_cause_analysis.type == "data_fault"
    assert report.misses["relevant_not_indexed"] == 60
    assert report.recommended_actions[0]["type"] == "repair_index"


def test_one_error_among_few_requests_is_not_a_service_fault():
    probes, judgments, categories = planted(0)
    metrics = {"error_rate": Metric(name="error_rate", value=0.05, n=20, ci_low=0.0, ci_high=0.24)}
    report = run(probes, judgments, categories, snapshot=snapshot().model_copy(update={"metrics": metrics}))
    assert report.root_cause_analysis.type == "domain_shift"


def test_latency_trigger_names_the_slow_stage():
    events = pl.DataFrame({"latency_ms": [100.0] * 95 + [1000.0] * 5, "retrieve_ms": [50.0] * 100, "rerank_ms": [45.0] * 95 + [940.0] * 5})
    probes, judgments, categories = planted(0)
    report = run(probes, judgments, categories, trigger=trigger("p95_latency_ms"), events=events)
    assert report.root_cause_analysis.type == "latency"
    stages = next(entry for entry in report.root_cause_analysis.evidence if entry["branch"] == "latency")["stages"]
    assert stages["slowest_stage"] == "rerank"
    assert stages["tail_shares"]["rerank"] == pytest.approx(0.94)
    assert stages["shares"]["retrieve"] == pytest.approx(5000 / 14500)
    assert report.recommended_actions[0]["type"] == "quantise"


def test_without_probes_the_cause_is_unknown_and_nothing_is_recommended():
    probes, judgments, categories = planted(0)
    report = run(probes.clear(), judgments, categories, current_queries=[])
    assert report.root_cause_analysis.type == "unknown"
    assert report.recommended_actions == []
    assert report.root_cause_analysis.distribution_change.coverage is None


def test_same_seed_same_report():
    first, second = (run(*planted(3)).model_dump(exclude={"timestamp"}) for _ in range(2))
    assert first == second


def test_candidates_that_nobody_knows_leave_the_cause_open_unless_the_domain_moved():
    probes, judgments, categories = planted(0)
    blind = probes.with_columns(candidate_ids=pl.lit(None, dtype=pl.List(pl.String)))
    assert run(blind, judgments, categories).root_cause_analysis.type == "domain_shift"
    report = run(blind, judgments, categories, reference_queries=probes["text"].to_list())
    assert report.root_cause_analysis.type == "unknown"
    assert "cannot be told apart" in next(entry for entry in report.root_cause_analysis.evidence if entry["branch"] == "losses")["reason"]


def test_missing_column_is_named():
    probes, judgments, categories = planted(0)
    with pytest.raises(BadInput, match="candidate_ids"):
        run(probes.drop("candidate_ids"), judgments, categories)


def test_min_support_keeps_rare_words_out():
    probes, judgments, categories = planted(0)
    report = run(probes, judgments, categories, limits=Limits(min_support=50))
    assert not {"tensor", "gradient"} & set(report.xai_insights.importance_scores)
