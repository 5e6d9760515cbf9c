"""``report.html``: one cycle from trigger to outcome, from whatever its folder holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from predator_si.records import Answer, Evaluation, GateResult, LedgerRecord, MetricsSnapshot, utc_now
from predator_si.reports.explanations import explanation_section
from predator_si.reports.folder import CycleFolder, open_folder
from predator_si.reports.language import Language, phrase
from predator_si.reports.optimisation import optimisation_section
from predator_si.reports.page import Markup, element, joined, page, picture, pill, section, table
from predator_si.reports.pages import TRIAL_PAGE
from predator_si.reports.plots import Theme, difference_histogram, latency_histogram, metric_history, ndcg_slices
from predator_si.reports.sequences import evidence_over_checks
from predator_si.reports.summary import ComparisonRow, comparison_rows, outcome

NAME = "report.html"
_ANSWER_COLOURS = {Answer.PASS: "good", Answer.FAIL: "bad", Answer.UNKNOWN: "open", Answer.NOT_APPLICABLE: "plain"}
_LISTED = 12


@dataclass(frozen=True)
class Section:
    """One more card for the page: text, a table (``columns`` and ``rows``), and a plot for each theme."""

    title: str
    text: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Any, ...], ...] = ()
    draw: Callable[[Theme], bytes] | None = None


@dataclass(frozen=True)
class _Context:
    folder: CycleFolder
    lang: Language
    ledger: Sequence[LedgerRecord]
    snapshots: Sequence[MetricsSnapshot]
    latencies: Mapping[str, Sequence[float]]
    extra: Sequence[Section] = field(default_factory=tuple)

    def say(self, key: str) -> str:
        return phrase(key, self.lang)


def write_cycle_report(
    artifacts: Path,
    title: str,
    *,
    lang: Language = "en",
    summary: Sequence[ComparisonRow] | None = None,
    ledger: Sequence[LedgerRecord] = (),
    snapshots: Sequence[MetricsSnapshot] = (),
    latencies: Mapping[str, Sequence[float]] | None = None,
    sections: Sequence[Section] = (),
) -> Path:
    """Write ``report.html`` into ``artifacts``: one static file, pictures inside, readable without a network.

    Parameters
    ----------
    artifacts
        The folder of a cycle. What is missing or unreadable is said on the page.
    summary
        The table before/after; by default from the evaluation, the trial and the watch.
    ledger
        Records of this cycle, for the timeline.
    snapshots
        Windows around the cycle, for the history of the metric that triggered it.
    latencies
        Arm -> milliseconds of single requests, for the histogram.
    sections
        More cards, before the timeline.

    Raises
    ------
    BadInput
        ``artifacts`` is not a folder.
    """
    folder = open_folder(artifacts)
    context = _Context(folder, lang, ledger, snapshots, latencies or {}, sections)
    rows = list(summary) if summary is not None else comparison_rows(folder, lang)
    parts = [
        _head(context, title),
        _summary(context, rows),
        _history(context),
        _diagnosis(context),
        explanation_section(folder.diagnosis, context.say),
        _dataset(context),
        optimisation_section(folder.optimisation, context.say),
        _evaluation(context),
        _trial(context),
        _decisions(context),
        _gates(context),
        _release(context),
        _watch(context),
        *(_extra(entry) for entry in sections),
        _timeline(context),
        _missing(context),
        _files(context),
    ]
    path = Path(artifacts) / NAME
    partial = path.with_suffix(".partial")
    partial.write_text(page(title, lang, joined(part for part in parts if part)), encoding="utf-8")
    partial.replace(path)
    return path


def number(value: float | None, unknown: str, unit: str = "", digits: int | None = None) -> str:
    """A number for people: thousands separated, as many decimals as its size deserves, its unit after a space."""
    if value is None:
        return unknown
    if digits is None:
        whole = float(value).is_integer() and abs(value) < 1e15
        digits = 0 if whole and (abs(value) >= 1 or value == 0) else 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}") + (f" {unit}" if unit else "")


def _head(context: _Context, title: str) -> Markup:
    folder = context.folder
    key, colour = outcome(folder)
    labels = [pill(context.say(key), colour)]
    if folder.experiment is not None and folder.experiment.simulated:
        labels.append(pill(context.say("simulated")))
    if any(decision is not None and decision.drill for decision in (folder.trial, folder.promotion)):
        labels.append(pill(context.say("drill"), "open"))
    if any(snapshot.mock for snapshot in context.snapshots):
        labels.append(pill(context.say("mock"), "open"))
    written = f"{folder.path.name} · {context.say('written')} {utc_now():%Y-%m-%d %H:%M} UTC"
    return element("header", element("h1", title), element("p", written), element("p", *labels))


def _summary(context: _Context, rows: Sequence[ComparisonRow]) -> Markup:
    unknown = context.say("unknown")

    def counted(value: float | None, total: int | None, unit: str) -> Any:
        shown = number(value, unknown, unit, 3 if unit == "" and value is not None and total is None and abs(value) <= 1 else None)
        return shown if value is None or total is None else joined([shown, element("small", f"{context.say('of')} {total:,}")])

    def change(row: ComparisonRow) -> Any:
        if row.difference is None:
            return element("small", unknown) if row.before is None or row.after is None else ""
        sign = "+" if row.difference > 0 else ""
        shown = sign + number(row.difference, unknown, row.unit, 3 if row.unit == "" and row.before_of is None else None)
        notes = []
        if row.interval is not None:
            low, high = (f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") for value in row.interval)
            notes.append(f"95%: {low} … {high}")
        if row.before and row.before_of is None:
            notes.append(f"{100 * row.difference / abs(row.before):+.1f}%".replace("-", "\N{MINUS SIGN}"))
        colour = "" if row.improved is None else "good" if row.improved else "bad"
        return element("span", shown, element("small", " · ".join(notes)), class_=colour)

    lines = [
        (row.name if not row.source else joined([row.name, element("small", row.source)]), counted(row.before, row.before_of, row.unit),
         counted(row.after, row.after_of, row.unit), change(row))
        for row in rows
    ]  # fmt: skip
    head = [context.say(key) for key in ("measure", "before", "after", "difference")]
    return section(context.say("summary"), table(head, lines, numbers=(1, 2, 3), class_="big"))


def _history(context: _Context) -> Markup | None:
    if not context.snapshots:
        return None
    diagnosis = context.folder.diagnosis
    known = set().union(*(snapshot.metrics for snapshot in context.snapshots))
    metric = next((name for name in sorted(known, key=len, reverse=True) if diagnosis is not None and name in diagnosis.trigger), "ndcg_at_10")
    baseline = diagnosis.baseline if diagnosis is not None and metric in diagnosis.trigger else None
    return section(context.say("history"), picture(lambda theme: metric_history(context.snapshots, metric, baseline=baseline, theme=theme), metric))


def _diagnosis(context: _Context) -> Markup | None:
    report = context.folder.diagnosis
    if report is None:
        return None
    unknown, cause = context.say("unknown"), report.root_cause_analysis
    change = cause.distribution_change
    value, reference = (number(figure, unknown, digits=3) for figure in (report.current_value, report.baseline))
    facts = [
        (context.say("trigger"), f"{report.trigger}: {value} {context.say('against')} {reference}"),
        (context.say("cause"), pill(cause.type, "open")),
        (context.say("affected"), joined([pill(name) for name in cause.affected_categories]) or "-"),
        (context.say("coverage"), unknown if change.coverage is None else f"{100 * change.coverage:.1f}%"),
        (context.say("new_words"), joined([pill(entry["token"]) for entry in change.new_tokens[:_LISTED]]) or "-"),
        (context.say("actions"), joined([pill(action.get("type", "")) for action in report.recommended_actions]) or "-"),
    ]
    misses = [(name, number(value, unknown)) for name, value in report.misses.items() if not isinstance(value, (dict, list))]
    weak = [
        (row.get("name", ""), row.get("n", ""), number(row.get("mean"), unknown, digits=3), number(row.get("deficit"), unknown, digits=3),
         number(row.get("q_value"), unknown, digits=4), pill("✓", "bad") if row.get("affected") else "")
        for row in [*report.slices, *report.weak_tokens] if row.get("affected")
    ][: 2 * _LISTED]  # fmt: skip
    content: list[Any] = [table(["", ""], facts)]
    causes = [
        (f"{one['type']}: {one['detail']}" if one.get("detail") else one["type"], number(one.get("explained_loss"), unknown, digits=3),
         number(one.get("p_value"), unknown, digits=4), one.get("n", ""), joined([pill(action["type"]) for action in one.get("actions", [])]) or "-")
        for one in cause.causes
    ]  # fmt: skip
    if causes:
        content += [element("h3", context.say("causes")), table(["", context.say("difference"), "p", "n", context.say("actions")], causes, numbers=(1, 2, 3))]
    if cause.cannot_tell:
        content += [element("h3", context.say("cannot_tell")), *(element("p", sentence) for sentence in cause.cannot_tell)]
    if misses:
        content += [element("h3", context.say("misses")), table(["", ""], misses, numbers=(1,))]
    if weak:
        content += [element("h3", context.say("weak_words")), table(["", "n", "NDCG@10", context.say("difference"), "q", ""], weak, numbers=(1, 2, 3, 4))]
    return section(context.say("diagnosis"), *content)


def _dataset(context: _Context) -> Markup | None:
    manifest = context.folder.dataset
    if manifest is None:
        return None
    statistics: dict[str, Any] = manifest.get("statistics") or {}
    facts = [(key, number(value, "")) for key, value in statistics.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    dvc = manifest.get("dvc") or {}
    facts += [(key, element("code", manifest[key])) for key in ("dataset_id",) if key in manifest] + [("dvc", element("code", dvc.get("hash") or "-"))]
    content: list[Any] = [element("p", manifest.get("method", "")), table(["", ""], facts, numbers=(1,))]
    steps: dict[str, dict[str, int]] = statistics.get("yield") or {}
    if steps:
        sources = list(dict.fromkeys(source for left in steps.values() for source in left))
        rows = [(step, *(left.get(source, 0) for source in sources)) for step, left in steps.items()]
        content += [element("h3", context.say("yield")), table(["", *sources], rows, numbers=range(1, len(sources) + 1))]
    return section(context.say("dataset"), *content)


def _worth(evaluation: Evaluation) -> list[str]:
    """What the judged set can show, and what its use may claim."""
    lines = [f"{evaluation.power}."] if evaluation.power else []
    sealed = evaluation.holdout
    if sealed is not None:
        which = f"block {sealed.block + 1} of {sealed.blocks}" if sealed.blocks > 1 else "a pool too small to rotate"
        lines.append(
            f"Sealed queries: candidate {sealed.opening.candidate} of {sealed.opening.period}, {which}; "
            f"superiority needs p <= {sealed.level:.2g}, and for that {sealed.power}. "
            f"Best NDCG@10 that may be told: {sealed.told:.4f}{', raised by this challenger' if sealed.rose else ''}. "
            "The exact scores above are this decision's evidence: whoever tunes the next candidate by them has left what the Ladder promises."
        )
    return lines


def _evaluation(context: _Context) -> Markup | None:
    found = context.folder.evaluation
    if found is None and not context.latencies:
        return None
    content: list[Any] = []
    if found is not None:
        gain = found.ndcg_difference
        p_value = "" if gain.p_value is None else f", p = {gain.p_value:.4f}"
        sides = f"{found.ndcg_champion:.4f} → {found.ndcg_challenger:.4f}"
        numbers = f"{sides}: {gain.estimate:+.4f}, 95% {gain.low:+.4f} … {gain.high:+.4f}{p_value}, n = {found.n_queries}"
        content += [element("p", numbers), element("p", element("code", found.champion.model), " → ", element("code", found.challenger.model))]
        content += [element("p", line) for line in _worth(found)]
    differences = context.folder.differences
    if found is not None and differences is not None and len(differences):
        content.append(picture(lambda theme: difference_histogram(differences.to_numpy(), found.ndcg_difference, theme=theme), context.say("difference")))
    slices = _slices(found.slices) if found is not None else []
    if slices:
        content += [element("h3", context.say("slices")), picture(lambda theme: ndcg_slices(slices, theme=theme), context.say("slices"))]
    if any(len(values) for values in context.latencies.values()):
        content += [element("h3", context.say("latency")), picture(lambda theme: latency_histogram(context.latencies, theme=theme), context.say("latency"))]
    return section(context.say("evaluation"), *content)


def _slices(slices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slices under the names that the plot knows; those without both sides are left out."""

    def first(entry: Mapping[str, Any], *keys: str) -> Any:
        return next((entry[key] for key in keys if entry.get(key) is not None), None)

    named = []
    for entry in slices:
        interval = entry["difference"] if isinstance(entry.get("difference"), dict) else entry
        row = {
            "name": first(entry, "name", "slice"),
            "n": first(entry, "n", "n_queries"),
            "before": first(entry, "before", "ndcg_champion", "champion"),
            "after": first(entry, "after", "ndcg_challenger", "challenger"),
            "low": first(interval, "low", "ci_low"),
            "high": first(interval, "high", "ci_high"),
        }
        if all(row[key] is not None for key in ("name", "n", "before", "after")):
            named.append(row)
    return named


def _trial(context: _Context) -> Markup | None:
    found = context.folder.experiment
    if found is None:
        return None
    unknown, names = context.say("unknown"), list(found.arms)
    metrics = list(dict.fromkeys(metric for arm in found.arms.values() for metric in arm))
    rows = [
        (metric, *((number(arm[metric].value, unknown, arm[metric].unit) if metric in arm else unknown) for arm in found.arms.values())) for metric in metrics
    ]
    rows.append(("requests", *(f"{found.requests[name]:,}" if name in found.requests else unknown for name in names)))
    colour = {"promote": "good", "reject": "bad"}.get(found.verdict.value, "open")
    facts = f"{found.mode}, {found.started_at:%Y-%m-%d %H:%M} … {found.ended_at:%H:%M} UTC"
    page_of_it = [element("p", element("a", TRIAL_PAGE, href=TRIAL_PAGE))] if (context.folder.path / TRIAL_PAGE).is_file() else []
    return section(context.say("trial"), element("p", pill(found.verdict.value, colour), found.reason), element("p", facts), *page_of_it,
                   table(["", *names], rows, numbers=range(1, len(names) + 1)))  # fmt: skip


def _decisions(context: _Context) -> Markup | None:
    rows = [
        (found.stage, pill(found.verdict.value, {"promote": "good", "reject": "bad"}.get(found.verdict.value, "open")), found.reason, found.policy,
         found.approved_by or ("…" if found.approval_required else "-"))
        for found in (context.folder.trial, context.folder.promotion) if found is not None
    ]  # fmt: skip
    head = [context.say("stage"), context.say("verdict"), context.say("reason"), context.say("policy"), context.say("approved_by")]
    return section(context.say("decisions"), table(head, rows)) if rows else None


def _gates(context: _Context) -> Markup | None:
    folder = context.folder
    found: list[tuple[str, GateResult]] = [
        (decision.stage, gate) for decision in (folder.trial, folder.promotion) if decision is not None for gate in decision.gates
    ]
    found += [("watch", gate) for gate in (folder.watch.gates if folder.watch is not None else [])]
    if not found:
        return None
    unknown = context.say("unknown")
    rows = [
        (stage, gate.criterion.name, pill(gate.answer.value, _ANSWER_COLOURS[gate.answer]), number(gate.value, unknown), number(gate.limit, unknown),
         f"{gate.n:,}", gate.reason)
        for stage, gate in found
    ]  # fmt: skip
    head = [context.say(key) for key in ("stage", "gate", "answer", "value", "limit", "sample", "reason")]
    return section(context.say("gates"), table(head, rows, numbers=(3, 4, 5)))


def _release(context: _Context) -> Markup | None:
    folder = context.folder
    rows = [
        (patch.stage, key, element("code", patch.reverse.get(key)), element("code", value), element("code", (patch.commit or "-")[:12]))
        for patch in folder.patches for key, value in patch.changes.items()
    ]  # fmt: skip
    said = [
        element(
            "p",
            pill(found.stage, "good" if found.confirmed else "bad"),
            f"{found.reason} ({found.seconds:.1f} s) ",
            element("code", found.served_digest or "-"),
        )
        for found in folder.deployments
    ]
    if folder.rollback is not None:
        back = folder.rollback
        label = pill(context.say("rollback"), "good" if back.verified else "bad")
        said.append(element("p", label, f"{back.reason} ({back.seconds:.1f} s) ", element("code", f"{back.from_digest} → {back.to_digest}")))
    if not rows and not said:
        return None
    head = [context.say("stage"), context.say("key"), context.say("before"), context.say("after"), "commit"]
    return section(context.say("release"), *said, *([table(head, rows)] if rows else []))


def _watch(context: _Context) -> Markup | None:
    found = context.folder.watch
    if found is None:
        return None
    colour = {"keep": "good", "rollback": "bad"}.get(found.answer, "open")
    line = f"{found.reason} ({found.failed_requests:,} {context.say('of')} {found.requests:,})"
    keys = list(dict.fromkeys(key for check in found.checks for key in check))[:8]
    rows = [tuple(_plain(check.get(key)) for key in keys) for check in found.checks]
    drawn = (
        [picture(lambda theme: evidence_over_checks(found.evidence, found.needed, theme=theme), context.say("watch"))] if any(found.evidence.values()) else []
    )
    return section(context.say("watch"), element("p", pill(found.answer, colour), line), *drawn, *([table(keys, rows)] if rows else []))


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "-" if value is None else str(value).lower()
    return number(value, "-") if isinstance(value, (int, float)) else str(value)


def _extra(entry: Section) -> Markup:
    content: list[Any] = [element("p", entry.text)] if entry.text else []
    if entry.columns:
        content.append(table(entry.columns, entry.rows))
    if entry.draw is not None:
        content.append(picture(entry.draw, entry.title))
    return section(entry.title, *content)


def _timeline(context: _Context) -> Markup | None:
    if not context.ledger:
        return None
    rows = [
        (f"{record.timestamp:%Y-%m-%d %H:%M:%S}", record.action, record.actor, record.reason, element("code", f"{record.seq} · {record.hash[:12]}"))
        for record in sorted(context.ledger, key=lambda record: record.seq)
    ]
    return section(context.say("timeline"), table([context.say(key) for key in ("time", "action", "actor", "reason", "record")], rows))


def _missing(context: _Context) -> Markup | None:
    folder = context.folder
    if not folder.missing and not folder.broken:
        return None
    rows = [
        *((element("code", name), pill("missing"), asset) for name, asset in folder.missing),
        *((element("code", name), pill("broken", "bad"), why) for name, why in folder.broken),
    ]
    return section(context.say("missing"), element("p", context.say("missing_text")), table(["", "", ""], rows))


def _files(context: _Context) -> Markup:
    files = sorted(path for path in context.folder.path.rglob("*") if path.is_file() and path.suffix != ".partial" and path.name != NAME)
    names = [(path.relative_to(context.folder.path).as_posix(), path.stat().st_size) for path in files]
    rows = [(element("a", name, href=quote(name)), f"{size:,} B") for name, size in names]
    return section(context.say("files"), table(["", ""], rows, numbers=(1,)))
