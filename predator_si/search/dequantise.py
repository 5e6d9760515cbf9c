"""int8 ONNX graphs of BERTs back into torch weights: what a package ships small can then be trained, and run by any backend.

What belongs here: dynamically quantised graphs of onnxruntime whose names are those of the torch modules. What must not: fetching (``models``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from predator_si.errors import BadInput

_BERT = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 1536, "max_position_embeddings": 512}


def cross_encoder_from_onnx(folder: Path) -> None:
    """Turn the ``model.onnx`` of a quantised cross-encoder in ``folder`` into safetensors with one logit, and write its tokenizer's settings."""
    from transformers import BertConfig, BertForSequenceClassification

    state = _state(folder)
    config = BertConfig(vocab_size=len(state["bert.embeddings.word_embeddings.weight"]), num_labels=1, **_BERT)
    _save(folder, BertForSequenceClassification(config), state)


def bi_encoder_from_onnx(folder: Path, *, query_prefix: str = "") -> None:
    """Turn the ``model.onnx`` of a quantised bi-encoder in ``folder`` into a sentence-transformers folder: the first token's state, at unit length."""
    from transformers import BertConfig, BertModel

    state = _state(folder)
    config = BertConfig(vocab_size=len(state["embeddings.word_embeddings.weight"]), **_BERT)
    _save(folder, BertModel(config, add_pooling_layer=False), state)
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    modules = [{"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"} for at, (path, kind) in enumerate(kinds)]
    pooling = {"word_embedding_dimension": _BERT["hidden_size"], "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    for name, content in (
        ("modules.json", modules),
        ("1_Pooling/config.json", pooling),
        ("sentence_bert_config.json", {"max_seq_length": _BERT["max_position_embeddings"], "do_lower_case": False}),
        ("config_sentence_transformers.json", {"prompts": {"query": query_prefix}}),
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")


def _state(folder: Path) -> dict[str, Any]:
    """Weights by torch name: weight = (quantised - zero point) * scale; the matrices of products are transposed."""
    import numpy as np
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(str(folder / "model.onnx")).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}

    def dequantised(name: str) -> Any:
        stem = name.removesuffix("_quantized")
        return (arrays[name].astype(np.float32) - arrays[stem + "_zero_point"].astype(np.float32)) * arrays[stem + "_scale"].astype(np.float32)

    state: dict[str, Any] = {}
    multiplied = set()
    for node in graph.node:
        if node.op_type != "MatMulInteger":
            continue
        multiplied.add(node.input[1])
        module = node.name.removeprefix("/").removesuffix("_quant").removesuffix("/MatMul").removesuffix("/Gemm_MatMul").replace("/", ".")
        state[f"{module}.weight"] = dequantised(node.input[1]).T
    for name, array in arrays.items():
        if name.endswith("_quantized") and name not in multiplied:
            state[name.removesuffix("_quantized")] = dequantised(name)
        elif array.dtype == np.float32 and name.endswith((".weight", ".bias")):
            state.setdefault(name, array)
    return state


def _save(folder: Path, model: Any, state: dict[str, Any]) -> None:
    import numpy as np
    import torch
    from transformers import PreTrainedTokenizerFast

    missing, unexpected = model.load_state_dict({key: torch.tensor(np.ascontiguousarray(value)) for key, value in state.items()}, strict=False)
    missing = [key for key in missing if "position_ids" not in key and "token_type_ids" not in key]
    if missing or unexpected or "model" not in json.loads((folder / "tokenizer.json").read_text()):
        raise BadInput(
            f"{folder}: the quantised weights do not fit a {type(model).__name__} (missing {missing[:3]}, unexpected {unexpected[:3]}). "
            "The package changed: use another source."
        )
    model.save_pretrained(folder, safe_serialization=True)
    PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        model_max_length=512,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],  # without it the segment ids are silently left out and every score is wrong
        cls_token="[CLS]",
        sep_token="[SEP]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        mask_token="[MASK]",
    ).save_pretrained(folder)
    for leftover in ("model.onnx", "vectrix_config.json"):
        (folder / leftover).unlink(missing_ok=True)
