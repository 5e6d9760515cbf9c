"""The metrics that a gate may name: good direction, unit, range, spellings, and a description in English and Ukrainian.

What belongs here: names and facts about names. What must not: thresholds (they are a contour's values) and any computation.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Signal:
    """One metric's fixed facts. ``low`` and ``high`` bound the values it can take at all, in ``unit``."""

    name: str
    direction: Literal["up", "down"]
    unit: str
    low: float
    high: float | None
    en: str
    uk: str
    aliases: tuple[str, ...] = ()


_ALL = (
    Signal("ndcg_at_10", "up", "", 0, 1, "Ranking quality of the first ten results", "Якість перших десяти результатів", ("ndcg@10",)),
    Signal("recall_at_20", "up", "", 0, 1, "Share of the relevant among the first twenty", "Частка релевантних, що є серед перших двадцяти", ("recall@20",)),
    Signal("mrr", "up", "", 0, 1, "Mean reciprocal rank of the first relevant result", "Середній обернений ранг першого релевантного результату"),
    Signal("avg_latency_ms", "down", "ms", 0, None, "Mean time of a search", "Середній час пошуку", ("avg_latency",)),
    Signal("p50_latency_ms", "down", "ms", 0, None, "Median time of a search", "Медіанний час пошуку", ("p50_latency",)),
    Signal("p95_latency_ms", "down", "ms", 0, None, "Time that 95 of 100 searches stay under", "Час, у який вкладаються 95 зі 100 пошуків", ("p95_latency",)),
    Signal("p99_latency_ms", "down", "ms", 0, None, "Time that 99 of 100 searches stay under", "Час, у який вкладаються 99 зі 100 пошуків", ("p99_latency",)),
    Signal("error_rate", "down", "", 0, 1, "Share of searches that failed", "Частка пошуків з помилкою"),
    Signal("cost_per_1k_requests", "down", "USD", 0, None, "Cost of a thousand searches", "Вартість тисячі пошуків"),
    Signal("etl_lag_seconds", "down", "s", 0, None, "How long the oldest unindexed document waits", "Скільки чекає найстаріший документ у черзі", ("etl_lag",)),
    Signal("index_errors", "down", "", 0, None, "Repeated errors of indexing", "Повторні помилки індексації"),
    Signal("index_throughput", "up", "1/s", 0, None, "Documents indexed in a second", "Документів проіндексовано за секунду"),
    Signal("user_satisfaction", "up", "", 1, 5, "Mean rating by users, 1 to 5", "Середня оцінка користувачів, від 1 до 5"),
    Signal("gpu_utilization", "down", "", 0, 1, "Share of the GPU in use", "Частка завантаження GPU"),
)
SIGNALS: dict[str, Signal] = {signal.name: signal for signal in _ALL}
_SPELLINGS: dict[str, Signal] = {spelling: signal for signal in _ALL for spelling in (signal.name, *signal.aliases)}


def signal(name: str) -> Signal:
    """The signal called ``name`` or one of its aliases.

    Raises
    ------
    KeyError
        No such metric; the message names the nearest one that exists.
    """
    found = _SPELLINGS.get(name)
    if found is None:
        near = difflib.get_close_matches(name, _SPELLINGS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(SIGNALS))}"
        raise KeyError(f"unknown metric {name!r}{hint}")
    return found
