"""Further teachers from folders: bi-encoders in torch or ONNX, and larger cross-encoders. All of them are optional.

What belongs here: loading. What must not: scoring with several (``teacher``), fetching (``search.models``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from predator_si.augment.teacher import BiEncoder, ScorePairs
from predator_si.errors import BadInput
from predator_si.search.embedder_prefix import recorded_prefix
from predator_si.search.models import CARD, SOURCES, weight_files
from predator_si.search.rerank import chip_has_bf16, load_reranker
from predator_si.search.retrieve import SentenceEmbedder
from predator_si.search.tiny import EMBEDDER_FILE, HashingEmbedder

TOKENS = 256
"""Of a document that a teaching bi-encoder reads: it is asked offline, and the second half of a long text counts too."""
_BATCH = 32


def installed_bi_encoders(cache: Path, besides: str | None = None) -> list[BiEncoder]:
    """The optional teachers of ``search.models.SOURCES`` that are fetched, loaded; ``besides`` is the service's own embedder, which votes already.

    None where nothing is fetched: ``predator-si models fetch bge-small-en-v1.5`` adds one.
    """
    names = [name for name, source in SOURCES.items() if source.get("teacher") and (Path(cache) / "models" / name / "source.json").is_file()]
    return [load_bi_encoder(Path(cache) / "models" / name) for name in names if besides is None or besides.split("@")[0] != name]


def load_bi_encoder(folder: Path, *, query_prefix: str | None = None, max_tokens: int = TOKENS) -> BiEncoder:
    """The bi-encoder in ``folder``: a sentence-transformers one, a ``tiny.HashingEmbedder``, or ``model.onnx`` with ``tokenizer.json`` and its pooling.

    Parameters
    ----------
    query_prefix
        Put before each query; null takes the one recorded in ``source.json`` (``query_prefix``) or in ``config_sentence_transformers.json``
        (``prompts.query``), or none.

    Raises
    ------
    BadInput
        The folder does not hold one.
    """
    folder = Path(folder)
    prefix = recorded_prefix(folder) if query_prefix is None else query_prefix
    if (folder / EMBEDDER_FILE).is_file():
        return BiEncoder(folder.name, HashingEmbedder.load(folder), prefix)
    if (folder / "modules.json").is_file():
        return BiEncoder(folder.name, SentenceEmbedder(folder, max_tokens), prefix)
    if (folder / "model.onnx").is_file() and (folder / "tokenizer.json").is_file():
        return BiEncoder(folder.name, OnnxEmbedder(folder, max_tokens), prefix)
    raise BadInput(f"{folder}: no bi-encoder: neither modules.json (sentence-transformers) nor model.onnx with tokenizer.json. Point at a model folder.")


def load_cross_encoder(folder: Path, *, max_tokens: int = TOKENS) -> ScorePairs:
    """The cross-encoder in ``folder`` as a function on pairs: one of a model store by its card, or any Hugging Face sequence classifier with one logit.

    Raises
    ------
    BadInput
        No weights, pickled ones, or more than one logit.
    """
    folder = Path(folder)
    if (folder / CARD).is_file():
        return load_reranker(folder).score_pairs
    weight_files(folder)
    import torch
    from sentence_transformers import CrossEncoder

    labels = len(json.loads((folder / "config.json").read_text()).get("id2label", {0: "one"}))
    if labels != 1:
        raise BadInput(f"{folder}: a classifier of {labels} labels; a teacher gives one relevance logit. Point at a reranker.")
    model = CrossEncoder(str(folder), num_labels=1, max_length=max_tokens, device="cpu", local_files_only=True)

    def score_pairs(pairs: list[tuple[str, str]]) -> npt.NDArray[np.floating]:
        with torch.autocast("cpu", torch.bfloat16, enabled=chip_has_bf16()):
            logits = model.predict(pairs, batch_size=_BATCH, show_progress_bar=False, activation_fn=torch.nn.Identity(), convert_to_tensor=True)
        scores: npt.NDArray[np.floating] = logits.float().reshape(-1).numpy()
        return scores

    return score_pairs


class OnnxEmbedder:
    """A BERT-like bi-encoder as ONNX graph whose first output is the last hidden states; pooled as ``1_Pooling/config.json`` says.

    Raises
    ------
    BadInput
        The folder does not say whether the first token or the mean is the text's vector.
    """

    def __init__(self, folder: Path, max_tokens: int = TOKENS) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        try:
            pooling: dict[str, Any] = json.loads((folder / "1_Pooling" / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise BadInput(
                f"{folder / '1_Pooling' / 'config.json'}: unreadable ({error}), so it is not known how a text's vector is made. "
                "Write pooling_mode_cls_token or pooling_mode_mean_tokens: true into it."
            ) from error
        if bool(pooling.get("pooling_mode_cls_token")) == bool(pooling.get("pooling_mode_mean_tokens")):
            raise BadInput(f"{folder / '1_Pooling' / 'config.json'}: either pooling_mode_cls_token or pooling_mode_mean_tokens must be true.")
        self.name = f"{folder.name}@{max_tokens}"
        self._first = bool(pooling.get("pooling_mode_cls_token"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.no_padding()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = os.cpu_count() or 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self._inputs = {entry.name for entry in self._session.get_inputs()}

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Rows of unit length, one per text."""
        encodings = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(encodings)), key=lambda at: len(encodings[at].ids))
        rows: dict[int, npt.NDArray[np.float32]] = {}
        for start in range(0, len(order), _BATCH):
            some = order[start : start + _BATCH]
            width = max(1, *(len(encodings[at].ids) for at in some))
            arrays = {name: np.zeros((len(some), width), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
            arrays["attention_mask"][:, 0] = 1  # a text without tokens is one of padding
            for row, at in enumerate(some):
                arrays["input_ids"][row, : len(encodings[at].ids)] = encodings[at].ids
                arrays["attention_mask"][row, : len(encodings[at].ids)] = 1
            states = self._session.run(None, {name: array for name, array in arrays.items() if name in self._inputs})[0].astype(np.float32)
            mask = arrays["attention_mask"][:, :, None]
            pooled = states[:, 0] if self._first else (states * mask).sum(axis=1) / mask.sum(axis=1)
            rows.update(zip(some, pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12), strict=True))
        return np.stack([rows[at] for at in range(len(texts))]).astype(np.float32) if texts else np.empty((0, 0), np.float32)
