"""Where a process of the loop touches the world: told before and after, from outside, so that a drill can stop or kill it exactly there.

What belongs here: wrapping the few functions that change anything, and the two ends of the line to the drill. What must not: a change of what they do.

Production code knows nothing of this. A child that a drill starts calls :func:`install`; each side effect is then one line to the drill's socket, and the child
waits for its answer.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from predator_si.errors import Unavailable

VARIABLE = "PREDATOR_SI_DRILL_LINE"
"""Environment variable with the path of the drill's socket."""
Tell = Callable[[str], None]
_SECONDS = 300.0


@dataclass(frozen=True)
class Effect:
    """One moment: before or after the ``count``-th side effect of this kind in a worker."""

    name: str
    count: int
    moment: str

    @property
    def point(self) -> str:
        """Its name among the points of a road: ``git push 1 before``."""
        return f"{self.name} {self.count} {self.moment}"


# --------------------------------------------------------------------------- in the worker


def install(tell: Tell, home: Path) -> None:
    """Wrap what changes anything outside the process: every write of the control database, every push, every artifact, the registry.

    ``tell("before git push")`` comes right before, ``tell("after git push")`` once it is done.
    """
    from predator_si.control import schema
    from predator_si.orchestration.tracking import MlflowTracker
    from predator_si.release.gitops import GitOpsRepo

    _wrap(GitOpsRepo, "_push", tell, lambda *_: "git push")
    for name in ("register", "set_alias", "clear_alias"):
        _wrap(
            MlflowTracker, name, tell, lambda self, first="", *rest, called=name, **more: f"registry {called} {first if called != 'register' else ''}".strip()
        )
    artifacts = str(home / "artifacts")
    _wrap(Path, "replace", tell, lambda self, target: f"file {Path(target).name}" if str(target).startswith(artifacts) else None)
    original = schema.Database.writing

    @contextmanager
    def writing(self: schema.Database) -> Iterator[Any]:
        name = f"control {_writer()}"
        tell(f"before {name}")
        with original(self) as connection:
            yield connection
        tell(f"after {name}")

    schema.Database.writing = writing  # type: ignore[method-assign]


def _wrap(owner: type, name: str, tell: Tell, called: Callable[..., str | None]) -> None:
    original = getattr(owner, name)

    @functools.wraps(original)
    def told(*arguments: Any, **named: Any) -> Any:
        label = called(*arguments, **named)
        if label is None:
            return original(*arguments, **named)
        tell(f"before {label}")
        result = original(*arguments, **named)
        tell(f"after {label}")
        return result

    setattr(owner, name, told)


def _writer() -> str:
    """Which public function of the control package writes: the outermost one of its frames."""
    frame, found = sys._getframe(1), "write"
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module.startswith("predator_si.control") and not frame.f_code.co_name.startswith("_"):
            found = frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]
    return found


class Line:
    """The worker's end: says where it is, and waits to be told to go on."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(path)
        self._stream = self._socket.makefile("rwb", buffering=0)
        self._say(f"pid {os.getpid()}")

    def tell(self, what: str) -> None:
        """Say it, and wait for the answer; a drill that is gone is no reason to stop."""
        self._say(what)
        self._stream.readline()

    def end(self, how: str) -> None:
        """The last word."""
        self._say(f"end {how}")

    def _say(self, text: str) -> None:
        with suppress(OSError):
            self._stream.write(text.replace("\n", " ").encode() + b"\n")


# --------------------------------------------------------------------------- in the drill


class Worker:
    """The drill's end of one worker's line."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(_SECONDS)
        self._connection, self._stream = connection, connection.makefile("rwb", buffering=0)
        self._seen: Counter[str] = Counter()
        self.pid = int(self._line().removeprefix("pid "))
        self.ended: str | None = None
        """The last word of a worker that ended by itself; ``gone`` of one that said none."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._connection.close()

    def next(self) -> Effect | None:
        """Where the worker stands now; null once it has ended.

        Raises
        ------
        Unavailable
            It says nothing for minutes.
        """
        text = self._line()
        if not text or text.startswith("end "):
            self.ended = text.removeprefix("end ") or "gone"
            return None
        moment, _, name = text.partition(" ")
        if moment == "before":
            self._seen[name] += 1
        return Effect(name, self._seen[name], moment)

    def go(self) -> None:
        """Let it go on."""
        with suppress(OSError):
            self._stream.write(b"go\n")

    def kill(self) -> None:
        """End it with SIGKILL where it stands."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def _line(self) -> str:
        try:
            return self._stream.readline().decode().strip()
        except TimeoutError as error:
            raise Unavailable(f"the drill's worker {self.pid} says nothing for {_SECONDS:g} s. Its log is in the drill's home.") from error
        except OSError:
            return ""


class Listener:
    """Where workers call in."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="drill-"))  # a socket's path is short
        self.path = str(self._folder / "line")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(self.path)
        self._socket.listen(8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def worker(self, seconds: float = _SECONDS) -> Worker:
        """The next worker that calls in.

        Raises
        ------
        Unavailable
            None does within ``seconds``.
        """
        self._socket.settimeout(seconds)
        try:
            connection, _ = self._socket.accept()
        except TimeoutError as error:
            raise Unavailable(f"no worker called in within {seconds:g} s. The logs of the drill's home say why.") from error
        return Worker(connection)
