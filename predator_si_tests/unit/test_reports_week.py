"""Key figures, the before-after table, priorities and the weekly report: from the ledger and snapshots alone; what is unknown is said."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from predator_si.control import Control
from predator_si.records import Answer, Criterion, CycleState, GateResult, Metric, MetricsSnapshot
from predator_si.release.deny import DenyEntry
from predator_si.reports.before_after import before_after, split_of
from predator_si.reports.plots import cycle_costs
from predator_si.reports.priorities import priorities
from predator_si.reports.stories import key_figures, stories
from predator_si.reports.week import HEADINGS, Week, as_html, as_markdown, chapters
from predator_si_tests.support.platform import open_cycle

START = datetime(2026, 11, 16, tzinfo=UTC)
END = START + timedelta(days=7)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=30)
        return self.now


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control.db", clock=Clock())


def run_cycle(control: Control, *states: CycleState, gain: float | None = None, cost: float | None = None, actor: str = "quality_gate_sensor") -> str:
    cycle = open_cycle(control, actor=actor).cycle_id
    for state in states:
        measured = gain is not None and state is CycleState.EVALUATED
        payload = {"difference": {"estimate": gain, "low": gain - 0.02, "high": gain + 0.02, "n": 90, "sd": 0.1}} if measured and gain else {}
        control.transition(cycle, state, f"it is {state.value}", "loop", payload)
        if state is CycleState.ROLLED_BACK:
            control.append("rollback", "loop", cycle, "fell", {"verified": True})
    if cost is not None:
        control.append("cycle_cost", "loop", cycle, "", {"total_cost_usd": cost})
    return cycle


GOOD = (CycleState.EVALUATED, CycleState.RELEASED, CycleState.STABLE)


def test_key_figures_count_what_happened_and_leave_drills_apart(control: Control):
    run_cycle(control, *GOOD, gain=0.04, cost=0.2)
    run_cycle(control, CycleState.EVALUATED, CycleState.RELEASED, CycleState.ROLLED_BACK, gain=0.02, cost=0.4)
    run_cycle(control, CycleState.EVALUATED, CycleState.REJECTED, gain=-0.5)
    run_cycle(control, *GOOD, gain=0.9, cost=9.0, actor="drill")
    run_cycle(control)
    found = key_figures(control.records(500), START, END)
    assert (found.cycles, found.ended, found.released, found.stable, found.rejected, found.rollbacks, found.drills) == (4, 3, 2, 1, 1, 1, 1)
    assert found.success == pytest.approx(1 / 3) and found.gain_per_release == pytest.approx(0.03) and found.gains == 2
    assert found.total_cost_usd == pytest.approx(0.6) and found.cost_per_cycle_usd == pytest.approx(0.3) and found.unmetered == 1
    assert found.median_hours == pytest.approx(1.5) and any("1 of 3 ended cycles" in note for note in found.notes)


def test_an_empty_week_has_no_rates(control: Control):
    found = key_figures([], START, END)
    assert found.cycles == 0 and found.success is None and found.total_cost_usd is None and found.notes == ("no cycle was opened in this period",)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["stable", "rejected", "failed", "open"]), max_size=5))
def test_parts_add_up(tmp_path_factory: pytest.TempPathFactory, ends: list[str]):
    control = Control(tmp_path_factory.mktemp("c") / "control.db", clock=Clock())
    roads = {"stable": GOOD, "rejected": (CycleState.REJECTED,), "failed": (CycleState.FAILED,), "open": ()}
    for end in sorted(ends, key=lambda end: end == "open")[: len([end for end in ends if end != "open"]) + ("open" in ends)]:  # one may be open, the last
        run_cycle(control, *roads[end])
    found = key_figures(control.records(500), START, END)
    assert found.stable + found.rejected + found.failed == found.ended <= found.cycles == len(stories(control.records(500)))
    assert found.success is None or found.success == found.stable / found.ended


def window(start: datetime, mock: bool = False, **values: float | None) -> MetricsSnapshot:
    sizes = {"ndcg_at_10": 50, "cost_per_1k_requests": 200, "p95_latency_ms": 200, "error_rate": 200}
    metrics = {
        name: Metric(name=name, value=value, n=sizes[name] if value is not None else 0, reason=None if value is not None else "the source is down")
        for name, value in values.items()
    }
    end = start + timedelta(minutes=15)
    return MetricsSnapshot(
        snapshot_id=f"local-{end:%Y%m%dT%H%M%S}", contour="local", created_at=end, window_start=start, window_end=end, champion="x", metrics=metrics, mock=mock
    )


def test_before_and_after_agree_with_a_plain_computation():
    rng = np.random.default_rng(7)
    values = rng.normal(0.5, 0.05, 40)
    windows = [
        window(
            START + timedelta(hours=hour),
            ndcg_at_10=values[hour] + (0.2 if hour >= 20 else 0),
            p95_latency_ms=100.0 + hour,
            error_rate=0.01 if hour < 20 else 0.0,
            cost_per_1k_requests=None,
        )
        for hour in range(40)
    ]
    found = before_after(windows, START, END, START + timedelta(hours=20), "a release")
    ndcg, p95, cost, down = found.rows
    first = values[:20]
    half = t.ppf(0.975, 19) * first.std(ddof=1) / 20**0.5
    assert (ndcg.before.value, ndcg.before.low) == pytest.approx((first.mean(), first.mean() - half)) and ndcg.before.observations == 1000
    assert ndcg.answer == "better" and p95.before.value == pytest.approx(109.5) and p95.answer == "worse"
    assert down.before.value == pytest.approx(0.01 * 1440) and down.after.value == 0.0 and down.answer == "better"
    assert cost.before.value is None and "the source is down" in str(cost.before.reason) and cost.answer == "open" and cost.difference is None
    assert found.unmeasured_hours == pytest.approx(168 - 10) and not found.mock


def test_a_window_over_the_split_is_on_no_side_and_one_window_has_no_interval():
    windows = [window(START, ndcg_at_10=0.5), window(START + timedelta(minutes=10), ndcg_at_10=0.9), window(START + timedelta(hours=1), ndcg_at_10=0.6)]
    row = before_after(windows, START, END, START + timedelta(minutes=15), "x").rows[0]
    assert (row.before.value, row.before.low, row.after.value) == (0.5, None, 0.6)


def test_the_split_is_the_newest_release_and_else_the_middle():
    moves = [(START + timedelta(days=1), "a"), (START + timedelta(days=3), "b"), (END + timedelta(days=1), "c")]
    assert split_of(moves, START, END) == (START + timedelta(days=3), "b")
    at, why = split_of([], START, END)
    assert at == START + timedelta(days=3.5) and "nothing was released" in why


def gate(metric: str, answer: Answer) -> GateResult:
    return GateResult(
        criterion=Criterion(name=f"{metric}_min", metric=metric, direction="min", threshold=1.0), answer=answer, value=None, reason=f"{metric} says so"
    )


def asked(control: Control, **changes: object) -> list[str]:
    facts: dict[str, object] = {"told": stories(control.records(500)), "gates": [], "newest": window(START), "denied": [], "since": START, "spent_usd": 0.0,
                                "budget_usd": 100.0}  # fmt: skip
    return [one.what for one in priorities(**{**facts, **changes})]  # type: ignore[arg-type]


def test_each_priority_comes_from_a_fact(control: Control):
    assert asked(control) == []
    assert asked(control, gates=[gate("a", Answer.FAIL), gate("b", Answer.UNKNOWN), gate("c", Answer.PASS)]) == ["Bring a back within its gate", "Make b known"]
    assert asked(control, newest=None) == ["Make the loop see something"]
    assert asked(control, spent_usd=80.0) == ["Look at the budget"] and asked(control, spent_usd=None) == []
    assert asked(control, overrides={"p95": END}) == ["Review the overridden gate of p95"]
    old, new = (DenyEntry(digest="sha256:" + "a" * 64, cycle="si_2026_11_17_001", reason="bad", at=at) for at in (START - timedelta(days=1), START))
    assert asked(control, denied=[old, new]) == ["Review the denied model of si_2026_11_17_001"]
    run_cycle(control, CycleState.REJECTED)
    assert asked(control) == []
    run_cycle(control, CycleState.REJECTED)
    back = run_cycle(control, CycleState.EVALUATED, CycleState.RELEASED, CycleState.ROLLED_BACK)
    waits = run_cycle(control, CycleState.AWAITING_APPROVAL)
    assert asked(control) == [
        f"Decide about {waits}", f"Find out why {back} was rolled back", "Look for another answer to ndcg_at_10_down than what was tried",
    ]  # fmt: skip


def week(control: Control, windows: list[MetricsSnapshot], **changes: object) -> Week:
    records = control.records(500)
    facts: dict[str, object] = {
        "contour": "local", "start": START, "end": END, "figures": key_figures(records, START, END), "told": stories(records), "records": records,
        "table": before_after(windows, START, END, START + timedelta(days=3), "si_x was released"), "priorities": [],
        "spent_month_usd": 0.6, "budget_usd": 100.0, "champion": "sha256:abc", "snapshots": windows,
    }  # fmt: skip
    return Week(**{**facts, **changes})  # type: ignore[arg-type]


def test_an_empty_week_says_so_under_every_heading(control: Control):
    text = as_markdown(week(control, [], champion=None))
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == list(HEADINGS)
    for words in (
        "No cycle was opened",
        "What serves at the end is unknown",
        "no window on this side",
        "No model was changed",
        "Nothing was done",
        "no rule asks for work",
    ):
        assert words in text


def test_a_weeks_report_in_markdown_and_html(control: Control):
    good = run_cycle(control, *GOOD, gain=0.0412, cost=0.25)
    control.append("kill_switch_on", "olena|<b>", None, "freeze | week <script>", {"contour": "local"})
    windows = [window(START + timedelta(hours=hour), ndcg_at_10=0.5, cost_per_1k_requests=0.01, error_rate=0.0, p95_latency_ms=90.0) for hour in range(100)]
    found = week(control, windows)
    text, page = as_markdown(found), as_html(found)
    assert f"| {good} |" in text and "+0.0412 [+0.0212, +0.0612], n=90, resolves 0.0262" in text and "0.2500 USD each" in text
    assert r"freeze \| week <script>" in text and "freeze | week &lt;script&gt;" in page and "<script>" not in page
    assert page.count("<h2>") == len(HEADINGS) and page.count("data:image/png") >= 4
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) >= 3 for line in rows)
    assert "made up" not in text and "made up" in as_markdown(week(control, [window(START, mock=True, ndcg_at_10=0.5)]))
    assert [one.heading for one in chapters(found)] == list(HEADINGS)


def test_costs_are_drawn():
    assert cycle_costs([("si_2026_11_16_001", 0.2), ("si_2026_11_17_001", 40.0)], 100.0)[:8] == b"\x89PNG\r\n\x1a\n"
