"""The quality page of one window: what was measured, what the gates say and why not, where it hurts, where the time goes.

What belongs here: drawing what others measured. What must not: a verdict, a test, a word of a user's query (examples are judged probes).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import polars as pl

from predator_si.errors import BadInput, Unavailable
from predator_si.records import Answer, Baseline, GateResult, Metric, MetricsSnapshot
from predator_si.reports.cycle import number
from predator_si.reports.language import Language, phrase
from predator_si.reports.page import Markup, element, joined, page, picture, pill, section, table
from predator_si.reports.plots import latency_histogram, metric_history, stage_shares
from predator_si.signals import SIGNALS

HISTORY = ("ndcg_at_10", "recall_at_20", "p95_latency_ms", "error_rate", "cost_per_1k_requests", "user_satisfaction")
"""Metrics whose history is drawn, where any window knows them."""
_COLOURS = {Answer.PASS: "good", Answer.FAIL: "bad", Answer.UNKNOWN: "open", Answer.NOT_APPLICABLE: "plain"}
_STATUS = {"passing": "good", "warning": "open", "failing": "bad"}
_WINDOWS = 200
_SLICES, _EXAMPLES = 6, 3


@dataclass(frozen=True)
class Example:
    """A judged probe query of a slice: ``rank`` of its best relevant document among the results (from 1, null: not shown)."""

    query: str
    ndcg: float
    rank: int | None
    first: str


@dataclass(frozen=True)
class WorstSlice:
    """A slice that is surely worse than the rest: mean NDCG@10 of its ``n`` probes and of the rest, deficit with its interval, q-value."""

    name: str
    n: int
    mean: float
    mean_rest: float
    ci_low: float
    ci_high: float
    q_value: float
    examples: tuple[Example, ...] = ()


@dataclass(frozen=True)
class DriftLine:
    """One measured drift; ``drifted`` is null where it could not be measured, and ``note`` then says why."""

    name: str
    statistic: float | None
    low: float | None
    high: float | None
    p_value: float | None
    n: int
    drifted: bool | None
    note: str = ""


@dataclass(frozen=True)
class WindowEvidence:
    """All that one page shows.

    Attributes
    ----------
    history
        Snapshots up to this one, any order.
    status
        What the gates come to together.
    starts, reasons, retry_at
        What the loop does now: whether a cycle starts, why or why not, and when the last obstacle ends by itself.
    releases
        (moment, word) of releases and rollbacks, marked in the histories.
    stages
        Row label key (``all_requests``, ``slow_requests``) -> stage -> share of the time.
    latencies
        Milliseconds of the window's single requests.
    aside
        (reason, count) of records in quarantine.
    drift_report
        Evidently's page, relative to this one.
    """

    snapshot: MetricsSnapshot
    history: Sequence[MetricsSnapshot]
    gates: Sequence[GateResult]
    baseline: Baseline | None
    status: Literal["passing", "warning", "failing"]
    starts: bool
    reasons: Sequence[str]
    retry_at: datetime | None = None
    releases: Sequence[tuple[datetime, str]] = ()
    slices: Sequence[WorstSlice] = ()
    stages: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latencies: Sequence[float] = ()
    drift: Sequence[DriftLine] = ()
    drift_missing: str = ""
    drift_report: str | None = None
    aside: Sequence[tuple[str, int]] = ()
    simulated: bool = False


def worst_slices(
    probes: pl.DataFrame, deficits: pl.DataFrame, members: Mapping[str, Sequence[str]], relevant: Mapping[str, Mapping[str, float]],
    title: Callable[[str], str], *, fdr: float = 0.1, limit: int = _SLICES,
) -> list[WorstSlice]:  # fmt: skip
    """The slices whose deficit holds at ``fdr``, each with its worst probe queries.

    Parameters
    ----------
    probes
        ``query_id, text, ndcg_at_10, result_ids`` of judged probes.
    deficits
        As :func:`predator_si.diagnose.subset_deficits` gives them, worst first.
    members
        Slice name -> query ids.
    relevant
        Query id -> document id -> relevance above 0.
    title
        A document's title.
    """
    rows = {row["query_id"]: row for row in probes.filter(pl.col("ndcg_at_10").is_not_null()).iter_rows(named=True)}
    found = []
    for row in deficits.filter((pl.col("q_value") <= fdr) & (pl.col("deficit") > 0)).head(limit).iter_rows(named=True):
        own = sorted((rows[query_id] for query_id in members[row["name"]] if query_id in rows), key=lambda probe: (probe["ndcg_at_10"], probe["query_id"]))
        examples = tuple(_example(probe, relevant.get(probe["query_id"], {}), title) for probe in own[:_EXAMPLES])
        numbers = {name: row[name] for name in ("name", "n", "mean", "mean_rest", "ci_low", "ci_high", "q_value")}
        found.append(WorstSlice(**numbers, examples=examples))
    return found


def _example(probe: Mapping[str, Any], gains: Mapping[str, float], title: Callable[[str], str]) -> Example:
    results = list(probe["result_ids"] or ())
    rank = next((place for place, doc_id in enumerate(results, start=1) if gains.get(doc_id, 0) > 0), None)
    return Example(probe["text"], float(probe["ndcg_at_10"]), rank, (title(results[0]) or results[0]) if results else "")


def page_name(snapshot_id: str, lang: Language) -> str:
    """File name of a window's page."""
    return f"{snapshot_id}.{lang}.html"


def write_window_pages(folder: Path, evidence: WindowEvidence) -> dict[Language, Path]:
    """Write the page in both languages into ``folder``: static files, pictures inside, readable without a network.

    Raises
    ------
    BadInput
        The history holds no snapshot.
    Unavailable
        The files cannot be written.
    """
    if not evidence.history:
        raise BadInput("quality page: the history is empty; it holds at least the window itself.")
    written: dict[Language, Path] = {}
    histories = _histories(evidence)  # drawn once for both languages
    languages: tuple[Language, Language] = ("en", "uk")
    for lang in languages:
        path = Path(folder) / page_name(evidence.snapshot.snapshot_id, lang)
        content = joined(part for part in _parts(evidence, histories, lang) if part)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(page(f"{phrase('quality', lang)} {evidence.snapshot.contour}", lang, content), encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            raise Unavailable(f"{path}: the quality page cannot be written ({error}). Make the folder writable or free some space.") from error
        written[lang] = path
    return written


def _parts(evidence: WindowEvidence, histories: Mapping[str, Markup], lang: Language) -> list[Markup | None]:
    return [
        _head(evidence, lang),
        _gates(evidence, lang),
        _glance(evidence, lang),
        _history(evidence, histories, lang),
        _measures(evidence, lang),
        _slices(evidence, lang),
        _stages(evidence, lang),
        _drift(evidence, lang),
        _aside(evidence, lang),
    ]


def _head(evidence: WindowEvidence, lang: Language) -> Markup:
    snapshot = evidence.snapshot
    other: Language = "uk" if lang == "en" else "en"
    labels = [pill(phrase(f"status_{evidence.status}", lang), _STATUS[evidence.status])]
    labels += [pill(phrase("simulated", lang))] if evidence.simulated else []
    labels += [pill(phrase("mock", lang), "open")] if snapshot.mock else []
    link = element("a", phrase("other_language", lang), href=page_name(snapshot.snapshot_id, other), hreflang=other)
    window = f"{phrase('window', lang)} {snapshot.window_start:%Y-%m-%d %H:%M} … {snapshot.window_end:%H:%M} UTC · "
    champion = joined([f"{phrase('champion', lang)} ", element("code", snapshot.champion or phrase("unknown", lang))])
    return element("header", element("h1", f"{phrase('quality', lang)}: {snapshot.contour}"), element("p", window, link), element("p", champion),
                   element("p", *labels))  # fmt: skip


def _name(metric: str, lang: Language, title: str | None = None) -> Markup:
    facts = SIGNALS.get(metric)
    return joined([title or metric, element("small", (facts.en if lang == "en" else facts.uk) if facts is not None else "")])


def _digits(value: float | None, unit: str) -> int | None:
    return 3 if unit == "" and value is not None and abs(value) <= 1 else None


def _shown(value: float | None, unit: str, lang: Language) -> str:
    return number(value, phrase("unknown", lang), unit, _digits(value, unit))


def _gates(evidence: WindowEvidence, lang: Language) -> Markup:
    order = [Answer.FAIL, Answer.UNKNOWN, Answer.PASS, Answer.NOT_APPLICABLE]
    rows = []
    for gate in sorted(evidence.gates, key=lambda gate: order.index(gate.answer)):
        facts = SIGNALS.get(gate.criterion.metric)
        unit = facts.unit if facts is not None else ""
        room = None if gate.value is None or gate.limit is None else (gate.value - gate.limit) * (1 if gate.criterion.direction == "min" else -1)
        rows.append(
            (_name(gate.criterion.metric, lang, gate.criterion.name), pill(phrase(f"answer_{gate.answer.value}", lang), _COLOURS[gate.answer]),
             _shown(gate.value, unit, lang), _shown(gate.limit, unit, lang),
             "" if room is None else element("span", _shown(room, unit, lang), class_="bad" if room < 0 else ""), f"{gate.n:,}", gate.reason)
        )  # fmt: skip
    head = ["gate", "answer", "value", "limit", "margin", "sample", "reason"]
    later = [] if evidence.retry_at is None else [pill(f"{phrase('not_before', lang)} {evidence.retry_at:%Y-%m-%d %H:%M} UTC", "plain")]
    said = pill(phrase("loop_starts" if evidence.starts else "loop_waits", lang), "open" if evidence.starts else "plain")
    return section(
        phrase("why_not", lang),
        element("h3", phrase("loop_says", lang)),
        element("p", said, *later),
        element("ul", *(element("li", reason) for reason in evidence.reasons)),
        table([phrase(key, lang) for key in head], rows, numbers=(2, 3, 4, 5)),
    )


def _glance(evidence: WindowEvidence, lang: Language) -> Markup:
    known = evidence.baseline is not None and evidence.baseline.champion == evidence.snapshot.champion
    reference = evidence.baseline.values if known and evidence.baseline is not None else {}
    rows = [_line(metric, reference.get(metric.name), lang) for metric in evidence.snapshot.metrics.values()]
    head = ["measure", "value", "interval", "baseline", "change", "sample", "age", "source"]
    return section(phrase("glance", lang), table([phrase(key, lang) for key in head], rows, numbers=(1, 2, 3, 4, 5, 6)))


def _line(metric: Metric, reference: float | None, lang: Language) -> tuple[Any, ...]:
    value = element("b", _shown(metric.value, metric.unit, lang)) if metric.known else pill(phrase("unknown", lang), "open")
    interval = "" if metric.ci_low is None or metric.ci_high is None else f"{_shown(metric.ci_low, '', lang)} … {_shown(metric.ci_high, '', lang)}"
    change: Any = ""
    if metric.value is not None and reference:
        share = (metric.value - reference) / abs(reference)
        worse = share < 0 if metric.direction == "up" else share > 0
        change = element("span", f"{100 * share:+.1f}%".replace("-", "\N{MINUS SIGN}"), class_="" if not worse or abs(share) < 0.01 else "bad")
    age = "" if metric.age_seconds is None else number(metric.age_seconds, "", "s", 0)
    return (_name(metric.name, lang), value, interval, "" if reference is None else _shown(reference, metric.unit, lang), change, f"{metric.n:,}", age,
            joined([metric.source, element("small", metric.reason or "")]))  # fmt: skip


def _histories(evidence: WindowEvidence) -> dict[str, Markup]:
    recent = sorted(evidence.history, key=lambda snapshot: snapshot.window_end)[-_WINDOWS:]
    limits = {gate.criterion.metric: gate.limit for gate in evidence.gates if gate.limit is not None}
    values = evidence.baseline.values if evidence.baseline is not None and evidence.baseline.champion == evidence.snapshot.champion else {}

    def drawn(name: str) -> Markup:
        return picture(
            lambda theme: metric_history(recent, name, baseline=values.get(name), limit=limits.get(name), marks=evidence.releases, theme=theme), name
        )

    return {name: drawn(name) for name in HISTORY if any(name in one.metrics and one.metrics[name].known for one in recent)}


def _history(evidence: WindowEvidence, histories: Mapping[str, Markup], lang: Language) -> Markup | None:
    if not histories:
        return None
    parts: list[Any] = [element("p", phrase("releases", lang))] if evidence.releases else []
    for name, drawn in histories.items():
        parts += [element("h3", _name(name, lang)), drawn]
    return section(phrase("history", lang), *parts)


def _measures(evidence: WindowEvidence, lang: Language) -> Markup | None:
    """Judged probes by every measure and segment; null where the labels of no probe of this window are known yet."""
    cells = [cell for cell in evidence.snapshot.cells if cell.kind == "probe" and cell.metrics]
    if not cells:
        return None
    names = list(dict.fromkeys(name for cell in cells for name in cell.metrics))

    def shown(metric: Metric | None) -> Any:
        if metric is None or metric.value is None:
            return phrase("unknown", lang)
        bounds = "" if metric.ci_low is None or metric.ci_high is None else f"{metric.ci_low:.3f} … {metric.ci_high:.3f}"
        return joined([f"{metric.value:.3f}", element("small", bounds)])

    titles = [f"{cell.segment or phrase('unknown', lang)}, n={cell.counts['judged']:,}" for cell in cells]
    head = [phrase("measure", lang), *titles]
    rows = [(name, *(shown(cell.metrics.get(name)) for cell in cells)) for name in names]
    return section(phrase("measures", lang), element("p", phrase("measures_note", lang)), table(head, rows, numbers=range(1, len(cells) + 1)))


def _slices(evidence: WindowEvidence, lang: Language) -> Markup:
    if not evidence.slices:
        return section(phrase("worst_slices", lang), element("p", phrase("no_slices", lang)))
    rows = [
        (one.name, f"{one.n:,}", f"{one.mean:.3f}", f"{one.mean_rest:.3f}", f"{one.ci_low:+.3f} … {one.ci_high:+.3f}".replace("-", "\N{MINUS SIGN}"),
         f"{one.q_value:.4f}")
        for one in evidence.slices
    ]  # fmt: skip
    head = [phrase("slice", lang), "n", "NDCG@10", phrase("rest", lang), f"{phrase('difference', lang)}, {phrase('interval', lang)}", "q"]
    parts: list[Any] = [table(head, rows, numbers=(1, 2, 3, 4, 5)), element("p", element("small", phrase("examples_note", lang)))]
    for one in evidence.slices:
        if one.examples:
            lines = [
                (example.query, f"{example.ndcg:.3f}", phrase("not_shown", lang) if example.rank is None else f"{example.rank}", example.first)
                for example in one.examples
            ]
            parts += [element("h3", f"{phrase('examples', lang)}: {one.name}"),
                      table([phrase("query", lang), "NDCG@10", phrase("right_rank", lang), phrase("first_result", lang)], lines, numbers=(1, 2))]  # fmt: skip
    return section(phrase("worst_slices", lang), *parts)


def _stages(evidence: WindowEvidence, lang: Language) -> Markup:
    rows = {phrase(key, lang): shares for key, shares in evidence.stages.items() if shares}
    if not rows:
        return section(phrase("stages", lang), element("p", phrase("no_stages", lang)))
    parts: list[Any] = [picture(lambda theme: stage_shares(rows, theme=theme), phrase("stages", lang))]
    if any(value > 0 for value in evidence.latencies):
        parts.append(picture(lambda theme: latency_histogram({evidence.snapshot.contour: evidence.latencies}, theme=theme), phrase("latency", lang)))
    return section(phrase("stages", lang), *parts)


def _drift(evidence: WindowEvidence, lang: Language) -> Markup:
    parts: list[Any] = [element("p", phrase("drift_note", lang))]
    if evidence.drift_missing:
        parts.append(element("p", phrase("no_drift", lang), " ", evidence.drift_missing))
    rows = []
    for one in evidence.drift:
        label = ("unknown", "open") if one.drifted is None else ("drifted", "bad") if one.drifted else ("steady", "good")
        interval = "" if one.low is None or one.high is None else f"{one.low:.3f} … {one.high:.3f}"
        statistic = number(one.statistic, phrase("unknown", lang), digits=3)
        p_value = "" if one.p_value is None else f"{one.p_value:.4f}"
        rows.append((one.name, pill(phrase(label[0], lang), label[1]), statistic, interval, p_value, f"{one.n:,}", one.note))
    if rows:
        head = ["", "", phrase("statistic", lang), phrase("interval", lang), "p", "n", phrase("reason", lang)]
        parts.append(table(head, rows, numbers=(2, 3, 4, 5)))
    if evidence.drift_report is not None:
        parts.append(element("p", element("a", phrase("drift_report", lang), href=evidence.drift_report)))
    return section(phrase("drift", lang), *parts)


def _aside(evidence: WindowEvidence, lang: Language) -> Markup:
    snapshot = evidence.snapshot
    if not snapshot.lost_events and not snapshot.quarantined and not evidence.aside:
        return section(phrase("not_counted", lang), element("p", phrase("records_all_good", lang)))
    rows: list[tuple[Any, ...]] = [(phrase("lost", lang), f"{snapshot.lost_events:,}"), (phrase("quarantined", lang), f"{snapshot.quarantined:,}")]
    rows += [(joined(["… ", reason]), f"{count:,}") for reason, count in evidence.aside]
    return section(phrase("not_counted", lang), table([phrase("reason", lang), phrase("count", lang)], rows, numbers=(1,)))
