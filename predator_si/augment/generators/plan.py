"""How much of which generator: decided by the diagnosis and by what there is to draw from.

What belongs here: shares of the sources that make queries up. What must not: making queries, mixing and capping them (``selection``), clicks and log queries
(people's own queries come first and are not rationed here).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from predator_si.augment.generators.seeds import seeds_of
from predator_si.augment.material import Material

SHARES: Mapping[str, Mapping[str, float]] = {
    "spread": {"title": 0.35, "phrase": 0.3, "template": 0.25, "crop": 0.1, "llm": 0.3},
    "new documents": {"title": 0.5, "phrase": 0.25, "template": 0.15, "crop": 0.1, "llm": 0.3},
    "weak words": {"title": 0.2, "phrase": 0.4, "template": 0.3, "crop": 0.1, "llm": 0.3},
}
"""Weights of the sources for each aim. Titles lead where documents are new (what their authors call them is all that is known), phrases and templates where
words are weak (both put the words themselves into queries); crops are filler."""


@dataclass(frozen=True)
class Plan:
    """Weights of the sources, and why."""

    shares: Mapping[str, float]
    reason: str


def plan_for(material: Material) -> Plan:
    """The shares for a diagnosis.

    Documents aimed at by category or part, or a cause of domain shift with any target: "new documents". Weak words otherwise: "weak words". Nothing to aim at:
    "spread" over the topics.
    """
    seeds = seeds_of(material)
    cause = material.report.root_cause_analysis.type
    aimed = int(seeds.targeted.sum())
    if seeds.words and cause != "domain_shift":
        return Plan(
            SHARES["weak words"], f"weak words: the cause is {cause}, {len(seeds.words)} words are aimed at, in {aimed} of {len(seeds.doc_ids)} documents"
        )
    if aimed:
        return Plan(SHARES["new documents"], f"new documents: the cause is {cause}, {aimed} of {len(seeds.doc_ids)} documents are aimed at")
    return Plan(SHARES["spread"], f"spread: the cause is {cause}, and the report names nothing in the documents that data can be aimed at")
