"""From a trained torch cross-encoder to the files that serve fast: ONNX int8, OpenVINO in bf16 or int8, half-precision weights.

What belongs here: file formats. What must not: deciding which is good enough (``optimise`` measures that). The exports are our own because
the sentence-transformers ONNX back end cannot be installed beside transformers 5.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from predator_si.errors import BadInput
from predator_si.heap import give_back
from predator_si.search.models import ModelStore
from predator_si.search.rerank import BACKENDS, Tokenised, padded

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "config.json")
_INPUTS = ("input_ids", "token_type_ids", "attention_mask")
_SMOOTHING = 0.8
"""Kendall's tau to bf16 on 200 dev queries, nine layers of the L-12: .967 (40 pairs); NNCF's default .95 gave .956 (75 pairs)."""
_LEAST = 8
"""Fewer tokens leave no room for a query beside a document."""


def export(store: ModelStore, digest: str, backend: str, max_length: int, calibration: Sequence[tuple[str, str]] = ()) -> str:
    """Make the variant of a stored torch model that runs on ``backend`` with inputs cut at ``max_length`` tokens; returns its digest.

    Both are written into the weight files, so that two variants that behave differently never have the same digest; the same export made
    twice has the same one.

    Parameters
    ----------
    calibration
        (query, text) pairs like those that will be scored, none of them an evaluation's: ``openvino-int8`` takes the ranges of its activations from them.

    Raises
    ------
    BadInput
        The source is not a torch model, the backend is unknown, the model has fewer positions than ``max_length``, or ``openvino-int8`` has nothing to
        calibrate on.
    """
    source = store.card(digest)
    if not source.backend.startswith("torch"):
        raise BadInput(f"{digest} is a {source.backend} model; exports start from torch weights. Export its source, {source.source_digest}.")
    if backend not in BACKENDS:
        raise BadInput(f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}.")
    folder = store.path(digest)
    positions = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    if max_length < _LEAST or (positions is not None and max_length > positions):
        raise BadInput(f"max_length {max_length}: {source.name} reads {_LEAST} to {positions} tokens. Choose a length in that range.")
    bound = {"backend": backend, "max_length": str(max_length)}
    with tempfile.TemporaryDirectory(dir=store.root, prefix=".exporting-") as scratch:
        out = Path(scratch)
        for name in _TOKENIZER_FILES:
            if (folder / name).is_file():
                shutil.copy2(folder / name, out / name)
        if backend.startswith("openvino"):
            _export_openvino(folder, out, bound, calibration)
        elif backend == "onnx-int8":
            _export_onnx_int8(folder, out, bound)
        else:
            _export_torch(folder, out, bound)
        _release()
        _say_max_length(out, max_length)
        return store.add(
            out,
            name=f"{source.name} {backend} {max_length}",
            backend=backend,
            max_length=max_length,
            source_digest=source.source_digest or digest,
            base=source.base,
            origin={"exported_from": digest},
        )


def _model(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(
        str(folder), num_labels=1, local_files_only=True, use_safetensors=True, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def _traceable(folder: Path) -> tuple[Any, tuple[str, ...]]:
    """The model with positional inputs and bare logits, and the names of these inputs in the order of ``_INPUTS``; not every body knows segments."""
    import torch

    model = _model(folder)
    takes = inspect.signature(model.forward).parameters

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, token_type_ids: Any, attention_mask: Any) -> Any:
            return self.model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask).logits

    class WithoutSegments(Logits):
        def forward(self, input_ids: Any, attention_mask: Any) -> Any:  # type: ignore[override]
            return self.model(input_ids=input_ids, attention_mask=attention_mask).logits

    kind = Logits if "token_type_ids" in takes else WithoutSegments
    return kind().eval(), tuple(name for name in _INPUTS if name in takes)


def _example(inputs: Sequence[str]) -> dict[str, Any]:
    """Two rows of eight tokens of the first segment: some bodies know no second one."""
    import torch

    return {name: (torch.zeros if name == "token_type_ids" else torch.ones)(2, 8, dtype=torch.int64) for name in inputs}


def _release() -> None:
    """Give the memory of a traced model back: measured on a 33 M parameter model, 40 MB stay per export otherwise, and 300 MB of freed heap."""
    import torch

    torch._C._jit_clear_class_registry()  # tracing registers a class for each module, and the class holds the weights
    torch.jit._recursive.concrete_type_store = torch.jit._recursive.ConcreteTypeStore()
    torch.jit._state._clear_class_state()
    gc.collect()
    give_back()


def _say_max_length(folder: Path, max_length: int) -> None:
    """Write the input length into the tokenizer's settings file, so that the folder says how it is to be used by other tools too."""
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**settings, "model_max_length": max_length}, indent=2, sort_keys=True) + "\n")


def _export_openvino(folder: Path, out: Path, bound: dict[str, str], calibration: Sequence[tuple[str, str]]) -> None:
    import openvino
    import torch

    traceable, inputs = _traceable(folder)
    with torch.no_grad():
        converted = openvino.convert_model(traceable, example_input=_example(inputs))
    for port, name in zip(converted.inputs, inputs, strict=True):
        port.get_tensor().set_names({name})
    if bound["backend"] == "openvino-int8":
        converted = _quantised(converted, folder, int(bound["max_length"]), calibration)
    converted.set_friendly_name("reranker")
    for number, operation in enumerate(converted.get_ordered_ops()):
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")  # generated names count up within a process and would change the digest
    for key, value in bound.items():
        converted.set_rt_info(value, ["predator", key])
    openvino.save_model(converted, str(out / "openvino_model.xml"), compress_to_fp16=False)


def _quantised(model: Any, folder: Path, max_length: int, calibration: Sequence[tuple[str, str]]) -> Any:
    """Weights and activations in 8 bits by NNCF's post-training quantisation, outliers moved into the weights first (SmoothQuant, arXiv 2211.10438)."""
    from predator_si.quiet import be_quiet

    if not calibration:
        raise BadInput("openvino-int8 needs pairs to calibrate on. Give it some of the training pairs.")
    be_quiet()
    import nncf

    nncf.set_log_level(logging.ERROR)
    takes = {name for port in model.inputs for name in port.get_names()}
    filled = [padded([encoding], 8, max_length) for encoding in Tokenised(folder, max_length).encode(calibration)]
    inputs = [{name: array for name, array in arrays.items() if name in takes} for arrays in filled]
    smooth = nncf.AdvancedSmoothQuantParameters(matmul=_SMOOTHING)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars are of no use in a run's log
        return nncf.quantize(
            model,
            nncf.Dataset(inputs),
            subset_size=len(inputs),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            advanced_parameters=nncf.AdvancedQuantizationParameters(smooth_quant_alphas=smooth),
        )


def _export_onnx_int8(folder: Path, out: Path, bound: dict[str, str]) -> None:
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".exporting-") as scratch, torch.no_grad():
        plain = str(Path(scratch) / "plain.onnx")
        traceable, inputs = _traceable(folder)
        axes = {name: {0: "batch", 1: "tokens"} for name in inputs} | {"logits": {0: "batch"}}
        names: dict[str, Any] = {"input_names": list(inputs), "output_names": ["logits"], "dynamic_axes": axes}
        torch.onnx.export(traceable, tuple(_example(inputs).values()), plain, **names, opset_version=17, dynamo=False)
        quantize_dynamic(plain, str(out / "model.onnx"), weight_type=QuantType.QInt8)
    graph = onnx.load(str(out / "model.onnx"))
    onnx.helper.set_model_props(graph, bound)
    onnx.save(graph, str(out / "model.onnx"))


def _export_torch(folder: Path, out: Path, bound: dict[str, str]) -> None:
    import torch
    from safetensors.torch import save_file

    model = _model(folder).to(torch.bfloat16 if bound["backend"] == "torch-bf16" else torch.float32)
    model.config.save_pretrained(str(out))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, str(out / "model.safetensors"), metadata={"format": "pt", **bound})
    _order_metadata(out / "model.safetensors")


def _order_metadata(path: Path) -> None:
    """Write the metadata of a safetensors file in the order of its keys.

    The library writes it in the random order of a hash map: with two keys or more, another digest each time.
    """
    with path.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(size))
        metadata = dict(sorted(header.pop("__metadata__").items()))
        ordered = json.dumps({"__metadata__": metadata, **header}, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) > size:
            raise BadInput(f"{path.name}: its header does not fit where it stood ({len(ordered)} bytes for {size}). Another safetensors version is needed.")
        stream.seek(8)
        stream.write(ordered.ljust(size))
