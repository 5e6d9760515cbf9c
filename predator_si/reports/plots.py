"""Small PNG plots: under 80 kB each, so that they fit into Dagster's metadata and into one HTML file.

Matplotlib is imported inside functions and used without pyplot: no global state, no display.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.records import Interval, MetricsSnapshot

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Theme = Literal["light", "dark"]
_DPI = 110
_BINS = 40


@dataclass(frozen=True)
class _Palette:
    back: str
    ink: str
    faint: str
    grid: str
    before: str
    after: str
    bad: str


_PALETTES: dict[Theme, _Palette] = {
    "light": _Palette("#ffffff", "#1f2430", "#6b7280", "#e5e7eb", "#8a94a6", "#0f766e", "#b91c1c"),
    "dark": _Palette("#171b24", "#e5e7eb", "#9aa3b2", "#2b3240", "#7b869b", "#2dd4bf", "#f87171"),
}


def metric_history(
    snapshots: Sequence[MetricsSnapshot],
    metric: str,
    *,
    baseline: float | None = None,
    limit: float | None = None,
    marks: Sequence[tuple[datetime, str]] = (),
    theme: Theme = "light",
) -> bytes:
    """A metric over the windows, with its interval; windows where it is unknown are gaps, marked at the foot.

    Parameters
    ----------
    baseline, limit
        Drawn as lines: the reference, and the value at which the gate fails.
    marks
        Moments to mark by a vertical line with a word at its top, such as releases and rollbacks; those outside the windows are left out.

    Raises
    ------
    BadInput
        No snapshot.
    """
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    if not snapshots:
        raise BadInput(f"history of {metric}: no snapshot. Measure a window first.")
    palette = _PALETTES[theme]
    ordered = sorted(snapshots, key=lambda snapshot: snapshot.window_end)
    found = [snapshot.metrics.get(metric) for snapshot in ordered]
    values = np.array([np.nan if m is None or m.value is None else m.value for m in found])
    low = np.array([np.nan if m is None or m.ci_low is None else m.ci_low for m in found])
    high = np.array([np.nan if m is None or m.ci_high is None else m.ci_high for m in found])
    times: Any = [snapshot.window_end for snapshot in ordered]
    unit = next((m.unit for m in found if m is not None and m.unit), "")
    figure, axes = _figure(palette, 6.4, 2.6)
    axes.fill_between(times, low, high, color=palette.after, alpha=0.18, linewidth=0, label="95% interval")
    axes.plot(times, values, color=palette.after, marker="o", markersize=3.5, linewidth=1.6)
    if baseline is not None:
        axes.axhline(baseline, color=palette.before, linewidth=1.2, linestyle="--", label="baseline")
    if limit is not None:
        axes.axhline(limit, color=palette.bad, linewidth=1.2, linestyle=":", label="gate")
    unknown = [time for time, value in zip(times, values, strict=True) if np.isnan(value)]
    if unknown:
        axes.plot(unknown, [0.03] * len(unknown), "x", color=palette.bad, transform=axes.get_xaxis_transform(), label="unknown")
    for moment, word in marks:
        if ordered[0].window_start <= moment <= ordered[-1].window_end:
            place: Any = moment
            axes.axvline(place, color=palette.ink, linewidth=1, alpha=0.7)
            axes.annotate(_safe(word), (place, 0.97), xycoords=axes.get_xaxis_transform(), rotation=90, va="top", ha="right", fontsize=7, color=palette.faint)
    axes.set_ylabel(_safe(f"{metric} ({unit})" if unit else metric))
    _legend(axes, palette)
    locator = AutoDateLocator(maxticks=7)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set(color=palette.faint, fontsize=8)
    return _png(figure, palette)


def ndcg_slices(slices: Sequence[Mapping[str, Any]], *, metric: str = "NDCG@10", limit: int = 14, theme: Theme = "light") -> bytes:
    """Before and after by slice, with the interval of the difference beside them.

    Parameters
    ----------
    slices
        ``name, n, before, after`` and optionally ``low, high``, the 95% interval of after minus before. The largest ``limit`` by ``n`` are drawn.

    Raises
    ------
    BadInput
        No slice, or one without these keys.
    """
    lacking = [key for key in ("name", "n", "before", "after") for entry in slices if key not in entry]
    if not slices or lacking:
        raise BadInput(f"slices: {'none given' if not slices else f'one has no {lacking[0]}'}. Each needs name, n, before and after.")
    palette = _PALETTES[theme]
    shown = sorted(slices, key=lambda entry: -entry["n"])[:limit][::-1]
    rows = np.arange(len(shown))
    figure, axes = _figure(palette, 6.4, 0.9 + 0.3 * len(shown))
    before, after = [entry["before"] for entry in shown], [entry["after"] for entry in shown]
    axes.hlines(rows, before, after, color=palette.faint, linewidth=1.4)
    for entry, row in zip(shown, rows, strict=True):
        if entry.get("low") is not None and entry.get("high") is not None:
            axes.hlines(row, entry["before"] + entry["low"], entry["before"] + entry["high"], color=palette.after, alpha=0.25, linewidth=7)
    axes.plot(before, rows, "o", color=palette.before, markersize=6, label="before")
    axes.plot(after, rows, "o", color=palette.after, markersize=6, label="after")
    axes.set_yticks(rows, [_safe(f"{str(entry['name'])[:34]}  (n={entry['n']})") for entry in shown])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    axes.set_xlabel(_safe(metric))
    _legend(axes, palette)
    return _png(figure, palette)


def stage_shares(rows: Mapping[str, Mapping[str, float]], *, theme: Theme = "light") -> bytes:
    """One bar a row, cut by stage: where the time of a search goes.

    Parameters
    ----------
    rows
        Row label -> stage -> share of the time, 0..1. Stages keep the order of the first row.

    Raises
    ------
    BadInput
        No row, or no stage.
    """
    stages = list(dict.fromkeys(stage for shares in rows.values() for stage in shares))
    if not stages:
        raise BadInput("stage shares: no stage was timed. Measure requests that carry stage times.")
    palette = _PALETTES[theme]
    colours = [palette.before, palette.after, palette.bad, palette.grid, palette.ink]
    figure, axes = _figure(palette, 6.4, 0.8 + 0.42 * len(rows))
    left = np.zeros(len(rows))
    for index, stage in enumerate(stages):
        width = np.array([100 * shares.get(stage, 0.0) for shares in rows.values()])
        axes.barh(range(len(rows)), width, left=left, color=colours[index % len(colours)], height=0.62, alpha=0.85, label=_safe(stage))
        left += width
    axes.set_yticks(range(len(rows)), [_safe(name) for name in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, max(100.0, float(left.max())))
    axes.set_xlabel("% of the time")
    _legend(axes, palette)
    return _png(figure, palette)


def latency_histogram(arms: Mapping[str, Sequence[float]], *, theme: Theme = "light") -> bytes:
    """Latency of each arm on one logarithmic axis of milliseconds, with its 95th percentile as a line.

    Raises
    ------
    BadInput
        No arm has a positive latency.
    """
    palette = _PALETTES[theme]
    clean = {name: np.asarray([value for value in values if value is not None and value > 0], dtype=np.float64) for name, values in arms.items()}
    clean = {name: values for name, values in clean.items() if len(values)}
    if not clean:
        raise BadInput("latency histogram: no arm has a latency above zero. Measure at least one request.")
    low, high = min(values.min() for values in clean.values()), max(values.max() for values in clean.values())
    edges = np.geomspace(low * 0.98, high * 1.02, _BINS + 1)
    figure, axes = _figure(palette, 6.4, 2.6)
    colours = [palette.before, palette.after, palette.bad, palette.ink]
    for index, (name, values) in enumerate(clean.items()):
        colour, p95 = colours[index % len(colours)], float(np.quantile(values, 0.95))
        axes.hist(values, bins=edges.tolist(), weights=np.full(len(values), 100 / len(values)), color=colour, alpha=0.45)
        axes.axvline(p95, color=colour, linewidth=1.6, label=_safe(f"{name}: P95 {p95:,.0f} ms (n={len(values)})"))
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("% of requests")
    _legend(axes, palette)
    return _png(figure, palette)


def difference_histogram(differences: Sequence[float] | npt.NDArray[np.float64], interval: Interval | None = None, *, theme: Theme = "light") -> bytes:
    """Challenger minus champion per query; the mean's 95% interval is shaded. Ties would be the tallest bar: they are counted in words.

    Raises
    ------
    BadInput
        No difference.
    """
    values = np.asarray(differences, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        raise BadInput("difference histogram: no query was compared. Evaluate first.")
    palette = _PALETTES[theme]
    figure, axes = _figure(palette, 6.4, 2.6)
    reach = max(float(np.abs(values).max()), 1e-3)
    apart = values[values != 0]
    said = f"{int((values > 0).sum())} queries better, {int((values < 0).sum())} worse, {int((values == 0).sum())} equal (not drawn)"
    counts, edges = np.histogram(apart, bins=_BINS, range=(-reach, reach))
    middle = (edges[:-1] + edges[1:]) / 2
    axes.bar(middle, counts, width=np.diff(edges), color=[palette.after if x >= 0 else palette.bad for x in middle], alpha=0.6)
    axes.axvline(0, color=palette.faint, linewidth=1)
    axes.axvline(float(values.mean()), color=palette.ink, linewidth=1.6, label=f"mean {values.mean():+.4f}")
    if interval is not None:
        axes.axvspan(interval.low, interval.high, color=palette.ink, alpha=0.15, label=f"its 95% interval {interval.low:+.4f} to {interval.high:+.4f}")
    axes.set_xlabel(f"difference of NDCG@10 by query: {said}")
    axes.set_ylabel("queries")
    _legend(axes, palette)
    return _png(figure, palette)


def pareto(points: Sequence[Mapping[str, Any]], *, theme: Theme = "light") -> bytes:
    """What variants of a model cost and how well they rank; those that none beats are joined by a line, the chosen one is marked.

    Parameters
    ----------
    points
        ``name, p95_ms, ndcg, front, chosen``: the last two say whether it is on the front and whether it was chosen.

    Raises
    ------
    BadInput
        No point, or one without a positive P95.
    """
    if not points or any(not float(point["p95_ms"]) > 0 for point in points):
        raise BadInput("pareto front: no variant was measured, or one has no latency. Judge at least one variant.")
    palette = _PALETTES[theme]
    figure, axes = _figure(palette, 6.4, 3.2)
    best = sorted((point for point in points if point["front"]), key=lambda point: float(point["p95_ms"]))
    axes.plot([point["p95_ms"] for point in best], [point["ndcg"] for point in best], color=palette.after, linewidth=1.2, alpha=0.6)
    for point in points:
        colour = palette.after if point["front"] else palette.before
        axes.plot(point["p95_ms"], point["ndcg"], "D" if point["chosen"] else "o", color=colour, markersize=8 if point["chosen"] else 5)
        axes.annotate(
            _safe(str(point["name"])[:44]), (point["p95_ms"], point["ndcg"]), xytext=(5, 4), textcoords="offset points", fontsize=6.5, color=palette.faint
        )
    axes.plot([], [], "D", color=palette.after, label="chosen")
    axes.plot([], [], "o-", color=palette.after, label="no other is both faster and better")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    axes.set_xlabel("P95 of scoring one query, ms")
    axes.set_ylabel("NDCG@10")
    _legend(axes, palette)
    return _png(figure, palette)


def word_importance(words: Sequence[Mapping[str, Any]], *, theme: Theme = "light") -> bytes:
    """Bars of what each word does, from the most harmful to the most helpful, with their intervals.

    Parameters
    ----------
    words
        ``word, n, mean`` and optionally ``ci_low, ci_high``, drawn from top to bottom.

    Raises
    ------
    BadInput
        No word.
    """
    if not words:
        raise BadInput("word importance: no word. Explain at least one query.")
    palette = _PALETTES[theme]
    shown = list(words)[::-1]
    rows = np.arange(len(shown))
    figure, axes = _figure(palette, 6.4, 0.8 + 0.26 * len(shown))
    means = [float(entry["mean"]) for entry in shown]
    axes.barh(rows, means, color=[palette.bad if mean < 0 else palette.after for mean in means], alpha=0.6, height=0.7)
    for entry, row in zip(shown, rows, strict=True):
        if entry.get("ci_low") is not None and entry.get("ci_high") is not None:
            axes.hlines(row, entry["ci_low"], entry["ci_high"], color=palette.ink, linewidth=1.2)
    axes.axvline(0, color=palette.faint, linewidth=1)
    axes.set_yticks(rows, [_safe(f"{str(entry['word'])[:24]}  (n={entry['n']})") for entry in shown])
    axes.set_ylim(-0.7, len(shown) - 0.3)
    return _png(figure, palette)


def arm_bars(arms: Sequence[tuple[str, float, float, float]], *, metric: str = "NDCG@10", theme: Theme = "light") -> bytes:
    """One bar for each arm of a comparison, with its 95% interval; the axis starts at 0.

    Parameters
    ----------
    arms
        Name, mean, low, high, from top to bottom.

    Raises
    ------
    BadInput
        No arm.
    """
    if not arms:
        raise BadInput("arms: none given. Compare at least one.")
    palette = _PALETTES[theme]
    rows, means = np.arange(len(arms)), np.array([mean for _, mean, _, _ in arms])
    figure, axes = _figure(palette, 6.4, 0.8 + 0.42 * len(arms))
    errors = np.array([[max(mean - low, 0.0), max(high - mean, 0.0)] for _, mean, low, high in arms]).T
    axes.barh(rows, means, color=[(palette.before, palette.before, palette.after, palette.grid)[at % 4] for at in range(len(arms))], height=0.62, alpha=0.85)
    axes.errorbar(means, rows, xerr=errors, fmt="none", ecolor=palette.ink, elinewidth=1.4, capsize=3)
    axes.set_yticks(rows, [_safe(f"{name}  {mean:.3f}") for name, mean, _, _ in arms])
    axes.invert_yaxis()
    axes.set_xlim(0.0, 1.05 * max(high for _, _, _, high in arms))
    axes.set_xlabel(_safe(metric))
    return _png(figure, palette)


def cycle_costs(costs: Sequence[tuple[str, float]], budget: float | None = None, *, theme: Theme = "light") -> bytes:
    """What each cycle cost, in the order given, and the running sum; with the month's budget where that is near.

    Parameters
    ----------
    costs
        (cycle, USD).

    Raises
    ------
    BadInput
        No cycle.
    """
    if not costs:
        raise BadInput("costs of cycles: there is none. Run a cycle first.")
    palette = _PALETTES[theme]
    values = np.array([usd for _, usd in costs])
    figure, axes = _figure(palette, 6.4, 2.6)
    axes.bar(range(len(costs)), values, color=palette.before, label="each")
    axes.plot(range(len(costs)), np.cumsum(values), color=palette.after, marker="o", markersize=3.5, linewidth=1.6, label="sum")
    if budget is not None and values.sum() > budget / 3:
        axes.axhline(budget, color=palette.bad, linewidth=1.2, linestyle=":", label="budget of the month")
    step = max(1, len(costs) // 8)
    axes.set_xticks(range(0, len(costs), step), [_safe(name.removeprefix("si_")) for name, _ in costs[::step]], rotation=20, ha="right")
    axes.set_ylabel("USD")
    _legend(axes, palette)
    return _png(figure, palette)


def data_url(png: bytes) -> str:
    """The picture as a ``data:`` URL."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def as_markdown(png: bytes, alt: str = "") -> str:
    """A Markdown image with the picture inside, for ``MetadataValue.md``."""
    return f"![{alt.replace(']', ' ').replace('[', ' ')}]({data_url(png)})"


def _figure(palette: _Palette, width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained", facecolor=palette.back)
    FigureCanvasAgg(figure)
    axes: Axes = figure.add_subplot(facecolor=palette.back)
    axes.grid(True, color=palette.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for name, spine in axes.spines.items():
        spine.set_visible(name in {"left", "bottom"})
        spine.set_color(palette.grid)
    axes.tick_params(colors=palette.faint, labelsize=8)
    axes.xaxis.label.set(color=palette.faint, fontsize=8.5)
    axes.yaxis.label.set(color=palette.faint, fontsize=8.5)
    return figure, axes


def _legend(axes: Axes, palette: _Palette) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(handles, labels, fontsize=8, frameon=False, labelcolor=palette.ink, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0.2)


def _safe(text: str) -> str:
    """Text that Matplotlib draws as it stands: a dollar sign would start a formula."""
    return text.replace("$", r"\$")


def _png(figure: Figure, palette: _Palette) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=palette.back, metadata={"Software": None})
    return stream.getvalue()
