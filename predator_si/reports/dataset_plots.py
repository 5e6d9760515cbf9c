"""Plots of a data set's card: counts by name, lengths of texts.

What belongs here: PNG bytes in both themes, as in ``plots``. What must not: numbers of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from predator_si.errors import BadInput
from predator_si.reports.plots import _BINS, _PALETTES, Theme, _figure, _legend, _png, _safe


def counted_bars(counts: Mapping[str, int], unit: str, *, theme: Theme = "light") -> bytes:
    """One bar for each name, from top to bottom, with its number.

    Raises
    ------
    BadInput
        Nothing was counted.
    """
    if not counts:
        raise BadInput(f"bars of {unit}: nothing was counted. Count something first.")
    palette = _PALETTES[theme]
    names, values = list(counts)[::-1], list(counts.values())[::-1]
    figure, axes = _figure(palette, 6.4, 0.7 + 0.26 * len(names))
    bars = axes.barh(range(len(names)), values, color=palette.after, alpha=0.6, height=0.7)
    axes.bar_label(bars, [f"{value:,}" for value in values], padding=3, fontsize=8, color=palette.ink)
    axes.set_yticks(range(len(names)), [_safe(name[:30]) for name in names])
    axes.margins(x=0.12)
    axes.set_xlabel(unit)
    return _png(figure, palette)


def word_counts(lengths: Mapping[str, Sequence[int]], unit: str, *, logarithmic: bool = False, theme: Theme = "light") -> bytes:
    """How long texts are, one outline for each name, each in percent of its own; the median of each in the legend.

    Raises
    ------
    BadInput
        No length.
    """
    known = {name: np.asarray(values, dtype=np.float64) for name, values in lengths.items() if len(values)}
    if not known:
        raise BadInput(f"{unit}: there is no text to measure. Build a data set first.")
    palette = _PALETTES[theme]
    top = max(float(values.max()) for values in known.values())
    edges = np.geomspace(1, top + 1, _BINS + 1) if logarithmic else np.linspace(0, top + 1, min(_BINS, int(top) + 1) + 1)
    figure, axes = _figure(palette, 6.4, 2.4)
    colours = [palette.after, palette.before, palette.bad, palette.ink, palette.faint]
    for index, (name, values) in enumerate(known.items()):
        label = _safe(f"{name}: median {np.median(values):,.0f} (n={len(values):,})")
        weights = np.full(len(values), 100 / len(values))
        style = "solid" if index < len(colours) else "dashed"
        axes.hist(
            values, bins=edges.tolist(), weights=weights, histtype="step", linewidth=1.6, linestyle=style, color=colours[index % len(colours)], label=label
        )
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.set_xlabel(unit)
    axes.set_ylabel("%")
    _legend(axes, palette)
    return _png(figure, palette)
