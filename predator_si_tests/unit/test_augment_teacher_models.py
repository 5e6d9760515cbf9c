"""Teachers from folders: what is loaded, with which prefix, and what is refused. The models are tiny and made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from predator_si.augment.teacher_models import OnnxEmbedder, installed_bi_encoders, load_bi_encoder, load_cross_encoder
from predator_si.errors import BadInput
from predator_si.search import models
from predator_si.search.rerank import load_reranker
from predator_si_tests.support.tiny_models import HashingEmbedder, store_tiny, tiny_cross_encoder, toy_texts

PAIRS = [("how to sort", "sort a table"), ("how to sort", "merge a table, fast and safe"), ("how to join", "join")]


def test_a_cross_encoder_of_the_store_and_the_same_weights_as_a_plain_folder(tmp_path: Path):
    store, digest = store_tiny(tmp_path)
    by_card = load_cross_encoder(store.path(digest))(PAIRS)
    assert by_card == pytest.approx(load_reranker(store.path(digest)).score_pairs(PAIRS))
    plain = load_cross_encoder(tmp_path / "tiny-0", max_tokens=64)(PAIRS)
    assert plain.shape == (3,) and plain == pytest.approx(by_card, abs=0.05), "half precision where the chip has it"
    assert max(abs(plain)) > 0 and not np.allclose(plain, 1 / (1 + np.exp(-by_card))), "logits, not probabilities"


def test_classifiers_and_pickles_are_refused(tmp_path: Path):
    folder = tiny_cross_encoder(tmp_path / "m", toy_texts(), 0, layers=1, hidden=16)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "no", "1": "maybe", "2": "yes"}}))
    with pytest.raises(BadInput, match="3 labels"):
        load_cross_encoder(folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match="pickled"):
        load_cross_encoder(folder)


def test_optional_bi_encoders_are_those_that_were_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(models.SOURCES, "tutor", {"teacher": True})
    assert installed_bi_encoders(tmp_path) == []
    folder = HashingEmbedder(8).save(tmp_path / "models" / "tutor")
    assert installed_bi_encoders(tmp_path) == [], "without source.json it was never fetched whole"
    (folder / "source.json").write_text(json.dumps({"query_prefix": "find: "}))
    (found,) = installed_bi_encoders(tmp_path)
    assert found.name == "tutor"
    asked = found.score(["sort"], [["a", "b"]], [["find", "sort"]])[0]
    bare = load_bi_encoder(folder, query_prefix="").score(["sort"], [["a", "b"]], [["find", "sort"]])[0]
    assert asked[0] > bare[0] and asked[1] < bare[1], "the recorded prefix stands before the query"
    assert installed_bi_encoders(tmp_path, besides="tutor@128") == [], "the service's own embedder votes already"


def test_a_folder_that_holds_no_bi_encoder_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="no bi-encoder"):
        load_bi_encoder(tmp_path)
    HashingEmbedder(8).save(tmp_path)
    (tmp_path / "source.json").write_text("{")
    with pytest.raises(BadInput, match="not JSON"):
        load_bi_encoder(tmp_path)


def onnx_folder(folder: Path, pooling: dict[str, bool] | None) -> Path:
    """A graph whose hidden states are rows of a table: token i has state table[i]. Its tokens are words."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder.mkdir(parents=True)
    table = numpy_helper.from_array(np.array([[1, 0], [0, 1], [3, 4], [1, 1]], np.float32), "table")
    node = helper.make_node("Gather", ["table", "input_ids"], ["states"], axis=0)
    inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "width"])]
    outputs = [helper.make_tensor_value_info("states", TensorProto.FLOAT, ["batch", "width", 2])]
    graph = helper.make_graph([node], "lookup", inputs, outputs, [table])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(folder / "model.onnx"))
    tokenizer = Tokenizer(models.WordLevel({"[PAD]": 0, "sort": 1, "merge": 2, "[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_an_onnx_folder_is_pooled_as_it_says(tmp_path: Path):
    first = OnnxEmbedder(onnx_folder(tmp_path / "first", {"pooling_mode_cls_token": True}))
    mean = OnnxEmbedder(onnx_folder(tmp_path / "mean", {"pooling_mode_mean_tokens": True}))
    texts = ["merge sort", "sort", "sort merge merge"]
    assert first.encode(texts) == pytest.approx(np.array([[0.6, 0.8], [0, 1], [0, 1]]), abs=1e-6)
    sums = np.array([[3, 5], [0, 1], [6, 9]], float)
    assert mean.encode(texts) == pytest.approx(sums / np.linalg.norm(sums, axis=1, keepdims=True), abs=1e-6), "what pads a batch has no part in the mean"
    assert load_bi_encoder(tmp_path / "first").score(["sort"], [["a", "b"]], [["merge", "sort"]])[0] == pytest.approx([0.8, 1.0])
    assert first.encode([]).shape[0] == 0


def test_an_onnx_folder_that_does_not_say_how_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="not known how"):
        load_bi_encoder(onnx_folder(tmp_path / "silent", None))
    with pytest.raises(BadInput, match="either"):
        load_bi_encoder(onnx_folder(tmp_path / "both", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}))
