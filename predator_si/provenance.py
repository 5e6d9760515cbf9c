"""What a measured figure carries with it: scale, seed, cores and versions (CONTRACT.md section 7)."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

_PACKAGES = ("dagster", "numpy", "onnxruntime", "openvino", "polars", "sentence-transformers", "torch", "transformers")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str]:
    """Versions of predator_si, of Python, and of the libraries that figures depend on; nothing is imported for it."""
    from predator_si import __version__

    found = {"predator_si": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def provenance(scale: str, seed: int) -> dict[str, Any]:
    """``scale``, ``cores``, ``versions``, ``seed``: the keys that every JSON object of figures has."""
    return {"scale": scale, "cores": cores(), "versions": versions(), "seed": seed}
