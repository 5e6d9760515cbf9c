"""The page of one adaptation: four bars with their intervals, what the gate asked, where the minutes went.

What belongs here: how figures look. What must not: computing any.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from predator_si.proof.adapt.run import ARMS
from predator_si.reports.page import element, joined, page, picture, pill, section, table
from predator_si.reports.plots import arm_bars

_NAMES = {"zero_shot": "zero-shot", "zero_shot_fused": "zero-shot, fused", "adapted": "adapted, fused", "oracle": "supervised oracle, fused"}
_WHAT = {
    "none": "query texts only, no label",
    "clicks": "clicks of simulated users",
    "train": "judgments of the train queries",
}


def write_report(figures: Mapping[str, Any], file: Path) -> Path:
    """Write the page and return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_page(figures), encoding="utf-8")
    return file


def model_card(figures: Mapping[str, Any]) -> str:
    """What the candidate is, in Markdown, for whoever finds its folder."""
    low, high = figures["gain_ci"]
    plan = figures["plan"]
    return (
        f"# Reranker adapted to {figures['corpus']}\n\n"
        f"- decision: {figures['decision']} ({figures['reason']})\n"
        f"- weights: {figures['model_digest']}, trained from {figures['start']}\n"
        f"- learned from: {_WHAT[figures['labels']]}; {figures['examples']} queries, {figures['pairs']} pairs; teacher: {figures['teacher']}\n"
        f"- serve with depth {plan['depth']}, fusion weight {plan['fusion_weight']}, {plan['max_length']} tokens\n"
        f"- sealed test, {figures['n_test_queries']} queries: NDCG@10 {figures['adapted']:.4f} against {figures['zero_shot']:.4f} zero-shot, "
        f"{figures['gain']:+.4f} [{low:+.4f}, {high:+.4f}]\n"
        f"- intended use: reranking the candidates of this collection; elsewhere see `canary` in the figures\n"
    )


def _page(figures: Mapping[str, Any]) -> str:
    arms = [(f"{_NAMES[name]}", figures[name], *figures["arms_ci"][name]) for name in ARMS]
    promoted = figures["decision"] == "promoted"
    head = element("h1", f"Adapting to {figures['corpus']}")
    intro = joined(
        [pill(figures["decision"], "good" if promoted else "bad"), pill(f"labels: {figures['labels']}"), pill(f"{figures['seconds'] / 60:.1f} minutes")]
    )
    rows = [
        (f"{_NAMES[after]} less {_NAMES[before]}", f"{figures[key]:+.4f}", _interval(figures[f"{key}_ci"]), _interval(figures[f"{key}_ci_by_need"]))
        for key, after, before in (("gain", "adapted", "zero_shot"), ("fused_gain", "adapted", "zero_shot_fused"), ("oracle_gain", "oracle", "zero_shot_fused"))
    ]
    recovery = figures["gap_recovery"]
    said = f"Gap recovery: {recovery:.0%}" if recovery is not None else f"Gap recovery: unknown, {figures['gap_recovery_unknown_because']}"
    rules = [
        (rule["rule"], _number(rule["value"]), _number(rule["limit"]), pill("held" if rule["held"] else "failed", "good" if rule["held"] else "bad"))
        for rule in figures["rules"]
    ]
    canaries = [(name, f"{found[0]:+.4f}", _interval(found[1:]), figures["canary_queries"][name]) for name, found in figures["canary"].items()]
    candidates = [(one["name"], f"{one['mean']:.4f}", f"{one['gain']:+.4f}", f"{one['error']:.4f}") for one in figures["choice"]["standings"]]
    ranked = table(("candidate", "mean", "gain", "standard error"), candidates, numbers=(1, 2, 3))
    openings = [(purpose, count) for purpose, count in figures["openings"].items()]
    minutes = [(name, f"{seconds:.0f} s") for name, seconds in figures["phases"].items()]
    content = joined([
        head,
        element("p", intro),
        section(
            f"NDCG@10 on {figures['n_test_queries']} sealed queries, each judged once",
            picture(lambda theme: arm_bars(arms, theme=theme), "NDCG@10 of the four arms with 95% intervals"),
            table(("difference", "mean", "95% interval, by query", "by need"), rows, numbers=(1, 2, 3)),
            element("p", said),
        ),
        section("The gate", element("p", figures["reason"]), table(("rule", "found", "limit", ""), rules, numbers=(1, 2))),
        section("Other collections", table(("canary", "difference", "95% interval", "queries"), canaries, numbers=(1, 2, 3))),
        section("Candidates, chosen on held-out queries", element("p", figures["choice"]["reason"]), ranked),
        section("Judgments opened", table(("for", "times"), openings, numbers=(1,))),
        section("Where the time went", table(("phase", "time"), minutes, numbers=(1,))),
    ])  # fmt: skip
    return page(f"Adapting to {figures['corpus']}", "en", content)


def _interval(bounds: Any) -> str:
    return "unknown" if bounds is None else f"{bounds[0]:+.4f} to {bounds[1]:+.4f}"


def _number(value: Any) -> str:
    return "unknown" if value is None else f"{value:.4f}" if isinstance(value, float) else str(value)
