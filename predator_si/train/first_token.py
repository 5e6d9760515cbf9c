"""The classifier reads the first token only, so the last encoder layer need not compute the others.

What belongs here: that shortcut for training, for bodies of which we know that it is exact. What must not: anything that changes a score. The last layer's
keys and values are needed for every token, its queries, attention output and feed-forward for the first: 10/12 of the layer's matrices are saved. A training
step of a four-layer model took a fifth less (docs/training.md).
"""

from __future__ import annotations

import types
from typing import Any


def read_first_token(model: Any) -> bool:
    """Let the last layer of ``model`` compute its first token's row only, in place; returns whether that was possible.

    Exact but for rounding, forwards and backwards, as long as attention dropout is 0 and attention is the eager one. Weights and their names stay.
    """
    if type(model).__name__ != "BertForSequenceClassification" or model.config._attn_implementation != "eager":
        return False
    layer = model.base_model.encoder.layer[-1]
    layer.forward = types.MethodType(_first_row, layer)
    return True


def _first_row(layer: Any, hidden_states: Any, attention_mask: Any = None, *_: Any, **__: Any) -> Any:
    """What a BERT layer gives for the first token: (pairs x 1 x width)."""
    attention = layer.attention.self
    pairs, tokens, width = hidden_states.shape
    heads = attention.num_attention_heads
    first = hidden_states[:, :1]
    queries = attention.query(first).view(pairs, 1, heads, width // heads).transpose(1, 2)
    keys = attention.key(hidden_states).view(pairs, tokens, heads, width // heads).transpose(1, 2)
    values = attention.value(hidden_states).view(pairs, tokens, heads, width // heads).transpose(1, 2)
    scores = (queries @ keys.transpose(2, 3)) * (width // heads) ** -0.5
    if attention_mask is not None:
        scores = scores + attention_mask[:, :, :1, :]
    context = (scores.float().softmax(-1).to(values.dtype) @ values).transpose(1, 2).reshape(pairs, 1, width)
    attended = layer.attention.output(context, first)
    return layer.output(layer.intermediate(attended), attended)
