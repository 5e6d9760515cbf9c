"""Losses on raw logits: against the formulas, against sentence-transformers' own, and what a sigmoid in front of them would do."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.train.groups import Group
from predator_si.train.losses import summed_loss, units
from predator_si.train.recipe import LOSSES, TrainingRecipe


def group(labels: list[float], teacher: list[float] | None = None, weight: float = 1.0) -> Group:
    return Group("q", [f"text {n}" for n in range(len(labels))], np.asarray(labels), None if teacher is None else np.asarray(teacher), weight)


def loss(logits: list[float], groups: list[Group], **recipe: Any) -> float:
    import torch

    told = TrainingRecipe(**recipe)
    return float(summed_loss(torch.tensor(logits, dtype=torch.float64), groups, told)) / units(groups, told)


class _Scores:
    """Stands where a cross-encoder would: says the numbers it was given, so that the framework's losses can be asked about any logits."""

    num_labels = 1
    device = "cpu"

    def __init__(self, logits: Any) -> None:
        self._logits = logits
        self._at = 0

    def preprocess(self, pairs: list[Any], **_: Any) -> dict[str, Any]:
        start, self._at = self._at, self._at + len(pairs)
        return {"rows": self._logits[start : self._at]}

    def __call__(self, tokens: dict[str, Any]) -> dict[str, Any]:
        return {"scores": tokens["rows"]}


def framework(kind: str, logits: Any, groups: list[Group], labels: list[np.ndarray]) -> Any:
    import torch
    from sentence_transformers.cross_encoder import losses

    asked = getattr(losses, kind)(_Scores(logits), mini_batch_size=-1)
    return asked([[g.query for g in groups], [g.texts for g in groups]], [torch.tensor(each) for each in labels])


def test_the_listwise_loss_takes_raw_logits():
    import torch

    logits = torch.tensor([9.0, 12.0, 8.0, 1.0, 2.0], requires_grad=True)
    groups = [group([1.0, 0.0, 0.0]), group([3.0, 1.0])]
    total = summed_loss(logits, groups, TrainingRecipe())
    one = -math.log(math.exp(9) / (math.exp(9) + math.exp(12) + math.exp(8)))
    two = -(0.75 * math.log(1 / (1 + math.e)) + 0.25 * math.log(math.e / (1 + math.e)))
    assert float(total.detach()) == pytest.approx(one + two, rel=1e-5)
    assert units(groups, TrainingRecipe()) == 2
    total.backward()
    assert logits.grad is not None
    assert float(logits.grad[0]) < -0.8, "the positive is far below: its gradient must be nearly 1"
    soft = loss([9.0, 12.0], [group([3.0, 1.0])], target_temperature=2.0)
    share = 1 / (1 + math.exp(-1))
    assert soft == pytest.approx(-(share * math.log(1 / (1 + math.exp(3))) + (1 - share) * math.log(1 / (1 + math.exp(-3)))), rel=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_a_confident_wrong_order_is_pushed_back(name: str):
    """The trap: with a sigmoid before the loss, logits of 9 and 12 are both 1, the gradient vanishes and the loss looks fine. Here it does not vanish."""
    import torch

    recipe = TrainingRecipe(loss=name)
    wrong = [group([1.0, 0.0, 0.0], [8.0, -6.0, -9.0])]
    logits = torch.tensor([9.0, 12.0, -5.0], requires_grad=True)
    (summed_loss(logits, wrong, recipe) / units(wrong, recipe)).backward()
    assert logits.grad is not None
    raw = logits.grad.clone()
    assert float(raw[1]) > 0.1, "the irrelevant one is lowered"
    squashed = torch.tensor([9.0, 12.0, -5.0], requires_grad=True)
    (summed_loss(torch.sigmoid(squashed), wrong, recipe) / units(wrong, recipe)).backward()
    assert squashed.grad is not None
    assert float(raw[1]) > 1000 * abs(float(squashed.grad[1])), "this is what the sigmoid would do to it"


def test_the_bce_loss_is_the_mean_over_pairs():
    terms = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(-1)), 0.25 * math.log(1 + math.exp(-0.5)) + 0.75 * math.log(1 + math.exp(0.5))]
    assert loss([2.0, -1.0, 0.5], [group([1.0, 0.0]), group([0.25])], loss="bce") == pytest.approx(sum(terms) / 3, rel=1e-9)


def test_losses_on_a_teacher_against_their_formulas():
    scores, teacher = [1.0, -2.0, 0.5], [3.0, 0.0, 1.0]
    groups = [group([1.0, 0.0, 0.0], teacher)]
    assert loss(scores, groups, loss="mse") == pytest.approx((2.0**2 + 2.0**2 + 0.5**2) / 3)
    assert loss(scores, groups, loss="margin_mse") == pytest.approx(((3.0 - 3.0) ** 2 + (0.5 - 2.0) ** 2) / 2)
    shares = np.exp(np.asarray(teacher) / 2) / np.exp(np.asarray(teacher) / 2).sum()
    logs = np.asarray(scores) - np.log(np.exp(scores).sum())
    assert loss(scores, groups, loss="distil", temperature=2.0) == pytest.approx(-(shares * logs).sum())


lists = st.integers(2, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(-12, 12), min_size=n, max_size=n, unique=True),
        st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n).filter(lambda labels: len(set(labels)) > 1),
        st.lists(st.floats(-9, 9), min_size=n, max_size=n),
    )
)


@given(lists)
@settings(max_examples=40, deadline=None)
def test_lambda_and_distil_say_what_the_framework_says(drawn: tuple[list[float], list[float], list[float]]):
    """LambdaLoss with NDCG-Loss2++ and ListNet as sentence-transformers writes them: values and gradients, a group at a time."""
    import torch

    scores, labels, teacher = drawn
    groups = [group(labels, teacher)]
    for name, kind, theirs in (("lambda", "LambdaLoss", np.asarray(labels)), ("distil", "ListNetLoss", np.asarray(teacher))):
        ours_at = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
        theirs_at = torch.tensor(scores, dtype=torch.float32, requires_grad=True)
        ours = summed_loss(ours_at, groups, TrainingRecipe(loss=name))
        wanted = framework(kind, theirs_at, groups, [theirs.astype(np.float32)])
        ours.backward()
        wanted.backward()
        assert float(ours.detach()) == pytest.approx(float(wanted.detach()), rel=2e-4, abs=1e-5)
        assert ours_at.grad is not None and theirs_at.grad is not None
        assert ours_at.grad.numpy() == pytest.approx(theirs_at.grad.numpy(), rel=2e-3, abs=1e-4)


def test_the_lambda_loss_against_the_paper_by_hand():
    """Two documents in the wrong order: ranks 1 and 2, gains 0 and 1 over an ideal DCG of 1, so rho = delta = 1 - 1/log2(3), the weight is 11 of them."""
    weight = 11 * (1 - 1 / math.log2(3))
    assert loss([2.0, 1.0], [group([0.0, 1.0])], loss="lambda") == pytest.approx(weight * math.log2(1 + math.e), rel=1e-9)
    assert loss([2.0, 1.0], [group([1.0, 0.0])], loss="lambda") == pytest.approx(weight * math.log2(1 + 1 / math.e), rel=1e-9)


@given(st.sampled_from(LOSSES), st.lists(st.tuples(st.integers(2, 5), st.floats(0.1, 3)), min_size=2, max_size=5), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_the_parts_of_a_step_add_up_to_the_step(name: str, sizes: list[tuple[int, float]], seed: int):
    """Gradient accumulation and several processes rest on this."""
    import torch

    rng = np.random.default_rng(seed)
    groups = [group([1.0] + [0.0] * (n - 1), rng.normal(size=n).tolist(), weight) for n, weight in sizes]
    scores = torch.tensor(rng.normal(size=sum(n for n, _ in sizes)))
    recipe = TrainingRecipe(loss=name)
    first = sizes[0][0]
    parts = summed_loss(scores[:first], groups[:1], recipe) + summed_loss(scores[first:], groups[1:], recipe)
    assert float(parts) == pytest.approx(float(summed_loss(scores, groups, recipe)), rel=1e-9)
    assert units(groups[:1], recipe) + units(groups[1:], recipe) == units(groups, recipe)
    doubled = [group(g.labels.tolist(), None if g.teacher is None else g.teacher.tolist(), 2 * g.weight) for g in groups]
    assert float(summed_loss(scores, doubled, recipe)) == pytest.approx(2 * float(parts), rel=1e-9)
