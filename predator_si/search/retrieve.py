"""First stage: BM25 and a dense bi-encoder, fused by reciprocal rank.

What belongs here: building, saving and asking the index. What must not: cross-encoders (``rerank``), HTTP (``app``), queues (``ingest``).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.corpora.text import digest_lines, file_digest, words
from predator_si.errors import BadInput, Missing
from predator_si.search.embedder_prefix import recorded_prefix
from predator_si.search.tiny import EMBEDDER_FILE, HashingEmbedder

RRF_K = 60
"""Cormack, Clarke, Buettcher (SIGIR 2009): the constant that damps the top ranks; 60 in their experiments."""
LEG_DEPTH = 100
"""How many documents each leg contributes to the fusion."""
_EMBED_TOKENS = 128
_FEW = 1024
"""Up to so many texts compiling another engine is not worth its seconds."""
_BLOCK, _BATCH, _WIDTH = 512, 16, 16
_DECIMALS = 5

FloatArray = npt.NDArray[np.float64]


class Embedder(Protocol):
    """Texts to unit vectors."""

    name: str

    def encode(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.float32]:
        """Rows of unit length, one per text."""
        ...


class SentenceEmbedder:
    """A sentence-transformers bi-encoder: in torch for a few texts, in OpenVINO for many, which embeds 1.5 times as many a second (two cores).

    OpenVINO computes in half precision on chips with the instruction for it. The vectors of the two differ by less than 1e-4 in cosine.
    """

    def __init__(self, folder: Path, max_tokens: int = _EMBED_TOKENS) -> None:
        from sentence_transformers import SentenceTransformer

        from predator_si.search.rerank import chip_has_bf16

        self.name = f"{Path(folder).name}@{max_tokens}"
        self._prefix = recorded_prefix(Path(folder))
        self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
        self._model.max_seq_length = max_tokens
        self._max_tokens = max_tokens
        self._bf16 = chip_has_bf16()
        self._compiled: Any = None

    def encode(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.float32]:
        """Unit vectors, float32, in the order of ``texts``; long and short texts are embedded apart so that little padding is computed."""
        if len(texts) <= _FEW:
            return self._few(list(texts)) if texts else np.empty((0, 384), np.float32)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        out: npt.NDArray[np.float32] | None = None
        for start in range(0, len(order), _BLOCK):
            chosen = order[start : start + _BLOCK]
            part = self._many([texts[index] for index in chosen])
            if out is None:
                out = np.empty((len(texts), part.shape[1]), np.float32)
            out[chosen] = part
            if on_progress:
                on_progress(min(start + _BLOCK, len(order)), len(order))
        return out if out is not None else np.empty((0, 384), np.float32)

    def encode_queries(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors of queries, with what the model wants put before them."""
        return self.encode([self._prefix + text for text in texts])

    def _few(self, texts: list[str]) -> npt.NDArray[np.float32]:
        import torch

        with torch.autocast("cpu", torch.bfloat16, enabled=self._bf16 and len(texts) > 8):
            vectors = self._model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True)
        found: npt.NDArray[np.float32] = vectors.float().numpy()
        return found

    def _many(self, texts: list[str]) -> npt.NDArray[np.float32]:
        """Unit vectors by OpenVINO: batches of like length, one on each core."""
        if "token_type_ids" not in self._model.tokenizer.model_input_names:  # not a BERT: its inputs are others
            return self._few(texts)
        import openvino

        ids = self._model.tokenizer(texts, truncation=True, max_length=self._max_tokens)["input_ids"]
        order = sorted(range(len(ids)), key=lambda index: -len(ids[index]))
        batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
        found: dict[int, npt.NDArray[np.float32]] = {}
        queue = openvino.AsyncInferQueue(self._engine(), os.cpu_count() or 1)
        queue.set_callback(lambda request, number: found.__setitem__(number, request.get_output_tensor(0).data.astype(np.float32)))
        for number, batch in enumerate(batches):
            longest = max(len(ids[index]) for index in batch)
            width = longest + -longest % _WIDTH
            arrays = np.zeros((2, _BATCH, width), np.int64)  # a last, smaller batch would be one more shape to compile
            arrays[1, :, 0] = 1
            for row, index in enumerate(batch):
                arrays[0, row, : len(ids[index])], arrays[1, row, : len(ids[index])] = ids[index], 1
            queue.start_async({"input_ids": arrays[0], "token_type_ids": np.zeros_like(arrays[0]), "attention_mask": arrays[1]}, number)
        queue.wait_all()
        vectors = np.concatenate([found[number][: len(batch)] for number, batch in enumerate(batches)])
        out = np.empty_like(vectors)
        out[np.concatenate([np.asarray(batch) for batch in batches])] = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return out

    def _engine(self) -> Any:
        """The whole pipeline (encoder, pooling, normalisation) compiled by OpenVINO, once."""
        if self._compiled is None:
            import openvino
            import torch

            pipeline = self._model

            class Embedding(torch.nn.Module):  # type: ignore[misc]
                def __init__(self) -> None:
                    super().__init__()
                    self.pipeline = pipeline

                def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
                    return self.pipeline({"input_ids": input_ids, "token_type_ids": token_type_ids, "attention_mask": attention_mask})["sentence_embedding"]

            example = torch.ones(2, 8, dtype=torch.int64)
            names = ("input_ids", "token_type_ids", "attention_mask")
            with torch.no_grad():
                converted = openvino.convert_model(Embedding().eval(), example_input=dict.fromkeys(names, example))
            for port, name in zip(converted.inputs, names, strict=True):
                port.get_tensor().set_names({name})
            cores = os.cpu_count() or 1
            precision = "bf16" if self._bf16 else "f32"
            properties = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": str(cores), "INFERENCE_NUM_THREADS": cores}
            self._compiled = openvino.Core().compile_model(converted, "CPU", properties)
        return self._compiled


def load_embedder(folder: Path) -> Embedder:
    """The embedder in ``folder``: a sentence-transformers bi-encoder, or a ``tiny.HashingEmbedder`` of a small demo.

    Raises
    ------
    BadInput
        The folder does not hold one.
    """
    if (Path(folder) / EMBEDDER_FILE).is_file():
        return HashingEmbedder.load(folder)
    if not (Path(folder) / "modules.json").is_file():
        raise BadInput(f"{folder}: not a sentence-transformers folder (modules.json is missing). Run `predator-si models fetch`.")
    return SentenceEmbedder(folder)


@dataclass(frozen=True)
class Candidates:
    """What the first stage hands to the reranker for one query, best first.

    ``scores`` are reciprocal-rank-fusion scores; the ranks are 1-based, 0 where that leg did not return the document. ``lexical_ids`` and ``dense_ids`` are
    what each leg brought to the fusion (at most ``LEG_DEPTH``), null where an index does not tell.
    """

    doc_ids: list[str]
    texts: list[str]
    scores: FloatArray
    bm25_ranks: npt.NDArray[np.int64]
    dense_ranks: npt.NDArray[np.int64]
    lexical_ids: list[str] | None = None
    dense_ids: list[str] | None = None


class HybridIndex:
    """BM25 (bm25s) and dense vectors over the same documents, immutable once built."""

    def __init__(self, doc_ids: list[str], titles: list[str], bodies: list[str], vectors: npt.NDArray[np.float32], bm25: Any, embedder: Embedder) -> None:
        self.doc_ids = doc_ids
        self._titles = titles
        self._bodies = bodies
        self._vectors = vectors
        self._bm25 = bm25
        self.embedder = embedder
        self._position = {doc_id: index for index, doc_id in enumerate(doc_ids)}
        self.fingerprint = digest_lines([embedder.name, *(f"{i}\t{t}\t{b}" for i, t, b in zip(doc_ids, titles, bodies, strict=True))])

    @property
    def n_documents(self) -> int:
        """How many documents can be found."""
        return len(self.doc_ids)

    def __contains__(self, doc_id: str) -> bool:
        return doc_id in self._position

    def title(self, doc_id: str) -> str:
        """The title of a document."""
        return self._titles[self._position[doc_id]]

    def text(self, doc_id: str) -> str:
        """What the reranker reads: title and body."""
        index = self._position[doc_id]
        return _joined(self._titles[index], self._bodies[index])

    def documents(self) -> pl.DataFrame:
        """Columns doc_id, title, text."""
        return pl.DataFrame({"doc_id": self.doc_ids, "title": self._titles, "text": self._bodies})

    def document_frequencies(self) -> dict[str, int]:
        """In how many documents each word occurs."""
        counts: dict[str, int] = {}
        for title, body in zip(self._titles, self._bodies, strict=True):
            for word in set(words(_joined(title, body))):
                counts[word] = counts.get(word, 0) + 1
        return counts

    @classmethod
    def build(cls, documents: pl.DataFrame, embedder: Embedder, on_progress: Callable[[int, int], None] | None = None) -> HybridIndex:
        """Index ``documents`` (columns doc_id, title, text).

        Raises
        ------
        BadInput
            No documents, or the same identifier twice.
        """
        return cls._assemble(documents, None, embedder, on_progress)

    def updated(self, upserts: pl.DataFrame, deletes: Sequence[str] = (), on_progress: Callable[[int, int], None] | None = None) -> HybridIndex:
        """A new index with documents added or replaced and others removed; only the new texts are embedded."""
        gone = set(deletes) | set(upserts["doc_id"])
        kept = [index for index, doc_id in enumerate(self.doc_ids) if doc_id not in gone]
        old = pl.DataFrame(
            {"doc_id": [self.doc_ids[i] for i in kept], "title": [self._titles[i] for i in kept], "text": [self._bodies[i] for i in kept]},
            schema={"doc_id": pl.String, "title": pl.String, "text": pl.String},
        )
        fresh = upserts.select("doc_id", "title", "text").unique("doc_id", keep="last", maintain_order=True)
        return self._assemble(pl.concat([old, fresh]), self._vectors[kept], self.embedder, on_progress)

    @classmethod
    def _assemble(
        cls, documents: pl.DataFrame, known: npt.NDArray[np.float32] | None, embedder: Embedder, on_progress: Callable[[int, int], None] | None
    ) -> HybridIndex:
        import bm25s

        doc_ids = documents["doc_id"].to_list()
        if not doc_ids:
            raise BadInput("an index needs at least one document. Check the corpus: `predator-si corpus list`.")
        if len(set(doc_ids)) != len(doc_ids):
            raise BadInput("two documents have the same doc_id. Give each its own.")
        titles, bodies = documents["title"].to_list(), documents["text"].to_list()
        texts = [_joined(title, body) for title, body in zip(titles, bodies, strict=True)]
        done = 0 if known is None else len(known)
        parts = [] if known is None or not done else [known]
        if texts[done:]:
            parts.append(embedder.encode(texts[done:], on_progress))
        vectors = np.concatenate(parts)
        bm25 = bm25s.BM25()
        bm25.index([words(text) or [""] for text in texts], show_progress=False)
        return cls(doc_ids, titles, bodies, vectors, bm25, embedder)

    def save(self, folder: Path) -> None:
        """Write the index to ``folder``; readers see the whole of it or nothing."""
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=folder.parent))
        try:
            self.documents().write_parquet(building / "documents.parquet")
            np.save(building / "vectors.npy", self._vectors)
            self._bm25.save(str(building / "bm25"))
            meta = {"embedder": self.embedder.name, "fingerprint": self.fingerprint, "documents": self.n_documents, "files": _file_digests(building)}
            (building / "index.json").write_text(json.dumps(meta) + "\n")
            building.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            building.replace(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path, embedder: Embedder) -> HybridIndex:
        """The index saved in ``folder``.

        Raises
        ------
        BadInput
            The folder is not a whole index, or was built with another embedder.
        """
        import bm25s

        folder = Path(folder)
        try:
            meta = json.loads((folder / "index.json").read_text())
            # An index of an earlier version has no file digests; its documents are still held against the fingerprint below.
            damaged = [name for name, digest in meta.get("files", {}).items() if file_digest(folder / name) != digest]
            if damaged:
                raise BadInput(f"{folder}: {', '.join(damaged)} changed since the index was written. The index is damaged: reindex.")
            documents = pl.read_parquet(folder / "documents.parquet")
            vectors = np.load(folder / "vectors.npy")
            bm25 = bm25s.BM25.load(str(folder / "bm25"))
            built_with, fingerprint = meta["embedder"], meta["fingerprint"]
            titles, bodies = documents["title"].to_list(), documents["text"].to_list()
        except (OSError, ValueError, KeyError, AttributeError, EOFError, pl.exceptions.PolarsError) as error:
            raise BadInput(
                f"{folder}: the index cannot be read ({error}). Build it again: delete the folder and restart the service, or run `make demo`."
            ) from error
        if built_with != embedder.name:
            raise BadInput(
                f"{folder}: built with embedder {built_with}, but {embedder.name} is configured. Reindex, or configure the embedder it was built with."
            )
        if len(vectors) != documents.height or not np.isfinite(vectors).all():
            raise BadInput(f"{folder}: vectors.npy does not hold one vector of numbers per document. The index is damaged: reindex.")
        index = cls(documents["doc_id"].to_list(), titles, bodies, vectors, bm25, embedder)
        if index.fingerprint != fingerprint:
            raise BadInput(f"{folder}: documents.parquet does not have the fingerprint in index.json. The index is damaged: reindex.")
        return index

    def candidates(self, queries: Sequence[str], depth: int) -> list[Candidates]:
        """The top ``depth`` documents per query by reciprocal rank fusion of both legs, ties by document order.

        Parameters
        ----------
        depth
            0 or more; fewer are returned when the legs return fewer.

        Raises
        ------
        BadInput
            ``depth`` is negative.
        """
        if depth < 0:
            raise BadInput(f"depth {depth}: the number of candidates is 0 or more.")
        if not queries:
            return []
        k = min(LEG_DEPTH, self.n_documents)
        bags = [[word for word in words(query) if word in self._bm25.vocab_dict] for query in queries]
        dense = _queries(self.embedder, queries) @ self._vectors.T
        result = []
        for bag, similarities in zip(bags, dense, strict=True):
            if bag:
                lexical = self._bm25.get_scores(bag)
                top = _top(lexical, k)
                top = top[lexical[top] > 0]
            else:
                top = np.empty(0, np.int64)
            near = _top(similarities, k)
            ranks = np.zeros((2, self.n_documents), np.int64)
            ranks[0, top] = np.arange(1, len(top) + 1)
            ranks[1, near] = np.arange(1, len(near) + 1)
            pool = np.union1d(top, near)
            fused = np.where(ranks[:, pool] > 0, 1.0 / (RRF_K + ranks[:, pool]), 0.0).sum(axis=0)
            best = pool[np.lexsort((pool, -fused))][:depth]
            score_of = dict(zip(pool.tolist(), fused.tolist(), strict=True))
            ids = [self.doc_ids[i] for i in best]
            texts = [_joined(self._titles[i], self._bodies[i]) for i in best]
            legs = [[self.doc_ids[i] for i in leg.tolist()] for leg in (top, near)]
            result.append(Candidates(ids, texts, np.array([score_of[i] for i in best.tolist()]), ranks[0, best], ranks[1, best], *legs))
        return result

    def dense_scores(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """Cosine similarity of each query with the documents named for it, aligned with them.

        Raises
        ------
        Missing
            A document is not in the index.
        """
        places = [self._places(ids) for ids in doc_ids]
        return [(self._vectors[at] @ vector).astype(np.float64) for at, vector in zip(places, _queries(self.embedder, queries), strict=True)]

    def lexical_scores(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]]) -> list[FloatArray]:
        """BM25 of each query with the documents named for it, aligned with them: 0 where they share no word.

        Raises
        ------
        Missing
            A document is not in the index.
        """
        places = [self._places(ids) for ids in doc_ids]
        bags = [[word for word in words(query) if word in self._bm25.vocab_dict] for query in queries]
        return [self._bm25.get_scores(bag)[at].astype(np.float64) if bag else np.zeros(len(at)) for bag, at in zip(bags, places, strict=True)]

    def vectors(self, doc_ids: Sequence[str]) -> npt.NDArray[np.float32]:
        """Unit vectors of indexed documents, one row an id.

        Raises
        ------
        Missing
            A document is not in the index.
        """
        return self._vectors[self._places(doc_ids)]

    def _places(self, doc_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        unknown = [doc_id for doc_id in doc_ids if doc_id not in self._position]
        if unknown:
            raise Missing(f"{len(unknown)} of {len(doc_ids)} documents are not in the index, {unknown[0]!r} for one. Index them, or leave them out.")
        return np.array([self._position[doc_id] for doc_id in doc_ids], np.int64)


def _queries(embedder: Embedder, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Vectors of queries: some models read them otherwise than documents."""
    encode: Callable[[Sequence[str]], npt.NDArray[np.float32]] = getattr(embedder, "encode_queries", embedder.encode)
    return encode(list(texts))


def _file_digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _joined(title: str, body: str) -> str:
    return f"{title}\n{body}" if title else body


def _top(scores: npt.NDArray[Any], k: int) -> npt.NDArray[np.int64]:
    """Positions of the ``k`` highest scores, best first, ties by position; a difference in the sixth decimal is noise of the batch size, and a tie."""
    scores = np.round(scores, _DECIMALS)
    if k < len(scores):
        threshold = np.partition(scores, -k)[-k]
        pool = np.flatnonzero(scores >= threshold)
    else:
        pool = np.arange(len(scores))
    return pool[np.lexsort((pool, -scores[pool]))][:k].astype(np.int64)
