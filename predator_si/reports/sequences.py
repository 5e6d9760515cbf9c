"""Plots of evidence over time: confidence sequences with their margins, and the watch's evidence with what is proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from predator_si.errors import BadInput
from predator_si.reports.plots import _PALETTES, Theme, _legend, _png, _safe

_HEIGHT = 1.75
_DPI = 90


def confidence_sequences(paths: Sequence[Mapping[str, Any]], *, theme: Theme = "light") -> bytes:
    """One panel a metric: the change, the sequence in which it lies at every look at once, no change, and the margin that must not be passed.

    Parameters
    ----------
    paths
        As in ``ExperimentResult.paths``: ``metric``, ``kind``, ``direction``, ``margin``, ``points`` with ``n``, ``estimate``, ``low``, ``high``; a bound that
        is null is not drawn.

    Raises
    ------
    BadInput
        No path has a point.
    """
    shown = [path for path in paths if any(point["estimate"] is not None for point in path["points"])]
    if not shown:
        raise BadInput("confidence sequences: nothing was measured yet. Wait for traffic, and look again.")
    palette = _PALETTES[theme]
    figure, panels = _panels(len(shown), theme)
    for axes, path in zip(panels, shown, strict=True):
        scale = 100.0 if path["kind"] == "relative" or path["metric"] == "error_rate" else 1.0
        n, estimate, low, high = (_column(path["points"], name) for name in ("n", "estimate", "low", "high"))
        estimate, low, high, margin = scale * estimate, scale * low, scale * high, scale * path["margin"]
        reach = 2.5 * max(float(np.nanmax(np.abs(estimate))), abs(margin), 1e-9)
        axes.fill_between(n, np.fmax(np.where(np.isnan(low), -np.inf, low), -reach), np.fmin(np.where(np.isnan(high), np.inf, high), reach),
                          color=palette.after, alpha=0.18, linewidth=0, label="where it lies, at every look")  # fmt: skip
        axes.plot(n, estimate, color=palette.after, marker="o", markersize=2.5, linewidth=1.4, label="change")
        axes.axhline(0.0, color=palette.before, linewidth=1, linestyle="--", label="no change")
        axes.axhline(margin, color=palette.bad, linewidth=1.2, linestyle=":", label="margin")
        axes.set_ylim(-reach, reach)
        axes.set_ylabel(_safe(f"{path['metric']}\n({'%' if scale == 100.0 else 'share'})"), fontsize=7)
    _legend(panels[0], palette)
    panels[-1].set_xlabel("requests")
    return _png(figure, palette)


def evidence_over_checks(evidence: Mapping[str, Sequence[float]], needed: Mapping[str, float], *, theme: Theme = "light") -> bytes:
    """The watch: log evidence against the release after each check, by question, and the line at which it is taken back.

    Raises
    ------
    BadInput
        No check yet.
    """
    shown = {name: np.asarray(values, dtype=np.float64) for name, values in evidence.items() if len(values)}
    if not shown:
        raise BadInput("evidence of a watch: no check was made yet.")
    palette = _PALETTES[theme]
    figure, (axes,) = _panels(1, theme, height=2.4)
    colours = [palette.after, palette.before, palette.ink, palette.faint]
    for colour, (name, values) in zip(colours, shown.items(), strict=False):
        share = values / needed[name]
        axes.plot(np.arange(1, len(share) + 1), np.clip(share, -0.6, 1.6), color=colour, marker="o", markersize=3, linewidth=1.4, label=_safe(name))
    axes.axhline(1.0, color=palette.bad, linewidth=1.2, linestyle=":", label="proof: rolled back")
    axes.set_ylim(-0.7, 1.7)
    axes.set_xlabel("checks")
    axes.set_ylabel("log evidence / needed")
    _legend(axes, palette)
    return _png(figure, palette)


def _column(points: Sequence[Mapping[str, Any]], name: str) -> Any:
    return np.array([np.nan if point[name] is None else point[name] for point in points], dtype=np.float64)


def _panels(count: int, theme: Theme, height: float = _HEIGHT) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    palette = _PALETTES[theme]
    figure = Figure(figsize=(6.4, 0.5 + height * count), dpi=_DPI, layout="constrained", facecolor=palette.back)
    FigureCanvasAgg(figure)
    panels = figure.subplots(count, 1, squeeze=False)[:, 0]
    for axes in panels:
        axes.set_facecolor(palette.back)
        axes.grid(True, color=palette.grid, linewidth=0.8)
        axes.set_axisbelow(True)
        for name, spine in axes.spines.items():
            spine.set_visible(name in {"left", "bottom"})
            spine.set_color(palette.grid)
        axes.tick_params(colors=palette.faint, labelsize=7)
        axes.xaxis.label.set(color=palette.faint, fontsize=8)
        axes.yaxis.label.set(color=palette.faint, fontsize=7)
    return figure, panels
