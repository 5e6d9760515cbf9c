"""Freed memory given back to the system: what C allocators keep for later piles up in processes that live long and take large things in turn."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Return the free pages of the heap. glibc's allocator needs to be told; where it is another one (musl, macOS), nothing happens."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
