"""The explanations' card: findings on both halves, what was cut, plots, both languages, hostile words; nothing where no method spoke."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest

from predator_si.errors import BadInput
from predator_si.records import XaiInsights
from predator_si.reports import write_cycle_report
from predator_si.reports.language import Language, phrase
from predator_si.reports.plots import word_importance
from predator_si_tests.unit.test_reports_cycle import CYCLE, Page, fill, records

WEIRD = "<b>зріз & $x$</b>"


def row(name: str, reproduced: bool, **changes: Any) -> dict[str, Any]:
    facts = {
        "family": "slice",
        "n_first": 20,
        "deficit_first": 0.21,
        "ci_first": [0.1, 0.32],
        "n_second": 22,
        "deficit_second": -0.114,
        "ci_second": [0.01, 0.2],
    }
    return {**facts, "name": name, "p_second": 0.001, "p_holm": 0.0123, "reproduced": reproduced, "reason": "", **changes}


INSIGHTS = XaiInsights(
    low_coverage_tokens=[],
    importance_scores={},
    suggested_action="augment",
    contrast=[{"token": "cuda", "z": 4.21, "significant": True}, {"token": "the", "z": 0.1, "significant": False}],
    topics=[
        {"number": 7, "name": "dataframe join", "queries": 30, "judged": 21, "new": True, "mean": 0.31, "deficit": 0.2, "q_value": 0.004},
        {"number": 9, "name": "never tested", "queries": 3, "judged": None, "new": False, "mean": None, "deficit": None, "q_value": None},
    ],
    conjunctions=[],
    occlusion={
        "queries": [],
        "words": [
            {"word": WEIRD, "n": 2, "mean": -3.4, "ci_low": -4.0, "ci_high": -1.0},
            {"word": "gradient", "n": 1, "mean": 1.2, "ci_low": None, "ci_high": None},
        ],
        "groups": [{"word": "unindexed words", "n": 5, "mean": -1.25, "ci_low": -2.0, "ci_high": -0.5}],
    },
    attribution={
        "pairs": [],
        "summary": {
            "pairs": 20, "reliable": 18, "median_completeness_error": 0.013, "deletion_drop": 12.4, "random_drop": 3.6,
            "words": [{"token": "frames", "in": "query", "pair": "above", "n": 3, "mean": 1.75}],
        },
    },
    reproduced=[row(WEIRD, True), row("length=long", False), row("rare", False, p_holm=None, deficit_second=None, ci_second=None)],
    methods=[
        {"method": "words", "seconds": 0.2, "forwards": 0, "status": "done", "reason": None},
        {"method": "occlusion", "seconds": 9.96, "forwards": 1200, "status": "cut", "reason": "31 of 50 queries"},
        {"method": "attribution", "seconds": 0.0, "forwards": 0, "status": "unknown", "reason": "no torch weights"},
    ],
)  # fmt: skip


def written(tmp_path: Path, insights: XaiInsights, lang: Language = "en") -> Page:
    folder = fill(tmp_path / CYCLE)
    report = records()["diagnostic_report.json"]
    actions = [{"type": "augment", "targets_reproduced": True, "targets_reason": "1 of 3 suspected slices"}]
    changed = report.model_copy(update={"xai_insights": insights, "recommended_actions": actions})
    (folder / "diagnostic_report.json").write_text(changed.to_json())
    return Page(write_cycle_report(folder, "Cycle", lang=lang))


def test_findings_costs_and_reasons_are_shown(tmp_path: Path):
    page = written(tmp_path, INSIGHTS)
    findings = ("Found on one half, shown again on the other", "Not shown again", "0.210", "n = 22, 95%: 0.010 … 0.200", "\N{MINUS SIGN}0.114", "0.0123")
    others = ("7: dataframe join", "cuda  z = 4.2", "unindexed words", "\N{MINUS SIGN}1.25", "18 of 20", "1.3%", "12.40 / 3.60", "frames")
    costs = ("1 of 3 suspected slices", "wrong document above it", "31 of 50 queries", "cut short", "no torch weights", "1,200", "unknown")
    for text in ("What carries the loss", *findings, *others, *costs):
        assert text in page.text, text
    assert "never tested" not in page.text and "the  z" not in page.text
    assert page.tags.count("img") == 3, "slices, differences and the words' bars"


def test_hostile_names_stay_text_and_are_drawn(tmp_path: Path):
    page = written(tmp_path, INSIGHTS)
    assert "b" not in page.tags and WEIRD in page.text


def test_every_phrase_is_there_in_ukrainian(tmp_path: Path):
    page = written(tmp_path, INSIGHTS, "uk")
    for heading in ("Що спричиняє втрати", "Теми запитів", "Слова найгіршої чверті", "підтверджено на другій", "Що робить кожне слово", "скорочено"):
        assert heading in page.text
    kinds = [*(f"family_{name}" for name in ("word", "slice", "topic", "conjunction")), "status_done", "status_cut", "status_unknown"]
    kinds += [f"method_{name}" for name in ("all", "words", "contrast", "topics", "conjunctions", "reproduced", "occlusion", "attribution")]
    for key in kinds:
        assert len({phrase(key, lang) for lang in get_args(Language)}) == 2


def test_a_report_without_explanations_has_no_card(tmp_path: Path):
    assert "What carries the loss" not in written(tmp_path, XaiInsights(low_coverage_tokens=[], importance_scores={}, suggested_action="augment")).text


def test_bars_are_a_small_picture_in_both_themes_and_no_word_is_refused():
    words = INSIGHTS.occlusion["words"]
    light, dark = (word_importance(words, theme=theme) for theme in ("light", "dark"))
    assert light[:8] == b"\x89PNG\r\n\x1a\n" and light != dark and len(light) < 80_000
    with pytest.raises(BadInput, match="no word"):
        word_importance([])
