"""The model card: what a model of the store is, where it came from, what it was measured to do, what it is for and what not.

What belongs here: reading a model's ancestry out of the store, and the ``README.md`` beside its weights. What must not: MLflow, measuring anything.

The file follows the section names of Mitchell et al., "Model Cards for Model Reporting" (FAT* 2019), with the header that model hubs read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from predator_si.errors import BadInput
from predator_si.records import Interval, ModelCard, Record
from predator_si.search.models import SOURCES, ModelStore

CARD_FILE = "README.md"
UNKNOWN = "unknown"


class Ancestry(Record):
    """Where a model's weights come from, from the stored cards."""

    weights: str
    """Digest of the torch weights behind it."""
    start: str | None
    """Digest of the model that these were trained from; null where nothing of ours trained them."""
    base: str
    """Name of the public model at the root, or ``unknown``."""
    revision: str
    """Revision or package version of the root, or ``unknown``."""
    licence: str
    trained: int
    """How many trainings lie between the root and this model."""


class ModelFacts(Record):
    """What a card says beyond the ancestry. Empty means that nobody knows, and the card says so."""

    cycle_id: str
    dataset_id: str
    dataset_hash: str
    examples: int
    sources: dict[str, int] = Field(default_factory=dict)
    """Training examples by generator."""
    recipe: dict[str, Any] = Field(default_factory=dict)
    corpus: str
    metrics: dict[str, float | Interval] = Field(default_factory=dict)
    """By name; an interval is a 95% interval."""
    chosen_because: str = ""
    intended_use: str = ""
    limits: tuple[str, ...] = ()


def ancestry(store: ModelStore, digest: str) -> Ancestry:
    """Follow a model's cards to its root; a card that is not in the store ends the way.

    Raises
    ------
    BadInput
        The cards go round in a circle.
    """
    card, seen, trained = store.card(digest), {digest}, 0
    weights, start = card.source_digest or digest, None
    while True:
        behind = card.source_digest if card.source_digest not in (None, card.digest) else None
        base = card.base if card.base is not None and card.base.startswith("sha256:") else None
        step = behind or base
        if behind is None and base is not None:
            trained += 1
            start = start or base
        if step is None or step not in store:
            break
        if step in seen:
            raise BadInput(f"model {digest}: its cards name each other in a circle at {step}. Restore the store from its backup.")
        seen.add(step)
        card = store.card(step)
    source = _source(store.path(card.digest))
    name = str(source.get("name") or card.base or UNKNOWN)
    licence = str(source.get("licence") or SOURCES.get(name, {}).get("licence") or UNKNOWN)
    return Ancestry(weights=weights, start=start, base=name, revision=str(source.get("revision") or UNKNOWN), licence=licence, trained=trained)


def write_model_card(store: ModelStore, digest: str, facts: ModelFacts) -> Path:
    """Write ``README.md`` into the model's folder; its digest does not change, for it is over the weights alone."""
    path = store.path(digest) / CARD_FILE
    partial = path.with_name(f".{CARD_FILE}.partial")
    partial.write_text(model_card(store.card(digest), ancestry(store, digest), facts), encoding="utf-8")
    partial.replace(path)
    return path


def model_card(card: ModelCard, origin: Ancestry, facts: ModelFacts) -> str:
    """The card as Markdown."""
    header = ["---", f"license: {origin.licence.lower()}", f"base_model: {origin.base}", "pipeline_tag: text-ranking", "tags: [reranker, cross-encoder]", "---"]
    table = {
        "digest of the weight files": f"`{card.digest}`",
        "backend, longest pair": f"{card.backend}, {card.max_length} tokens",
        "torch weights behind it": f"`{origin.weights}`",
        "trained from": f"`{origin.start}`" if origin.start else "nothing of ours: the root's own weights",
        "root": f"{origin.base}, revision {origin.revision}, {origin.trained} trainings ago",
        "licence": origin.licence,
        "cycle": facts.cycle_id or UNKNOWN,
    }
    data = {
        "data set": f"{facts.dataset_id or UNKNOWN}, `{facts.dataset_hash or UNKNOWN}`",
        "examples": f"{facts.examples}" + (f" ({', '.join(f'{name} {n}' for name, n in sorted(facts.sources.items()))})" if facts.sources else ""),
    }
    lines = [
        *header, "", f"# {card.name}", "", "## Model details", "", *_table(table), "", "## Intended use", "",
        facts.intended_use or f"Reordering the first search results for queries like those of {facts.corpus}: it gives a query and a passage a logit.",
        "", "## Training data", "", *_table(data), "", "Queries of people were redacted and sealed before they were stored; no dev or test query is in it.",
        "", "## Training", "", *_table(facts.recipe or {"recipe": UNKNOWN}),
        "", "## Metrics", "", *_table({name: _shown(value) for name, value in facts.metrics.items()} or {"metrics": "none were measured"}),
    ]  # fmt: skip
    if facts.chosen_because:
        lines += ["", facts.chosen_because]
    limits = facts.limits or (
        f"Measured on {facts.corpus} only; other documents, languages and longer passages than {card.max_length} tokens with the query were not tried.",
        "A score is comparable within one query's candidates only; it is no probability.",
    )
    return "\n".join([*lines, "", "## Limits", "", *(f"- {limit}" for limit in limits), ""])


def _table(rows: Mapping[str, Any]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]


def _shown(value: float | Interval) -> str:
    if isinstance(value, Interval):
        return f"{value.estimate:+.4f} [{value.low:+.4f}, {value.high:+.4f}], n={value.n}"
    return f"{value:.4f}"


def _source(folder: Path) -> dict[str, Any]:
    """``source.json`` as the download wrote it; empty where a root came another way."""
    path = folder / "source.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read ({error}). Fetch the model again: `predator-si models fetch`.") from error
    return found if isinstance(found, dict) else {}
