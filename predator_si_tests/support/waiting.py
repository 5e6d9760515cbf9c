"""Free ports, and waiting for something with a deadline instead of sleeping for luck."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(true: Callable[[], bool], seconds: float, what: str) -> float:
    """Poll ``true`` until it holds; the seconds that took. Raises ``TimeoutError`` naming ``what`` after ``seconds``."""
    start = time.monotonic()
    while not true():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f"{what} did not happen within {seconds:g} s")
        time.sleep(0.02)
    return time.monotonic() - start
