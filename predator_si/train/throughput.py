"""How fast a training run computed: tokens per second, and the share of the chip's bf16 peak where that is known.

What belongs here: arithmetic on what a run reports. What must not: clocks. The count of operations is the usual one of model FLOPs utilisation (Chowdhery et
al. 2022, appendix B): 6 per weight of a matrix and token, 12 x layers x width x length for attention; padding does not count as work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from predator_si.train.fit import Trained

BF16_PEAK = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""Dense bf16 operations per second without sparsity, from NVIDIA's data sheets; the first name that the device's contains counts."""


@dataclass(frozen=True)
class Throughput:
    """``peak_share`` is null, and ``unknown`` says why, where the chip's peak is not known."""

    tokens_per_second: float
    pairs_per_second: float
    flops_per_second: float
    peak_share: float | None
    unknown: str | None


def throughput(trained: Trained, folder: Path) -> Throughput:
    """What ``trained`` computed per second; ``folder`` holds the model's ``config.json``."""
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    per_token = training_flops(settings["num_hidden_layers"], settings["hidden_size"], settings["intermediate_size"], trained.tokens / max(1, trained.pairs))
    flops = per_token * trained.tokens / trained.seconds
    chips = int(trained.device.split(" x ")[0]) if " x " in trained.device else 1
    peak = next((value for name, value in BF16_PEAK.items() if name in trained.device), None)
    unknown = None
    if peak is None:
        unknown = f"the bf16 peak of {trained.device!r} is not on the list"
    elif not trained.bf16:
        peak, unknown = None, "the run did not compute in bf16"
    return Throughput(
        tokens_per_second=trained.tokens / trained.seconds,
        pairs_per_second=trained.pairs / trained.seconds,
        flops_per_second=flops,
        peak_share=None if peak is None else flops / (peak * chips),
        unknown=unknown,
    )


def training_flops(layers: int, hidden: int, intermediate: int, length: float) -> float:
    """Operations of forward and backward per token of an encoder: ``length`` is the mean number of tokens of a pair."""
    matrices = layers * (4 * hidden * hidden + 2 * hidden * intermediate)
    return 6.0 * matrices + 12.0 * layers * hidden * length
