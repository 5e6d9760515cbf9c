"""Which tokens of a pair make its score: integrated gradients on the embeddings of the torch cross-encoder, with the checks that say whether to believe them.

What belongs here: attributions of single pairs. What must not: choosing the pairs, or acting on attributions: they illustrate, they diagnose nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from predator_si.diagnose.budget import Budget, cut_reason
from predator_si.errors import BadInput

STEPS = 32
UNRELIABLE_SHARE = 0.1
"""Attributions that miss the score difference by more than this share of it are marked unreliable."""
_STEP_COST = 3
"""A step is a forward and a backward pass; the latter costs about two of the former."""
_BATCH = 32
_DELETED_SHARE = 0.2
_RANDOM_DELETIONS = 5
_SPECIAL_IDS = ("cls_token", "sep_token")


@dataclass(frozen=True)
class Pair:
    """A query and a text, and why the pair was taken (``gold``: relevant and ranked low; ``above``: not relevant and ranked over it)."""

    query_id: str
    query: str
    text: str
    side: str


@dataclass(frozen=True)
class Attribution:
    """Tokens of pairs with their share of the score, and the checks.

    ``pairs``: per pair ``query_id, side, query, score, baseline_score, tokens`` [{``token, side`` (query or text), ``value``}], ``query_share`` (of the
    absolute values), ``completeness_error`` (share of the score difference that the attributions miss), ``reliable``, ``deletion_drop`` (how far the
    score falls when the fifth of the tokens with the largest values is masked) and ``random_drop`` (mean over random fifths). ``summary``: over all
    pairs. ``reason``: what was cut short.
    """

    pairs: list[dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)
    forwards: int = 0
    reason: str | None = None


def attribute_pairs(
    folder: Path,
    pairs: Sequence[Pair],
    budget: Budget,
    *,
    max_length: int = 128,
    max_pairs: int = 20,
    steps: int = STEPS,
    share: float = 1.0,
    unreliable_share: float = UNRELIABLE_SHARE,
    listed_tokens: int = 20,
    seed: int = 0,
) -> Attribution:
    """Layer integrated gradients (Sundararajan, Taly and Yan 2017, arXiv 1703.01365) of the logit with respect to the embedding layer's output.

    The baseline is the same pair with every token but the special ones replaced by padding, so that positions and segments stay. By the completeness axiom the
    attributions sum up to the difference of the two scores; how far they miss it is reported, since a sum over ``steps`` points only nears the integral.
    Whether they matter to the model is tested by deletion (DeYoung et al. 2020, comprehensiveness) against random tokens.

    Parameters
    ----------
    folder
        A torch cross-encoder in Hugging Face layout with safetensors.
    pairs
        Worst first.
    budget
        Shared; a step counts as three forwards.
    max_length
        Tokens of a pair, as the model is served.
    steps
        Points of the Gauss-Legendre rule, 32 to 50 for figures that are to be shown.

    Raises
    ------
    BadInput
        The folder holds no torch cross-encoder.
    """
    planned = min(len(pairs), max_pairs)
    cost = _STEP_COST * steps + 3 + _RANDOM_DELETIONS
    if planned == 0 or not budget.allows(cost, 0.0, share):
        return Attribution([], reason=cut_reason("pairs", 0, planned, budget) or "there is no pair to explain")
    model = _Gradients(Path(folder), max_length)
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    slowest = model.seconds(pairs[0], steps)
    for pair in pairs[:planned]:
        if not budget.allows(cost, slowest, share):
            break
        begun = budget.spent_seconds
        rows.append({"query_id": pair.query_id, "side": pair.side, **model.explain(pair, steps, rng, unreliable_share, listed_tokens)})
        budget.spend(cost)
        slowest = max(slowest, budget.spent_seconds - begun)
    return Attribution(rows, _summary(rows, steps), cost * len(rows), cut_reason("pairs", len(rows), planned, budget))


class _Gradients:
    """The loaded model and its tokeniser."""

    def __init__(self, folder: Path, max_length: int) -> None:
        import torch
        from captum.attr import LayerIntegratedGradients
        from transformers import AutoModelForSequenceClassification

        from predator_si.search.rerank import Tokenised, chip_has_bf16

        if not (folder / "model.safetensors").is_file() or not (folder / "config.json").is_file():
            raise BadInput(f"{folder}: not a torch cross-encoder (config.json and model.safetensors are needed). Name the weights that it was exported from.")
        self._torch, self._half = torch, chip_has_bf16()  # three times as fast; the completeness error says what it costs
        self._model: Any = AutoModelForSequenceClassification.from_pretrained(
            str(folder), num_labels=1, local_files_only=True, use_safetensors=True, dtype=torch.float32
        ).eval()
        for parameter in self._model.parameters():
            parameter.requires_grad_(False)
        self._tokens = Tokenised(folder, max_length)
        self._pad, self._kept = _special(folder)
        layer = self._model.base_model.embeddings
        for parameter in layer.parameters():
            parameter.requires_grad_(True)  # else nothing in the graph wants a gradient
        self._attributor: Any = LayerIntegratedGradients(self._forward, layer)

    def _forward(self, ids: Any, types: Any, mask: Any) -> Any:
        with self._torch.autocast("cpu", self._torch.bfloat16, enabled=self._half):
            return self._model(input_ids=ids, token_type_ids=types, attention_mask=mask).logits.float().reshape(-1)

    def seconds(self, pair: Pair, steps: int) -> float:
        """About what one pair will take, from the second of two forward passes: the first may compile and allocate."""
        encoding = self._tokens.encode([(pair.query, pair.text)])[0]
        arrays = [self._torch.tensor([row]) for row in (encoding.ids, encoding.type_ids, encoding.attention_mask)]
        with self._torch.inference_mode():
            self._forward(*arrays)
            begun = time.perf_counter()
            self._forward(*arrays)
        return _STEP_COST * steps * (time.perf_counter() - begun)

    def explain(self, pair: Pair, steps: int, rng: np.random.Generator, unreliable_share: float, listed: int) -> dict[str, Any]:
        torch = self._torch
        encoding = self._tokens.encode([(pair.query, pair.text)])[0]
        ids, types = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
        mask = torch.ones_like(ids)
        special = torch.tensor([[token in self._kept for token in encoding.tokens]])
        baseline = torch.where(special, ids, torch.full_like(ids, self._pad))
        values = self._attributor.attribute(
            ids, baselines=baseline, additional_forward_args=(types, mask), n_steps=steps, method="gausslegendre", internal_batch_size=_BATCH
        )
        by_token = values.sum(dim=-1)[0].detach().double().numpy()
        content = np.flatnonzero(~special[0].numpy())
        size = max(1, round(_DELETED_SHARE * len(content)))
        deletions = [content[np.argsort(-by_token[content], kind="stable")[:size]]]
        deletions += [rng.choice(content, size=size, replace=False) for _ in range(_RANDOM_DELETIONS)] if len(content) else []
        variants = torch.cat([ids, baseline, *(ids for _ in deletions)])
        for row, gone in enumerate(deletions, start=2):
            variants[row, gone] = self._pad
        with torch.inference_mode():
            scores = self._forward(variants, types.expand_as(variants), mask.expand_as(variants)).double().numpy()
        difference = float(scores[0] - scores[1])
        error = abs(float(by_token.sum()) - difference) / max(abs(difference), 1e-6)
        order = sorted(content.tolist(), key=lambda place: (-abs(by_token[place]), place))[:listed]
        return {
            "query": pair.query,
            "score": float(scores[0]),
            "baseline_score": float(scores[1]),
            "tokens": [
                {"token": encoding.tokens[place], "side": "text" if encoding.type_ids[place] else "query", "value": float(by_token[place])} for place in order
            ],
            "query_share": _share(by_token, content, np.array(encoding.type_ids) == 0),
            "completeness_error": error,
            "reliable": error <= unreliable_share,
            "deletion_drop": float(scores[0] - scores[2]),
            "random_drop": float(np.mean(scores[0] - scores[3:])) if len(scores) > 3 else None,
        }


def _special(folder: Path) -> tuple[int, frozenset[str]]:
    """Id of the padding token, and the tokens that the baseline keeps."""
    from tokenizers import Tokenizer

    names = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")) if (folder / "tokenizer_config.json").is_file() else {}
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    pad = tokenizer.token_to_id(_text(names.get("pad_token"), "[PAD]"))
    if pad is None:
        raise BadInput(f"{folder}: its tokeniser has no padding token, and the baseline of integrated gradients is made of it.")
    return int(pad), frozenset(_text(names.get(name), default) for name, default in zip(_SPECIAL_IDS, ("[CLS]", "[SEP]"), strict=True))


def _text(value: Any, default: str) -> str:
    return str(value.get("content", default)) if isinstance(value, dict) else str(value or default)


def _share(values: np.ndarray, content: np.ndarray, query: np.ndarray) -> float | None:
    """Share of the absolute attribution that lies on the query."""
    total = float(np.abs(values[content]).sum())
    return float(np.abs(values[content[query[content]]]).sum()) / total if total > 0 else None


def _summary(rows: Sequence[dict[str, Any]], steps: int) -> dict[str, Any]:
    if not rows:
        return {}
    errors = [row["completeness_error"] for row in rows]
    compared = [row for row in rows if row["random_drop"] is not None]
    return {
        "pairs": len(rows),
        "steps": steps,
        "reliable": sum(row["reliable"] for row in rows),
        "median_completeness_error": float(np.median(errors)),
        "deletion_drop": float(np.mean([row["deletion_drop"] for row in rows])),
        "random_drop": float(np.mean([row["random_drop"] for row in compared])) if compared else None,
        "deletion_beats_random": sum(row["deletion_drop"] > row["random_drop"] for row in compared),
        "words": _words(rows),
    }


def _words(rows: Sequence[dict[str, Any]], listed: int = 20) -> list[dict[str, Any]]:
    """Mean value of each token of the reliable pairs' queries and texts where it was among the listed."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        if row["reliable"]:
            for entry in row["tokens"]:
                found.setdefault((entry["token"], entry["side"], row["side"]), []).append(entry["value"])
    ordered = sorted(found.items(), key=lambda item: (-abs(sum(item[1])), item[0]))[:listed]
    return [{"token": key[0], "in": key[1], "pair": key[2], "n": len(values), "mean": float(np.mean(values))} for key, values in ordered]
