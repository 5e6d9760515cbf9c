"""The processes that die in a drill: killed, or planned to end themselves, and started again.

What belongs here: search service, reconciler, API and the forked worker as processes. What must not: who dies where (``kill``).
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import httpx

from predator_si.errors import Unavailable
from predator_si.proof.drill import effects
from predator_si.proof.drill.effects import Listener
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.marked import marked

API = "api"
_AGAIN_SECONDS = 180.0
_LOOK = 0.05


class Victims:
    """Search service, reconciler and API of a ground, each of which can be ended at its own writes; whichever is gone is started again at once."""

    def __init__(self, ground: Ground, load: Load) -> None:
        self._ground, self._load = ground, load
        self._lock, self._over = threading.Lock(), threading.Event()
        self._down: dict[str, ExitStack] = {}
        self._planned: set[str] = set()
        self._fallen: set[str] = set()
        self._looking = threading.Thread(target=self._look, name="victims", daemon=True)

    def __enter__(self) -> Self:
        ground, settings = self._ground, self._ground.settings
        for name in ("search", "reconciler"):
            with self._load.excusing():
                ground.processes.end(name)
                command, ready = ground.commands()[name]
                ground.processes.start(name, marked(command, self._paper(name), ground.loop.home.path), ready)
        words = ["--home", str(settings.home), "--contour", settings.contour, "--port", str(settings.ports.api)]
        command = marked([sys.executable, "-m", "predator_si.api", *words], self._paper(API), ground.loop.home.path)
        ground.processes.start(API, command, self._api_answers)
        self._looking.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._looking.join(60)
        for down in self._down.values():
            down.close()
        self._ground.processes.end(API)

    def kill(self, name: str) -> None:
        """SIGKILL now; it is started again at once. Whatever else is still coming up is waited for: one at a time."""
        self.all_ready()
        with self._lock:
            self._excuse(name)
            self._ground.processes.kill(name)
            self._ground.processes.start_again(name)

    def plan(self, name: str, point: str) -> None:
        """Let it end itself at a write of its own: ``applied RELEASE 2 before``."""
        what, count, moment = point.rsplit(" ", 2)
        with self._lock:
            self._excuse(name)
            self._planned.add(name)
            self._fallen.discard(name)
            effects.doom(self._paper(name), moment, what.replace("RELEASE", self._ground.loop.release_name), int(count))

    def fell(self, name: str) -> bool:
        """Whether it has ended itself as planned; what it did not come to is called off."""
        with self._lock:
            self._planned.discard(name)
            self._paper(name).unlink(missing_ok=True)
            return name in self._fallen

    def all_ready(self) -> None:
        """Wait until whatever was struck works again; failures count from then on."""
        for name in list(self._down):
            if name not in self._planned:
                self._ground.processes.wait_ready(name, _AGAIN_SECONDS)
                self._down.pop(name).close()

    def _excuse(self, name: str) -> None:
        down = self._down.setdefault(name, ExitStack())
        if name == "search":
            down.enter_context(self._load.excusing())

    def _look(self) -> None:
        """Start again what has ended itself."""
        while not self._over.wait(_LOOK):
            with self._lock:
                for name in list(self._planned):
                    if not self._ground.processes.lives(name):
                        self._planned.discard(name)
                        self._fallen.add(name)
                        self._ground.processes.start_again(name)

    def _paper(self, name: str) -> Path:
        return self._ground.loop.home.path / f"doom-{name}"

    def _api_answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._ground.settings.ports.api}/health", timeout=5.0, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def workers(ground: Ground, listener: Listener) -> Iterator[Callable[[str], None]]:
    """A warm process, and the function that makes it walk a cycle's road in a child."""
    log = ground.loop.home.logs / "worker.log"
    command = [sys.executable, "-m", "predator_si.proof.drill.worker", listener.path]
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stream, env=ground.environment, text=True, bufsize=1)
    assert process.stdin is not None and process.stdout is not None

    def walk(cycle_id: str) -> None:
        assert process.stdin is not None and process.stdout is not None
        said = process.stdout.readline()  # ``ready``, or that the child before this one is over
        if not said:
            raise Unavailable(f"the drill's worker ended: {log}")
        process.stdin.write(f"{cycle_id}\n")
        process.stdin.flush()

    try:
        yield walk
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(30)
        process.stdout.close()
