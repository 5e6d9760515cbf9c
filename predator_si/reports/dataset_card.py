"""The card of a data set: one static page, no scripts, no person's words.

What belongs here: drawing ``augment.card.DatasetCard``. What must not: choosing what may be shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from predator_si.augment.card import DatasetCard
from predator_si.reports.dataset_plots import counted_bars, word_counts
from predator_si.reports.page import Markup, element, joined, page, picture, section, table

DATASET_CARD = "dataset_card.html"
_LISTED_CLUSTERS = 12


def write_dataset_card(folder: Path, card: DatasetCard) -> Path:
    """Write ``dataset_card.html`` into ``folder``; it appears whole or not at all."""
    path = Path(folder) / DATASET_CARD
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(render_dataset_card(card), encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def render_dataset_card(card: DatasetCard) -> str:
    """The page."""
    head = element("header", element("h1", f"Data set {card.dataset_id}"), element("p", card.manifest.get("method", "")))
    parts = [head, _facts(card), _sources(card), _lengths(card), _diversity(card), _losses(card), _examples(card), _again(card)]
    return page(f"Data set {card.dataset_id}", "en", joined(parts))


def _facts(card: DatasetCard) -> Markup:
    found, source = card.statistics, card.manifest["source"]
    dvc = card.manifest.get("dvc") or {}
    rows = [
        ("cycle", card.manifest["cycle_id"]),
        ("made", card.manifest["created_at"]),
        ("trigger", source["trigger"]),
        ("groups", f"{found['groups']:,}"),
        ("examples (query, document)", f"{found['total_examples']:,}"),
        ("aimed at the report's findings", f"{found['targeted_groups']:,} groups"),
        ("documents to choose from", f"{source['base_documents']:,}"),
        ("teacher", found.get("teacher") or "none: no soft labels"),
        ("version", element("code", dvc.get("hash") or "not stored yet")),
    ]
    return section("What it is", table(["", ""], rows))


def _sources(card: DatasetCard) -> Markup:
    by_source: Mapping[str, int] = card.statistics["groups_by_source"]
    kinds: Mapping[str, int] = card.statistics["examples_by_kind"]
    legs: Mapping[str, int] = card.statistics.get("negatives_mined_by_leg") or {}
    return section(
        "Where it comes from",
        picture(lambda theme: counted_bars(by_source, "groups", theme=theme), "groups by source"),
        element("h3", "Documents of the groups"),
        table(["kind", "rows"], [(kind, f"{count:,}") for kind, count in kinds.items()], numbers=(1,)),
        element("p", "Negatives mined by retriever: " + ", ".join(f"{leg} {count:,}" for leg, count in legs.items())) if legs else "",
    )


def _lengths(card: DatasetCard) -> Markup:
    return section(
        "Lengths",
        picture(lambda theme: word_counts(card.query_words, "words of a query", theme=theme), "words of the queries by source"),
        picture(lambda theme: word_counts({"documents": card.text_words}, "words of a document", logarithmic=True, theme=theme), "words of the documents"),
    )


def _diversity(card: DatasetCard) -> Markup:
    found = card.statistics
    entropy = found.get("cluster_entropy")
    rows = [
        ("different word pairs of the queries (distinct-2, 0 to 1)", _share(found.get("diversity_score"))),
        (
            "spread over the topics (entropy of clusters, 0 to 1)",
            "unknown: the index has no vectors, or too few documents" if entropy is None else _share(entropy),
        ),
    ]
    clusters = dict(list((found.get("groups_by_cluster") or {}).items())[:_LISTED_CLUSTERS])
    plot = picture(lambda theme: counted_bars({f"topic {name}": count for name, count in clusters.items()}, "made-up groups", theme=theme), "groups by topic")
    return section("Diversity", table(["", ""], rows, numbers=(1,)), plot if clusters else "")


def _losses(card: DatasetCard) -> Markup:
    steps: Mapping[str, Mapping[str, int]] = card.statistics["yield"]
    sources = list(dict.fromkeys(source for left in steps.values() for source in left))
    rows = [(step, *(f"{left.get(source, 0):,}" for source in sources)) for step, left in steps.items()]
    lost = [(step, source, f"{taken:,}", f"{taken / of:.0%}") for step, source, taken, of in card.losses]
    leaks = ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in card.statistics["leakage"].items())
    return section(
        "What the filters left",
        table(["after", *sources], rows, numbers=range(1, len(sources) + 1)),
        element("h3", "What each took"),
        table(["step", "source", "taken", "of what came"], lost, numbers=(2, 3)),
        element("p", f"Against the evaluation's queries and documents: {leaks}."),
    )


def _examples(card: DatasetCard) -> Markup:
    rows = [
        (
            one.source,
            one.query,
            joined([element("code", one.document), element("small", one.beginning)]),
            ", ".join(one.hard_negatives[:3]),
            _score(one.teacher_score),
        )
        for one in card.examples
    ]
    told = "Queries that people asked, and the documents chosen for them, are not shown; personal data is taken out of the others."
    return section("Examples", element("p", told), table(["source", "query", "answer", "beside it", "teacher"], rows, numbers=(4,)))


def _again(card: DatasetCard) -> Markup:
    rows: list[Sequence[Any]] = [(g["source"], element("code", g["name"]), g["version"]) for g in card.manifest.get("generators") or []]
    return section("How to make it again", element("p", f"Seed {card.statistics['seed']}."), table(["source", "generator", "version"], rows))


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
