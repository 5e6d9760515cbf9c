"""Tiny models in a real model store, and a dataset that they can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from predator_si.search.models import ModelStore
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder

__all__ = ["TOPICS", "HashingEmbedder", "store_tiny", "tiny_cross_encoder", "toy_examples", "toy_texts"]

TOPICS = ("sort", "parse", "join", "plot", "cache", "merge", "train", "index")


def toy_texts() -> list[str]:
    """Texts whose words make a small vocabulary."""
    return [f"how to {topic} a table with the {topic} function, fast and safe" for topic in TOPICS]


def store_tiny(root: Path, seed: int = 0, *, layers: int = 2, hidden: int = 32, max_length: int = 64) -> tuple[ModelStore, str]:
    """A store with one tiny torch model in it, and its digest."""
    store = ModelStore(root / "models")
    folder = tiny_cross_encoder(root / f"tiny-{seed}", toy_texts(), seed, layers=layers, hidden=hidden, max_length=128)
    return store, store.add(folder, name=f"tiny-{seed}", backend="torch-fp32", max_length=max_length, origin={"seed": seed})


def toy_examples(groups: int = 24, per_group: int = 4, seed: int = 0) -> pl.DataFrame:
    """Groups whose one positive is the text with the word ``safe``: learnable from the text alone."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(groups):
        topic = TOPICS[number % len(TOPICS)]
        for place in range(per_group):
            other = TOPICS[int(rng.integers(len(TOPICS)))]
            text = f"the {topic} function and the {other} table, {'safe' if place == 0 else 'fast'}"
            rows.append({"group_id": f"g{number}", "query": f"how to {topic}", "text": text, "label": 1.0 if place == 0 else 0.0})
    return pl.DataFrame(rows)
