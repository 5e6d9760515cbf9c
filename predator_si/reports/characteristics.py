"""Operating characteristics of our decisions as pictures: what `predator-si simulate` counted.

What belongs here: drawing the figures of one simulation. What must not: simulating, reading files.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Format = Literal["svg", "png"]
STORED = Path("simulations") / "simulate.json"
"""Where a home keeps its newest simulation."""
NEEDED = ("false_rollback", "false_promotion_month", "detection", "reference_rules", "loop", "goals", "broken", "scale", "lives")
"""Keys of a simulation's figures that are shown."""
_INK, _FAINT, _GRID, _OURS = "#1f2430", "#6b7280", "#e5e7eb", "#0f766e"
_RULES = {"ours": _OURS, "guide": "#b91c1c", "z_peeking": "#d97706", "mann_whitney": "#6366f1"}
_NAMES = {"ours": "predator_si", "guide": "the guide's rule", "z_peeking": "z-test, peeked at", "mann_whitney": "Mann-Whitney canary"}
_SHADES = ("#99d5cf", "#4aa8a0", "#0f766e", "#083b37")
_UNITS = {"ndcg": "judged paired queries", "latency": "requests timed on both models", "errors": "requests"}


def characteristics(found: Mapping[str, Any], form: Format = "svg") -> dict[str, bytes]:
    """Name -> picture: ``errors`` (false alarms of each rule), ``detection`` (how soon what is worse is found), ``loop`` (ten months).

    Parameters
    ----------
    found
        What ``predator-si simulate --json`` wrote.
    """
    return {"errors": _errors(found, form), "detection": _detection(found, form), "loop": _loop(found, form)}


def _errors(found: Mapping[str, Any], form: Format) -> bytes:
    """Exact intervals on a logarithmic axis; where no event was seen only the upper bound is drawn."""
    figure, panels = _figure(2, 6.8, 2.8)
    rules = {"ours": found, **found["reference_rules"]}
    for axes, key, title, promised in zip(
        panels, ("false_rollback", "false_promotion_month"), ("false rollback of a good deployment", "false promotion in a month"), (0.001, 0.01), strict=True
    ):
        for place, (rule, own) in enumerate(rules.items()):
            row = own[key]
            if row is None:
                continue
            low, high = max(row["lower"], 1e-5), row["upper"]
            axes.plot([low, high], [place, place], color=_RULES[rule], linewidth=3, solid_capstyle="butt")
            axes.plot([row["estimate"] or high], [place], marker="o" if row["events"] else "<", color=_RULES[rule], markersize=5)
        axes.axvline(promised, color=_INK, linewidth=1, linestyle=":")
        axes.text(promised, len(rules) - 0.45, f" promised {promised:.1%}", fontsize=7, color=_FAINT)
        axes.set_xscale("log")
        axes.set_xlim(1e-5, 1.3)
        axes.set_ylim(len(rules) - 0.3, -0.6)
        axes.set_yticks(range(len(rules)), [_NAMES[rule] for rule in rules] if axes is panels[0] else [""] * len(rules))
        axes.set_title(title, fontsize=9, color=_INK, loc="left")
    return _bytes(figure, form)


def _detection(found: Mapping[str, Any], form: Format) -> bytes:
    figure, panels = _figure(3, 8.4, 2.7)
    for axes, metric in zip(panels, ("ndcg", "latency", "errors"), strict=True):
        rows = [row for row in found["detection"] if row["metric"] == metric and (metric != "ndcg" or row["sd_at_most"] is not None)]
        for shade, row in zip(_SHADES, rows, strict=False):
            n, share = np.array(row["curve"]).T
            label = f"{row['effect']:+.2f}" if metric == "ndcg" else f"x{row['effect']:g}" if metric == "latency" else f"{row['effect']:.0%}"
            kept = n <= row["horizon"]
            axes.plot(n[kept], share[kept], color=shade, linewidth=1.8, label=label)
        axes.set_xscale("log")
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(_UNITS[metric], fontsize=8, color=_FAINT)
        if rows:
            axes.legend(frameon=False, fontsize=7, loc="upper left" if metric == "errors" else "lower right")
        axes.set_title({"ndcg": "NDCG@10, sd at most .15", "latency": "latency", "errors": "errors, limit 1%"}[metric], fontsize=9, color=_INK, loc="left")
    panels[0].set_ylabel("share found", fontsize=8, color=_FAINT)
    return _bytes(figure, form)


def _loop(found: Mapping[str, Any], form: Format) -> bytes:
    figure, (axes,) = _figure(1, 6.4, 2.7)
    loop = found["loop"]
    cycles = loop["world"]["cycles"]
    for rule in ("ours", "guide"):
        path = loop[rule]["ndcg"]
        axes.plot(np.linspace(0, cycles, len(path), endpoint=False), path, color=_RULES[rule], linewidth=1.8, label=_NAMES[rule])
    axes.plot([0, cycles], [0.0, loop["untouched"]], color=_FAINT, linewidth=1, linestyle="--", label="no release at all")
    axes.set_xlabel("cycles", fontsize=8, color=_FAINT)
    axes.set_ylabel("true NDCG@10, change", fontsize=8, color=_FAINT)
    axes.legend(frameon=False, fontsize=7)
    return _bytes(figure, form)


def _figure(columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(1, columns, place + 1) for place in range(columns)]
    for axes in panels:
        axes.grid(color=_GRID, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=7, colors=_FAINT, length=0)
        for side in axes.spines.values():
            side.set_visible(False)
    return figure, panels


def _bytes(figure: Figure, form: Format) -> bytes:
    from matplotlib import rc_context

    buffer = io.BytesIO()
    # The same figures give the same file: no date, no random identifiers.
    with rc_context({"svg.hashsalt": "predator_si"}):
        figure.savefig(buffer, format=form, dpi=110, metadata={"Date": None} if form == "svg" else None)
    return buffer.getvalue()
