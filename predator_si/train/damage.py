"""Break a model on purpose, for drills.

What belongs here: making a bad model that cannot be mistaken for the good one. What must not: releasing it.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from predator_si.errors import Missing
from predator_si.search.models import ModelStore
from predator_si.search.rerank import reference_backend
from predator_si.train.export import export

DAMAGED = "drill: damaged copy"
"""The name of such a copy in the model store."""


def damage(store: ModelStore, digest: str, seed: int, max_length: int) -> str:
    """A broken copy for drills: the torch weights behind ``digest``, every encoder weight off by some 10% and the head's sign turned, on the same
    backend (an int8 one unquantised).

    What a failed export or a swapped label looks like: it loads, answers, and puts the relevant last. All weights differ, so neither digest is close.

    Raises
    ------
    Missing
        The torch weights that ``digest`` was made from are not in the store.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    card = store.card(digest)
    source = card.source_digest or digest
    if source not in store or not store.card(source).backend.startswith("torch"):
        raise Missing(f"the torch weights behind {digest} ({source}) are not in the model store; a drill damages a copy of them. Run a cycle first.")
    model = AutoModelForSequenceClassification.from_pretrained(str(store.path(source)), num_labels=1, local_files_only=True, use_safetensors=True)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.base_model.encoder.parameters():
            parameter.mul_(1.0 + 0.1 * torch.randn(parameter.shape, generator=generator))
        model.classifier.weight.neg_()
    with tempfile.TemporaryDirectory(dir=store.root) as scratch:
        model.save_pretrained(scratch, safe_serialization=True)
        for file in store.path(source).iterdir():
            if file.name.startswith(("tokenizer", "special_tokens", "vocab")):
                shutil.copy2(file, Path(scratch) / file.name)
        broken = store.add(Path(scratch), name=DAMAGED, backend="torch-fp32", max_length=max_length, base=source, origin={"drill": True, "seed": seed})
    # int8 would have to be calibrated; the damage is in the weights
    return export(store, broken, reference_backend() if card.backend == "openvino-int8" else card.backend, max_length)
