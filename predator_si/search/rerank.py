"""Second stage: cross-encoders behind one protocol, whatever runs them.

What belongs here: loading a model folder by its card and scoring (query, text) pairs. What must not: choosing a backend (``train`` measures
that), HTTP. Scores are logits: no sigmoid, so that differences mean the same for every backend.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput
from predator_si.records import ModelCard
from predator_si.search.models import CARD, model_digest

BACKENDS = ("torch-fp32", "torch-bf16", "onnx-int8", "openvino-int8", "openvino-bf16", "openvino-f32")
_BATCH = 32
_CHARACTERS = 8
"""Characters of a text that are tokenised for each token of the input: words of most scripts have fewer a token."""
_GROUPS_AT_ONCE = 64
"""Batches that are padded and in flight together: bounds the memory of a long list of pairs."""
_WEIGHTS = {"torch": "model.safetensors", "onnx": "model.onnx", "openvino": "openvino_model.xml"}


@cache
def chip_has_bf16() -> bool:
    """Whether this processor computes in bfloat16 natively; without the instruction half precision is slower than fp32."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def reference_backend() -> str:
    """The fast backend that computes what torch does: every score of the offline stages comes from it, after an equality check."""
    return "openvino-bf16" if chip_has_bf16() else "openvino-f32"


class Reranker(Protocol):
    """A loaded cross-encoder. ``digest`` was computed from the weight files on disk at load time."""

    digest: str
    card: ModelCard

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Logits of one query against several texts."""
        ...

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Logits of arbitrary pairs, batched by length."""
        ...


class Tokenised:
    """Pair tokenisation shared by all backends: truncates the longer side first, as the models were trained.

    Of a long text only its first part is tokenised, where that fills the model's input: the same tokens, in a time that does not grow with the text.
    """

    def __init__(self, folder: Path, max_length: int) -> None:
        from tokenizers import Tokenizer

        self._max_length = max_length
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(max_length, strategy="longest_first")
        self._tokenizer.no_padding()

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        """Encodings (ids, type_ids), not padded."""
        short = [(query, _beginning(text, _CHARACTERS * self._max_length)) for query, text in pairs]
        encoded: list[Any] = self._tokenizer.encode_batch(short)
        again = [place for place, given in enumerate(pairs) if short[place][1] is not given[1] and not self._filled(encoded[place])]
        if again:
            for place, whole in zip(again, self._tokenizer.encode_batch([pairs[place] for place in again]), strict=True):
                encoded[place] = whole
        return encoded

    def _filled(self, encoding: Any) -> bool:
        """Whether more text could not have changed the input: it is full, and the query, being clearly the shorter side, was not cut."""
        sides = encoding.sequence_ids
        return len(encoding.ids) == self._max_length and sides.count(0) + 2 <= sides.count(1)


def _beginning(text: str, characters: int) -> str:
    """The text up to the last blank or line end before so many characters; the whole of it where it is shorter, or where it has none."""
    if len(text) <= characters:
        return text
    end = max(text.rfind(" ", 0, characters), text.rfind("\n", 0, characters))
    return text[:end] if end > 0 else text


def padded(encodings: Sequence[Any], multiple: int = 1, limit: int | None = None) -> dict[str, npt.NDArray[np.int64]]:
    """Input arrays (rows x longest, rounded up to ``multiple`` but not above ``limit``) of tokenised pairs, zero where padded."""
    longest = max(len(encoding.ids) for encoding in encodings)
    width = longest + -longest % multiple
    if limit is not None:
        width = max(longest, min(width, limit))  # positions beyond the limit may not exist in the model
    arrays = {name: np.zeros((len(encodings), width), np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")}
    for row, encoding in enumerate(encodings):
        size = len(encoding.ids)
        arrays["input_ids"][row, :size] = encoding.ids
        arrays["token_type_ids"][row, :size] = encoding.type_ids
        arrays["attention_mask"][row, :size] = 1
    return arrays


class _Backend:
    """Batching around one ``_forward`` (arrays -> logits), or around ``_forward_all`` where several run at once."""

    batch = _BATCH
    by_length = True
    takes: Collection[str] = ("input_ids", "token_type_ids", "attention_mask")
    """Inputs that the model has: not every body knows segments."""
    multiple = 1
    """Widths are rounded up to this: an engine that compiles each new shape must not see hundreds of them."""

    def __init__(self, folder: Path, card: ModelCard, digest: str) -> None:
        self.card = card
        self.digest = digest
        self._tokens = Tokenised(folder, card.max_length)

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Logits of one query against several texts."""
        return self.score_pairs([(query, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Logits of pairs, in their order."""
        if not pairs:
            return np.empty(0, np.float32)
        encodings = self._tokens.encode(pairs)
        order = sorted(range(len(encodings)), key=lambda i: len(encodings[i].ids)) if self.by_length else list(range(len(encodings)))
        out = np.empty(len(encodings), np.float32)
        groups = [order[start : start + self.batch] for start in range(0, len(order), self.batch)]
        for at in range(0, len(groups), _GROUPS_AT_ONCE):
            some = groups[at : at + _GROUPS_AT_ONCE]
            filled = (padded([encodings[i] for i in chosen], self.multiple, self.card.max_length) for chosen in some)
            batches = [{name: array for name, array in arrays.items() if name in self.takes} for arrays in filled]
            for chosen, scores in zip(some, self._forward_all(batches), strict=True):
                out[chosen] = scores
        if not np.isfinite(out).all():
            raise BadInput(f"model {self.digest} gave a score that is not a number; it must not be served. Train or fetch it again.")
        return out

    def _forward_all(self, batches: Sequence[dict[str, npt.NDArray[np.int64]]]) -> list[npt.NDArray[np.float32]]:
        return [self._forward(arrays) for arrays in batches]

    def _forward(self, arrays: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        raise AssertionError("each backend has its own")

    def _check_bound(self, bound: Mapping[str, str]) -> None:
        """Compare the card with what an export wrote into the weight files; files of other makers say nothing."""
        for key, value in (("backend", self.card.backend), ("max_length", str(self.card.max_length))):
            if bound.get(key, value) != value:
                raise BadInput(
                    f"model {self.digest}: its weight files were made for {key} {bound[key]}, its card says {value}. Restore the card or export again."
                )


class _Torch(_Backend):
    """PyTorch, fp32 as a user would run it, or bf16 weights under autocast."""

    def __init__(self, folder: Path, card: ModelCard, digest: str, threads: int | None) -> None:
        import torch
        from safetensors import safe_open
        from transformers import AutoModelForSequenceClassification

        super().__init__(folder, card, digest)
        with safe_open(str(folder / "model.safetensors"), "pt") as opened:
            self._check_bound(opened.metadata() or {})
        if threads:
            torch.set_num_threads(threads)
        self._torch = torch
        self._half = card.backend == "torch-bf16"
        self._model = AutoModelForSequenceClassification.from_pretrained(
            str(folder), num_labels=1, local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        self._model.eval()
        self.takes = inspect.signature(self._model.forward).parameters.keys()
        self.by_length = self._half

    def _forward(self, arrays: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        torch = self._torch
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._half):
            logits = self._model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits
        scores: npt.NDArray[np.float32] = logits.float().reshape(-1).numpy()
        return scores


class _Onnx(_Backend):
    """ONNX Runtime; the graph was quantised to int8 when it was exported."""

    batch = 16

    def __init__(self, folder: Path, card: ModelCard, digest: str, threads: int | None) -> None:
        import onnxruntime

        super().__init__(folder, card, digest)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        self._session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        self._check_bound(self._session.get_modelmeta().custom_metadata_map)
        self.takes = {port.name for port in self._session.get_inputs()}

    def _forward(self, arrays: dict[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float32]:
        scores: npt.NDArray[np.float32] = self._session.run(None, arrays)[0].reshape(-1).astype(np.float32)
        return scores


class _OpenVino(_Backend):
    """OpenVINO in bf16 or f32; or int8 where the graph was quantised when it was exported, and the rest of it in what the chip computes best."""

    batch = 2
    multiple = 8

    def __init__(self, folder: Path, card: ModelCard, digest: str, threads: int | None) -> None:
        import openvino

        super().__init__(folder, card, digest)
        half = card.backend == "openvino-bf16" or (card.backend == "openvino-int8" and chip_has_bf16())
        # One stream a core and small batches: 18% less time for 20 candidates of 192 tokens than all cores on one batch after the other (two cores).
        cores = threads or os.cpu_count() or 1
        properties = {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32", "NUM_STREAMS": str(cores), "INFERENCE_NUM_THREADS": cores}
        core = openvino.Core()
        model = core.read_model(str(folder / "openvino_model.xml"))
        self._check_bound({key: str(model.get_rt_info(["predator", key]).value) for key in ("backend", "max_length") if model.has_rt_info(["predator", key])})
        self._compiled = core.compile_model(model, "CPU", properties)
        self.takes = {name for port in self._compiled.inputs for name in port.get_names()}
        self._requests = openvino.AsyncInferQueue(self._compiled, cores)
        self._scores: dict[int, npt.NDArray[np.float32]] = {}
        self._requests.set_callback(self._keep)
        self._one_caller = threading.Lock()

    def _keep(self, request: Any, number: int) -> None:
        self._scores[number] = request.get_output_tensor(0).data.reshape(-1).astype(np.float32)  # a copy: the engine uses the tensor again

    def _forward_all(self, batches: Sequence[dict[str, npt.NDArray[np.int64]]]) -> list[npt.NDArray[np.float32]]:
        with self._one_caller:
            self._scores.clear()
            for number in range(len(batches) - 1, -1, -1):  # the longest first, so that no core ends long after the others
                arrays, short = batches[number], self.batch - len(batches[number]["input_ids"])
                if short > 0:  # a last, smaller batch would be one more shape to compile for each width
                    arrays = {name: np.concatenate([array, np.repeat(array[:1], short, axis=0)]) for name, array in arrays.items()}
                self._requests.start_async(arrays, number)
            self._requests.wait_all()
            return [self._scores[number][: len(batch["input_ids"])] for number, batch in enumerate(batches)]


def load_reranker(folder: Path, threads: int | None = None) -> Reranker:
    """Load the model in ``folder`` with the backend its card names.

    Raises
    ------
    BadInput
        No card, an unknown backend, pickled weights, or bytes whose digest is not the one on the card.
    """
    folder = Path(folder)
    card = ModelCard.read(folder / CARD)
    digest = model_digest(folder)
    if digest != card.digest:
        raise BadInput(f"{folder}: the weights have digest {digest}, the card says {card.digest}. The files were changed or damaged: not loaded.")
    weights = folder / next(file for kind, file in _WEIGHTS.items() if card.backend.startswith(kind))
    for needed in (weights, folder / "tokenizer.json"):
        if not needed.is_file():
            raise BadInput(f"{needed}: missing, but a {card.backend} model is made of it. Fetch or export the model again.")
    if card.backend.startswith("torch"):
        return _Torch(folder, card, digest, threads)
    if card.backend.startswith("onnx"):
        return _Onnx(folder, card, digest, threads)
    return _OpenVino(folder, card, digest, threads)


def standardised(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Zero mean, unit variance within one candidate list; all zero where the scores do not differ."""
    values = np.asarray(scores, np.float64)
    spread = values.std() if len(values) else 0.0
    return (values - values.mean()) / spread if spread > 1e-12 else np.zeros_like(values)


def fuse(rerank_scores: npt.NDArray[Any], first_scores: npt.NDArray[Any], weight: float) -> npt.NDArray[np.float64]:
    """Final scores: ``(1 - weight) * z(rerank) + weight * z(first stage)``, z within the candidates of one query.

    Parameters
    ----------
    weight
        Share of the first stage, 0 (cross-encoder alone) to 1 (first stage alone).
    """
    if weight == 0.0:
        return np.asarray(rerank_scores, np.float64)
    return (1.0 - weight) * standardised(rerank_scores) + weight * standardised(first_scores)
