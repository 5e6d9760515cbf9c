"""Ranking losses over groups of one query with several documents, all on raw logits.

What belongs here: formulas. What must not: models, batching, optimisers. Each loss is a sum over units (groups, pairs or margins), so that the parts of a
step, computed one after the other or by several processes, add up to the loss of the whole step: its sum over its units.

No activation stands before any of them. With a sigmoid in between, logits of 9 and 12 look the same to a listwise loss, its gradient vanishes and the ranking
is ruined while the loss looks fine (a known trap of sentence-transformers' default activation).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from predator_si.train.groups import Group
from predator_si.train.recipe import TrainingRecipe

_MU = 10.0
"""Weight of NDCG-Loss2 beside LambdaRank in NDCG-Loss2++: the paper's."""


def units(groups: Sequence[Group], recipe: TrainingRecipe) -> int:
    """What the sum over ``groups`` is divided by: pairs for "bce" and "mse", margins for "margin_mse", groups otherwise."""
    if recipe.loss in ("bce", "mse"):
        return sum(len(group.texts) for group in groups)
    if recipe.loss == "margin_mse":
        return sum(len(group.texts) - 1 for group in groups)
    return len(groups)


def summed_loss(logits: Any, groups: Sequence[Group], recipe: TrainingRecipe) -> Any:
    """Sum of the recipe's loss over the units of ``groups``, each group times its weight.

    Parameters
    ----------
    logits
        Raw scores (float32, one per pair) in the order of the groups and of their texts.

    Returns
    -------
    torch.Tensor
        A scalar that can be differentiated.
    """
    loss = _LOSSES[recipe.loss]
    total = logits.new_zeros(())
    start = 0
    for group in groups:
        stop = start + len(group.texts)
        total = total + group.weight * loss(logits[start:stop], group, recipe)
        start = stop
    return total


def _tensor(values: Any, like: Any) -> Any:
    import torch

    return torch.as_tensor(values, dtype=like.dtype, device=like.device)


def _cross_entropy(logits: Any, target: Any) -> Any:
    import torch

    return -(target * torch.log_softmax(logits, dim=0)).sum()


def _listwise(logits: Any, group: Group, recipe: TrainingRecipe) -> Any:
    """Soft cross-entropy between two distributions over one group (ListNet's top-one loss, Cao et al. 2007)."""
    import torch

    target = _tensor(group.labels, logits)
    return _cross_entropy(logits, target / target.sum() if recipe.target_temperature == 1.0 else torch.softmax(target / recipe.target_temperature, dim=0))


def _bce(logits: Any, group: Group, recipe: TrainingRecipe) -> Any:
    import torch

    return torch.nn.functional.binary_cross_entropy_with_logits(logits, _tensor(group.labels, logits), reduction="sum")


def _lambda(logits: Any, group: Group, recipe: TrainingRecipe) -> Any:
    """NDCG-Loss2++ of the LambdaLoss framework (Wang et al., CIKM 2018): mean over the pairs whose labels differ, in bits.

    A pair (i, j) at ranks i and j by the present scores counts |G_i - G_j| (rho_ij + mu delta_ij): rho is LambdaRank's |1/D(i) - 1/D(j)|, delta the tighter
    |1/D(|i-j|) - 1/D(|i-j|+1)|, D(r) = log2(1 + r), G the gain over the ideal DCG.
    """
    import torch

    labels = _tensor(group.labels, logits)
    order = torch.argsort(logits.detach(), descending=True, stable=True)
    scores, labels = logits[order], labels[order]
    ranks = torch.arange(1, len(labels) + 1, dtype=logits.dtype, device=logits.device)
    inverse = 1.0 / torch.log2(1.0 + ranks)
    ideal = ((2.0 ** torch.sort(labels, descending=True).values - 1.0) * inverse).sum()
    gains = (2.0**labels - 1.0) / ideal
    apart = (ranks[:, None] - ranks[None, :]).abs().clamp(min=1.0)  # the diagonal is masked below
    delta = 1.0 / torch.log2(1.0 + apart) - 1.0 / torch.log2(2.0 + apart)
    rho = (inverse[:, None] - inverse[None, :]).abs()
    better = labels[:, None] > labels[None, :]
    weights = ((_MU * delta + rho) * (gains[:, None] - gains[None, :]).abs())[better]
    bits = -torch.nn.functional.logsigmoid(scores[:, None] - scores[None, :])[better] / torch.log(logits.new_tensor(2.0))
    return (weights * bits).sum() / better.sum().clamp(min=1)


def _distil(logits: Any, group: Group, recipe: TrainingRecipe) -> Any:
    """Soft cross-entropy to the teacher's distribution over the group, softmax(score / temperature) (Hinton et al. 2015, on lists)."""
    import torch

    return _cross_entropy(logits, torch.softmax(_tensor(group.teacher, logits) / recipe.temperature, dim=0))


def _margin_mse(logits: Any, group: Group, recipe: TrainingRecipe) -> Any:
    """Squared difference of the margins between the positive (highest label, the first of equals) and each other document (Hofstaetter et al. 2020)."""
    import torch

    positive = int(group.labels.argmax())
    teacher = _tensor(group.teacher, logits)
    wrong = (logits[positive] - logits) - (teacher[positive] - teacher)
    return torch.square(wrong).sum()  # the positive's own margin is zero on both sides


def _mse(logits: Any, group: Group, recipe: TrainingRecipe) -> Any:
    import torch

    return torch.square(logits - _tensor(group.teacher, logits)).sum()


_LOSSES: dict[str, Callable[[Any, Group, TrainingRecipe], Any]] = {
    "listwise": _listwise,
    "bce": _bce,
    "lambda": _lambda,
    "distil": _distil,
    "margin_mse": _margin_mse,
    "mse": _mse,
}
