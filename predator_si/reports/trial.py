"""``ab_test_results.html``: a trial as people read it: the verdict, the sequences over time, validity, slices, what would change it.

What belongs here: drawing a result that exists. What must not: judging.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predator_si.experiment.plan import Experiment
from predator_si.records import Answer, ExperimentResult, GateResult
from predator_si.reports.page import Markup, element, joined, page, picture, pill, section, table
from predator_si.reports.pages import TRIAL_PAGE
from predator_si.reports.sequences import confidence_sequences
from predator_si.statistics.design import DEFAULT_DESIGN

_COLOURS = {Answer.PASS: "good", Answer.FAIL: "bad", Answer.UNKNOWN: "open", Answer.NOT_APPLICABLE: "plain"}
_VERDICTS = {"promote": "good", "reject": "bad", "inconclusive": "open"}


def write_trial_page(folder: Path, trial: Experiment, result: ExperimentResult, earlier: Sequence[ExperimentResult] = ()) -> Path:
    """Write the page of a trial's newest look into the cycle's folder: one static file, pictures inside, readable without a network.

    Parameters
    ----------
    earlier
        The last results of the steps before the one that ``result`` judged, in their order: each keeps its sequences, validity and sample on the page.
    """
    parts = [_head(trial, result), _changes(result), _sequences(result), _gates(result), _slices(result), _sizes(result)]
    for number, step in enumerate(earlier, start=1):
        parts += _earlier(f"Step {number}, {step.mode}: ", step)
    parts += [_looks(trial), _inputs(result)]
    path = Path(folder) / TRIAL_PAGE
    partial = path.with_suffix(".partial")
    partial.write_text(page(f"Trial of {result.cycle_id}", "en", joined(part for part in parts if part)), encoding="utf-8")
    partial.replace(path)
    return path


def _head(trial: Experiment, result: ExperimentResult) -> Markup:
    verdict = pill(result.verdict.value, _VERDICTS[result.verdict.value])
    labels = [verdict, pill(result.mode), *([pill("simulated users")] if result.simulated else [])]
    state = f"ended {trial.ended_at:%Y-%m-%d %H:%M} UTC" if trial.ended_at is not None else "goes on"
    step = trial.plan.steps[min(trial.step, len(trial.plan.steps) - 1)]
    where = f"step {trial.step + 1} of {len(trial.plan.steps)} ({step.mode} at {step.share:.0%}), {len(trial.looks)} looks, {state}"
    return element("header", element("h1", f"Trial of {result.cycle_id}"), element("p", where), element("p", *labels), element("p", result.reason))


def _earlier(which: str, step: ExperimentResult) -> list[Markup | None]:
    said = section(f"{which}verdict", element("p", pill(step.verdict.value, _VERDICTS[step.verdict.value])), element("p", step.reason))
    return [said, _sequences(step, which), _gates(step, which), _slices(step, which), _sizes(step, which)]


def _changes(result: ExperimentResult) -> Markup:
    lines = [element("li", line) for line in result.would_change] or [element("li", "Nothing that was measured.")]
    return section("What would change this verdict", element("ul", *lines))


def _sequences(result: ExperimentResult, which: str = "") -> Markup | None:
    if not any(point["estimate"] is not None for path in result.paths for point in path["points"]):
        return None
    told = (
        "Each band holds the true change at every look at once with probability 95%, so it may be looked at as often as one likes. A guardrail passes when the "
        "band's side of the margin is shown to be clear of it, and fails when the change is shown to be for the worse."
    )
    lines = element("ul", *(element("li", line) for line in resolutions(result)))
    drawn = picture(lambda theme: confidence_sequences(result.paths, theme=theme), "sequences")
    return section(f"{which}Confidence sequences over the trial", drawn, element("p", told), element("p", "What this step can resolve:"), lines)


def resolutions(result: ExperimentResult) -> list[str]:
    """Of each sequence, the smallest change that it could tell from none at its newest look: half of its width."""
    found = []
    for path in result.paths:
        newest = path["points"][-1] if path["points"] else None
        if newest is None or newest["low"] is None or newest["high"] is None:
            found.append(f"{path['metric']}: nothing yet, its sequence is unbounded")
            continue
        half = (newest["high"] - newest["low"]) / 2.0
        shown = f"{half:.1%}" if path["kind"] == "relative" else f"{100.0 * half:.2f} points"
        found.append(f"{path['metric']}: a change of about {shown}, from {newest['n']:,} requests")
    return found


def _gates(result: ExperimentResult, which: str = "") -> Markup:
    def rows(gates: list[GateResult]) -> list[tuple[Any, ...]]:
        return [(gate.criterion.name, pill(gate.answer.value, _COLOURS[gate.answer]), f"{gate.n:,}", gate.reason) for gate in gates]

    head = ("", "answer", "n", "what was found")
    content: list[Any] = [element("h3", "May it be judged?"), table(head, rows(result.quality), numbers=(2,))] if result.quality else []
    content += [element("h3", "Guardrails: all must pass"), table(head, rows(result.guardrails), numbers=(2,))]
    if result.success:
        content += [element("h3", "Better on live traffic"), table(head, rows(result.success), numbers=(2,))]
    return section(f"{which}Validity, guardrails, success", *content)


def _slices(result: ExperimentResult, which: str = "") -> Markup | None:
    if not result.slices:
        return None

    def shown(value: float | None) -> str:
        return "unbounded" if value is None else f"{value:+.1%}"

    rows = [
        (row["name"], row["metric"], f"{row['champion']:,} / {row['challenger']:,}", "unknown" if row["estimate"] is None else shown(row["estimate"]),
         f"{shown(row['low'])} to {shown(row['high'])}", shown(row["margin"]), pill(row["answer"], _COLOURS[Answer(row["answer"])]))
        for row in result.slices
    ]  # fmt: skip
    told = element("p", "No part of the traffic with enough data may be worse than its margin; unknown has too little to be asked.")
    return section(f"{which}By slice", told, table(("slice", "metric", "requests", "change", "sequence", "margin", "answer"), rows, numbers=(2, 3, 4, 5)))


def _sizes(result: ExperimentResult, which: str = "") -> Markup:
    ratio = "does not apply" if result.sample_ratio_p is None else f"{result.sample_ratio_p:.3g}, at any look; broken below {_split_limit(result):g}"
    rows = [(name, f"{n:,}") for name, n in result.requests.items()] + [("sample-ratio p", ratio)]
    return section(f"{which}Sample", table(("", ""), rows, numbers=(1,)))


def _split_limit(result: ExperimentResult) -> float:
    return next((gate.criterion.threshold for gate in result.quality if gate.criterion.metric == "sample_ratio_p"), DEFAULT_DESIGN.sample_ratio_alpha)


def _looks(trial: Experiment) -> Markup | None:
    if not trial.looks:
        return None
    rows = [
        (f"{look.at:%Y-%m-%d %H:%M:%S}", f"{look.step + 1} ({trial.plan.steps[look.step].mode})", f"{look.requests:,}",
         pill(look.verdict.value, _VERDICTS[look.verdict.value]), look.reason)
        for look in trial.looks
    ]  # fmt: skip
    return section("Looks", table(("time (UTC)", "step", "requests", "verdict", "reason"), rows, numbers=(2,)))


def _inputs(result: ExperimentResult) -> Markup:
    rows = [(name, element("code", sha)) for name, sha in result.evidence.items()]
    told = element("p", "Judge it again from these files: ", element("code", f"predator-si eval replay {result.cycle_id}"))
    return section("Evidence", told, table(("file", "sha256"), rows)) if rows else section("Evidence", element("p", "Not stored."))
