"""A drill's page: the figures, a plot of the phases or of memory, and every repetition.

What belongs here: drawing and writing. What must not: counting.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from predator_si.proof.drill.figures import PHASES, Tally
from predator_si.reports.page import Markup, element, joined, page, picture, pill, section, table
from predator_si.reports.plots import Theme

_INK: dict[Theme, tuple[str, str, str]] = {"light": ("#ffffff", "#1f2430", "#e5e7eb"), "dark": ("#171b24", "#e5e7eb", "#2b3240")}
_COLOURS = {"detect": "#8a94a6", "commit": "#b45309", "sync": "#2563eb", "ready": "#0f766e"}
_ROWS = 400
_WHAT = {
    "rollback": "A damaged model is released past the gates under load; the watch notices, and the old model comes back.",
    "swap": "Another model becomes the champion by a commit, again and again, while clients search without a pause.",
    "kill": "Processes are killed with SIGKILL right before and right after each side effect of a cycle, from its opening to its end, and started again.",
    "partition": "The Git remote, or the deployer, is away, slow, or lies, in the middle of a release and of a rollback.",
    "race": "Two of everything at the same moment.",
}


def write_page(folder: Path, found: Mapping[str, Any], tally: Tally) -> Path:
    """``drill-<name>.html``; the path."""
    name = str(found["drill"])
    verdict = pill("nothing was violated", "good") if not found["violations"] else pill(f"{found['violations']} violations", "bad")
    head = element(
        "header", element("h1", f"Drill: {name}"), element("p", _WHAT[name]), element("p", verdict, f" scale {found['scale']}, seed {found['seed']}")
    )
    parts: list[Any] = [head, section("Figures", _figures(found))]
    if any(tally.phases.values()):
        parts.append(section("Where the time went", picture(lambda theme: phases_plot(tally.phases, theme=theme), _phases_in_words(found)), _phases(found)))
    if len(tally.memory) > 1:
        words = f"Memory of the search service over {len(tally.memory)} samples"
        parts.append(section("Memory", picture(lambda theme: memory_plot(tally.memory, theme=theme), words)))
    if tally.violations:
        parts.append(section("Violated", element("ul", *(element("li", one) for one in tally.violations))))
    rows = [(row["what"], "; ".join(row["problems"]) or "held") for row in tally.rows[:_ROWS]]
    more = [element("p", f"{len(tally.rows) - _ROWS} more are in the JSON file.")] if len(tally.rows) > _ROWS else []
    parts.append(section("Each one", table(("what", "after it"), rows), *more))
    path = folder / f"drill-{name}.html"
    path.write_text(page(f"Drill: {name}", "en", joined(parts)), encoding="utf-8")
    return path


def _figures(found: Mapping[str, Any]) -> Markup:
    rows: list[tuple[str, str]] = [
        ("repetitions", f"{found['n']:,}"),
        ("violations", f"{found['violations']:,}"),
        ("searches", f"{found['requests']:,}"),
        ("failed", f"{found['failed_requests']:,}"),
        ("failed while the service was down on purpose", f"{found['excused_requests']:,}"),
        ("commit to ready, median", _seconds(found["p50_seconds"])),
        ("commit to ready, P95", _seconds(found["p95_seconds"])),
        *_goal(found),
    ]
    if found["rss_slope_mb_per_1000"] is not None:
        low, high = found["rss_slope_ci"]
        rows.append(("memory, MB per 1,000", f"{found['rss_slope_mb_per_1000']:+.1f} [{low:+.1f}, {high:+.1f}]"))
    return table(("", ""), rows, numbers=(1,))


def _goal(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The goal of a drill that has one, and whether it was reached."""
    if found["goal_seconds"] is None:
        return []
    answer = {True: "reached", False: "missed", None: "not judged: too few repetitions for a P95"}[found["within_goal"]]
    return [(f"goal: P95 within {found['goal_seconds']:g} s", answer)]


def _phases(found: Mapping[str, Any]) -> Markup:
    rows = [(name, _seconds(found["phases"][name]["p50"]), _seconds(found["phases"][name]["p95"]), found["phases"][name]["n"]) for name in PHASES]
    return table(("phase", "median", "P95", "n"), rows, numbers=(1, 2, 3))


def _phases_in_words(found: Mapping[str, Any]) -> str:
    return "; ".join(f"{name}: median {_seconds(found['phases'][name]['p50'])}, P95 {_seconds(found['phases'][name]['p95'])}" for name in PHASES)


def _seconds(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.2f} s"


def phases_plot(phases: Mapping[str, Sequence[float]], *, theme: Theme = "light") -> bytes:
    """The distribution of each phase: the share of repetitions that took at most so many seconds (logarithmic). PNG."""
    import numpy as np

    figure, axes = _figure(theme)
    for name, values in phases.items():
        seconds = np.sort(np.maximum(np.asarray(values, np.float64), 1e-3))
        if seconds.size:
            axes.step(seconds, np.arange(1, seconds.size + 1) / seconds.size, where="post", color=_COLOURS[name], label=name, linewidth=1.8)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("seconds")
    axes.set_ylabel("share of repetitions")
    axes.legend(frameon=False, fontsize=8, labelcolor=_INK[theme][1])
    return _png(figure)


def memory_plot(samples: Sequence[tuple[int, float]], *, theme: Theme = "light") -> bytes:
    """Memory over repetitions. PNG."""
    figure, axes = _figure(theme)
    axes.plot([number for number, _ in samples], [size for _, size in samples], color=_COLOURS["ready"], linewidth=1.2)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("repetition")
    axes.set_ylabel("MB")
    return _png(figure)


def _figure(theme: Theme) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    back, ink, grid = _INK[theme]
    figure = Figure(figsize=(7.5, 3.0), dpi=110, layout="constrained", facecolor=back)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=back)
    axes.grid(True, color=grid, linewidth=0.8)
    axes.tick_params(colors=ink, labelsize=8)
    for spine in axes.spines.values():
        spine.set_color(grid)
    axes.xaxis.label.set(color=ink, fontsize=8.5)
    axes.yaxis.label.set(color=ink, fontsize=8.5)
    return figure, axes


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return stream.getvalue()
