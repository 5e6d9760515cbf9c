"""What the explaining methods said, as one card of the cycle's page: findings on both halves, topics, words, the model's view, what it cost.

What belongs here: tables and a plot of ``XaiInsights``. What must not: any test or threshold: what is shown as reproduced was recorded so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from predator_si.records import DiagnosticReport
from predator_si.reports.page import Markup, element, joined, picture, pill, section, table
from predator_si.reports.plots import word_importance

_LISTED = 8
_PLOTTED = 14
_STATUS_COLOURS = {"done": "good", "cut": "open", "unknown": "plain"}
Say = Callable[[str], str]


def explanation_section(report: DiagnosticReport | None, say: Say) -> Markup | None:
    """The card, or null where no method said anything.

    Parameters
    ----------
    say
        Key of a phrase -> the phrase in the page's language.
    """
    if report is None or not report.xai_insights.methods:
        return None
    content = [
        *_findings(report, say),
        *_topics(report.xai_insights.topics, say),
        *_contrast(report.xai_insights.contrast, say),
        *_occlusion(report.xai_insights.occlusion, say),
        *_attribution(report.xai_insights.attribution, say),
        *_methods(report.xai_insights.methods, say),
    ]
    return section(say("explanations"), *content)


def _findings(report: DiagnosticReport, say: Say) -> list[Markup]:
    rows = report.xai_insights.reproduced
    confirmed, others = [row for row in rows if row["reproduced"]], [row for row in rows if not row["reproduced"]]
    content = []
    reason = next((action["targets_reason"] for action in report.recommended_actions if action.get("targets_reason")), None)
    if reason is not None:
        content.append(element("p", reason))
    head = [say("finding"), "", say("first_half"), say("second_half"), say("holm_p")]
    for title, listed in (("reproduced", confirmed), ("not_reproduced", others[:_LISTED])):
        if listed:
            lines = [
                (row["name"], say(f"family_{row['family']}"), _effect(row, "first", say), _effect(row, "second", say), _figure(row["p_holm"], say, 4))
                for row in listed
            ]
            content += [element("h3", say(title)), table(head, lines, numbers=(2, 3, 4))]
    return content


def _effect(row: Mapping[str, Any], side: str, say: Say) -> Any:
    """The deficit on one half with its interval and sample."""
    interval = row.get(f"ci_{side}")
    shown = _figure(row.get(f"deficit_{side}"), say)
    note = f"n = {row.get(f'n_{side}')}" if interval is None else f"n = {row.get(f'n_{side}')}, 95%: {_figure(interval[0], say)} … {_figure(interval[1], say)}"
    return joined([shown, element("small", note)])


def _topics(topics: Sequence[Mapping[str, Any]], say: Say) -> list[Markup]:
    tested = [row for row in topics if row.get("deficit") is not None][:_LISTED]
    lines = [
        (joined([f"{row['number']}: {row['name']} ", pill(say("new_topic"), "open") if row.get("new") else ""]), row["judged"], _figure(row["mean"], say),
         _figure(row["deficit"], say), _figure(row["q_value"], say, 4))
        for row in tested
    ]  # fmt: skip
    head = [say("topic"), "n", "NDCG@10", say("deficit"), "q"]
    return [element("h3", say("topics")), table(head, lines, numbers=(1, 2, 3, 4))] if lines else []


def _contrast(words: Sequence[Mapping[str, Any]], say: Say) -> list[Markup]:
    labels = [pill(f"{row['token']}  z = {row['z']:.1f}", "bad") for row in words if row.get("significant")]
    return [element("h3", say("contrast")), element("p", *labels)] if labels else []


def _occlusion(found: Mapping[str, Any], say: Say) -> list[Markup]:
    if not found.get("words"):
        return []
    words = _strongest(found["words"])
    content = [
        element("h3", say("occlusion")),
        element("p", say("occlusion_text")),
        picture(lambda theme: word_importance(words, theme=theme), say("occlusion")),
    ]
    groups = [(row["word"], row["n"], _figure(row["mean"], say, 2), _range(row["ci_low"], row["ci_high"], say)) for row in found.get("groups", [])]
    return [*content, table([say("kind_of_word"), "n", say("effect"), "95%"], groups, numbers=(1, 2, 3))] if groups else content


def _strongest(words: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those of several queries first, then by size of the effect; shown from the most harmful to the most helpful."""
    chosen = sorted(words, key=lambda row: (row["n"] < 2, -abs(row["mean"]), row["word"]))[:_PLOTTED]
    return sorted(chosen, key=lambda row: (row["mean"], row["word"]))


def _attribution(found: Mapping[str, Any], say: Say) -> list[Markup]:
    summary = found.get("summary") or {}
    if not summary:
        return []
    facts = [
        (say("pairs"), summary["pairs"]),
        (say("reliable"), f"{summary['reliable']} {say('of')} {summary['pairs']}"),
        (say("completeness"), f"{100 * summary['median_completeness_error']:.1f}%"),
        (say("deletion"), f"{_figure(summary['deletion_drop'], say, 2)} / {_figure(summary['random_drop'], say, 2)}"),
    ]
    lines = [
        (element("code", row["token"]), say(f"in_{row['in']}"), say(f"pair_{row['pair']}"), row["n"], _figure(row["mean"], say, 2))
        for row in summary.get("words", [])[:_LISTED]
    ]
    content = [element("h3", say("attribution")), table(["", ""], facts, numbers=(1,))]
    return [*content, table([say("token"), "", "", "n", say("effect")], lines, numbers=(3, 4))] if lines else content


def _methods(methods: Sequence[Mapping[str, Any]], say: Say) -> list[Markup]:
    lines = [
        (say(f"method_{row['method']}"), f"{row['seconds']:.1f}", f"{row['forwards']:,}", pill(say(f"status_{row['status']}"), _STATUS_COLOURS[row["status"]]),
         row.get("reason") or "")
        for row in methods
    ]  # fmt: skip
    return [element("h3", say("methods")), table(["", say("seconds"), say("forwards"), "", say("reason")], lines, numbers=(1, 2))]


def _range(low: float | None, high: float | None, say: Say) -> str:
    return "" if low is None else f"{_figure(low, say, 2)} … {_figure(high, say, 2)}"


def _figure(value: float | None, say: Say, digits: int = 3) -> str:
    return say("unknown") if value is None else f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")
