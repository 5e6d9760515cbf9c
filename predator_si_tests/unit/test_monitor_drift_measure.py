"""Drift is called as seldom as was chosen on equal windows, and found where there is some; what cannot be compared says why."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.monitor.drift import Documents, domain_classifier, language, language_mix, measure_drift, mix_shift, number_shift
from predator_si.monitor.drift.domain import hashed_ngrams
from predator_si.records import DriftReport, MetricsSnapshot
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START, frames, search

SHARED = Path(__file__).parents[3] / "shared" / "data"
TOPICS = {
    "files": ["open", "read", "file", "path", "write", "folder", "binary", "lines", "close", "stream", "copy", "rename"],
    "models": ["tensor", "train", "gradient", "layer", "batch", "loss", "token", "attention", "optimizer", "weights", "epoch", "decoder"],
}


def queries(rng, n, topic="files", mixed=0.0):
    """Queries of three or four words of a topic; ``mixed`` is the share of the other topic's."""
    other = "models" if topic == "files" else "files"
    return [
        " ".join(rng.choice(TOPICS[other if rng.random() < mixed else topic], rng.integers(3, 5), replace=False)) + f" {rng.integers(100)}" for _ in range(n)
    ]


def points(rng, shift=0.0):
    """Stands for an embedder: a text is a random point, those of the other side shifted along one direction."""
    known = {}

    def vectorise(texts):
        for text in texts:
            known.setdefault(text, rng.normal(size=24) + shift * text.startswith("new") * np.eye(24)[0])
        return np.stack([known[text] for text in texts])

    return vectorise


def names(side, n):
    return [f"{side}{i}" for i in range(n)]


def test_area_and_interval_agree_with_logistic_regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    vectorise = points(np.random.default_rng(0), shift=1.0)
    found = domain_classifier(names("old", 200), names("new", 200), vectorise, permutations=199)
    rows = vectorise(names("old", 200) + names("new", 200))
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.repeat([0, 1], 200)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    theirs = roc_auc_score(labels, cross_val_predict(LogisticRegression(C=10.0), rows, labels, cv=folds, method="decision_function"))
    assert found.auc == pytest.approx(theirs, abs=0.03) and found.interval[0] < theirs < found.interval[1] and found.p == 1 / 200


def test_chance_is_believed_to_be_what_it_is():
    """200 pairs of equal windows: p at most .05 in about one of twenty, and the area where the null interval says."""
    rng = np.random.default_rng(1)
    found = [domain_classifier(names("old", 40), names("new", 40), points(rng), permutations=99, seed=i) for i in range(200)]
    assert 0.01 <= np.mean([one.p <= 0.05 for one in found]) <= 0.10
    assert np.mean([one.null_interval[0] <= one.auc <= one.null_interval[1] for one in found]) > 0.9


def test_texts_that_stand_on_both_sides_make_no_drift():
    """Popular queries come back: most of both windows is the same, and it must neither hide nor make a difference."""
    rng, alarms = np.random.default_rng(2), []
    for i in range(100):
        sides = [[f"head{j}" for j in rng.choice(60, 40, replace=False)] + names(f"{name}{i}-", 20) for name in ("old", "new")]
        alarms.append(domain_classifier(*sides, points(rng), permutations=99, seed=i).p <= 0.05)
    assert np.mean(alarms) <= 0.12


@pytest.mark.parametrize(("shift", "least"), [(1.0, 0.8), (1.5, 0.99)])
def test_a_shift_is_found(shift, least):
    rng = np.random.default_rng(3)
    found = [domain_classifier(names("old", 100), names("new", 100), points(rng, shift), permutations=99, seed=i).p <= 0.01 for i in range(30)]
    assert np.mean(found) >= least


def test_too_few_texts_are_said():
    assert domain_classifier(["a"] * 50, names("new", 50), hashed_ngrams) == "1 distinct texts in the reference window, 20 are needed"


def test_numbers_shift_by_hand_and_against_scipy():
    from scipy.stats import ks_2samp, mannwhitneyu

    rng = np.random.default_rng(4)
    first, second = rng.normal(0, 1, 150), rng.normal(0.5, 1, 120)
    item = number_shift("top_score", first, second, 0.15)
    assert item.statistic == pytest.approx(ks_2samp(first, second).statistic) and item.interval[0] < item.statistic < item.interval[1]
    assert item.details["cliffs_delta"] == pytest.approx(2 * mannwhitneyu(second, first).statistic / (150 * 120) - 1)
    same = number_shift("x", first, first, 0.15)
    assert (same.statistic, same.p, same.details["js"]) == (0.0, 1.0, 0.0) and same.details["psi"] == 0.0 and same.details["cliffs_delta"] == 0.0
    apart = number_shift("x", np.zeros(50), np.ones(50), 0.15)
    assert (apart.statistic, apart.details["cliffs_delta"], apart.details["js"]) == (1.0, 1.0, 1.0) and apart.details["psi"] > 5
    assert "19 and 50 values" in number_shift("x", np.zeros(19), np.ones(50), 0.15).reason


def test_mixes_shift_by_hand():
    item = mix_shift("language_mix", {"en": 90, "uk": 10}, {"en": 60, "uk": 30, "ru": 10}, 0.05)
    assert item.statistic == pytest.approx(0.3) and item.p < 0.001 and "uk 10% before, 30% now" in item.reason
    assert mix_shift("x", {"en": 90, "uk": 10}, {"en": 91, "uk": 9}, 0.05).p > 0.5
    rng = np.random.default_rng(5)
    alarms = [mix_shift("x", *(dict(enumerate(rng.multinomial(200, [0.7, 0.2, 0.1]).tolist())) for _ in range(2)), 0.0, seed=i).p <= 0.05 for i in range(200)]
    assert 0.005 <= np.mean(alarms) <= 0.10


# --------------------------------------------------------------------------- the report


def requests(rng, texts, *, score=10.0, start=0, **changes):
    rows = []
    for i, text in enumerate(texts):
        top = float(rng.normal(score, 1.0))
        results = [{"object_id": f"d{r}", "score": top - r, "first_stage_score": None, "rerank_score": top - r} for r in range(3)]
        rows.append(search(start + i, user_query=text, results=results, **changes))
    return frames(rows).search


def report(reference, current, **more):
    end = START + timedelta(hours=2)
    shot = MetricsSnapshot(
        snapshot_id="s1", contour="local", created_at=end, window_start=START + timedelta(hours=1), window_end=end, champion=CHAMPION, metrics={}
    )
    return measure_drift(reference, current, shot, created_at=end, reference_window=(START, START + timedelta(hours=1)), **more)


def item(found, name):
    return next(one for one in found.items if one.name == name)


def test_equal_windows_call_no_drift():
    """At the chosen 1% for a whole report: 20 reports on equal windows, at most two that call anything."""
    rng = np.random.default_rng(6)
    found = [report(requests(rng, queries(rng, 60)), requests(rng, queries(rng, 60)), seed=i) for i in range(20)]
    assert sum(one.drifted for one in found) <= 2
    assert all(one.adjusted_p >= one.p for each in found for one in each.items if one.p is not None)


def test_another_topic_another_score_and_another_language_are_called_each_by_its_name():
    rng = np.random.default_rng(7)
    before = requests(rng, queries(rng, 120))
    topic = report(before, requests(rng, queries(rng, 120, mixed=0.6)))
    assert item(topic, "query_domain").drifted and item(topic, "new_tokens").drifted and not item(topic, "top_score").drifted
    assert item(topic, "new_tokens").details["tokens"] and set(item(topic, "new_tokens").details["tokens"]) & set(TOPICS["models"])
    scores = report(before, requests(rng, queries(rng, 120), score=8.5))
    assert item(scores, "top_score").drifted and not item(scores, "query_domain").drifted and item(scores, "top_score").details["cliffs_delta"] < -0.5
    foreign = [f"як прочитати файл номер {i}" for i in range(40)]
    languages = report(before, requests(rng, queries(rng, 80) + foreign))
    assert item(languages, "language_mix").drifted and "uk 0% before, 33% now" in item(languages, "language_mix").reason
    assert DriftReport.model_validate_json(languages.to_json()) == languages and languages.drifted


def test_what_cannot_be_compared_says_why():
    rng = np.random.default_rng(8)
    before = requests(rng, queries(rng, 60))
    erased = requests(rng, queries(rng, 60)).with_columns(user_query=pl.lit(None, pl.String))
    found = report(before, erased)
    assert found.erased == 60 and item(found, "query_domain").drifted is None and "0 distinct texts" in item(found, "query_domain").reason
    assert item(found, "top_score").drifted is False  # scores need no text
    other = report(before, requests(rng, queries(rng, 60), model_digest=CHALLENGER))
    assert item(other, "top_score").statistic is None and "different models" in item(other, "top_score").reason
    assert "no sample of an earlier index generation" in item(found, "document_domain").reason


def test_a_query_asked_a_hundred_times_is_one_observation():
    rng = np.random.default_rng(9)
    texts = queries(rng, 60)
    found = report(requests(rng, texts), requests(rng, [*texts, *[texts[0]] * 200]))
    assert item(found, "query_domain").n == (60, 60) and item(found, "top_score").n == (60, 60) and not found.drifted


def test_documents_of_a_new_domain_are_called_and_new_ones_of_the_old_are_not():
    rng = np.random.default_rng(10)
    before = requests(rng, queries(rng, 30))
    old, fresh, shifted = (rng.normal(size=(150, 16)) + centre * np.eye(16)[0] for centre in (0.0, 0.0, 3.0))
    sample = [Documents(tuple(names(name, 150)), rows.astype(np.float32), name) for name, rows in (("a", old), ("b", fresh), ("c", shifted))]
    assert not item(report(before, before, documents=(sample[0], sample[1])), "document_domain").drifted
    moved = item(report(before, before, documents=(sample[0], sample[2])), "document_domain")
    assert moved.drifted and moved.statistic > 0.9 and "generations a and c" in moved.reason


# --------------------------------------------------------------------------- languages


SHORT = {
    "how to read a file": "en",
    "як прочитати файл": "uk",
    "как прочитать файл": "ru",
    "команда": "cyrillic",
    "wie man eine Datei liest": "latin",
    "cómo leer un archivo": "latin",
    "comment lire un fichier": "latin",
    "读取文件": "cjk",
    "42 == 42": "none",
    "διαβάζω αρχείο": "greek",
    "": "none",
}


@pytest.mark.parametrize(("text", "expected"), SHORT.items())
def test_languages_of_short_texts(text, expected):
    assert language(text) == expected


@pytest.mark.parametrize(
    ("folder", "expected", "wrong", "undecided"),
    [("man-uk", "uk", 0.0, 0.04), ("xquad-ru", "ru", 0.004, 0.015), ("faq-docs", "en", 0.0, 0.0), ("stackfaq", "en", 0.0, 0.02), ("scifact", "en", 0.0, 0.06)],
)
def test_error_on_the_judged_collections(folder, expected, wrong, undecided):
    path = SHARED / folder / "queries.jsonl"
    if not path.is_file():
        pytest.skip(f"{folder} is not on this machine: the judged collections are not part of the project")
    mix = language_mix([json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()])
    total, open_ones = sum(mix.values()), mix.get("latin", 0) + mix.get("cyrillic", 0) + mix.get("none", 0)
    assert open_ones / total <= undecided and (total - open_ones - mix[expected]) / total <= wrong
