"""Open-loop HTTP load: requests are sent when they are due, not when the last one was answered, and their time runs from then.

What belongs here: sending and timing. What must not: what is asked.

A closed loop would wait for a slow server and so hide its slowness ("coordinated omission", G. Tene, "How NOT to measure latency", 2013).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Loaded:
    """What came of a load: milliseconds of each answered request from the moment when it was due, errors, and the rate that was reached."""

    milliseconds: tuple[float, ...]
    errors: int
    seconds: float

    @property
    def per_second(self) -> float:
        """Answers in a second."""
        return len(self.milliseconds) / self.seconds if self.seconds > 0 else 0.0

    def percentile(self, q: float) -> float | None:
        """A percentile in milliseconds, by the nearest rank above; null without answers."""
        return float(np.percentile(self.milliseconds, q, method="higher")) if self.milliseconds else None


async def open_loop(host: str, port: int, paths: Sequence[str], rate: float, seconds: float, connections: int = 16) -> Loaded:
    """GET ``paths`` by turns, ``rate`` a second for ``seconds``, over kept-alive connections.

    Parameters
    ----------
    connections
        Requests that may be on their way at once; further ones wait, and their waiting counts.
    """
    due: asyncio.Queue[tuple[float, str] | None] = asyncio.Queue()
    times: list[float] = []
    errors = 0

    async def client() -> None:
        nonlocal errors
        pipe: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while (one := await due.get()) is not None:
            at, path = one
            try:
                pipe = pipe or await asyncio.open_connection(host, port)
                status = await asyncio.wait_for(_get(*pipe, f"{host}:{port}", path), 30.0)
            except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, ValueError):
                status, pipe = 0, None
            if status == 200:
                times.append((time.perf_counter() - at) * 1000)
            else:
                errors += 1
        if pipe is not None:
            pipe[1].close()

    clients = [asyncio.create_task(client()) for _ in range(connections)]
    began = time.perf_counter()
    total = round(rate * seconds)
    for number in range(total):
        at = began + number / rate
        pause = at - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        due.put_nowait((at, paths[number % len(paths)]))
    for _ in clients:
        due.put_nowait(None)
    await asyncio.gather(*clients)
    return Loaded(tuple(times), errors, time.perf_counter() - began)


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, path: str) -> int:
    """Status of one answer; the body is read to its end."""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: application/json\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = next(int(line.partition(":")[2]) for line in head.split("\r\n") if line.startswith("content-length:"))
    await reader.readexactly(length)
    return int(head.split(" ", 2)[1])
