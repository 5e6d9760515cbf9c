"""Material for generators: documents of a few topics, a first stage that knows their ids, a report, a log."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import polars as pl

from predator_si.augment.material import Material
from predator_si.augment.recipe import Guard
from predator_si.records import DiagnosticReport, DistributionChange, RootCause, XaiInsights
from predator_si.search.tiny import HashingEmbedder

VERBS = ("sorts", "parses", "joins", "plots", "caches", "merges", "trains", "scans")
THINGS = (
    "sparse matrix",
    "token stream",
    "event queue",
    "beam search",
    "gradient buffer",
    "socket pool",
    "date index",
    "log archive",
    "proxy header",
    "colour palette",
)


def report(words: tuple[str, ...] = (), categories: tuple[str, ...] = (), cause: str = "rerank_miss") -> DiagnosticReport:
    return DiagnosticReport(
        cycle_id="si_2026_11_22_001",
        timestamp=datetime(2026, 11, 22, tzinfo=UTC),
        trigger="ndcg_at_10_down",
        current_value=0.5,
        baseline=0.6,
        delta=-0.1,
        root_cause_analysis=RootCause(type=cause, affected_categories=list(categories), distribution_change=DistributionChange(new_tokens=[], coverage=0.9)),
        xai_insights=XaiInsights(low_coverage_tokens=list(words), importance_scores=dict.fromkeys(words, 0.5), suggested_action="augment"),
        recommended_actions=[],
    )


def documents(count: int = 80) -> pl.DataFrame:
    """Each document has a title in camel case, a heading, and a text about one thing in one way."""
    rows = []
    for number in range(count):
        verb, thing = VERBS[number % 8], THINGS[number // 8 % 10]
        text = (
            f"The {thing} helper{number} {verb} the values of a {thing} in place. It keeps option{number % 5} and limit{number % 7}.\n\n"
            f"Tuning the {thing}\n-----------------\nThe {verb} step reads option{number % 5} before the values are returned."
        )
        title = f"lib.{thing.split()[0]}.{verb.title()}{thing.title().replace(' ', '')}"
        rows.append((f"d{number}", title, text, "shift" if number % 4 == 0 else "base"))
    return pl.DataFrame(rows, schema=["doc_id", "title", "text", "part"], orient="row")


def empty_log() -> pl.DataFrame:
    return pl.DataFrame(schema={"text": pl.String, "clicked": pl.List(pl.String), "impressions": pl.List(pl.String)})


def log_of(texts: list[str], clicked: list[list[str]] | None = None, clients: list[str] | None = None) -> pl.DataFrame:
    answers = clicked or [[] for _ in texts]
    frame = pl.DataFrame({"text": texts, "clicked": answers, "impressions": answers}, schema_overrides=dict(empty_log().schema))
    return frame if clients is None else frame.with_columns(client_id=pl.Series(clients, dtype=pl.String))


def material(docs: pl.DataFrame | None = None, log: pl.DataFrame | None = None, *, embed: bool = True, **changes: Any) -> Material:
    frame = documents() if docs is None else docs
    given: dict[str, Any] = {"report": report(), "guard": Guard([], frozenset()), **changes}
    return Material(
        log=empty_log() if log is None else log,
        documents=frame,
        index=SimpleNamespace(doc_ids=frame["doc_id"].to_list()),  # type: ignore[arg-type]
        embed=HashingEmbedder(64).encode if embed else None,
        **given,
    )
