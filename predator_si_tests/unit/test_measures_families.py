"""All families of ranking measures against independent implementations, on many random runs with ties, missing queries and duplicate documents."""

from __future__ import annotations

import shutil

import ir_measures
import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.measures import Measure, holes, per_query, per_segment
from predator_si.measures.lists import match
from predator_si.measures.scoring import Pool, score

RUNS = 1_000
PEERS = {
    "nDCG@5": "nDCG@5",
    "nDCG@10": "nDCG@10",
    "R@5": "R@5",
    "R@20": "R@20",
    "P@1": "P@1",
    "P@10": "P@10",
    "RR": "RR",
    "AP": "AP",
    "MAP@5": "AP@5",
    "judged@100": "Judged@100",  # ir-measures breaks ties the other way here: a depth that holds the whole ranking cannot show it
}


def random_runs(n_runs: int, seed: int, *, duplicates: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """``n_runs`` runs of a few queries, told apart by the query's prefix, with tied scores, queries that only one side has, documents that stand twice."""
    rng = np.random.default_rng(seed)
    run, judgments = [], []
    for i in range(n_runs):
        for q in range(rng.integers(1, 4)):
            query, pool = f"{i}/{q}", [f"d{j}" for j in range(rng.integers(3, 25))]
            if rng.random() > 0.1:
                chosen = rng.permutation(pool)[: rng.integers(1, len(pool) + 1)]
                scores = rng.integers(0, 4, len(chosen)) if rng.random() < 0.6 else rng.normal(size=len(chosen))
                run += [(query, str(d), float(s)) for d, s in zip(chosen, scores, strict=True)]
                if duplicates and rng.random() < 0.5:
                    run += [(query, str(d), float(rng.integers(-1, 6))) for d in rng.choice(chosen, rng.integers(1, 4))]
            if rng.random() > 0.1:
                judged = rng.permutation([*pool, "never-shown"])[: rng.integers(1, 9)]
                judgments += [(query, str(d), int(g)) for d, g in zip(judged, rng.integers(0, 5, len(judged)), strict=True)]
    frame = pl.DataFrame(run, schema=["query_id", "doc_id", "score"], orient="row")
    return frame, pl.DataFrame(judgments, schema=["query_id", "doc_id", "relevance"], orient="row")


def theirs(run: pl.DataFrame, judgments: pl.DataFrame, names: list[str]) -> dict[tuple[str, str], float]:
    qrels = [ir_measures.Qrel(*row) for row in judgments.iter_rows()]
    scored = [ir_measures.ScoredDoc(*row) for row in run.iter_rows()]
    return {(m.query_id, str(m.measure)): m.value for m in ir_measures.iter_calc([ir_measures.parse_measure(name) for name in names], qrels, scored)}


@pytest.mark.parametrize("duplicates", [False, True])
def test_a_thousand_random_runs_equal_ir_measures(duplicates):
    run, judgments = random_runs(RUNS, seed=3, duplicates=duplicates)
    assert (run.select(pl.struct("query_id", "doc_id").is_duplicated().any()).item()) is duplicates
    ours = per_query(run, judgments, list(PEERS), duplicates="last")
    values = theirs(run, judgments, list(PEERS.values()))
    for name, peer in PEERS.items():
        expected = np.array([values.get((query, peer), 0.0) for query in ours["query_id"]])
        assert np.abs(ours[name].to_numpy() - expected).max() <= 1e-9, name
    assert ours.height == judgments["query_id"].n_unique()


def test_judged_at_k_without_ties_equals_ir_measures():
    run, judgments = random_runs(200, seed=4, duplicates=False)
    run = run.with_columns(score=pl.int_range(pl.len()).shuffle(seed=1).cast(pl.Float64))
    values = theirs(run, judgments, ["Judged@5"])
    for query, value in per_query(run, judgments, ["judged@5"]).iter_rows():
        assert value == pytest.approx(values.get((query, "Judged@5"), 0.0), abs=1e-9)


def rankings(run: pl.DataFrame) -> dict[str, list[str]]:
    rows: dict[str, list[tuple[float, str]]] = {}
    for query, doc, value in run.iter_rows():
        rows.setdefault(query, []).append((np.float32(value), doc))
    return {query: [doc for _, doc in sorted(found, reverse=True)] for query, found in rows.items()}


def grades(judgments: pl.DataFrame) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for query, doc, grade in judgments.iter_rows():
        found.setdefault(query, {})[doc] = grade
    return found


def textbook_err(ranking: list[str], judged: dict[str, float], k: int, top: float) -> float:
    value, going = 0.0, 1.0
    for rank, doc in enumerate(ranking[:k], start=1):
        stop = (2.0 ** max(judged.get(doc, 0.0), 0.0) - 1.0) / 2.0**top
        value += going * stop / rank
        going *= 1.0 - stop
    return value


def textbook_rbp(ranking: list[str], judged: dict[str, float], p: float) -> tuple[float, float]:
    gained = residual = 0.0
    for i, doc in enumerate(ranking):
        weight = (1.0 - p) * p**i
        gained += weight * (judged.get(doc, 0.0) >= 1)
        residual += weight * (doc not in judged)
    return gained, residual + p ** len(ranking)


def test_err_rbp_and_its_residual_equal_the_textbook():
    run, judgments = random_runs(300, seed=5, duplicates=False)
    shown, judged = rankings(run), grades(judgments)
    ours = per_query(run, judgments, ["ERR@5", "ERR(max=5)", "RBP(p=0.8)", "RBPres(p=0.8)", "RBP(p=0.5)"])
    for query, err5, err, rbp, residual, impatient in ours.iter_rows():
        ranking = shown.get(query, [])
        assert err5 == pytest.approx(textbook_err(ranking, judged[query], 5, 4.0), abs=1e-12)
        assert err == pytest.approx(textbook_err(ranking, judged[query], 1000, 5.0), abs=1e-12)
        assert (rbp, residual) == pytest.approx(textbook_rbp(ranking, judged[query], 0.8), abs=1e-12)
        assert impatient == pytest.approx(textbook_rbp(ranking, judged[query], 0.5)[0], abs=1e-12)
        assert 0.0 <= rbp <= rbp + residual <= 1.0 + 1e-12


@pytest.mark.skipif(shutil.which("perl") is None, reason="perl is not on this machine: gdeval is a Perl script")
def test_err_equals_gdeval():
    run, judgments = random_runs(100, seed=8, duplicates=False)
    # gdeval breaks ties its own way and prints five digits.
    run = run.with_columns(score=pl.col("score") + pl.int_range(pl.len()) * 1e-3).unique(["query_id", "score"])
    numbered = {query: str(i) for i, query in enumerate(judgments["query_id"].unique(maintain_order=True))}
    run, judgments = (frame.with_columns(pl.col("query_id").replace_strict(numbered, default=None)).drop_nulls() for frame in (run, judgments))
    values = theirs(run, judgments, ["ERR@20"])
    for query, value in per_query(run, judgments, ["ERR@20"]).iter_rows():
        assert value == pytest.approx(values.get((query, "ERR@20"), 0.0), abs=6e-6)


def test_exponential_gain_equals_a_direct_sum():
    run, judgments = random_runs(200, seed=6, duplicates=False)
    shown, judged = rankings(run), grades(judgments)
    for query, value in per_query(run, judgments, ["nDCG(exp)@10"]).iter_rows():
        found = [2.0 ** judged[query].get(doc, 0.0) - 1.0 for doc in shown.get(query, [])[:10]]
        best = sorted((2.0**grade - 1.0 for grade in judged[query].values()), reverse=True)[:10]
        ideal = sum(gain / np.log2(i + 2) for i, gain in enumerate(best))
        assert value == pytest.approx(sum(gain / np.log2(i + 2) for i, gain in enumerate(found)) / ideal if ideal else 0.0, abs=1e-12)


def test_many_or_fractional_grades_take_the_sorting_path_and_agree():
    rng = np.random.default_rng(9)
    judgments = pl.DataFrame({"query_id": ["q"] * 40, "doc_id": [f"d{i}" for i in range(40)], "relevance": rng.random(40) * 3})
    run = pl.DataFrame({"query_id": ["q"] * 40, "doc_id": [f"d{i}" for i in range(40)], "score": rng.random(40)})
    order = run.sort("score", descending=True)["doc_id"].to_list()
    gains = dict(zip(judgments["doc_id"], judgments["relevance"], strict=True))
    discount = 1 / np.log2(np.arange(2, 12))
    expected = sum(gains[d] * w for d, w in zip(order[:10], discount, strict=True)) / sum(
        g * w for g, w in zip(sorted(gains.values(), reverse=True), discount, strict=False)
    )
    assert per_query(run, judgments, ["nDCG@10"])["nDCG@10"].item() == pytest.approx(expected, abs=1e-12)


def test_binary_is_graded_after_mapping():
    run, judgments = random_runs(100, seed=7, duplicates=False)
    mapped = judgments.with_columns(relevance=(pl.col("relevance") >= 3).cast(pl.Float64))
    names = ["nDCG@10", "P@5", "AP", "ERR(max=1)@10", "RBP(p=0.8)", "RR"]
    assert per_query(run, judgments, names, min_relevance=3, graded=False).equals(per_query(run, mapped, names))
    graded = per_query(run, judgments, ["P@5", "AP", "RR"], min_relevance=3)
    assert graded.equals(per_query(run, mapped, ["P@5", "AP", "RR"]))


def test_duplicates_are_refused_or_kept_as_asked():
    run = pl.DataFrame({"query_id": ["q"] * 3, "doc_id": ["a", "b", "a"], "score": [3.0, 2.0, 1.0]})
    judgments = pl.DataFrame({"query_id": ["q"], "doc_id": ["a"], "relevance": [1]})
    with pytest.raises(BadInput, match="twice"):
        per_query(run, judgments, ["RR"])
    assert per_query(run, judgments, ["RR"], duplicates="best")["RR"].item() == 1.0
    assert per_query(run, judgments, ["RR"], duplicates="last")["RR"].item() == 0.5
    with pytest.raises(BadInput, match="judgments"):
        per_query(run.head(2), pl.concat([judgments, judgments]), ["RR"])


def test_holes_by_hand():
    run = pl.DataFrame({"query_id": ["a", "a", "a", "x"], "doc_id": ["1", "2", "3", "1"], "score": [3.0, 2.0, 1.0, 1.0]})
    judgments = pl.DataFrame({"query_id": ["a", "a", "b"], "doc_id": ["1", "3", "1"], "relevance": [1, 0, 1]})
    found = holes(run, judgments, k=2)
    assert found.per_query.rows() == [("a", 2, 1), ("x", 1, 1)]
    assert (found.missing, found.unjudged_queries) == (("b",), ("x",))


def test_segments_keep_queries_without_one():
    scores = pl.DataFrame({"query_id": ["a", "b", "c"], "P@1": [1.0, 0.0, 1.0]})
    segments = pl.DataFrame({"query_id": ["a", "b"], "language": ["uk", "uk"]})
    assert per_segment(scores, segments, "language").rows() == [(None, 1, 1.0), ("uk", 2, 0.5)]
    with pytest.raises(BadInput, match="twice"):
        per_segment(scores, pl.concat([segments, segments]), "language")


@pytest.mark.parametrize("even", [True, False])
def test_lists_give_the_same_as_long_frames(even):
    rng = np.random.default_rng(11)
    lengths = np.full(200, 12) if even else rng.integers(0, 15, 200)
    lists = [[f"document number {d}" for d in rng.permutation(30)[:length]] for length in lengths]
    judged = [(row, f"document number {d}", int(rng.integers(0, 4))) for row in range(200) for d in rng.permutation(30)[: rng.integers(0, 7)]]
    order = rng.permutation(len(judged))  # judgments come in any order
    row, relevance = np.array([judged[i][0] for i in order]), np.array([float(judged[i][2]) for i in order])
    pool = Pool(row, relevance)
    found = match(lengths, pl.Series([d for documents in lists for d in documents], dtype=pl.String), pool, pl.Series([judged[i][1] for i in order]))
    names = ["nDCG@10", "R@20", "P@10", "RR@10", "AP", "ERR@20", "RBP(p=0.8)", "RBPres(p=0.8)", "judged@10", "nDCG(exp)@5"]
    values = score(found.hits, pool, lengths, [Measure.parse(name) for name in names])
    shown = [(f"{r:03}", d, i) for r, docs in enumerate(lists) for i, d in enumerate(docs, start=1)]
    run = pl.DataFrame(shown, schema=["query_id", "doc_id", "rank"], orient="row")
    judgments = pl.DataFrame([(f"{r:03}", d, g) for r, d, g in judged], schema=["query_id", "doc_id", "relevance"], orient="row")
    for query, *expected in per_query(run, judgments, names).iter_rows():
        assert [values[name][int(query)] for name in names] == pytest.approx(expected, abs=1e-12)
    assert found.repeated.size == 0


def test_a_repeated_document_counts_at_its_first_place_and_keeps_the_second():
    pool = Pool(np.array([0, 0]), np.array([1.0, 1.0]))
    found = match(np.array([3]), pl.Series(["a", "a", "b"]), pool, pl.Series(["a", "b"]))
    assert found.hits.position.tolist() == [1, 3] and found.repeated.tolist() == [0]


@pytest.mark.parametrize("name", ["nDCG", "AP@0", "RBP(p=1.0)", "ERR(p=0.5)", "R(exp)@5", "RBP(p=x)", "precision@5", "judged"])
def test_unknown_measures_are_refused(name):
    with pytest.raises(BadInput, match="unknown measure"):
        Measure.parse(name)


def test_a_grade_beyond_errs_scale_is_refused():
    run = pl.DataFrame({"query_id": ["q"], "doc_id": ["a"], "score": [1.0]})
    judgments = pl.DataFrame({"query_id": ["q"], "doc_id": ["a"], "relevance": [5]})
    with pytest.raises(BadInput, match="max=5"):
        per_query(run, judgments, ["ERR@10"])
