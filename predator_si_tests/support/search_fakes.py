"""A search service without real weights: an index of a few documents, models whose 'weights' say how they behave, a home that holds both.

The model store, the digests, the release file, the spool and the HTTP layer are the real ones.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.records import ModelCard
from predator_si.search.index_versions import IndexVersions
from predator_si.search.models import ModelStore, model_digest
from predator_si.search.retrieve import Candidates

DOCUMENTS = [(f"d{i}", f"Title {i}", f"body of document {i} about {'even' if i % 2 == 0 else 'odd'} numbers") for i in range(12)]
POISON = "poison"
"""A document with this text cannot be indexed."""
ASKED: set[str] = set()
"""Queries that some fake model of this process has begun to score."""


class FakeIndex:
    """Every document is a candidate for every query, in document order."""

    def __init__(self, documents: Sequence[tuple[str, str, str]]) -> None:
        self.rows = list(documents)
        self.fingerprint = f"{len(self.rows)}-documents"
        self.broken = False

    @property
    def n_documents(self) -> int:
        return len(self.rows)

    def candidates(self, queries: Sequence[str], depth: int) -> list[Candidates]:
        if self.broken:
            raise RuntimeError("the index is broken")
        rows = self.rows[:depth]
        ranks = np.arange(1, len(rows) + 1)
        one = Candidates([row[0] for row in rows], [f"{row[1]}\n{row[2]}" for row in rows], 1.0 / (60.0 + ranks), ranks, ranks)
        return [one for _ in queries]

    def title(self, doc_id: str) -> str:
        return next(row[1] for row in self.rows if row[0] == doc_id)

    def documents(self) -> pl.DataFrame:
        return pl.DataFrame(self.rows, schema=["doc_id", "title", "text"], orient="row")

    def updated(self, upserts: pl.DataFrame, deletes: Sequence[str] = ()) -> FakeIndex:
        if POISON in upserts["text"].to_list():
            raise ValueError("poison cannot be indexed")
        gone = {*deletes, *upserts["doc_id"]}
        return FakeIndex([row for row in self.rows if row[0] not in gone] + upserts.select("doc_id", "title", "text").rows())

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "documents.json").write_text(json.dumps(self.rows))


def load_fake_index(folder: Path) -> FakeIndex:
    return FakeIndex([tuple(row) for row in json.loads((folder / "documents.json").read_text())])


@dataclass
class FakeReranker:
    """Scores by a hash-free rule that its weights name: ``reverse`` turns the order around, ``same`` gives ties, ``raise`` and ``nan`` fail after warm-up."""

    digest: str
    card: ModelCard
    behaviour: str
    seconds: float = 0.0
    calls: int = 0
    threads: set[str] = field(default_factory=set)

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        self.calls += 1
        self.threads.add(threading.current_thread().name)
        ASKED.add(query)
        time.sleep(self.seconds)
        if self.behaviour == "cold" or (self.behaviour == "raise" and query != "warm up"):
            raise RuntimeError("this model cannot score")
        if self.behaviour == "nan" and query != "warm up":
            return np.full(len(texts), np.nan, np.float32)
        if self.behaviour == "same":
            return np.zeros(len(texts), np.float32)
        return np.arange(len(texts), dtype=np.float32) * (1 if self.behaviour == "reverse" else -1)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        return np.zeros(len(pairs), np.float32)


def load_fake_reranker(folder: Path) -> FakeReranker:
    weights = json.loads((folder / "model.safetensors").read_text())
    time.sleep(weights.get("load_seconds", 0.0))
    return FakeReranker(model_digest(folder), ModelCard.read(folder / "predator.json"), weights["behaviour"], weights.get("seconds", 0.0))


@dataclass
class FakeHome:
    """A home folder with an index and a model store."""

    path: Path

    @property
    def store(self) -> ModelStore:
        return ModelStore(self.path / "models")

    @property
    def events(self) -> Path:
        return self.path / "service" / "events"

    def model(self, name: str, behaviour: str = "keep", source_digest: str | None = None, **weights: Any) -> str:
        """Put a model in; its digest."""
        folder = self.path / "incoming" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").write_text(json.dumps({"name": name, "behaviour": behaviour, **weights}))
        return self.store.add(folder, name=name, backend="torch-fp32", max_length=128, source_digest=source_digest)

    def release(self, champion: str, candidate: str | None = None, weight: float = 0.0, depth: int = 5, **more: Any) -> None:
        """Apply a release, as the reconciler would: atomically."""
        content: dict[str, Any] = {"reranker": {"champion": champion, "candidate": candidate, "candidateWeight": weight, "depth": depth}, **more}
        self.write("release-local.yaml", json.dumps(content))

    def deny(self, digest: str, source: str | None = None, reason: str = "it was worse") -> None:
        self.write(
            "deny.yaml", json.dumps({"denied": [{"digest": digest, "sourceDigest": source, "cycle": "si_2026_11_22_001", "reason": reason, "at": "now"}]})
        )

    def write(self, name: str, text: str) -> None:
        folder = self.path / "applied"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f".{name}").write_text(text)
        (folder / f".{name}").replace(folder / name)


def fake_home(path: Path) -> FakeHome:
    """A home with twelve documents and no release yet."""
    IndexVersions(path / "service" / "index").publish(FakeIndex(DOCUMENTS))
    return FakeHome(path)


class FakeCorpus:
    """Queries of all splits; the judged document of query ``<split>-i`` is d<i>."""

    name = "fake"

    def __init__(self, per_split: int = 10) -> None:
        self.per_split = per_split

    def queries(self, split: str | None = None, part: str | None = None) -> pl.DataFrame:
        rows = [(f"{s}-{i}", f"{s} question {i}", s, "base") for s in ("train", "dev", "test") for i in range(self.per_split)]
        frame = pl.DataFrame(rows, schema=["query_id", "text", "split", "part"], orient="row")
        return frame.filter((pl.col("split") == split) if split else True, (pl.col("part") == part) if part else True)

    def judgments(self, split: str | None = None, part: str | None = None) -> pl.DataFrame:
        ids = self.queries(split, part)["query_id"]
        schema = {"query_id": pl.String, "doc_id": pl.String, "relevance": pl.Float64}
        return pl.DataFrame([(q, f"d{q.split('-')[1]}", 1.0) for q in ids], schema=schema, orient="row")


def serve(home: str, port: str, flush_seconds: str = "1.0") -> None:
    """Run a service over fakes in this process, until a signal."""
    import uvicorn

    from predator_si.search.app import create_app

    app = create_app(Path(home), load_index=load_fake_index, load_reranker=load_fake_reranker, poll_seconds=0.05, flush_seconds=float(flush_seconds))
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


if __name__ == "__main__":
    serve(*sys.argv[1:])
