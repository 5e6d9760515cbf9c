"""What generators draw from, and the protocol that they keep.

What belongs here: the shapes that the parts of ``augment`` agree on. What must not: any generator, filter or teacher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.augment.negatives import FirstStage
from predator_si.augment.recipe import Guard, Proposal
from predator_si.records import DiagnosticReport

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Texts to unit vectors, one row a text."""


Vectors = Callable[[Sequence[str]], npt.NDArray[np.float32]]
"""Ids of indexed documents to their unit vectors, one row an id."""


@dataclass(frozen=True, eq=False)
class Material:
    """Everything that a generator may look at. Two are equal only when they are the same: what is worked out from one may be kept beside it.

    Attributes
    ----------
    report
        The diagnosis that the data are aimed at.
    log
        Query log, oldest first: ``text, clicked, impressions`` and optionally ``dwell``, ``sealed`` (see ``click_estimates``) and ``client_id``; may be
        empty.
    documents
        ``doc_id, title, text`` and optionally ``part``.
    index
        The live first stage.
    guard
        What the evaluation will ask, and its documents: kept out.
    embed
        The service's bi-encoder; null where there is none.
    categories
        Document id -> category.
    vectors
        The index's own vectors (``HybridIndex.vectors``), of the embedder that ``embed`` is; null: documents are embedded anew where needed.
    """

    report: DiagnosticReport
    log: pl.DataFrame
    documents: pl.DataFrame
    index: FirstStage
    guard: Guard
    embed: Embed | None = None
    categories: Mapping[str, str] = field(default_factory=dict)
    vectors: Vectors | None = None


class Generator(Protocol):
    """Proposes queries, each with the document that answers it."""

    source: str
    """One of ``recipe.SOURCES``: under it the yields are counted."""

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """At most ``wanted`` proposals, most useful first, made one by one; none where the material gives none. Equal material and seed, equal proposals.

        A proposal with an empty ``doc_id`` is a query whose answer the teacher finds among its candidates.
        """
        ...
