"""Cross-encoders of other bodies than BERT through every backend, and long texts in a bounded time."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.search.models import ModelStore
from predator_si.search.rerank import Tokenised, load_reranker
from predator_si.search.tiny import tiny_cross_encoder
from predator_si.train.export import export
from predator_si.train.layers import layer_count
from predator_si.train.students import StudentPlan, TrainingRecipe, distil, distillation_groups
from predator_si_tests.support.tiny_models import TOPICS, toy_texts
from predator_si_tests.unit.test_train_students import lists, teacher

PAIRS = [(f"how to {word}", text) for word in TOPICS[:3] for text in toy_texts()]
LENGTH = 24


@pytest.fixture(scope="module", params=["XLMRoberta", "DistilBert"])
def other_body(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelStore, str]:
    """A body without segments, and one that does not even take them; the tokenizer is the tiny BERT's."""
    import torch
    import transformers

    folder = tiny_cross_encoder(tmp_path_factory.mktemp("body") / "model", toy_texts(), 0, layers=1, hidden=16)
    words = json.loads((folder / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    shared = {"vocab_size": words, "max_position_embeddings": 64, "num_labels": 1, "initializer_range": 0.3, "pad_token_id": 0}
    if request.param == "DistilBert":
        config = transformers.DistilBertConfig(**shared, dim=32, n_heads=2, hidden_dim=32, n_layers=3)
    else:
        config = transformers.XLMRobertaConfig(**shared, hidden_size=32, num_attention_heads=2, intermediate_size=32, num_hidden_layers=3, type_vocab_size=1)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(str(folder))
    tokens = json.loads((folder / "tokenizer.json").read_text())
    for piece in tokens["post_processor"]["pair"]:
        next(iter(piece.values()))["type_id"] = 0  # as the tokenizers of these bodies have it
    (folder / "tokenizer.json").write_text(json.dumps(tokens))
    store = ModelStore(tmp_path_factory.mktemp("store"))
    return store, store.add(folder, name=request.param, backend="torch-fp32", max_length=LENGTH)


@pytest.mark.parametrize(("backend", "tolerance"), [("openvino-f32", 1e-3), ("openvino-bf16", 0.1), ("onnx-int8", 0.3), ("torch-bf16", 0.1)])
def test_every_backend_computes_what_torch_does(other_body: tuple[ModelStore, str], backend: str, tolerance: float):
    store, digest = other_body
    reference = load_reranker(store.path(digest)).score_pairs(PAIRS)
    found = load_reranker(store.path(export(store, digest, backend, LENGTH)), threads=1).score_pairs(PAIRS)
    spread = float(reference.max() - reference.min())
    assert spread > 1e-3 and np.abs(found - reference).max() <= tolerance * spread


def test_students_are_made_of_it(other_body: tuple[ModelStore, str], tmp_path: Path):
    store, digest = other_body
    recipe = TrainingRecipe(loss="distil", learning_rate=1e-3, epochs=0.5, max_length=LENGTH)
    asked = distillation_groups([f"{topic} please" for topic in TOPICS], lists(len(TOPICS)), teacher(len(TOPICS)))
    found = distil(store, digest, asked, StudentPlan(layers=(2,), recipe=recipe), tmp_path, name="student")
    assert layer_count(store.path(found[0].digest)) == 2
    assert np.isfinite(load_reranker(store.path(found[0].digest)).score_pairs(PAIRS)).all()


# --------------------------------------------------------------------------- long texts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_cross_encoder(tmp_path_factory.mktemp("long"), [*toy_texts(), "кеш таблиця"], 0, layers=1, hidden=16)


WORDS = st.lists(st.sampled_from(["sort", "table", "кеш", "x" * 90, "日本語" * 20, "e\u0301", "a-b.c", "\u00a0"]), max_size=120).flatmap(
    lambda some: st.lists(st.sampled_from([" ", "\n", "", "  "]), min_size=len(some), max_size=len(some)).map(
        lambda gaps: "".join(word + gap for word, gap in zip(some, gaps, strict=True))
    )
)


@settings(max_examples=80, deadline=None)
@given(WORDS, WORDS, st.sampled_from([8, 16, 48]))
def test_the_beginning_of_a_text_gives_the_same_tokens_as_the_whole(folder: Path, query: str, text: str, length: int):
    ours = Tokenised(folder, length)
    one = ours.encode([(query, text)])[0]
    whole = ours._tokenizer.encode_batch([(query, text)])[0]
    assert one.ids == whole.ids and one.type_ids == whole.type_ids


def test_a_million_characters_take_no_longer_than_they_should(folder: Path):
    ours = Tokenised(folder, 48)
    texts = ["sort the table " * 66_667, "word " * 200_000]
    began = time.process_time()
    ours.encode([("how to sort", text) for text in texts])
    spent = time.process_time() - began
    began = time.process_time()
    ours._tokenizer.encode_batch([("how to sort", text) for text in texts])
    assert spent < 0.05 * (time.process_time() - began)
