"""Words of any script, permutation p-values against an independent implementation, Good-Turing, misses by depth."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from predator_si.diagnose import count_misses, latency_by_stage, new_vocabulary, subset_deficits, tokens
from predator_si.diagnose.subsets import correlation_p


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Straße, from_pretrained(2)", ["strasse", "from_pretrained", "2"]),
        ("Пошук ПРИКЛАДІВ", ["пошук", "прикладів"]),
        ("हिन्दी खोज", ["हिन्दी", "खोज"]),
        ("ﬁle", ["file"]),
        ("!?", []),
    ],
)
def test_words_of_any_script(text: str, expected: list[str]):
    assert tokens(text) == expected


def test_p_values_agree_with_scipys_permutation_test():
    from scipy.stats import permutation_test

    rng = np.random.default_rng(0)
    scores = rng.random(60)
    scores[:15] -= 0.15
    table = subset_deficits(scores, [("weak", np.arange(15)), ("rest", np.arange(20, 50))], seed=0, permutations=20_000)
    for name, members in (("weak", np.arange(15)), ("rest", np.arange(20, 50))):
        outside = np.setdiff1d(np.arange(60), members)
        expected = permutation_test((scores[members], scores[outside]), lambda a, b: a.mean() - b.mean(), n_resamples=20_000, alternative="less", rng=1)
        row = table.filter(pl.col("name") == name).to_dicts()[0]
        assert row["p_value"] == pytest.approx(expected.pvalue, abs=0.012)
        assert row["deficit"] == pytest.approx(-expected.statistic)


def test_p_values_are_uniform_under_the_null():
    rng = np.random.default_rng(1)
    p = [subset_deficits(rng.random(50), [("s", np.arange(12))], seed=i, permutations=1000)["p_value"][0] for i in range(300)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05)
    assert np.mean(np.array(p) <= 0.5) == pytest.approx(0.5, abs=0.09)


def test_interval_is_welchs():
    from scipy.stats import ttest_ind

    rng = np.random.default_rng(2)
    scores = rng.random(2000)
    row = subset_deficits(scores, [("s", np.arange(700))], seed=0, permutations=1000).to_dicts()[0]
    interval = ttest_ind(scores[700:], scores[:700], equal_var=False).confidence_interval(0.95)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high), abs=1e-4)


def test_small_subsets_are_not_tested():
    assert subset_deficits(np.zeros(30), [("few", np.arange(9)), ("nearly all", np.arange(25))], seed=0).is_empty()


def test_correlation_of_constants_is_no_evidence():
    assert correlation_p(np.ones(20), np.arange(20.0), seed=0) == (0.0, 1.0)


def test_new_words_expected_by_sampling_are_not_a_shift():
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 3001)
    queries = [" ".join(f"w{i}" for i in rng.choice(3000, 6, p=weights / weights.sum())) for _ in range(1000)]
    same = new_vocabulary(queries[:500], queries[500:])
    assert same.new_rate == pytest.approx(same.expected_new_rate, abs=0.04)
    assert same.p_value is not None and same.p_value > 0.01
    other = new_vocabulary(queries[:500], [f"{query} neu{i % 40}" for i, query in enumerate(queries[500:])])
    assert other.p_value is not None and other.p_value < 1e-6
    assert {"token": "neu0", "count": 13, "df": None} in other.new_tokens


def test_empty_reference_gives_unknown_not_zero():
    vocabulary = new_vocabulary([], ["tensor shape"])
    assert vocabulary.coverage is None and vocabulary.reason is not None and "reference" in vocabulary.reason


def test_depth_splits_the_retrieval_misses():
    probes = pl.DataFrame(
        {
            "query_id": ["a", "b", "c", "d"],
            "ndcg_at_10": [1.0, 0.0, 0.0, None],
            "result_ids": [["r"], ["x"], ["x"], []],
            "candidate_ids": [["r", "x"], ["x", "y", "r"], ["x", "y"], ["x"]],
        }
    )
    relevant = {query: {"r": 1.0} for query in "abc"}
    shallow = count_misses(probes, relevant, depth=2).counts
    assert (shallow["hits"], shallow["retrieval_misses"], shallow["beyond_depth"], shallow["rerank_misses"], shallow["unjudged"]) == (1, 2, 1, 0, 1)
    assert count_misses(probes, relevant).counts["rerank_misses"] == 1


def test_losses_add_up_to_the_whole_loss():
    probes = pl.DataFrame({"query_id": ["a"], "ndcg_at_10": [0.4], "result_ids": [["r"]], "candidate_ids": [["r", "x"]]})
    row = count_misses(probes, {"a": {"r": 1.0, "s": 2.0}}).per_query.to_dicts()[0]
    assert row["reachable"] == pytest.approx(1.0 / (2.0 + 1.0 / np.log2(3)))
    assert row["loss_retrieval"] + row["loss_rerank"] == pytest.approx(0.6)


def test_stage_shares_without_stage_times_are_unknown():
    answer = latency_by_stage(pl.DataFrame({"latency_ms": [1.0, 2.0]}))
    assert answer["slowest_stage"] is None and answer["without_stages"] == 2


def test_unknown_candidates_and_failed_probes_are_never_called_misses():
    probes = pl.DataFrame(
        {
            "query_id": ["hit", "low", "absent", "failed"],
            "ndcg_at_10": [1.0, 0.0, 0.0, None],
            "result_ids": [["r"], [*"abcdefghij", "r"], ["x"], None],
            "candidate_ids": pl.Series([None, None, None, None], dtype=pl.List(pl.String)),
        }
    )
    counts = count_misses(probes, {query: {"r": 1.0} for query in ("hit", "low", "absent", "failed")}).counts
    assert (counts["hits"], counts["rerank_misses"], counts["retrieval_misses"], counts["undecided"], counts["failed_probes"]) == (1, 1, 0, 1, 1)
    assert counts["mean_loss_rerank"] is None and counts["without_candidates"] == 0
