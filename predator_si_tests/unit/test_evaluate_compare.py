"""Comparison of two rerankers against an independent computation, with every refusal."""

from __future__ import annotations

import ir_measures
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import stats

from predator_si.errors import BadInput, Refused
from predator_si.evaluate import PairScores, clusters_of, compare, equality_check, evaluate_model
from predator_si.records import Evaluation, ModelCard, ServingConfig
from predator_si.search.retrieve import Candidates
from predator_si.statistics import paired_interval

N, POOL = 120, 30
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


class Noisy:
    """Knows the relevant text and misjudges it by seeded noise; the noise of a pair is always the same."""

    def __init__(self, digest, noise, seed=0, backend="torch-fp32", shift=0.0):
        self.card, self.digest = ModelCard(name="m", digest=digest, backend=backend, max_length=128), digest
        self.noise, self.seed, self.shift, self.pairs = noise, seed, shift, 0

    def score_pairs(self, pairs):
        self.pairs += len(pairs)
        draws = [np.random.default_rng([self.seed, int(q.split()[1]), int(t.split()[1])]).normal() for q, t in pairs]
        truth = [float(t.split()[2] == "yes") for _, t in pairs]
        return (np.array(truth) + self.noise * np.array(draws) + self.shift).astype(np.float32)

    def score(self, query, texts):
        return self.score_pairs([(query, text) for text in texts])


def config(digest, depth=20, weight=0.0):
    return ServingConfig(model=digest, depth=depth, fusion_weight=weight)


@pytest.fixture(scope="module")
def judged():
    rng = np.random.default_rng(0)
    relevant = rng.integers(0, POOL + 10, N)  # beyond the pool: not retrieved
    queries = pl.DataFrame({"query_id": [f"q{i}" for i in range(N)] + ["unjudged"], "text": [f"query {i}" for i in range(N)] + ["query 999"]})
    judgments = pl.DataFrame({"query_id": [f"q{i}" for i in range(N)], "doc_id": [f"d{i}_{r}" for i, r in enumerate(relevant)], "relevance": [1.0] * N})
    answers = {f"d{i}_{r}" for i, r in enumerate(relevant)}

    def candidates(texts, depth):
        found = []
        for text in texts:
            i = int(text.split()[1])
            ids = [f"d{i}_{rank}" for rank in range(min(depth, POOL))]
            bodies = [f"text {rank} {'yes' if doc in answers else 'no'}" for rank, doc in enumerate(ids)]
            found.append(Candidates(ids, bodies, 1.0 / (60 + np.arange(1.0, len(ids) + 1)), np.arange(1, len(ids) + 1), np.arange(1, len(ids) + 1)))
        return found

    return queries, judgments, candidates


def by_hand(judged, model, depth):
    """NDCG@10 per query by ir_measures, from the ranking written out the slow way."""
    queries, judgments, candidates = judged
    rows = []
    for query_id, text in queries.head(N).iter_rows():
        pool = candidates([text], max(20, depth))[0]
        scores = model.score(text, pool.texts[:depth])
        order = sorted(range(len(pool.doc_ids)), key=lambda i: (0, -float(scores[i]), i) if i < depth else (1, 0.0, i))
        rows += [{"query_id": query_id, "doc_id": pool.doc_ids[i], "score": float(-rank)} for rank, i in enumerate(order)]
    qrels = pd.DataFrame(judgments.with_columns(pl.col("relevance").cast(pl.Int64)).to_dicts())
    return {one.query_id: one.value for one in ir_measures.iter_calc([ir_measures.nDCG @ 10], qrels, pd.DataFrame(rows))}


@pytest.mark.parametrize("depth", [20, 5, 0])
def test_compare_equals_the_slow_way(judged, depth):
    worse, better = Noisy(A, 0.9), Noisy(B, 0.3, seed=1)
    evaluation, frame = compare("toy", "test", *judged, worse, better, (config(A, depth), config(B, depth)), cycle_id="si_2026_11_22_001")
    ours = dict(zip(frame["query_id"], frame["ndcg_challenger"], strict=True))
    theirs = by_hand(judged, better, depth)
    assert set(ours) == set(theirs) and all(ours[q] == pytest.approx(theirs[q], abs=1e-9) for q in theirs)
    differences = frame["ndcg_difference"].to_numpy()
    assert evaluation.n_queries == N and evaluation.ndcg_difference.estimate == pytest.approx(evaluation.ndcg_challenger - evaluation.ndcg_champion)
    if depth:
        student = stats.t.interval(0.95, N - 1, differences.mean(), stats.sem(differences))
        assert (evaluation.ndcg_difference.low, evaluation.ndcg_difference.high) == pytest.approx(student, abs=0.01)
        permuted = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=5000, rng=np.random.default_rng(0)).pvalue
        assert evaluation.ndcg_difference.p_value == pytest.approx(permuted, abs=0.01)
        # With depth 5 only one query in eight can differ at all, so superiority is asked of the full depth.
        assert evaluation.ndcg_difference.low > 0 and (depth == 5 or evaluation.ndcg_difference.p_value < 0.001)
    else:
        assert evaluation.ndcg_difference.estimate == 0.0 and evaluation.ndcg_difference.p_value == 1.0
    assert Evaluation.model_validate_json(evaluation.to_json()) == evaluation and evaluation.latency == {}


def test_recall_is_bounded_by_the_candidates(judged):
    evaluation, frame = compare("toy", "test", *judged, Noisy(A, 0.9), Noisy(B, 0.0), (config(A, 30), config(B, 30)))
    assert (frame["recall_challenger"] <= frame["candidate_recall"]).all()
    assert evaluation.recall_challenger == pytest.approx(frame["candidate_recall"].mean())  # without noise all that was retrieved is found
    assert 0.5 < evaluation.recall_challenger < 0.9


def test_pair_scores_are_shared_between_stages(judged, tmp_path):
    model, seen = Noisy(A, 0.5), []
    with PairScores(tmp_path / "s") as store:
        frame = evaluate_model(*judged, model, config(A), scores_cache=store)
        hopeful = frame.filter(pl.col("candidate_recall") > 0).height
        assert 0 < hopeful < N and model.pairs == hopeful * 20, "no order helps where nothing relevant was found"
        compare("toy", "test", *judged, model, Noisy(B, 0.3), (config(A), config(B)), scores_cache=store, on_progress=lambda *step: seen.append(step))
        assert model.pairs == hopeful * 20
    assert seen[-1] == (2 * hopeful * 20, 2 * hopeful * 20) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert frame["query_id"].to_list() == [f"q{i}" for i in range(N)] and set(frame.columns) >= {"ndcg_at_10", "recall_at_20", "rr_at_10", "candidate_recall"}


def test_precomputed_candidates_give_the_same(judged):
    queries, judgments, candidates = judged
    ready = candidates(queries["text"].to_list(), 20)
    asked = evaluate_model(*judged, Noisy(A, 0.5), config(A))
    assert evaluate_model(queries, judgments, ready, Noisy(A, 0.5), config(A)).equals(asked)
    with pytest.raises(BadInput, match="one per query"):
        evaluate_model(queries, judgments, ready[:-1], Noisy(A, 0.5), config(A))


def test_fusion_with_the_whole_weight_is_the_first_stage(judged):
    frame = evaluate_model(*judged, Noisy(A, 5.0), config(A, weight=1.0))
    first = evaluate_model(*judged, Noisy(A, 5.0), config(A, depth=0))
    assert frame["ndcg_at_10"].to_list() == first["ndcg_at_10"].to_list()


def test_slices_carry_intervals_adjusted_for_their_number(judged):
    slices = {"first half": {f"q{i}" for i in range(60)}, "second half": {f"q{i}" for i in range(60, 120)}, "one": {"q0"}, "none": {"absent"}}
    evaluation, frame = compare("toy", "test", *judged, Noisy(A, 0.9), Noisy(B, 0.3), (config(A), config(B)), slices=slices)
    rows = {row["name"]: row for row in evaluation.slices}
    assert [row["n"] for row in evaluation.slices] == [60, 60, 1, 0]
    assert rows["first half"]["difference"] == pytest.approx(frame["ndcg_difference"][:60].mean())
    assert rows["first half"]["low"] < rows["first half"]["difference"] < rows["first half"]["high"]
    p = sorted((rows["first half"]["p_value"], rows["second half"]["p_value"]))
    assert min(rows["first half"]["p_adjusted"], rows["second half"]["p_adjusted"]) == pytest.approx(min(1.0, 2 * p[0]))
    assert rows["one"]["low"] is None and "needs two" in rows["one"]["reason"] and rows["none"]["difference"] is None


def test_queries_of_one_template_count_together(judged):
    """Each question asked twice, once with a word repeated, is no more evidence than asked once: the interval is that of the pairs."""
    queries, judgments, candidates = judged
    once = queries.head(60)
    twice = pl.concat([once, once.with_columns(query_id=pl.col("query_id") + "b", text=pl.col("text") + " " + pl.col("text").str.split(" ").list.get(1))])
    known = pl.concat([judgments, judgments.with_columns(query_id=pl.col("query_id") + "b")])
    models = Noisy(A, 1.0), Noisy(B, 0.4, seed=1)
    found, frame = compare("toy", "test", twice, known, candidates, *models, (config(A), config(B)), slices={"all": set(twice["query_id"])}, resamples=2_000)
    assert frame["cluster"].n_unique() == 60 and clusters_of(frame) is not None
    differences = frame["ndcg_difference"].to_numpy()
    apart, together = (paired_interval(differences, n_boot=2_000, cluster=groups) for groups in (None, frame["cluster"].to_numpy()))
    wide, narrow = together.high - together.low, apart.high - apart.low
    assert (found.ndcg_difference.low, found.ndcg_difference.high, found.ndcg_difference.p_value) == (together.low, together.high, together.p_value)
    assert wide > 1.2 * narrow and found.slices[0]["low"] == together.low
    single, alone = compare("toy", "test", once, judgments, candidates, *models, (config(A), config(B)), resamples=2_000)
    assert clusters_of(alone) is None and single.ndcg_difference.high - single.ndcg_difference.low == pytest.approx(wide, rel=0.1)


def test_equal_models_are_inconclusive_and_a_backend_of_the_same_weights_is_equal(judged, tmp_path):
    check = equality_check(Noisy(A, 0.5), Noisy(B, 0.5, backend="onnx-int8", shift=0.25), *judged)
    assert check.equal and check.max_abs_difference == pytest.approx(0.25, abs=1e-6) and check.rank_correlation == pytest.approx(1.0)
    assert check.same_top_share == 1.0 and check.n_pairs == N * 20 and check.backends == ("torch-fp32", "onnx-int8")
    other = equality_check(Noisy(A, 0.2), Noisy(B, 1.5, seed=3), *judged)
    assert not other.equal and other.rank_correlation < 0.5 and other.ndcg_difference.high < 0


def test_a_difference_that_the_set_cannot_bound_is_not_called_equal(judged):
    queries, judgments, candidates = judged
    check = equality_check(Noisy(A, 0.6), Noisy(B, 0.6, seed=9), queries.head(20), judgments, candidates)
    assert not check.equal


def test_refusals(judged):
    queries, judgments, candidates = judged
    model = Noisy(A, 0.5)
    with pytest.raises(BadInput, match="load the model"):
        evaluate_model(*judged, model, config(B))
    with pytest.raises(BadInput, match="relevant document"):
        evaluate_model(queries, judgments.with_columns(relevance=pl.lit(0.0)), candidates, model, config(A))
    with pytest.raises(BadInput, match="twice"):
        evaluate_model(pl.concat([queries, queries]), judgments, candidates, model, config(A))
    with pytest.raises(BadInput, match="lack columns"):
        evaluate_model(queries.rename({"text": "t"}), judgments, candidates, model, config(A))
    with pytest.raises(BadInput, match="at least 2"):
        compare("toy", "test", queries.head(1), judgments, candidates, model, Noisy(B, 0.1), (config(A), config(B)))
    with pytest.raises(Refused, match="stopped"):
        compare("toy", "test", *judged, model, Noisy(B, 0.1), (config(A), config(B)), should_stop=lambda: True)
