"""What scoring costs on this machine by backend, layers and input length: the floor under every claim about speed.

What belongs here: times of models whose layers were cut and which learned nothing since. What must not: quality. Times do not depend on what the weights are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from predator_si.evaluate.optimise import fast_backends
from predator_si.evaluate.timing import arm, time_arms
from predator_si.search.models import ModelStore
from predator_si.search.rerank import load_reranker
from predator_si.search.retrieve import Candidates
from predator_si.train.export import export
from predator_si.train.layers import cut, layer_count


def floor_table(
    model: Path,
    queries: Sequence[str],
    candidates: Sequence[Candidates],
    *,
    depth: int,
    layers: Sequence[int],
    lengths: Sequence[int],
    backends: Sequence[str] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """One row for each backend, number of layers and length: ``p50_ms``, ``p95_ms``, ``pairs_per_second``, the arms of a length interleaved.

    Parameters
    ----------
    model
        Folder of a cross-encoder with at least as many layers.
    queries, candidates
        Aligned; the first two warm the engines up. Half a dozen are enough: these are means of many pairs.
    """
    rows: list[dict[str, Any]] = []
    tried = tuple(backends or fast_backends())
    pairs = [(query, text) for query, own in zip(queries, candidates, strict=True) for text in own.texts[:8]][:40]
    with tempfile.TemporaryDirectory() as scratch:
        store = ModelStore(Path(scratch) / "models")
        sources: dict[int, str] = {}
        for number in layers:
            folder = _shortened(model, Path(scratch) / f"{number}", number)
            sources[number] = store.add(folder, name=f"{number} layers", backend="torch-fp32", max_length=max(lengths))
        for place, length in enumerate(lengths):
            arms = {
                (backend, number): arm(load_reranker(store.path(export(store, digest, backend, length, pairs))), depth)
                for backend in tried
                for number, digest in sources.items()
            }
            timings = time_arms({f"{backend} {number}": own for (backend, number), own in arms.items()}, queries, candidates)
            for backend, number in arms:
                timing = timings[f"{backend} {number}"]
                rows.append({"backend": backend, "layers": number, "max_length": length, "depth": depth, "p50_ms": timing.percentile(50),
                             "p95_ms": timing.percentile(95), "pairs_per_second": timing.pairs_per_second, "timed_queries": len(timing.ms)})  # fmt: skip
            if on_progress is not None:
                on_progress(place + 1, len(lengths))
    return rows


def _shortened(model: Path, target: Path, layers: int) -> Path:
    import shutil

    from transformers import AutoModelForSequenceClassification

    shutil.copytree(model, target)
    if layers < layer_count(model):
        loaded = AutoModelForSequenceClassification.from_pretrained(str(model), num_labels=1, local_files_only=True, use_safetensors=True)
        cut(loaded, layers, "spaced")
        loaded.save_pretrained(str(target), safe_serialization=True)
    return target
