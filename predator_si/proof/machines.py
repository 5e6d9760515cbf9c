"""The real processes of a demo, and what they cost: started, waited for, measured, ended.

What belongs here: child processes of ours and their memory. What must not: anything about search quality.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from predator_si.errors import Unavailable
from predator_si.orchestration.delivery import reconcile_command
from predator_si.orchestration.loop import Loop

_READY_SECONDS = 120.0


@contextmanager
def services(loop: Loop) -> Iterator[None]:
    """The reconciler and the search service of a home, up for as long as the block runs.

    Raises
    ------
    Unavailable
        One of them does not come up; the message carries the end of its log.
    """
    settings, home = loop.settings, loop.home
    environment = {**os.environ, **settings.environment(), "HF_HUB_OFFLINE": "1"}
    started: list[subprocess.Popen[bytes]] = []
    try:
        started.append(_start(reconcile_command(settings, 0.3), home.logs / "reconciler.log", environment))
        _wait(lambda: home.release_file(loop.contour).is_file(), started[-1], home.logs / "reconciler.log", "the reconciler applied no release")
        port = str(settings.ports.search)
        search = [
            sys.executable,
            "-m",
            "predator_si.search",
            "--home",
            str(home.path),
            "--contour",
            loop.contour,
            "--port",
            port,
            "--embedder",
            str(loop.plan.embedder),
        ]
        started.append(_start(search, home.logs / "search.log", environment))
        _wait(lambda: _answers(loop), started[-1], home.logs / "search.log", "the search service does not answer")
        yield
    finally:
        for process in reversed(started):
            _end(process)


def _start(command: list[str], log: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def _answers(loop: Loop) -> bool:
    try:
        loop.info()
    except Unavailable:
        return False
    return True


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, otherwise: str) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace").strip().splitlines()[-3:]
            raise Unavailable(f"{otherwise}: {' | '.join(tail) or 'its log is empty'}. The whole log is {log}.")
        time.sleep(0.1)


class Memory:
    """The largest sum of proportional set sizes over this process and all its children, sampled every few seconds."""

    def __init__(self, every: float = 3.0) -> None:
        self.peak_mb = 0.0
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        import psutil

        total = 0
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            try:
                found = process.memory_full_info()
                total += getattr(found, "pss", found.rss)
            except psutil.Error:
                continue  # it ended between being listed and being read
        self.peak_mb = max(self.peak_mb, total / 2**20)
