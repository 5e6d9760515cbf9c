"""Queries to learn from: those that people asked, and those made up from documents.

What belongs here: collecting questions from a collection. What must not: the teacher, any judgment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

from predator_si.augment.material import Generator, Material
from predator_si.augment.recipe import Guard
from predator_si.proof.adapt.collection import Collection
from predator_si.proof.adapt.teaching import Question, apart_from
from predator_si.records import DiagnosticReport, DistributionChange, RootCause, XaiInsights, utc_now

LOG_SCHEMA: dict[str, Any] = {"text": pl.String, "clicked": pl.List(pl.String), "impressions": pl.List(pl.String)}


def asked(collection: Collection) -> tuple[list[Question], int]:
    """The train queries as a log without labels, each once, and how many resembled an evaluation query and were left out."""
    return apart_from([Question(text, "log", "query") for text in collection.train["text"].to_list()], _guarded(collection))


def made_up(collection: Collection, generators: Sequence[Generator], wanted: int, seed: int) -> tuple[list[Question], int]:
    """At most ``wanted`` queries made from documents, the generators in turn, and how many resembled an evaluation query and were left out.

    The generators see documents and query texts. They are not told which documents are relevant to the evaluation: nobody who has no labels knows that.
    """
    if not generators or wanted < 1:
        return [], 0
    log = pl.DataFrame(
        {"text": collection.train["text"], "clicked": [[]] * collection.train.height, "impressions": [[]] * collection.train.height}, schema=LOG_SCHEMA
    )
    index = collection.index
    material = Material(
        _spread(), log, collection.documents, index, Guard(_guarded(collection), frozenset()), embed=index.embedder.encode, vectors=index.vectors
    )
    streams = [generator.propose(material, wanted, np.random.default_rng([seed, number])) for number, generator in enumerate(generators)]
    mixed: list[Question] = []
    while streams and len(mixed) < wanted:
        for stream in list(streams):
            proposal = next(stream, None)
            if proposal is None:
                streams.remove(stream)
            elif proposal.doc_id in index:
                mixed.append(Question(proposal.query, proposal.source, proposal.method, proposal.doc_id))
    kept, dropped = apart_from(mixed, _guarded(collection))
    return kept[:wanted], dropped


def _guarded(collection: Collection) -> list[str]:
    return [*collection.dev["text"].to_list(), *collection.test["text"].to_list()]


def _spread() -> DiagnosticReport:
    """A report that aims at nothing: the whole collection is new."""
    cause = RootCause(type="domain_shift", affected_categories=[], distribution_change=DistributionChange(new_tokens=[], coverage=None))
    insights = XaiInsights(low_coverage_tokens=[], importance_scores={}, suggested_action="adapt to the collection")
    facts: dict[str, Any] = {"current_value": None, "baseline": None, "delta": None, "root_cause_analysis": cause, "xai_insights": insights}
    return DiagnosticReport(cycle_id="adapt", timestamp=utc_now(), trigger="adapt", recommended_actions=[], **facts)
