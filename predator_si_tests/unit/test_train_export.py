"""Exports: the same twice, different where they behave differently, and nothing half-made. That they score alike is tested with ``rerank``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predator_si.errors import BadInput, Missing
from predator_si.search.models import ModelStore, model_digest
from predator_si.search.rerank import load_reranker
from predator_si.train import export as exporting
from predator_si.train.export import export
from predator_si_tests.support.tiny_models import store_tiny, toy_texts

CALIBRATION = [(f"how to {text.split()[2]}", text) for text in toy_texts()]


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[ModelStore, str]:
    return store_tiny(tmp_path, seed=3, layers=1, hidden=16)


@pytest.mark.parametrize("backend", ["torch-bf16", "onnx-int8", "openvino-int8", "openvino-f32"])
def test_an_export_is_made_the_same_way_twice_and_another_length_is_another_model(tiny: tuple[ModelStore, str], tmp_path: Path, backend: str):
    store, digest = tiny
    again = ModelStore(tmp_path / "again")
    again.add(store.path(digest), name="tiny-3", backend="torch-fp32", max_length=64)
    one, other = export(store, digest, backend, 32, CALIBRATION), export(again, digest, backend, 32, CALIBRATION)
    assert one == other == model_digest(store.path(one))
    longer = export(store, digest, backend, 48, CALIBRATION)
    assert len({digest, one, longer}) == 3
    for made, length in ((one, 32), (longer, 48)):
        card = store.card(made)
        assert (card.backend, card.max_length, card.source_digest, card.origin) == (backend, length, digest, {"exported_from": digest})
        assert json.loads((store.path(made) / "tokenizer_config.json").read_text())["model_max_length"] == length
        assert load_reranker(store.path(made)).digest == made
    assert sorted(path.name for path in store.root.iterdir()) == sorted(d[7:] for d in (digest, one, longer)), "nothing half-made stays"


def test_an_export_of_an_export_remembers_the_first_weights(tiny: tuple[ModelStore, str]):
    store, digest = tiny
    half = export(store, digest, "torch-bf16", 32)
    card = store.card(export(store, half, "torch-fp32", 32))
    assert (card.source_digest, card.origin) == (digest, {"exported_from": half})


@pytest.mark.parametrize(
    ("backend", "length", "why"),
    [("tensorrt", 32, "unknown backend"), ("openvino-int8", 32, "calibrate"), ("onnx-int8", 4, "8 to 128"), ("torch-bf16", 129, "8 to 128")],
)
def test_exports_that_cannot_be(tiny: tuple[ModelStore, str], backend: str, length: int, why: str):
    with pytest.raises(BadInput, match=why):
        export(*tiny, backend, length)
    assert len(list(tiny[0].root.iterdir())) == 1


def test_only_torch_weights_are_exported(tiny: tuple[ModelStore, str]):
    store, digest = tiny
    quick = export(store, digest, "onnx-int8", 32)
    with pytest.raises(BadInput, match=digest):
        export(store, quick, "openvino-f32", 32)
    with pytest.raises(Missing):
        export(store, "sha256:" + "0" * 64, "onnx-int8", 32)


def test_an_export_that_fails_leaves_nothing(tiny: tuple[ModelStore, str], monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "_export_torch", full)
    with pytest.raises(OSError, match="No space"):
        export(*tiny, "torch-bf16", 32)
    assert len(list(tiny[0].root.iterdir())) == 1
