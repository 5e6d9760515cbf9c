"""The words and figures of the operations page: nothing missing in either language, numbers as each language writes them, curves that stay in their box."""

from __future__ import annotations

import re
import string
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.api.operations import figures, texts
from predator_si.api.operations.texts import LANGUAGES, TEXTS, phrase, preferred
from predator_si.records import Answer, CycleState

FOLDER = Path(texts.__file__).parent
TEMPLATES = {path.name: path.read_text(encoding="utf-8") for path in (FOLDER / "templates").glob("*.html")}
SAME = {"nav_dagster", "nav_mlflow", "nav_api", "other_language"}
"""Names of programs, and the way to the other language."""
VALUES = {
    "state_": [state.value for state in CycleState],
    "answer_": [answer.value for answer in Answer],
    "step_": ["done", "current", "skipped", "ahead"],
    "stage_": ["trial", "promote"],
    "role_": ["viewer", "operator", "approver", "admin"],
    "decision_": ["approved", "rejected", "expired", "cancelled"],
    "done_": ["approve", "reject", "stop", "start"],
    "gates_": ["passing", "warning", "failing"],
    "severity_": ["info", "warning", "critical"],
    "delivery_": ["told", "waiting", "refused", "dropped"],
    "now_": ["unprepared", "disabled", "stopped", "silent", "cycle", "waiting", "watching", "idle", "starting"],
    "link_": ["report", "training_data", "trial_page", "mlflow_run", "trial_commit", "release_commit", "rollback_commit", "dagster"],
    "measure_": ["ndcg_at_10", "p95_latency_ms", "cost_per_1k_requests", "downtime_minutes_per_day"],
    "verdict_": ["better", "worse", "open"],
    "kpi_": ["cycles", "ended", "released", "stable", "rejected", "failed", "success", "rollbacks", "median_hours", "gain_per_release", "total_cost_usd",
             "cost_per_cycle_usd"],
    "kill_title_": ["stop", "start"],
    "kill_effect_": ["stop", "start"],
    "kill_confirm_": ["stop", "start"],
}  # fmt: skip
"""What stands behind each key that a template puts together."""


def test_every_text_stands_in_both_languages():
    assert len(TEXTS) > 150
    for key, (english, ukrainian) in TEXTS.items():
        assert english.strip() and ukrainian.strip(), key
        assert re.search("[а-яіїєґ]", ukrainian.lower()) or key in SAME, f"{key}: {ukrainian!r} is not Ukrainian"
        assert not re.search("[а-яіїєґ]", english.lower()) or key == "other_language", f"{key}: {english!r} is not English"
        fields = [sorted(name for _, name, _, _ in string.Formatter().parse(one) if name) for one in (english, ukrainian)]
        assert fields[0] == fields[1], key


def test_every_key_of_a_template_has_a_text_and_every_text_is_used():
    used: set[str] = set()
    for name, template in TEMPLATES.items():
        plain = set(re.findall(r"""\bt\(["'](\w+)["']\)""", template))
        made = set(re.findall(r"""\bt\(["'](\w+_)["'] ~""", template))
        assert made <= VALUES.keys(), f"{name}: {made - VALUES.keys()} stand in no list of values above"
        used |= plain | {prefix + value for prefix in made for value in VALUES[prefix]}
        used |= set(re.findall(r"""["'](\w+)["']""", template)) & TEXTS.keys()  # keys handed to a macro
    used |= {key for module in FOLDER.glob("*.py") for key in re.findall(r"""phrase\(["'](\w+)["']""", module.read_text(encoding="utf-8"))}
    assert used - TEXTS.keys() == set()
    assert TEXTS.keys() - used == set()


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", "en"), ("uk", "uk"), ("uk-UA,uk;q=0.9,en;q=0.5", "uk"), ("en-GB,uk;q=0.9", "en"), ("de,fr;q=0.8", "en"), ("de,uk;q=0.1", "uk"), ("*", "en"),
        ("uk;q=0", "en"), ("uk;q=0.4,en;q=0.5", "en"), ("uk;q=x", "en"), (",,;;=", "en"), ("ukr", "en"),
    ],
)  # fmt: skip
def test_language_is_the_one_that_the_browser_prefers(header, expected):
    assert preferred(header) == expected


@given(st.text(max_size=60))
@settings(max_examples=60)
def test_no_header_breaks_the_page(header):
    assert preferred(header) in LANGUAGES


def test_numbers_are_written_as_each_language_writes_them():
    assert [figures.number(value, "en") for value in (None, 0, 0.7051, -0.03, 1234567.0, 200.0, 99.96, 0.00384)] == [
        "unknown", "0", "0.705", "\N{MINUS SIGN}0.03", "1,234,567", "200", "99.96", "0.0038",
    ]  # fmt: skip
    assert figures.number(1234.5, "uk", "ms") == "1\N{NO-BREAK SPACE}234\N{NO-BREAK SPACE}ms"
    assert figures.number(0.0038, "uk", "USD") == "0,0038\N{NO-BREAK SPACE}USD"
    assert figures.number(None, "uk", "ms") == phrase("unknown", "uk")
    assert figures.number(0.00001234, "en") == "1.2e\N{MINUS SIGN}05"


@given(st.floats(min_value=-1e9, max_value=1e9, allow_nan=False))
@settings(max_examples=150)
def test_a_number_on_the_page_is_the_number_that_was_measured(value):
    shown = float(figures.number(value, "en").replace(",", "").replace("\N{MINUS SIGN}", "-"))
    assert shown == pytest.approx(value, rel=0.06, abs=6e-5 if abs(value) < 0.1 else 0)


def test_durations_keep_their_two_largest_units():
    told = {0: "0 s", 8: "8 s", 60: "1 min", 850: "14 min 10 s", 7200: "2 h", 93780: "1 d 2 h"}
    assert {seconds: figures.span(timedelta(seconds=seconds), "en").replace("\N{NO-BREAK SPACE}", " ") for seconds in told} == told
    assert figures.span(timedelta(hours=3), "uk") == "3\N{NO-BREAK SPACE}год"


def test_a_moment_is_utc_to_the_minute_whatever_its_zone():
    shown = str(figures.moment("2026-11-23T16:05:59+02:00"))
    assert shown == '<time datetime="2026-11-23T14:05:59+00:00">2026-11-23 14:05</time>'
    assert figures.moment(None) == ""


def drawn(values, limit=None, name="x"):
    return ElementTree.fromstring(str(figures.sparkline(values, limit, name, "en")))


def test_unknown_windows_are_gaps_and_the_newest_value_is_a_dot():
    svg = drawn([1.0, 2.0, None, 3.0, 4.0, None], limit=2.0)
    lines = [node.attrib["points"].split() for node in svg.iter("polyline")]
    assert [len(line) for line in lines] == [2, 2]
    assert len(list(svg.iter("circle"))) == 1 and len(list(svg.iter("line"))) == 1
    assert svg.attrib["role"] == "img"
    assert svg.find("title").text == "x: 6 windows, lowest 1, highest 4, newest 4"
    alone = drawn([None, 5.0, None])
    assert [len(list(alone.iter(tag))) for tag in ("polyline", "circle", "line")] == [0, 2, 0]
    assert str(figures.sparkline([None, None], 1.0, "x", "uk")) == '<span class="faint">x: жодне вікно не має значення</span>'


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=80), st.one_of(st.none(), st.floats(-1e6, 1e6)))
@settings(max_examples=80)
def test_a_curve_stays_in_its_box(values, limit):
    if all(value is None for value in values):
        return
    svg = drawn(values, limit)
    xs = [float(pair.split(",")[0]) for node in svg.iter("polyline") for pair in node.attrib["points"].split()]
    ys = [float(pair.split(",")[1]) for node in svg.iter("polyline") for pair in node.attrib["points"].split()]
    xs += [float(node.attrib["cx"]) for node in svg.iter("circle")]
    ys += [float(node.attrib["cy"]) for node in svg.iter("circle")] + [float(node.attrib["y1"]) for node in svg.iter("line")]
    assert all(0 <= x <= 160 for x in xs) and all(0 <= y <= 36 for y in ys)
    assert xs[: len(xs) - len(list(svg.iter("circle")))] == sorted(xs[: len(xs) - len(list(svg.iter("circle")))])


def test_a_curve_says_nothing_that_a_browser_could_run():
    markup = str(figures.sparkline([1.0, 2.0], 1.5, '<script>alert("x")</script>', "en", "<b>"))
    assert "<script" not in markup and "<b>" not in markup and "style=" not in markup and "&lt;script&gt;" in markup
