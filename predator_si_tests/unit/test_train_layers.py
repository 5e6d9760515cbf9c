"""Which layers stay, in which bodies."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.train.layers import cut, kept_layers, layer_count


@given(st.integers(1, 48).flatmap(lambda there: st.tuples(st.just(there), st.integers(1, there))), st.sampled_from(["first", "spaced"]))
def test_as_many_as_wanted_ascending_each_once(sizes: tuple[int, int], keep: str):
    there, wanted = sizes
    kept = kept_layers(there, wanted, keep)
    assert len(kept) == wanted and sorted(set(kept)) == kept and kept[0] >= 0 and kept[-1] < there
    if keep == "first":
        assert kept == list(range(wanted))
    elif wanted > 1:
        assert (kept[0], kept[-1]) == (0, there - 1)
        gaps = {b - a for a, b in pairwise(kept)}
        assert max(gaps) - min(gaps) <= 1, "as even as whole numbers can be"


def test_the_usual_ladder():
    assert kept_layers(12, 6, "spaced") == [0, 2, 4, 7, 9, 11]
    assert kept_layers(12, 4, "spaced") == [0, 4, 7, 11]
    assert kept_layers(12, 3, "spaced") == [0, 6, 11]
    assert kept_layers(12, 2, "spaced") == [0, 11]
    assert kept_layers(12, 1, "spaced") == [0]


@pytest.mark.parametrize(("there", "wanted", "keep", "says"), [(4, 5, "first", "keeps 5 layers"), (4, 0, "first", "keeps 0"), (4, 2, "last", "'last'")])
def test_other_numbers_and_rules_are_refused(there: int, wanted: int, keep: str, says: str):
    with pytest.raises(BadInput, match=says):
        kept_layers(there, wanted, keep)


def tiny(kind: str) -> Any:
    import transformers

    settings = {"vocab_size": 20, "max_position_embeddings": 32, "num_labels": 1}
    if kind == "DistilBert":
        return transformers.DistilBertForSequenceClassification(transformers.DistilBertConfig(**settings, dim=16, n_heads=2, hidden_dim=16, n_layers=4))
    config = getattr(transformers, f"{kind}Config")(**settings, hidden_size=16, num_attention_heads=2, intermediate_size=16, num_hidden_layers=4)
    return getattr(transformers, f"{kind}ForSequenceClassification")(config)


@pytest.mark.parametrize("kind", ["Bert", "XLMRoberta", "DistilBert"])
def test_layers_are_cut_in_several_bodies_and_the_folder_says_so(kind: str, tmp_path: Path):
    import torch
    from transformers import AutoModelForSequenceClassification

    model = tiny(kind).eval()
    layers = model.base_model.transformer.layer if kind == "DistilBert" else model.base_model.encoder.layer
    expected = [layers[0], layers[3]]
    cut(model, None)
    cut(model, 4, "spaced")
    assert len(layers) == 4
    cut(model, 2, "spaced")
    left = model.base_model.transformer.layer if kind == "DistilBert" else model.base_model.encoder.layer
    assert [a is b for a, b in zip(left, expected, strict=True)] == [True, True]
    model.save_pretrained(str(tmp_path))
    assert layer_count(tmp_path) == 2
    again = AutoModelForSequenceClassification.from_pretrained(str(tmp_path)).eval()
    given_ids = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3, dtype=torch.int64)}
    assert torch.allclose(again(**given_ids).logits, model(**given_ids).logits, rtol=0, atol=1e-6)  # weights lie elsewhere in memory: the last bit may differ


def test_a_body_whose_layers_differ_by_place_is_refused(tmp_path: Path):
    body = SimpleNamespace(layers=[1, 2, 3])
    with pytest.raises(BadInput, match="cannot be dropped"):
        cut(SimpleNamespace(base_model=body, config=SimpleNamespace(num_hidden_layers=3)), 2)
    (tmp_path / "config.json").write_text(json.dumps({"depth": 3}))
    with pytest.raises(BadInput, match="cannot be counted"):
        layer_count(tmp_path)
    with pytest.raises(BadInput, match="not a model's configuration"):
        layer_count(tmp_path / "nowhere")
