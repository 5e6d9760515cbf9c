"""Which encoder layers a smaller model keeps, whatever body it has.

What belongs here: counting, choosing and cutting layers. What must not: training what is left (``students``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predator_si.errors import BadInput

KEEPS = ("first", "spaced")
_STACKS = (("encoder.layer", "num_hidden_layers"), ("transformer.layer", "n_layers"))
"""Where bodies of one kind of layer keep them, below ``base_model``, and what their configuration calls the number: BERT, RoBERTa, XLM-R, ELECTRA, MPNet,
DeBERTa; DistilBERT. Bodies whose layers differ by place (ModernBERT's local and global attention) are not among them: a cut would change what stays."""


def kept_layers(there: int, wanted: int, keep: str) -> list[int]:
    """Numbers of the layers that stay, ascending.

    Parameters
    ----------
    there, wanted
        Layers of the model, and of the smaller one: 1 <= ``wanted`` <= ``there``.
    keep
        ``first``: the lower ones, the last being the quickest to learn again; ``spaced``: as even as can be, with the first and the last among them (Sanh et
        al. 2019 take every other layer). One spaced layer is the first.

    Raises
    ------
    BadInput
        Another number of layers, or another rule.
    """
    if keep not in KEEPS:
        raise BadInput(f"keep {keep!r}: which layers stay is one of {', '.join(KEEPS)}.")
    if not 1 <= wanted <= there:
        raise BadInput(f"the recipe keeps {wanted} layers, the model has {there}. Ask for 1 to {there}.")
    if keep == "first" or wanted == 1:
        return list(range(wanted))
    return [(2 * place * (there - 1) + wanted - 1) // (2 * (wanted - 1)) for place in range(wanted)]  # rounded half up, in whole numbers


def layer_count(folder: Path) -> int:
    """Encoder layers of the model in ``folder``, from its configuration.

    Raises
    ------
    BadInput
        The configuration does not say.
    """
    path = Path(folder) / "config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: not a model's configuration ({error}). Point at a model folder.") from error
    for _, key in _STACKS:
        if isinstance(settings.get(key), int):
            return int(settings[key])
    raise BadInput(f"{path}: it names neither {' nor '.join(key for _, key in _STACKS)}, so its layers cannot be counted. Use a BERT-like body.")


def cut(model: Any, wanted: int | None, keep: str = "first") -> None:
    """Leave only ``wanted`` encoder layers in a transformers model, in place; null leaves all.

    Raises
    ------
    BadInput
        A body whose layers cannot be dropped, or fewer layers than wanted.
    """
    if wanted is None:
        return
    parent, name, key = _stack(model)
    layers = getattr(parent, name)
    if wanted == len(layers):
        return
    numbers: Sequence[int] = kept_layers(len(layers), wanted, keep)
    setattr(parent, name, type(layers)([layers[number] for number in numbers]))
    setattr(model.config, key, wanted)


def _stack(model: Any) -> tuple[Any, str, str]:
    for path, key in _STACKS:
        node, (*parents, name) = model.base_model, path.split(".")
        for part in parents:
            node = getattr(node, part, None)
        if node is not None and hasattr(node, name) and hasattr(model.config, key):
            return node, name, key
    raise BadInput(
        f"{type(model).__name__}: its layers cannot be dropped; students are made of bodies whose layers are alike (BERT, RoBERTa, XLM-R, DistilBERT). "
        "Choose another starting model, or keep all layers."
    )
