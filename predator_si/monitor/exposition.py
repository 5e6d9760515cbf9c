"""The newest snapshot in the Prometheus text format, for a textfile collector or an endpoint to hand out.

What belongs here: names, labels and help texts of what a snapshot and its gates say. What must not: measuring, thresholds, serving.

An unknown metric has no sample at all: in PromQL ``absent()`` finds it, and no query can take it for zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from predator_si.errors import Unavailable
from predator_si.records import Answer, Baseline, GateResult, MetricsSnapshot

PREFIX = "predator_si_quality_"


def exposition(snapshot: MetricsSnapshot, gates: Sequence[GateResult] = (), baseline: Baseline | None = None, cycles: Mapping[str, int] | None = None) -> bytes:
    """``predator_si_quality_*`` gauges of one snapshot.

    ``value``, ``low``, ``high`` (bounds of the 95% interval), ``n`` and ``age_seconds`` by ``metric``, each only where it is known; ``baseline`` by ``metric``;
    ``gate`` by ``gate`` and ``answer`` (1 for the answer it gave, 0 for the other three); ``cycles`` by ``state``; ``window_end_seconds`` (Unix time),
    ``lost_events``, ``quarantined_records``, ``mock``. Every sample carries ``contour``.
    """
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(PREFIX + name, text, ["contour", *labels], registry=registry)

    columns = {
        "value": gauge("value", "Value of a metric in the newest window, in the metric's own unit; absent while unknown.", "metric"),
        "ci_low": gauge("low", "Lower bound of the 95% interval.", "metric"),
        "ci_high": gauge("high", "Upper bound of the 95% interval.", "metric"),
        "n": gauge("n", "Observations behind the value.", "metric"),
        "age_seconds": gauge("age_seconds", "Age of the newest observation behind the value, when the window was measured.", "metric"),
    }
    for metric in snapshot.metrics.values():
        if not metric.known:
            continue
        for name, column in columns.items():
            number = getattr(metric, name)
            if number is not None:
                column.labels(snapshot.contour, metric.name).set(number)
    reference = gauge("baseline", "Reference over healthy windows of the same champion.", "metric")
    if baseline is not None and baseline.champion == snapshot.champion:
        for name, number in baseline.values.items():
            reference.labels(snapshot.contour, name).set(number)
    answers = gauge("gate", "1 for the answer that a gate gave on the newest window, 0 for the others.", "gate", "answer")
    for result in gates:
        for answer in Answer:
            answers.labels(snapshot.contour, result.criterion.name, answer.value).set(float(result.answer is answer))
    counted = gauge("cycles", "Cycles by the state they are or ended in; rolled_back: releases that were taken back.", "state")
    for state, count in (cycles or {}).items():
        counted.labels(snapshot.contour, state).set(count)
    for name, text, number in (
        ("window_end_seconds", "End of the newest window, Unix time.", snapshot.window_end.timestamp()),
        ("lost_events", "Events that were issued in the window and are stored nowhere.", snapshot.lost_events),
        ("quarantined_records", "Records of the window that could not be used.", snapshot.quarantined),
        ("mock", "1 while the numbers are made up (mockSignals).", float(snapshot.mock)),
    ):
        gauge(name, text).labels(snapshot.contour).set(number)
    return generate_latest(registry)


def write_exposition(
    path: Path, snapshot: MetricsSnapshot, gates: Sequence[GateResult] = (), baseline: Baseline | None = None, cycles: Mapping[str, int] | None = None
) -> Path:
    """Write :func:`exposition` to ``path`` in one step, so that a collector never reads half of it.

    Raises
    ------
    Unavailable
        The file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_bytes(exposition(snapshot, gates, baseline, cycles))
        partial.replace(path)
    except OSError as error:
        raise Unavailable(f"{path}: the metrics file cannot be written ({error}). Make the folder writable or free some space.") from error
    return path
