"""Integrated gradients on a tiny cross-encoder: completeness, a planted decisive token, the deletion test, budgets, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from predator_si.diagnose.attribution import Pair, attribute_pairs
from predator_si.diagnose.budget import Budget
from predator_si.errors import BadInput
from predator_si.search.rerank import chip_has_bf16
from predator_si.search.tiny import tiny_cross_encoder
from predator_si_tests.support.tiny_models import toy_examples, toy_texts

PAIRS = [
    Pair("q1", "how to sort", "the sort function and the join table, safe", "gold"),
    Pair("q2", "how to parse", "the plot function and the safe table, fast", "above"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that has learnt that only the word ``safe`` matters: whatever else is masked, the label is whether it is still there."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForSequenceClassification

    from predator_si.search.rerank import Tokenised, padded

    folder = tiny_cross_encoder(tmp_path_factory.mktemp("tiny"), [*toy_texts(), "safe fast the and table function"], seed=1, layers=2, hidden=32, max_length=64)
    examples = toy_examples(groups=24, per_group=2)
    arrays = padded(Tokenised(folder, 64).encode(list(examples.select("query", "text").iter_rows())))
    inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
    safe = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]["safe"]
    model = AutoModelForSequenceClassification.from_pretrained(str(folder), num_labels=1, local_files_only=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.eval()  # no dropout: so small a model forgets
        optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(80):
            gone = (torch.rand(inputs["input_ids"].shape) < torch.rand(len(examples), 1)) & (inputs["input_ids"] > 4)
            ids = torch.where(gone, torch.zeros_like(inputs["input_ids"]), inputs["input_ids"])
            optimiser.zero_grad()
            logits = model(**{**inputs, "input_ids": ids}).logits.reshape(-1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, (ids == safe).any(dim=1).float())
            loss.backward()
            optimiser.step()
    assert float(loss.detach()) < 0.1
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def test_the_planted_token_decides_and_the_checks_pass(trained: Path):
    budget = Budget(600, 10_000)
    found = attribute_pairs(trained, PAIRS, budget, max_length=64, steps=50)
    for row in found.pairs:
        assert row["reliable"] and row["completeness_error"] <= 0.1
        top = max(row["tokens"], key=lambda entry: entry["value"])
        assert (top["token"], top["side"]) == ("safe", "text")
        assert row["deletion_drop"] > row["random_drop"], "masking what the method names hurts the score more than masking at random"
        assert sum(entry["value"] for entry in row["tokens"]) == pytest.approx(row["score"] - row["baseline_score"], rel=0.15)
    assert found.summary["pairs"] == found.summary["reliable"] == found.summary["deletion_beats_random"] == 2
    assert found.reason is None and found.forwards == budget.spent_forwards


def test_values_are_those_of_a_hand_written_integral(trained: Path):
    """The same integral by the trapezoid rule over embeddings, without captum."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from predator_si.search.rerank import Tokenised

    pair = PAIRS[0]
    encoding = Tokenised(trained, 64).encode([(pair.query, pair.text)])[0]
    model = AutoModelForSequenceClassification.from_pretrained(str(trained), num_labels=1, local_files_only=True).eval()
    ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
    base = torch.tensor([[i if t in ("[CLS]", "[SEP]") else 0 for i, t in zip(encoding.ids, encoding.tokens, strict=True)]])
    points = 400
    with torch.no_grad():
        ends = [model.bert.embeddings(input_ids=one, token_type_ids=types) for one in (base, ids)]
    steps = torch.linspace(0, 1, points).reshape(-1, 1, 1)
    path = (ends[0] + steps * (ends[1] - ends[0])).requires_grad_(True)
    hidden = model.bert.encoder(path).last_hidden_state
    model.classifier(model.bert.pooler(hidden)).sum().backward()
    assert path.grad is not None
    mean = torch.trapezoid(path.grad, dx=1.0 / (points - 1), dim=0)
    expected = ((ends[1] - ends[0])[0] * mean).sum(-1).numpy()
    found = attribute_pairs(trained, [pair], Budget(600, 10_000), max_length=64, steps=50, listed_tokens=64).pairs[0]
    values = sorted(entry["value"] for entry in found["tokens"])
    content = [value for value, token in zip(expected, encoding.tokens, strict=True) if token not in ("[CLS]", "[SEP]")]
    share = 0.04 if chip_has_bf16() else 0.02  # half precision where the chip has it, as the model is scored
    assert values == pytest.approx(sorted(content), abs=share * float(np.abs(content).max()))


def test_few_steps_are_marked_unreliable(trained: Path):
    rough = attribute_pairs(trained, PAIRS, Budget(600, 10_000), max_length=64, steps=1, unreliable_share=1e-4)
    assert rough.summary["reliable"] == 0 and not any(row["reliable"] for row in rough.pairs)
    assert rough.summary["words"] == [], "unreliable pairs say nothing about words"


def test_the_budget_cuts_and_says_so(trained: Path):
    budget = Budget(600, 150)
    found = attribute_pairs(trained, PAIRS, budget, max_length=64, steps=32)
    assert len(found.pairs) == 1 and budget.spent_forwards <= 150
    assert found.reason is not None and found.reason.startswith("1 of 2 pairs")
    nothing = attribute_pairs(trained, PAIRS, Budget(600, 10), max_length=64)
    assert nothing.pairs == [] and nothing.reason is not None
    assert attribute_pairs(trained, [], Budget(600, 10)).pairs == []


def test_a_folder_without_torch_weights_is_refused(trained: Path, tmp_path: Path):
    folder = tmp_path / "onnx"
    shutil.copytree(trained, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadInput, match="torch cross-encoder"):
        attribute_pairs(folder, PAIRS, Budget(600, 10_000))
