"""Conjunctions: a planted one is found with the others' names left out; features say what they see and what they cannot."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import polars as pl
import pytest

from predator_si.corpora.words import token_lists
from predator_si.diagnose.conjunctions import find_conjunctions, members_of
from predator_si.diagnose.features import language, query_features
from predator_si.errors import BadInput


def planted(seed: int, n: int = 400) -> tuple[dict[str, list[str | None]], np.ndarray, np.ndarray]:
    """Errors about .25; .3 more where language=uk and length=long, which neither condition alone has."""
    rng = np.random.default_rng(seed)
    features: dict[str, list[str | None]] = {
        "language": list(rng.choice(["uk", "latin"], n)),
        "length": list(rng.choice(["short", "middle", "long"], n)),
        "digits": list(rng.choice(["yes", "no"], n)),
        "topic": list(rng.choice(["1: join", "2: plot", "3: parse"], n)),
    }
    bad = np.array([a == "uk" and b == "long" for a, b in zip(features["language"], features["length"], strict=True)])
    return features, np.clip(rng.normal(0.25 + 0.3 * bad, 0.12), 0, 1), bad


def test_the_planted_conjunction_is_first_and_readable():
    for seed in range(5):
        features, error, bad = planted(seed)
        found = find_conjunctions(features, error)
        assert found[0].name == "language=uk and length=long"
        assert found[0].members.tolist() == np.flatnonzero(bad).tolist()
        assert found[0].mean_error == pytest.approx(error[bad].mean()) and found[0].mean_error_rest == pytest.approx(error[~bad].mean())
        assert found[0].n == bad.sum()


def test_the_worst_conjunction_is_that_of_a_full_enumeration():
    features, error, _ = planted(7, 200)
    best = max(
        (
            (error[rows].mean() / error.mean() - 1) * 0.95 - 0.05 * (len(error) / len(rows) - 1)
            for level in (1, 2, 3)
            for names in combinations(features, level)
            for values in product(*(sorted(set(features[name])) for name in names))
            if len(rows := members_of(list(zip(names, values, strict=True)), features)) >= 10
        ),
    )
    assert find_conjunctions(features, error, gain=-1.0)[0].score == pytest.approx(best)


def test_a_condition_that_adds_nothing_is_left_out():
    features, _, _ = planted(1)
    error = np.where(np.array(features["language"]) == "uk", 0.6, 0.2)
    assert [one.name for one in find_conjunctions(features, error)] == ["language=uk"]


def test_only_the_searched_half_is_looked_at_but_all_members_are_named():
    features, error, bad = planted(2)
    searched = np.arange(400) < 200
    moved = error.copy()
    moved[200:] = np.random.default_rng(0).random(200)
    first, second = (find_conjunctions(features, values, searched=searched) for values in (error, moved))
    assert [(one.name, one.n, one.mean_error) for one in first] == [(one.name, one.n, one.mean_error) for one in second]
    assert first[0].members.tolist() == np.flatnonzero(bad).tolist() and first[0].n == bad[:200].sum()


def test_unknown_bins_and_unknown_errors_form_no_slice():
    features, error, _ = planted(3)
    features["age"] = [None if place % 2 else "old" for place in range(400)]
    raised = np.where(np.arange(400) % 2, 0.9, error)
    assert all("age" not in one.name for one in find_conjunctions(features, raised))
    blind = np.where(np.arange(400) < 390, np.nan, error)
    assert find_conjunctions(features, blind) == []


def test_wrong_input_is_named():
    features, error, _ = planted(0)
    with pytest.raises(BadInput, match="feature length"):
        find_conjunctions({"length": ["a"]}, error)
    with pytest.raises(BadInput, match="losses of at least 0"):
        find_conjunctions(features, error - 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("join two frames", "latin"),
        ("як з'єднати дві таблиці і її ключі", "uk"),
        ("как объединить таблицы", "ru"),
        ("таблиця", "cyrillic"),
        ("表を結合する", "cjk"),
        ("ταξινόμηση", "greek"),
        ("12 + 34", None),
    ],
)
def test_language_goes_as_far_as_letters_tell(text: str, expected: str | None):
    assert language(text) == expected


def test_features_are_what_they_say():
    texts = ["join frames", "join frames on key 7 now please", "zzz qqq", "plot axis", "plot the axis of one figure please"]
    judged = pl.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(5)],
            "text": texts,
            "candidate_ids": [["a", "b"], ["b", "c"], ["b", "a"], None, ["d", "e"]],
            "lexical_ids": [["a"], ["b"], ["x"], None, ["d"]],
            "dense_ids": [["a"], ["a"], ["y"], None, ["z"]],
        }
    )
    relevant = {"q0": {"a": 1.0}, "q1": {"a": 2.0, "b": 1.0}, "q2": {"c": 1.0}, "q3": {"d": 1.0}, "q4": {"d": 1.0, "e": 1.0}}
    bodies = {"a": "how to join frames", "c": "nothing", "d": "word " * 40 + "axis", "b": "x"}
    known = ("join", "frames", "on", "key", "plot", "axis", "the", "of", "one", "figure", "please")
    found = query_features(
        judged,
        token_lists(texts),
        relevant,
        document_frequency=dict.fromkeys(known, 1),
        log=["join frames", "JOIN frames", "plot axis"],
        text_of=bodies.get,
        age_of={"a": 1.0, "c": 5.0, "d": 9.0},
        depth=1,
    )
    bins = found.bins
    assert bins["digits"] == ["no", "yes", "no", "no", "no"]
    assert bins["unindexed"] == ["none", "some", "many", "none", "none"]
    assert bins["frequency"] == ["head", "tail", "tail", "torso", "tail"]
    assert bins["gold"] == ["retrieved", "partly", "missed", None, "partly"]
    assert bins["legs"] == ["both", "both", "none", None, "lexical"]
    assert bins["exact match"] == ["all", "few", "few", "most", "few"]
    assert bins["first match"] == ["early", "early", "none", "late", "late"]
    assert bins["document age"] == ["new", "new", "middle", "old", "old"]
    assert bins["length"][1] == "long" and bins["length"][0] == "short"
    assert found.left_out["language"] == "the same for all queries" and "topic" not in bins


def test_what_cannot_be_known_is_left_out_with_a_reason():
    judged = pl.DataFrame({"query_id": ["q"], "text": ["join"], "candidate_ids": [None]}, schema_overrides={"candidate_ids": pl.List(pl.String)})
    found = query_features(judged, [["join"]], {"q": {"a": 1.0}})
    assert {"gold", "legs", "agreement", "unindexed", "frequency", "document length", "exact match", "document age"} <= set(found.left_out)
    assert not found.bins
