"""A judged collection of sixty documents that a tiny reranker can learn in seconds: for drills and tests.

What belongs here: making it from a seed. What must not: anything that says something about search quality.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from predator_si.corpora.beir import write_corpus

TOPICS = ("sorting", "parsing", "joining", "plotting", "caching", "merging", "training", "indexing", "sampling", "masking")
_BASE_TOPICS = ("sockets", "threads", "calendars", "archives", "loggers")


def write_toy_corpus(folder: Path, seed: int = 0) -> Path:
    """Sixty documents: of the four about each of fifteen topics one is relevant, and the word ``verified`` says which.

    Word overlap cannot tell the four apart, so an untrained reranker guesses and a trained one knows.
    """
    rng = np.random.default_rng(seed)
    consonants, vowels = list("bcdfghklmnprstvz"), list("aeiou")

    def word() -> str:
        return "".join(rng.choice(consonants) + rng.choice(vowels) for _ in range(3))

    documents, queries, judgments = [], [], []
    for part, topics in (("base", _BASE_TOPICS), ("shift", TOPICS)):
        for topic in topics:
            good = int(rng.integers(4))
            for place in range(4):
                quality = "verified" if place == good else "outdated"
                text = f"about {topic} {quality} page " + " ".join(word() for _ in range(12))
                documents.append((f"{topic}-{place}", f"{topic} page {place}", text, part, f"{part}lib"))
            for split, count in (("train", 6), ("dev", 5), ("test", 6)):
                for number in range(count):
                    query_id = f"{split}-{topic}-{number}"
                    queries.append((query_id, f"{topic} {word()} {word()} {word()}", split, part))
                    judgments.append((query_id, f"{topic}-{good}", 1.0))
    write_corpus(
        folder,
        pl.DataFrame(documents, schema=["doc_id", "title", "text", "part", "package"], orient="row"),
        pl.DataFrame(queries, schema=["query_id", "text", "split", "part"], orient="row"),
        pl.DataFrame(judgments, schema=["query_id", "doc_id", "relevance"], orient="row"),
        {"name": "toy"},
    )
    return folder
