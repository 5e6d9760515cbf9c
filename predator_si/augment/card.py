"""What a data set's card says: lengths, diversity, sources, losses, and some examples in which nobody can be recognised.

What belongs here: choosing and counting. What must not: HTML and plots (``reports.dataset_card``).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from predator_si.augment.dataset import Dataset
from predator_si.augment.recipe import ASKED, SOURCES
from predator_si.corpora.words import token_lists
from predator_si.privacy import redact

NOT_SHOWN = "(asked by a person, not shown)"
_SHOWN_CHARACTERS = 160


@dataclass(frozen=True)
class CardExample:
    """One group as it may be shown: ``query`` is :data:`NOT_SHOWN` where a person asked it."""

    source: str
    method: str
    query: str
    document: str
    beginning: str
    hard_negatives: tuple[str, ...]
    teacher_score: float | None


@dataclass(frozen=True)
class DatasetCard:
    """What is drawn.

    Attributes
    ----------
    query_words, text_words
        Source -> words of each group's query; words of every document in the groups.
    losses
        Step, source, how many it took of how many.
    examples
        A few groups of each source.
    """

    dataset_id: str
    manifest: dict[str, Any]
    query_words: dict[str, list[int]]
    text_words: list[int]
    losses: list[tuple[str, str, int, int]]
    examples: list[CardExample]

    @property
    def statistics(self) -> dict[str, Any]:
        """Of the manifest."""
        found: dict[str, Any] = self.manifest["statistics"]
        return found


def dataset_card(dataset: Dataset, examples: int = 4) -> DatasetCard:
    """The facts of a data set's card.

    Parameters
    ----------
    examples
        Groups shown of each source, drawn by the data set's seed.
    """
    groups = dataset.examples.filter(pl.col("kind") == "positive")
    lengths: dict[str, list[int]] = {}
    for source, words in zip(groups["source"].to_list(), token_lists(groups["query"].to_list()), strict=True):
        lengths.setdefault(source, []).append(len(words))
    texts = dataset.examples.unique("doc_id", maintain_order=True)["text"].to_list()
    return DatasetCard(
        dataset.dataset_id,
        dataset.manifest,
        {source: lengths[source] for source in SOURCES if source in lengths},
        [len(words) for words in token_lists(texts)],
        losses(dataset.statistics["yield"]),
        _shown(dataset.examples, groups, examples, int(dataset.statistics["seed"])),
    )


def losses(steps: dict[str, dict[str, int]]) -> list[tuple[str, str, int, int]]:
    """(step, source, taken, of) for each step that took anything of a source, in the order of the steps."""
    found = []
    names = list(steps)
    for before, step in itertools.pairwise(names):
        for source, left in steps[step].items():
            there = steps[before].get(source, 0)
            if left < there:
                found.append((step, source, there - left, there))
    return found


def _shown(examples: pl.DataFrame, groups: pl.DataFrame, count: int, seed: int) -> list[CardExample]:
    rng = np.random.default_rng(seed)
    made = []
    for source in SOURCES:
        own = groups.filter(pl.col("source") == source)
        for at in sorted(rng.choice(own.height, min(count, own.height), replace=False).tolist()) if own.height else ():
            row = own.row(at, named=True)
            others = examples.filter((pl.col("group_id") == row["group_id"]) & (pl.col("kind") == "hard"))["doc_id"].to_list()
            # What somebody asked could be guessed from the pages shown for it: those stay out as well.
            private = source in ASKED
            made.append(
                CardExample(
                    source,
                    row["method"],
                    NOT_SHOWN if private else redact(row["query"]),
                    "" if private else row["doc_id"],
                    "" if private else redact(" ".join(row["text"][: 2 * _SHOWN_CHARACTERS].split())[:_SHOWN_CHARACTERS]),
                    () if private else tuple(others),
                    row["teacher_score"],
                )
            )
    return made
