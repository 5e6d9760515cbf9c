"""The model card: ancestry followed through the store, and a card that says what is known and what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predator_si.errors import BadInput
from predator_si.records import Interval, ModelCard
from predator_si.search.models import ModelStore, model_digest
from predator_si.train.model_card import ModelFacts, ancestry, model_card, write_model_card

NAME = "ms-marco-MiniLM-L-12-v2"


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def add(store: ModelStore, tmp_path: Path, name: str, **card: object) -> str:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(name.encode())
    if card.pop("fetched", False):
        (folder / "source.json").write_text(json.dumps({"name": NAME, "licence": "Apache-2.0", "revision": "2.2.0", "source": "package"}))
    return store.add(folder, name=name, backend="torch-fp32", max_length=96, **card)  # type: ignore[arg-type]


def chain(store: ModelStore, tmp_path: Path) -> dict[str, str]:
    """As a home grows: fetched, bound to a length, trained twice, exported each time."""
    raw = add(store, tmp_path, "raw", base=NAME, fetched=True)
    first = add(store, tmp_path, "first", base=NAME, source_digest=raw)
    trained = add(store, tmp_path, "trained", base=first)
    served = add(store, tmp_path, "served", base=first, source_digest=trained)
    again = add(store, tmp_path, "again", base=trained)
    return {"raw": raw, "first": first, "trained": trained, "served": served, "again": again}


def test_the_ancestry_goes_back_to_the_public_model(store: ModelStore, tmp_path: Path) -> None:
    made = chain(store, tmp_path)
    found = ancestry(store, made["served"])
    assert (found.base, found.revision, found.licence) == (NAME, "2.2.0", "Apache-2.0")
    assert (found.weights, found.start, found.trained) == (made["trained"], made["first"], 1)
    assert ancestry(store, made["again"]).trained == 2 and ancestry(store, made["again"]).start == made["trained"]
    assert ancestry(store, made["first"]).trained == 0 and ancestry(store, made["first"]).start is None


def test_a_root_that_nobody_knows_is_unknown(store: ModelStore, tmp_path: Path) -> None:
    found = ancestry(store, add(store, tmp_path, "foreign", base="somebody/thing"))
    assert (found.base, found.revision, found.licence) == ("somebody/thing", "unknown", "unknown")
    lost = ancestry(store, add(store, tmp_path, "orphan", base="sha256:" + "0" * 64))
    assert lost.trained == 1 and lost.licence == "unknown"


def test_cards_in_a_circle_and_a_damaged_source_are_named(store: ModelStore, tmp_path: Path) -> None:
    one = add(store, tmp_path, "one")
    two = add(store, tmp_path, "two", base=one)
    card = store.path(one) / "predator.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "base": two}))
    with pytest.raises(BadInput, match="in a circle"):
        ancestry(store, two)
    raw = add(store, tmp_path, "raw", fetched=True)
    (store.path(raw) / "source.json").write_text("{")
    with pytest.raises(BadInput, match=r"source\.json: cannot be read"):
        ancestry(store, raw)


def test_the_card_says_what_was_measured_and_keeps_the_digest(store: ModelStore, tmp_path: Path) -> None:
    made = chain(store, tmp_path)
    facts = ModelFacts(
        cycle_id="si_2026_11_23_001",
        dataset_id="aug_2026_11_23_001",
        dataset_hash="abc.dir",
        examples=900,
        sources={"title": 400, "log": 500},
        recipe={"loss": "distil", "learning_rate": 3e-5},
        corpus="python-docs",
        metrics={"dev_ndcg_at_10": Interval(estimate=0.61, low=0.58, high=0.64, n=150), "seconds": 12.5},
        chosen_because="openvino-int8 is the fastest and not inferior",
    )
    path = write_model_card(store, made["served"], facts)
    text = path.read_text()
    assert path == store.path(made["served"]) / "README.md" and model_digest(path.parent) == made["served"], "a card is no weight file"
    header = text.split("---")[1]
    assert "license: apache-2.0" in header and f"base_model: {NAME}" in header
    for said in ("aug_2026_11_23_001", "abc.dir", "900 (log 500, title 400)", "+0.6100 [+0.5800, +0.6400], n=150", "12.5000", "| loss | distil |",
                 made["first"], "## Intended use", "## Limits", "python-docs", "openvino-int8 is the fastest", "revision 2.2.0, 1 trainings ago"):  # fmt: skip
        assert said in text, said


def test_what_nobody_knows_is_said_to_be_unknown(store: ModelStore, tmp_path: Path) -> None:
    digest = add(store, tmp_path, "bare")
    card = ModelCard.read(store.path(digest) / "predator.json")
    text = model_card(card, ancestry(store, digest), ModelFacts(cycle_id="", dataset_id="", dataset_hash="", examples=0, corpus="toy"))
    assert "unknown, `unknown`" in text and "none were measured" in text and "| recipe | unknown |" in text and "nothing of ours" in text
