"""Records field by field, metrics, their names in Prometheus, and the trigger table.

What belongs here: reading records, signals and triggers. What must not: a second spelling of what they say.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from predator_si import records
from predator_si.contour import ContourValues
from predator_si.monitor.triggers import TRIGGERS
from predator_si.records import Criterion, MetricsSnapshot, Record, utc_now
from predator_si.reference.markdown import in_words, prose, said_of_fields, table
from predator_si.signals import SIGNALS

EVERYWHERE = {
    "cycle_id": "Of the cycle: `si_YYYY_MM_DD_NNN`, by the UTC day.",
    "contour": "The environment that it belongs to.",
    "timestamp": "When it happened.",
    "created_at": "When it was written.",
    "query_id": "Of the request; everything that is known of the request carries the same.",
    "object_id": "Of the document.",
    "client_id": "Who asked, as a keyed hash; null where the caller named nobody.",
    "simulated": "Made by an exercise or a simulation, not by people.",
    "probe": "Asked by the loop in order to measure, not by a person.",
    "seq": "Consecutive number within one writer process: a gap counts lost events.",
    "writer": "The process that wrote it, within which `seq` counts.",
    "actor": "Who did it: `api:anna`, `cli:anna`, the name of a sensor, or `loop`.",
    "reason": "Why, in words and numbers.",
    "commit": "In the GitOps repository; null where there is none.",
    "snapshot_id": "Of the snapshot: contour and moment.",
    "window_start": "Where the measured window begins.",
    "window_end": "Where it ends.",
    "metric": "Name of the metric.",
    "value": "Null where it cannot be known.",
    "n": "Observations behind it.",
    "gates": "What each gate says.",
    "set_at": "Since when it holds.",
    "expires_at": "Until when it holds.",
    "stage": "Which step of a release it is about.",
}
"""Fields that mean the same in every record that does not say otherwise."""


def meanings(one: type[Record]) -> dict[str, str]:
    """Field of a record -> what it means."""
    return {name: text for name, text in EVERYWHERE.items() if name in one.model_fields} | said_of_fields(one)


def record_classes() -> Iterator[type[Record]]:
    """Every public record, by name."""
    for name in sorted(records.__all__):
        found = getattr(records, name)
        if inspect.isclass(found) and issubclass(found, Record) and found is not Record:
            yield found


def records_page() -> str:
    """`reference/records.md`."""
    parts = [
        "# Records\n",
        "What the loop writes down is one of these, as JSON with these names: artifacts of a cycle, snapshots, records of the ledger, events. They are",
        "frozen, and a key that is not here is refused. Times carry their zone. A value that is not known is null, and a field beside it says why.\n",
    ]
    for one in record_classes():
        said = meanings(one)
        rows = []
        for name, field in one.model_fields.items():
            default = "" if field.is_required() else f"`{field.get_default(call_default_factory=True)!r}`" if field.default_factory is None else "made anew"
            rows.append((f"`{name}`", in_words(field.annotation), default, said.get(name, "")))
        parts += [f"## {one.__name__}\n", prose(one.__doc__) + "\n", table(("field", "type", "default", "meaning"), rows)]
    return "\n".join(parts)


def metrics_page() -> str:
    """`reference/metrics-and-triggers.md`."""
    defaults = ContourValues().criteria()
    metrics = []
    for one in SIGNALS.values():
        span = f"{one.low:g} and more" if one.high is None else f"{one.low:g} to {one.high:g}"
        gates = "; ".join(_limit(gate) for gate in defaults if gate.metric == one.name)
        better = "higher" if one.direction == "up" else "lower"
        metrics.append((f"`{one.name}`", ", ".join(f"`{name}`" for name in one.aliases), one.en, one.unit, span, better, gates))
    triggers = [
        (
            f"`{rule.type}`",
            ", ".join(f"`{name}`" for name in rule.metrics),
            ", ".join(f"`{name}`" for name in rule.actions),
            rule.promotion_gate,
            _limit(rule.rollback) if rule.rollback else "",
            f"{rule.react_within_seconds:g} s",
            "each minute" if rule.watched_each_minute else "each 15 minutes",
        )
        for rule in TRIGGERS
    ]
    return "\n".join((
        "# Metrics and triggers\n",
        "## Metrics\n",
        "Names that a gate may have. A metric without a value is unknown, never zero.\n",
        table(("metric", "also written", "what it is", "unit", "range", "better is", "gates of contour `local`"), metrics),
        "## Triggers\n",
        "Which failed gate leads to what, most urgent first. `react within` is what is aimed at; `predator-si bench react` measures it.\n",
        table(("trigger", "failed gates", "actions, in order", "promoted when", "taken back when", "react within", "looked at"), triggers),
        "## Names in Prometheus\n",
        "Gauges of the newest window; each carries `contour`.\n",
        table(("gauge", "what it says"), ((f"`{name}`", text) for name, text in prometheus_names())),
    ))  # fmt: skip


def _limit(gate: Criterion) -> str:
    side = "at least" if gate.direction == "min" else "at most"
    if gate.kind == "relative":
        return f"{side} {gate.threshold:+.0%} against the baseline"
    return f"{side} {gate.threshold:g} {SIGNALS[gate.metric].unit}".strip()


def prometheus_names() -> list[tuple[str, str]]:
    """Gauges of ``monitor.exposition`` with their help, as it writes them itself."""
    from predator_si.monitor.exposition import exposition

    now = utc_now()
    empty = MetricsSnapshot(snapshot_id="none", contour="local", created_at=now, window_start=now, window_end=now, champion=None, metrics={})
    lines = exposition(empty).decode().splitlines()
    return [(words[2], words[3]) for line in lines if line.startswith("# HELP ") and len(words := line.split(" ", 3)) == 4]
