"""What is unusual about a window: robust scores against the baseline, and sequential tests that join many windows.

What belongs here: scores, streams and their alarms, with a false-alarm rate that was chosen. What must not: gates, and starting anything. An
alarm is evidence: ``monitor.evidence`` says what a contour may make of it.

Two questions, since one window and a long series err differently. ``score_window`` asks whether this window is an outlier: robust z, and a
threshold from the chosen rate. Simulated with 300 healthy windows behind it, it raises .3 to .5 of the chosen false alarms on Gaussian windows and .8 to 1.0
on lognormal and Laplace ones, averaged over references (a single reference may be off by a factor of six). ``watch_changes`` asks whether a metric has moved
for good: the e-detector of ``statistics.change`` on the probes' NDCG and recall query by query, each against the same query's own past, and on the
error indicator of each request. It finds what no single window can show: with the 100 probes of ``test_monitor_anomaly.py`` and one false alarm a month
over three streams, a mean fall of .019 NDCG is called after 13 windows in the median (95%: 19), one of .047 after 4 (6), one of .095 after 2 (3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.monitor.baseline import KNOWN, TAIL, expected, middle, standard_error, usual_scale
from predator_si.records import AnomalyReport, AnomalyScore, Baseline, ChangeAlarm, ChangeWatch, Metric, MetricsSnapshot, Reference
from predator_si.statistics import EDetector, watch_drop, watch_rise, wilson

WINDOWS_PER_MONTH = 30 * 24 * 4
"""Ticks of 15 minutes."""
PAIRED = ("ndcg_at_10", "recall_at_20")
"""Probed metrics that are watched query by query."""
UNIMPORTANT = 0.005
"""A mean fall of NDCG or recall that is no news: the reference of a query is itself uncertain by as much."""
LEAST_RATE = 0.001
"""An error rate up to this is no news."""
_STREAMS = len(PAIRED) + 1
_FEWEST = 3
_MAD_EFFICIENCY = 0.37
"""Of the median absolute deviation against the standard deviation, for a Gaussian (Rousseeuw and Croux 1993)."""


def find_anomalies(
    snapshot: MetricsSnapshot,
    baseline: Baseline | None,
    *,
    probes: pl.DataFrame | None = None,
    probe_reference: pl.DataFrame | None = None,
    before: AnomalyReport | None = None,
    false_alarms_per_month: float = 1.0,
) -> AnomalyReport:
    """Both kinds of evidence about one window.

    Parameters
    ----------
    probes
        ``ProbeResult.per_query`` of this window: ``query_id, ndcg_at_10, recall_at_20``; null where no probes were sent.
    probe_reference
        From :func:`probe_reference_of` over earlier healthy windows, never this one.
    before
        The report of the window before; null, another champion's, or one with another false-alarm rate: the tests begin anew.
    false_alarms_per_month
        How many false alarms a month of 15-minute windows may bring, over all scores together, and over all sequential tests together.
    """
    known = baseline if baseline is not None and baseline.champion == snapshot.champion else None
    counted = sum(metric.value is not None for metric in snapshot.metrics.values())
    share = false_alarms_per_month / WINDOWS_PER_MONTH
    return AnomalyReport(
        snapshot_id=snapshot.snapshot_id,
        champion=snapshot.champion,
        window_end=snapshot.window_end,
        false_alarms_per_month=false_alarms_per_month,
        scores=[score_window(metric, snapshot, known, share / max(counted, 1)) for metric in snapshot.metrics.values()],
        changes=watch_changes(snapshot, known, before, probes, probe_reference, _STREAMS / share),
    )


def score_window(metric: Metric, snapshot: MetricsSnapshot, baseline: Baseline | None, rate: float) -> AnomalyScore:
    """Robust z of one metric: the distance from its expected value in standard deviations of such a window.

    The deviation joins the spread of healthy windows (1.4826 x MAD, with this window's sampling error in place of the usual one) and the
    error of the centre. The threshold is the two-sided Student quantile at ``rate`` with as many degrees of freedom as the MAD of so many windows is
    worth; where two hundred windows show a heavier tail than that, an exponential tail fitted to their outermost 5% (peaks over a
    threshold, shape zero: Pickands 1975).

    Parameters
    ----------
    rate
        Chance of a false alarm in one window of this metric, 0..1.
    """
    if metric.value is None:
        return AnomalyScore(metric=metric.name, value=None, reason=f"{metric.name} is unknown: {metric.reason or 'no value'}")
    reference = None if baseline is None else baseline.references.get(metric.name)
    usual = None if baseline is None else expected(baseline, metric.name, middle(snapshot))
    if reference is None or usual is None:
        return AnomalyScore(metric=metric.name, value=metric.value, reason=f"{metric.name}: no baseline to compare with yet")
    facts: dict[str, Any] = {"metric": metric.name, "value": metric.value, "expected": usual, "windows": reference.windows}
    if reference.windows < _FEWEST:
        return AnomalyScore(**facts, reason=f"{metric.name}: {reference.windows} of {_FEWEST} healthy windows that a spread needs")
    scale = _scale(metric, reference)
    if scale is None:
        return AnomalyScore(**facts, reason=f"{metric.name}: healthy windows have not differed so far, and it has no interval")
    z = (metric.value - usual) / scale
    threshold = _threshold(reference, rate)
    anomalous = abs(z) > threshold
    said = f"{metric.name} {metric.value:.4g} is {abs(z):.1f} deviations {'above' if z > 0 else 'below'} the usual {usual:.4g}"
    tail = f" (called unusual from {threshold:.1f}, {reference.windows} healthy windows)"
    return AnomalyScore(**facts, scale=scale, z=z, threshold=threshold, anomalous=anomalous, reason=said + tail)


def probe_reference_of(windows: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Each probed query's usual values: the mean over the given windows' per-query results.

    Returns
    -------
    polars.DataFrame
        ``query_id, windows``, the columns of :data:`PAIRED`, and ``<metric>_variance`` (of one window's value; null for a query seen once).
    """
    columns = [pl.col(name).cast(pl.Float64) for name in PAIRED]
    frames = [frame.select(pl.col("query_id").cast(pl.String), *columns) for frame in windows]
    empty = pl.DataFrame(schema={"query_id": pl.String, **dict.fromkeys(PAIRED, pl.Float64)})
    variances = [pl.col(name).var().alias(f"{name}_variance") for name in PAIRED]
    means = [pl.col(name).mean() for name in PAIRED]
    return pl.concat([empty, *frames]).group_by("query_id").agg(pl.len().alias("windows"), *means, *variances).sort("query_id")


def watch_changes(
    snapshot: MetricsSnapshot,
    baseline: Baseline | None,
    before: AnomalyReport | None,
    probes: pl.DataFrame | None,
    reference: pl.DataFrame | None,
    run_length: float,
) -> list[ChangeWatch]:
    """The sequential tests after this window; one that cannot see the window stays as it was and says why.

    Parameters
    ----------
    run_length
        Windows between two false alarms of one stream, at least, on average.
    """
    same = before is not None and before.champion == snapshot.champion
    earlier: Mapping[str, ChangeWatch] = {one.stream: one for one in before.changes if one.run_length == run_length} if before is not None and same else {}
    seen = before is not None and same and snapshot.window_end <= before.window_end
    found = []
    for metric in PAIRED:
        watch = earlier.get(f"{metric} by query") or _begin(f"{metric} by query", metric, run_length)
        if seen:
            found.append(watch)
            continue
        differences, slack, why = _differences(probes, reference, metric)
        if why is not None:
            found.append(_skip(watch, why))
            continue
        watch = watch.model_copy(update={"looks_for": f"a mean fall of {metric} by more than {slack:.3g} against the same queries' past"})
        found.append(_step(watch, snapshot, watch_drop(_detector(watch), differences, -slack, -1.0, 1.0)))
    watch = earlier.get("errors") or _begin("errors", "error_rate", run_length)
    rate = snapshot.metrics.get("error_rate")
    known = None if baseline is None else baseline.references.get("error_rate")
    if seen:
        found.append(watch)
    elif rate is None or rate.value is None or known is None or known.mean is None:
        found.append(_skip(watch, "no error rate in this window" if rate is None or rate.value is None else "no baseline of the error rate yet"))
    else:
        usual = wilson(round(known.mean * known.observations), known.observations).high
        ceiling = min(max(usual, LEAST_RATE), 0.5)
        watch = watch.model_copy(update={"looks_for": f"an error rate above {ceiling:.2%}, the most that the baseline leaves open"})
        found.append(_step(watch, snapshot, watch_rise(_detector(watch), round(rate.value * rate.n), rate.n, ceiling)))
    return found


def _scale(metric: Metric, reference: Reference) -> float | None:
    usual = usual_scale(reference.spread, reference.noise, reference.windows)
    if usual is None:
        return standard_error(metric) or None
    ours = standard_error(metric)
    sampling = min(reference.noise or 0.0, usual)
    grown = 1.0 if ours is None or not reference.noise else ours / reference.noise
    return math.sqrt(usual**2 - sampling**2 + (sampling * grown) ** 2 + (reference.error or 0.0) ** 2)


def _threshold(reference: Reference, rate: float) -> float:
    from scipy.stats import norm, t

    by_noise = not reference.spread or (reference.windows < KNOWN and (reference.noise or 0.0) >= reference.spread)
    freedom = _MAD_EFFICIENCY * (reference.windows - 1)
    found = float(norm.isf(rate / 2.0)) if by_noise else float(t.isf(rate / 2.0, max(freedom, 1.0)))
    if reference.tail is not None:
        start, excess = reference.tail
        found = max(found, start + excess * math.log(TAIL / rate))
    return found


def _differences(probes: pl.DataFrame | None, reference: pl.DataFrame | None, metric: str) -> tuple[npt.NDArray[np.float64], float, str | None]:
    """Each query's value less its usual one; the mean fall that is no news; or why there is nothing to see.

    The slack grows by 1.645 standard errors of the reference's mean, since a reference that was lucky makes every later window look worse.
    """
    nothing = np.empty(0)
    if probes is None or metric not in probes.columns:
        return nothing, UNIMPORTANT, "no judged probes in this window"
    seen: Any = None if reference is None else reference["windows"].max()
    if reference is None or (seen or 0) < _FEWEST:
        return nothing, UNIMPORTANT, f"{seen or 0} of {_FEWEST} earlier healthy windows with probes"
    now = probes.select(pl.col("query_id").cast(pl.String), pl.col(metric).cast(pl.Float64).alias("now")).drop_nulls().unique("query_id")
    usual = reference.filter(pl.col("windows") >= _FEWEST).select("query_id", "windows", pl.col(metric).alias("usual"), f"{metric}_variance").drop_nulls()
    pairs = now.join(usual, on="query_id", how="inner")
    if pairs.is_empty():
        return nothing, UNIMPORTANT, f"none of {now.height} probed queries was asked in {_FEWEST} earlier healthy windows"
    error = math.sqrt(float((pairs[f"{metric}_variance"] / pairs["windows"]).sum())) / pairs.height
    return (pairs["now"] - pairs["usual"]).to_numpy().clip(-1.0, 1.0), UNIMPORTANT + 1.645 * error, None


def _begin(stream: str, metric: str, run_length: float) -> ChangeWatch:
    return ChangeWatch(stream=stream, metric=metric, looks_for="", run_length=run_length, log_wealth=_wealth(EDetector()), reason="nothing seen yet")


def _detector(watch: ChangeWatch) -> EDetector:
    return EDetector(tuple(-math.inf if one is None else one for one in watch.log_wealth), watch.windows, watch.observations)


def _wealth(detector: EDetector) -> list[float | None]:
    return [one if math.isfinite(one) else None for one in detector.log_wealth]


def _skip(watch: ChangeWatch, why: str) -> ChangeWatch:
    return watch.model_copy(update={"reason": f"{watch.stream}: not looked at: {why}"})


def _step(watch: ChangeWatch, snapshot: MetricsSnapshot, after: EDetector) -> ChangeWatch:
    """The stream after one window. An alarm restarts its detector, so that false alarms are at least ``run_length`` apart on average."""
    if after.alarm(watch.run_length):
        alarm = ChangeAlarm(window_end=snapshot.window_end, windows=after.windows, observations=after.observations, holds=2 * after.windows + 2)
        watch = watch.model_copy(update={"last": alarm, "alarms": watch.alarms + 1, "since_alarm": 0, "log_e": after.log_e})
        after = EDetector()
    else:
        log_e = after.log_e if math.isfinite(after.log_e) else None
        watch = watch.model_copy(update={"since_alarm": watch.since_alarm + 1, "log_e": log_e})
    active = watch.last is not None and watch.since_alarm <= watch.last.holds
    needed = f"alarm at {math.log(watch.run_length):.1f}, {watch.run_length:.0f} windows between false ones"
    if active and watch.last is not None:
        when = f"{watch.last.window_end:%Y-%m-%d %H:%M} UTC after {watch.last.windows} windows, {watch.last.observations} observations"
        reason = f"{watch.stream}: a change was called at {when}: {watch.looks_for} ({needed})"
    else:
        shown = "none" if watch.log_e is None else f"{watch.log_e:.1f}"
        reason = f"{watch.stream}: no change called; log evidence {shown} over {after.windows} windows ({needed})"
    counts = {"log_wealth": _wealth(after), "windows": after.windows, "observations": after.observations}
    return watch.model_copy(update={**counts, "active": active, "reason": reason})
