"""Documents with words of their own, and a small judged collection of them for `bench augment`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from predator_si.corpora import load_corpus
from predator_si.corpora.beir import write_corpus
from predator_si.proof.bench_augment import Ground, ground
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder


def rich(count: int) -> pl.DataFrame:
    """Documents with words of their own beside those of their topic, as real ones have."""
    rng = np.random.default_rng(5)
    syllables = ["ka", "ro", "mi", "tel", "su", "vor", "ne", "lim", "dra", "po", "qui", "zan"]
    words = sorted({"".join(rng.choice(syllables, 3)) for _ in range(1500)})
    rows = []
    for number in range(count):
        own = rng.choice(words, 24, replace=False).tolist()
        text = f"The {own[0]} {own[1]} returns {own[2]} {own[3]} of a {own[4]}. It keeps {own[5]} {own[6]}, {' '.join(own[7:16])}.\n\nUse {' '.join(own[16:])}."
        rows.append((f"d{number}", f"{own[0]}.{own[1].title()}{own[2].title()}", text, "shift" if number % 4 == 0 else "base"))
    return pl.DataFrame(rows, schema=["doc_id", "title", "text", "part"], orient="row")


def small_ground(folder: Path) -> Ground:
    """160 documents, each in two editions, a query each; half of the queries are a log, the others judged dev and test ones."""
    original = rich(160).with_columns(package=pl.lit("lib"))
    docs = pl.concat([original, original.with_columns(doc_id=pl.col("doc_id") + "-old")])  # a second edition: near-duplicates have something to take
    splits = ["dev", "test", "train", "train"]
    queries = pl.DataFrame(
        [(f"q{i}", " ".join(text.split()[1:5]), splits[i // 2 % 4], "shift" if i % 8 == 0 else "base") for i, text in enumerate(original["text"])],
        schema=["query_id", "text", "split", "part"],
        orient="row",
    )
    judgments = pl.DataFrame({"query_id": queries["query_id"], "doc_id": original["doc_id"], "relevance": [1.0] * original.height})
    write_corpus(folder, docs, queries, judgments, {"name": "small"})
    corpus = load_corpus(folder)
    return ground(corpus, HybridIndex.build(corpus.documents(), HashingEmbedder()))
