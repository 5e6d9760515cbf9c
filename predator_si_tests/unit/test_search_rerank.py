"""Cross-encoder backends on a tiny seeded model: they agree, batching does not show, and what is damaged is not loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from predator_si.errors import BadInput
from predator_si.search.models import CARD, ModelStore
from predator_si.search.rerank import Reranker, fuse, load_reranker, padded, standardised
from predator_si.search.tiny import tiny_cross_encoder
from predator_si.train.export import export
from predator_si_tests.support.tiny_models import store_tiny, toy_texts

BACKENDS = ("torch-fp32", "torch-bf16", "onnx-int8", "openvino-int8", "openvino-f32", "openvino-bf16")
PAIRS = [(f"how to {word}", text) for word in ("sort", "index", "train", "xyzzy") for text in toy_texts()]
PAIRS += [("safe", "and " * number) for number in range(1, 60, 7)] + [("", ""), ("sort", "")]
LENGTH = 48


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelStore, str]:
    return store_tiny(tmp_path_factory.mktemp("rerank"), seed=1, hidden=32)


@pytest.fixture(scope="module")
def rerankers(store: tuple[ModelStore, str]) -> dict[str, Reranker]:
    models, digest = store
    return {backend: load_reranker(models.path(export(models, digest, backend, LENGTH, PAIRS)), threads=1) for backend in BACKENDS}


def spread(scores: np.ndarray) -> float:
    return float(scores.max() - scores.min())


@pytest.mark.parametrize(
    ("backend", "tolerance"), [("openvino-f32", 1e-3), ("torch-bf16", 0.1), ("openvino-bf16", 0.1), ("onnx-int8", 0.25), ("openvino-int8", 0.25)]
)
def test_every_backend_computes_what_fp32_torch_does(rerankers: dict[str, Reranker], backend: str, tolerance: float):
    """Tolerances are in units of the spread of the reference's scores: 8 bits of mantissa, and int8 weights of a two-layer model."""
    reference = rerankers["torch-fp32"].score_pairs(PAIRS)
    scores = rerankers[backend].score_pairs(PAIRS)
    assert spread(reference) > 0.1
    assert scores.dtype == np.float32
    assert np.abs(scores - reference).max() <= tolerance * spread(reference)
    assert np.corrcoef(scores, reference)[0, 1] > 0.95


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_score_does_not_depend_on_its_batch(rerankers: dict[str, Reranker], backend: str):
    reranker = rerankers[backend]
    together = reranker.score_pairs(PAIRS)
    tolerance = 2e-2 if backend.endswith("bf16") else 1e-3
    if backend == "onnx-int8":
        tolerance = 0.25 * spread(together)  # activations are quantised by the range of the whole batch
    alone = np.concatenate([reranker.score_pairs([pair]) for pair in PAIRS])
    assert np.abs(alone - together).max() <= tolerance
    backwards = reranker.score_pairs(PAIRS[::-1])[::-1]
    assert np.abs(backwards - together).max() <= tolerance
    assert np.abs(reranker.score("how to sort", toy_texts()) - together[:8]).max() <= tolerance
    assert reranker.score_pairs([]).shape == (0,)


def test_openvino_sees_few_shapes(rerankers: dict[str, Reranker], monkeypatch: pytest.MonkeyPatch):
    reranker = rerankers["openvino-f32"]
    seen: set[tuple[int, ...]] = set()
    requests = reranker._requests  # type: ignore[attr-defined]

    class Watching:
        wait_all = requests.wait_all

        def start_async(self, inputs: dict[str, np.ndarray], number: int) -> None:
            seen.update(array.shape for array in inputs.values())
            requests.start_async(inputs, number)

    monkeypatch.setattr(reranker, "_requests", Watching())
    for size in range(1, len(PAIRS)):
        reranker.score_pairs(PAIRS[:size])
    reranker.score("long", ["and " * 400])
    rows = {shape[0] for shape in seen}
    assert len(rows) == 1, "every batch has the same number of rows"
    widths = {shape[1] for shape in seen}
    assert LENGTH in widths and all(width % 8 == 0 or width == LENGTH for width in widths), "rounded up, never beyond what the model reads"


def test_text_beyond_the_length_is_not_read(rerankers: dict[str, Reranker]):
    reranker = rerankers["torch-fp32"]
    one, other = reranker.score("sort", ["and " * 100, "and " * 100 + "plot"])
    assert one == pytest.approx(other, abs=1e-5)
    one, other = reranker.score("sort", ["and " * 20, "and " * 20 + "plot"])
    assert abs(one - other) > 1e-3


def test_the_second_segment_is_told_from_the_first(rerankers: dict[str, Reranker]):
    encodings = rerankers["torch-fp32"]._tokens.encode([("sort", "plot")])  # type: ignore[attr-defined]
    arrays_ = padded(encodings, 8)
    assert arrays_["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]]
    assert arrays_["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert padded(encodings, 8, limit=6)["input_ids"].shape == (1, 6)
    assert padded(encodings, 8, limit=3)["input_ids"].shape == (1, 5)
    forward = rerankers["torch-fp32"]._forward  # type: ignore[attr-defined]
    assert forward(arrays_) != forward({**arrays_, "token_type_ids": np.zeros_like(arrays_["token_type_ids"])})


# --------------------------------------------------------------------------- refusals


def copy_of(store: ModelStore, digest: str, target: Path) -> Path:
    shutil.copytree(store.path(digest), target)
    return target


def rewrite_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps({**card, **changes}))


def test_a_wrong_digest_in_the_card_is_refused(store: tuple[ModelStore, str], tmp_path: Path):
    folder = copy_of(*store, tmp_path / "m")
    rewrite_card(folder, digest="sha256:" + "0" * 64)
    with pytest.raises(BadInput, match="not loaded"):
        load_reranker(folder)


def test_changed_weights_are_refused(store: tuple[ModelStore, str], tmp_path: Path):
    folder = copy_of(*store, tmp_path / "m")
    body = bytearray((folder / "model.safetensors").read_bytes())
    body[-1] ^= 1
    (folder / "model.safetensors").write_bytes(body)
    with pytest.raises(BadInput, match="not loaded"):
        load_reranker(folder)


def test_a_folder_without_a_card_or_with_pickles_is_refused(store: tuple[ModelStore, str], tmp_path: Path):
    folder = copy_of(*store, tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match="pickled"):
        load_reranker(folder)
    (folder / "pytorch_model.bin").unlink()
    (folder / CARD).unlink()
    with pytest.raises(BadInput, match=r"predator\.json"):
        load_reranker(folder)


@pytest.mark.parametrize("missing", ["tokenizer.json", "model.onnx"])
def test_a_missing_part_is_named(store: tuple[ModelStore, str], tmp_path: Path, missing: str):
    folder = copy_of(*store, tmp_path / "m")
    if missing == "tokenizer.json":
        (folder / missing).unlink()
    else:
        rewrite_card(folder, backend="onnx-int8")
    with pytest.raises(BadInput, match=missing):
        load_reranker(folder)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_card_that_contradicts_the_bytes_is_refused(store: tuple[ModelStore, str], rerankers: dict[str, Reranker], tmp_path: Path, backend: str):
    folder = copy_of(store[0], rerankers[backend].digest, tmp_path / "m")
    rewrite_card(folder, max_length=LENGTH // 2)
    with pytest.raises(BadInput, match=f"max_length {LENGTH}, its card says {LENGTH // 2}"):
        load_reranker(folder)
    twin = {"torch-fp32": "torch-bf16", "torch-bf16": "torch-fp32", "openvino-f32": "openvino-bf16", "openvino-bf16": "openvino-f32"}.get(backend)
    if twin:
        rewrite_card(folder, max_length=LENGTH, backend=twin)
        with pytest.raises(BadInput, match=f"backend {backend}, its card says {twin}"):
            load_reranker(folder)


def test_weights_that_are_not_numbers_are_not_served(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = tiny_cross_encoder(tmp_path / "nan", toy_texts(), 0, layers=1, hidden=16)
    weights = load_file(str(folder / "model.safetensors"))
    weights["classifier.weight"][0, 0] = float("nan")
    save_file(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})
    models = ModelStore(tmp_path / "store")
    digest = models.add(folder, name="nan", backend="torch-fp32", max_length=32)
    with pytest.raises(BadInput, match="not a number"):
        load_reranker(models.path(digest)).score("sort", ["a table"])


# --------------------------------------------------------------------------- fusing

SCORES = arrays(np.float64, st.integers(1, 12), elements=st.floats(-50, 50, allow_subnormal=False))


@given(SCORES)
def test_standardised_scores_have_mean_zero_and_variance_one(scores: np.ndarray):
    z = standardised(scores)
    if scores.std() > 1e-12:
        assert z.mean() == pytest.approx(0.0, abs=1e-3)
        assert z.std() == pytest.approx(1.0, rel=1e-3)
        order = np.argsort(scores, kind="stable")
        assert (np.diff(z[order]) >= 0).all()
    else:
        assert not z.any()


@given(SCORES, st.floats(0.1, 10), st.floats(-10, 10))
def test_fusing_does_not_depend_on_the_scale_of_either_stage(scores: np.ndarray, scale: float, shift: float):
    first = np.arange(len(scores), dtype=float)[::-1]
    if scores.std() > 1e-3:
        assert fuse(scores * scale + shift, first, 0.3) == pytest.approx(fuse(scores, first * 7 - 2, 0.3), abs=1e-6)


def test_the_ends_of_the_fusion_weight_are_one_stage_alone():
    rerank, first = np.array([3.0, 1.0, 2.0], np.float32), np.array([0.1, 0.3, 0.2])
    assert fuse(rerank, first, 0.0).tolist() == rerank.tolist()
    assert fuse(rerank, first, 1.0) == pytest.approx(standardised(first))
    assert fuse(rerank, first, 0.5) == pytest.approx(np.zeros(3), abs=1e-9), "opposite orders cancel"
    assert fuse(np.array([]), np.array([]), 0.5).shape == (0,)


# --------------------------------------------------------------------------- tiny models


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 2**31))
def test_a_tiny_model_is_made_the_same_way_twice(tmp_path_factory: pytest.TempPathFactory, seed: int):
    one, two, other = (tmp_path_factory.mktemp("tiny") for _ in range(3))
    for folder, number in ((one, seed), (two, seed), (other, seed + 1)):
        tiny_cross_encoder(folder, toy_texts(), number, layers=1, hidden=16)
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {path.name: path.read_bytes() for path in two.iterdir()}
    assert (one / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()
    assert (one / "tokenizer.json").read_bytes() == (other / "tokenizer.json").read_bytes()


def test_a_tiny_model_leaves_the_random_state_alone_and_reads_any_text(tmp_path: Path):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    folder = tiny_cross_encoder(tmp_path / "tiny", ["sort a table", "кеш"], 0, layers=1, hidden=16)
    assert torch.rand(1) == expected
    from tokenizers import Tokenizer

    tokens = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokens.encode("Sort TABLE", "кеш sorted").tokens == ["[CLS]", "sort", "table", "[SEP]", "кеш", "sort", "##e", "##d", "[SEP]"]
    with pytest.raises(BadInput, match="multiple of 16"):
        tiny_cross_encoder(tmp_path / "odd", ["x"], 0, hidden=20)
