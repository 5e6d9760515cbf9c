"""The confusion matrix as a Markdown table, for docs/diagnosis.md.

What belongs here: how the figures look on paper. What must not: any figure that is not in the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def confusion_table(figures: Mapping[str, Any]) -> str:
    """One row per planted fault: the right cause, what it cost, how often it was named first and in the top two, and what was named instead."""
    rows = ["| planted | right cause | collections: cost in NDCG@10 | first | top two | named first instead |", "|---|---|---|---|---|---|"]
    for name, row in figures["per_fault"].items():
        costs = ", ".join(f"{place} {one['ndcg']:.3f}" if one["ndcg"] is not None else place for place, one in row["cost"].items())
        right = {one for one in figures["confusion"].get(name, {}) if _is_right(one, row["right"])}
        other = ", ".join(f"{one} {n}" for one, n in sorted(figures["confusion"].get(name, {}).items()) if one not in right)
        rows.append(f"| {name} | `{row['right']}` | {costs} | {row['first']}/{row['windows']} | {row['in_top_two']}/{row['windows']} | {other or '-'} |")
    healthy = figures["confusion"].get("healthy", {})
    alarms = ", ".join(f"{one} {n}" for one, n in sorted(healthy.items()) if one != "no alarm")
    windows = figures["healthy_windows"]
    rows.append(f"| nothing (healthy) | no alarm | | {healthy.get('no alarm', 0)}/{windows} | | {alarms or '-'} |")
    return "\n".join(rows) + "\n"


def _is_right(named: str, right: str) -> bool:
    return named == right or (right == "latency" and named in ("latency:queue", "latency:rerank", "latency:retrieve"))
