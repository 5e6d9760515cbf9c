"""The demo's figures as the table of README's first screen: ``python -m predator_si.proof.readme demo.json README.md``.

What belongs here: putting measured numbers into words. What must not: measuring, rounding in our favour.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from predator_si.errors import BadInput, PredatorError
from predator_si.settings import DEMO_SCALES

BEGIN, END = "<!-- demo-table:begin -->", "<!-- demo-table:end -->"
_NEEDED = (
    "ndcg_before", "ndcg_after", "ndcg_gain_ci", "n_queries", "p95_before_ms", "p95_after_ms", "requests", "failed_requests", "seconds",
    "peak_rss_mb", "scale", "cores", "seed", "state",
)  # fmt: skip


def demo_table(figures: Mapping[str, Any]) -> str:
    """The table in Markdown, from what ``predator-si demo --json`` wrote.

    Raises
    ------
    BadInput
        A figure is missing, or the demo released nothing: then there is no "after".
    """
    missing = [name for name in _NEEDED if figures.get(name) is None]
    if missing:
        why = f" (the cycle ended {figures.get('state')}: {figures.get('reason')})" if figures.get("state") not in (None, "stable") else ""
        raise BadInput(f"the demo's figures lack {', '.join(missing)}{why}. Run `predator-si demo --json FILE` to its end.")
    low, high = figures["ndcg_gain_ci"]
    before, after = float(figures["ndcg_before"]), float(figures["ndcg_after"])
    p95 = float(figures["p95_before_ms"]), float(figures["p95_after_ms"])
    rows = [
        ("NDCG@10", f"{before:.3f}", f"{after:.3f}", f"{after - before:+.3f} [{low:+.3f}, {high:+.3f}]", f"{figures['n_queries']} sealed queries"),
        ("P95 of a search", f"{p95[0]:.0f} ms", f"{p95[1]:.0f} ms", _times(*p95), f"{_latency_sample(figures)} searches of each"),
        _cost(figures),
        ("Requests failed", "", f"{figures['failed_requests']} of {figures['requests']}", "", "all searches of the demo"),
        *_drill(figures),
    ]
    lines = ["| | before | after | difference, 95% interval | measured on |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += [
        "",
        f"`make demo`, scale {figures['scale']}, seed {figures['seed']}: {figures['seconds']:.0f} s on {figures['cores']} cores, "
        f"{figures['peak_rss_mb'] / 1000:.1f} GB of memory at the peak. Before is the fp32 champion on the full index, after is the released model asked "
        "over HTTP. Users are simulated, costs are estimates.",
    ]
    return "\n".join(lines)


def _latency_sample(figures: Mapping[str, Any]) -> int:
    try:
        return DEMO_SCALES[figures["scale"]].latency_requests
    except KeyError as error:
        raise BadInput(f"the demo's figures name a scale {figures['scale']!r}; there are {', '.join(DEMO_SCALES)}.") from error


def _times(before: float, after: float) -> str:
    if after <= 0:
        raise BadInput(f"a P95 of {after:g} ms was not measured. Run the demo again.")
    return f"{before / after:.1f} times faster" if after <= before else f"{after / before:.1f} times slower"


def _cost(figures: Mapping[str, Any]) -> tuple[str, ...]:
    before, after = figures.get("cost_per_1k_before"), figures.get("cost_per_1k_after")
    known = [f"${value:.4f}" if value is not None else "unknown" for value in (before, after)]
    difference = f"{after / before - 1:+.0%}" if before and after is not None else ""
    return ("Cost of 1,000 searches (estimated)", *known, difference, "CPU seconds of the trial")


def _drill(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    drill = figures.get("drill")
    if not drill:
        return []
    seconds = drill.get("seconds_to_old_digest")
    answer = f"taken back in {seconds:.1f} s" if drill["rolled_back"] and seconds is not None else "NOT taken back"
    failed = f"{drill['failed_requests']} of {drill['requests']} requests failed"
    return [("A damaged model is pushed past the gates", "", answer, failed, "the drill")]


def with_table(text: str, table: str, name: str = "README.md") -> str:
    """``text`` with ``table`` between its two markers, in place of what stood there.

    Raises
    ------
    BadInput
        Not exactly one pair of markers, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise BadInput(f"{name}: one line {BEGIN} and after it one line {END} are needed; put them where the table belongs.")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}"


def main(arguments: list[str] | None = None) -> int:
    """Put the table of a demo's JSON into a Markdown file; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m predator_si.proof.readme", description="Put the demo's table into README.md.")
    parser.add_argument("figures", type=Path, help="what `predator-si demo --json FILE` wrote")
    parser.add_argument("readme", type=Path, nargs="?", default=Path("README.md"))
    chosen = parser.parse_args(arguments)
    try:
        try:
            figures, text = json.loads(chosen.figures.read_text(encoding="utf-8")), chosen.readme.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise BadInput(f"{error}. Name the JSON file of a demo, and the Markdown file.") from error
        chosen.readme.write_text(with_table(text, demo_table(figures), str(chosen.readme)), encoding="utf-8")
    except PredatorError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
