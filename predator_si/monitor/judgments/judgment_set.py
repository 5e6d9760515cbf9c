"""Relevance labels with their origin on every row, and the one way to use several origins together.

What belongs here: the set, its checks, the explicit policy. What must not: how labels are made (the modules beside this one), any metric's formula.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import polars as pl

from predator_si.errors import BadInput
from predator_si.measures import per_query

Origin = Literal["human", "feedback", "llm", "click", "docstring"]
"""Who said it: people who judge, people who search, a language model, the click model, or the corpus itself (a docstring answers its own summary)."""
ORIGINS: tuple[str, ...] = get_args(Origin)
SCHEMA: dict[str, Any] = {
    "query_id": pl.String,
    "query": pl.String,
    "doc_id": pl.String,
    "relevance": pl.Float64,
    "scale": pl.Float64,
    "origin": pl.String,
    "judge": pl.String,
}
"""``scale`` is the highest grade of the row's scale (3 for 0..3, 1 for a click probability); ``query`` is its text and ``judge`` who gave it, where known."""


@dataclass(frozen=True)
class Resolved:
    """One label for each pair.

    Attributes
    ----------
    frame
        ``query_id``, ``doc_id``, ``relevance``, ``origin``.
    counts
        Labels by origin.
    source
        In words, for a metric's ``source``.
    """

    frame: pl.DataFrame
    counts: Mapping[str, int]
    source: str


@dataclass(frozen=True)
class JudgmentSet:
    """Labels (``SCHEMA``): at most one per query, document, origin and judge.

    Raises
    ------
    BadInput
        A column is missing, an origin is unknown, a grade lies outside 0..scale or is no number, or a judge labelled the same pair twice.
    """

    frame: pl.DataFrame

    def __post_init__(self) -> None:
        """Check every row and bring the columns into order."""
        lacking = [name for name in ("query_id", "doc_id", "relevance", "origin") if name not in self.frame.columns]
        if lacking:
            raise BadInput(f"judgments: no column {', '.join(lacking)}; there are {', '.join(self.frame.columns)}.")
        defaults = {"query": None, "scale": 1.0, "judge": None}
        frame = self.frame.with_columns([pl.lit(value, dtype=SCHEMA[name]).alias(name) for name, value in defaults.items() if name not in self.frame.columns])
        frame = frame.select([pl.col(name).cast(dtype) for name, dtype in SCHEMA.items()])
        unknown = sorted(set(frame["origin"].to_list()) - set(ORIGINS), key=str)
        if unknown:
            raise BadInput(f"judgments: unknown origin {', '.join(map(repr, unknown))}; known are {', '.join(ORIGINS)}.")
        bad = frame.filter(~(pl.col("relevance").is_finite() & (pl.col("relevance") >= 0) & (pl.col("relevance") <= pl.col("scale"))).fill_null(False))
        if bad.height:
            row = bad.row(0, named=True)
            raise BadInput(
                f"judgments: {bad.height} grades outside their scale; the first is {row['relevance']} of 0..{row['scale']:g} "
                f"for query {row['query_id']}, document {row['doc_id']}."
            )
        doubled = frame.filter(pl.struct("query_id", "doc_id", "origin", "judge").is_duplicated())
        if doubled.height:
            row = doubled.row(0, named=True)
            raise BadInput(
                f"judgments: query {row['query_id']}, document {row['doc_id']} is labelled twice by origin {row['origin']}, judge {row['judge']}; merge first."
            )
        object.__setattr__(self, "frame", frame)

    @classmethod
    def of(cls, judgments: pl.DataFrame, origin: Origin, scale: float | None = None) -> JudgmentSet:
        """Plain labels (``query_id``, ``doc_id``, ``relevance``) of one origin; ``scale`` defaults to the highest grade among them, at least 1."""
        highest: Any = judgments["relevance"].max()
        top = scale if scale is not None else max(1.0, float(highest) if highest is not None else 1.0)
        return cls(judgments.with_columns(origin=pl.lit(origin), scale=pl.lit(float(top))))

    def __add__(self, other: JudgmentSet) -> JudgmentSet:
        """Both, each row still with its origin."""
        return JudgmentSet(pl.concat([self.frame, other.frame]))

    @property
    def height(self) -> int:
        """Labels, all origins together."""
        return self.frame.height

    @property
    def counts(self) -> dict[str, int]:
        """Labels by origin, in the order of ``ORIGINS``."""
        found = dict(self.frame.group_by("origin").len().iter_rows())
        return {origin: int(found[origin]) for origin in ORIGINS if origin in found}

    def only(self, origin: Origin) -> JudgmentSet:
        """The labels of one origin."""
        return JudgmentSet(self.frame.filter(pl.col("origin") == origin))

    def resolved(self, prefer: Sequence[str] | None = None) -> Resolved:
        """One label for each pair.

        Several judges of one origin are averaged. Where the set holds more than one origin, ``prefer`` must name each of them, best first: a pair takes
        its label from the first origin that judged it. Labels of different scales are then brought to 0..1, and the source says so.

        Raises
        ------
        BadInput
            More than one origin without ``prefer``, or an origin that ``prefer`` does not name.
        """
        counts = self.counts
        if prefer is None:
            if len(counts) > 1:
                found = ", ".join(f"{origin} {n}" for origin, n in counts.items())
                raise BadInput(
                    f"judgments of different origins ({found}) are not mixed silently; choose one with only('{next(iter(counts))}'), "
                    f"or say whose label counts first, like prefer={tuple(counts)}."
                )
            order: tuple[str, ...] = tuple(counts)
        else:
            order = tuple(prefer)
            unnamed = [origin for origin in counts if origin not in order]
            if unnamed:
                raise BadInput(f"the policy prefer={order} does not say what to do with origin {', '.join(unnamed)}; name it or leave it out with only().")
        scales = self.frame["scale"].n_unique()
        value = pl.col("relevance") / pl.col("scale") if scales > 1 else pl.col("relevance")
        ranks = {origin: place for place, origin in enumerate(order)}
        chosen = (
            self.frame.with_columns(_place=pl.col("origin").replace_strict(ranks, default=len(order), return_dtype=pl.Int64), relevance=value)
            .group_by("query_id", "doc_id", "origin", "_place", maintain_order=True)
            .agg(pl.col("relevance").mean())
            .sort("_place", maintain_order=True)
            .unique(["query_id", "doc_id"], keep="first", maintain_order=True)
            .select("query_id", "doc_id", "relevance", "origin")
        )
        used = dict(chosen.group_by("origin").len().iter_rows())
        kept = {origin: int(used[origin]) for origin in order if origin in used}
        words = ", ".join(f"{origin} {n}" for origin, n in kept.items())
        source = f"judgments: {words or 'none'}" + (f"; preferred in this order: {' > '.join(order)}" if len(counts) > 1 else "")
        return Resolved(chosen, kept, source + ("; grades of different scales brought to 0..1" if scales > 1 else ""))


def judged_scores(
    run: pl.DataFrame, judgments: JudgmentSet, measures: Sequence[str] = ("nDCG@10",), *, prefer: Sequence[str] | None = None
) -> tuple[pl.DataFrame, Resolved]:
    """Ranking measures of every judged query, and what they were measured with: the source names the origins.

    Parameters
    ----------
    run
        ``query_id``, ``doc_id``, ``rank`` (from 1).
    prefer
        As in :meth:`JudgmentSet.resolved`.

    Raises
    ------
    BadInput
        Origins would be mixed without a policy.
    """
    resolved = judgments.resolved(prefer)
    return per_query(run, resolved.frame.select("query_id", "doc_id", "relevance"), list(measures)), resolved
