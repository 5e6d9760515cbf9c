"""Where a training loop runs: one process here, or one of several.

What belongs here: devices, and what processes tell each other. What must not: what is trained. ``accelerated`` has the place that ``accelerate launch`` makes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from predator_si.heap import give_back
from predator_si.search.rerank import chip_has_bf16

_PAIRS_AT_ONCE = 16
"""On a processor: of 8, 12, 16 and 24 pairs of some 115 tokens at once sixteen took the least time (8 took 5% more), their activations staying in the cache."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's names for mallopt
_MIB = 1 << 20


@contextmanager
def kept_heap() -> Iterator[None]:
    """Keep freed memory in the process within: a step's activations are some hundred MB that come and go, and asking the system for them each time cost a
    seventh of a step. Glibc only; elsewhere nothing happens. Afterwards the memory is given back.
    """
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, 1024 * _MIB)
    mallopt(_TRIM_THRESHOLD, 2048 * _MIB - 1)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, 32 * _MIB)  # where glibc's own adjustment ends; once set, it no longer adjusts
        mallopt(_TRIM_THRESHOLD, 64 * _MIB)
        give_back()


class Place:
    """One process that does everything: on the GPU where there is one, on the processor otherwise."""

    rank = 0
    ranks = 1

    def __init__(self, device: str | None = None) -> None:
        import torch

        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @property
    def main(self) -> bool:
        """Whether this process judges, reports and stores."""
        return self.rank == 0

    @property
    def name(self) -> str:
        """What computes: the GPU's name, or ``cpu``; with the number of processes where there are several."""
        import torch

        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return device if self.ranks == 1 else f"{self.ranks} x {device}"

    @property
    def attention(self) -> str:
        """The implementation to load: torch's fused one costs a quarter more per training step on a processor (14.9 against 18.6 pairs/s), less on a GPU."""
        return "sdpa" if self.device.type == "cuda" else "eager"

    @property
    def pairs_at_once(self) -> int | None:
        """How many pairs are computed at once unless the recipe says; null for all."""
        return None if self.device.type == "cuda" else _PAIRS_AT_ONCE

    def has_bf16(self) -> bool:
        """Whether bfloat16 is native here."""
        import torch

        return bool(torch.cuda.is_bf16_supported()) if self.device.type == "cuda" else chip_has_bf16()

    def half(self, enabled: bool) -> AbstractContextManager[Any]:
        """Compute in bfloat16 within, where ``enabled``."""
        import torch

        context: AbstractContextManager[Any] = torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)
        return context

    def mine(self, step: Sequence[int]) -> list[int]:
        """Those of a step's groups that this process computes."""
        return list(step[self.rank :: self.ranks])

    def add_up(self, weights: Sequence[Any], loss: float) -> float:
        """Gradients of ``weights`` (in place) and the loss, summed over all processes."""
        return loss

    def told(self, values: Sequence[float]) -> list[float]:
        """What the main process says, in every process."""
        return list(values)
