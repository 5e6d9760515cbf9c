"""The child processes of a drill: started, killed with SIGKILL, started again, ended by their own ids.

What belongs here: processes. What must not: what they do, when they are killed.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from predator_si.errors import Missing, Unavailable

if TYPE_CHECKING:
    import psutil

READY_SECONDS = 180.0
_END_SECONDS = 30.0


def free_port() -> int:
    """A port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(holds: Callable[[], bool], seconds: float, what: str, every: float = 0.01) -> float:
    """Poll until ``holds``; the seconds that it took.

    Raises
    ------
    Unavailable
        It did not hold within ``seconds``.
    """
    start = time.monotonic()
    while not holds():
        if time.monotonic() - start > seconds:
            raise Unavailable(f"{what} did not happen within {seconds:g} s. The logs of the drill's home say more.")
        time.sleep(every)
    return time.monotonic() - start


def _children(pid: int) -> list[psutil.Process]:
    import psutil

    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


class Processes:
    """Children by name.

    Parameters
    ----------
    logs
        Folder of ``<name>.log``.
    environment
        Of all of them.
    """

    def __init__(self, logs: Path, environment: Mapping[str, str]) -> None:
        self._logs, self._environment = logs, dict(environment)
        self._commands: dict[str, tuple[list[str], Callable[[], bool], dict[str, str]]] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        logs.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, command: Sequence[str], ready: Callable[[], bool], environment: Mapping[str, str] | None = None) -> None:
        """Start a child, and wait until it is ``ready``.

        Raises
        ------
        Unavailable
            It ends, or is not ready in time; the message carries the end of its log.
        """
        self._commands[name] = (list(command), ready, dict(environment or {}))
        self.start_again(name)
        self.wait_ready(name)

    def start_again(self, name: str) -> None:
        """Start a child that was started before, as it was started then; it may not be ready yet."""
        command, _, more = self._command(name)
        with (self._logs / f"{name}.log").open("ab") as stream:
            self._running[name] = subprocess.Popen(
                command, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL, env=self._environment | more, start_new_session=True
            )

    def wait_ready(self, name: str, seconds: float = READY_SECONDS) -> None:
        """Wait until a started child is ready."""
        _, ready, _ = self._command(name)
        deadline = time.monotonic() + seconds
        while not ready():
            code = self._running[name].poll()
            if code is not None or time.monotonic() > deadline:
                why = f"ended with {code}" if code is not None else f"is not ready after {seconds:g} s"
                raise Unavailable(f"{name} {why}: {self.tail(name)}")
            time.sleep(0.02)

    def kill(self, name: str) -> None:
        """End a child with SIGKILL: nothing of it runs on."""
        process = self._running[name]
        process.send_signal(signal.SIGKILL)
        process.wait(_END_SECONDS)

    def pid(self, name: str) -> int:
        """Process id of a child that runs."""
        return self._running[name].pid

    def lives(self, name: str) -> bool:
        """Whether the child runs."""
        return name in self._running and self._running[name].poll() is None

    def tail(self, name: str, lines: int = 5) -> str:
        """The end of a child's log, on one line."""
        try:
            found = (self._logs / f"{name}.log").read_text(errors="replace").strip().splitlines()[-lines:]
        except OSError:
            found = []
        return " | ".join(found) or "its log is empty"

    def end(self, name: str) -> None:
        """Ask a child to end, and kill it where it does not."""
        import psutil

        process = self._running.pop(name, None)
        if process is None:
            return
        if process.poll() is None:
            family = _children(process.pid)
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_END_SECONDS)
            for child in family:
                with suppress(psutil.NoSuchProcess):
                    child.kill()  # psutil compares the start time: an id that was given away is not touched

    def end_all(self) -> None:
        """End all children, the newest first."""
        for name in reversed(list(self._running)):
            self.end(name)

    def _command(self, name: str) -> tuple[list[str], Callable[[], bool], dict[str, str]]:
        if name not in self._commands:
            raise Missing(f"no process of this drill is called {name!r}; there are {', '.join(self._commands) or 'none'}.")
        return self._commands[name]
