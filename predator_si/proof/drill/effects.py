"""Where a process of the loop touches the world: told before and after, from outside, so that a drill can stop or kill it exactly there.

What belongs here: wrapping the few functions that change anything, and the two ends of the line to the drill. What must not: a change of what they do.

Production code knows nothing of this. A child that a drill starts calls :func:`install`; each side effect is then one line to the drill's socket, and the child
waits for its answer. A process that nobody waits for (``marked``) ends itself at the one that was named beforehand.
"""

from __future__ import annotations

import functools
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
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


_RENEWALS = frozenset({"renew"})
"""Writes that come by the clock, from a thread of their own: no points of a road."""


@dataclass(frozen=True)
class Effect:
    """One moment: before or after the ``count``-th side effect of this kind in a cycle, whichever worker it is in."""

    name: str
    count: int
    moment: str

    @property
    def point(self) -> str:
        """Its name among the points of a road: ``git push 1 before``."""
        return f"{self.name} {self.count} {self.moment}"


# --------------------------------------------------------------------------- in the worker


def install(tell: Tell, home: Path) -> None:
    """Wrap what a run changes outside its process: every write of the control database, every push, every file that takes its place, the registry.

    ``tell("before git push")`` comes right before, ``tell("after git push")`` once it is done.
    """
    from predator_si.orchestration.tracking import MlflowTracker
    from predator_si.release.gitops import GitOpsRepo

    install_writes(tell, home)
    _wrap(GitOpsRepo, "_push", tell, lambda *_: "git push")
    for name in ("register", "start", "end"):
        _wrap(MlflowTracker, name, tell, lambda *_, called=name, **__: f"registry {called}")
    for name in ("set_alias", "clear_alias"):
        _wrap(MlflowTracker, name, tell, lambda self, alias, *_, called=name: f"registry {called} {alias}")


def install_writes(tell: Tell, home: Path) -> None:
    """The part of it that other processes of a home do as well: writes of the control database, and files of the home that take their place."""
    from predator_si.control import schema

    _wrap(Path, "replace", tell, lambda self, target: place_of(home, Path(target)))
    original = schema.Database.writing

    @contextmanager
    def writing(self: schema.Database, **asked: Any) -> Iterator[Any]:
        writer = _writer()
        if writer in _RENEWALS:
            with original(self, **asked) as connection:
                yield connection
            return
        tell(f"before control {writer}")
        with original(self, **asked) as connection:
            yield connection
        tell(f"after control {writer}")

    schema.Database.writing = writing  # type: ignore[method-assign]


def place_of(home: Path, target: Path) -> str | None:
    """What a file or folder is called that takes its place in ``home``; null for what is no point of a road: other folders, and the status of each look."""
    try:
        folder, *rest = target.relative_to(home).parts
    except ValueError:
        return None
    if folder == "models" and len(rest) == 1:
        return "model stored"
    if not rest or folder not in ("artifacts", "applied") or rest[-1] == "status.json":
        return None
    return f"file {rest[-1]}" if folder == "artifacts" else f"applied {rest[-1]}"


def doomed(paper: Path) -> Tell:
    """A ``tell`` that ends its own process with SIGKILL at the moment that ``paper`` names (``doom``), and tells nobody anything."""

    def tell(what: str) -> None:
        try:
            left, _, named = paper.read_text().partition(" ")
        except OSError:
            return  # nothing is planned
        if named != what:
            return
        if int(left) > 1:
            paper.write_text(f"{int(left) - 1} {named}")
            return
        paper.unlink(missing_ok=True)
        os.kill(os.getpid(), signal.SIGKILL)

    return tell


def doom(paper: Path, moment: str, name: str, count: int = 1) -> None:
    """Plan the end of the process that reads ``paper``: at the ``count``-th such moment from now on."""
    paper.write_text(f"{count} {moment} {name}")


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
        self._one = threading.Lock()
        self._say(f"pid {os.getpid()}")

    def tell(self, what: str) -> None:
        """Say it, and wait for the answer; a drill that is gone is no reason to stop. A process stands at one place at a time."""
        with self._one:
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
    """The drill's end of one worker's line.

    Parameters
    ----------
    seen
        What the workers of this cycle did before, by name: a cycle is walked by several.
    """

    def __init__(self, connection: socket.socket, seen: Counter[str]) -> None:
        connection.settimeout(_SECONDS)
        self._connection, self._stream = connection, connection.makefile("rwb", buffering=0)
        self._seen = seen
        self._at: Effect | None = None
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
        self._at = Effect(name, self._seen[name], moment)
        return self._at

    def go(self) -> None:
        """Let it go on."""
        with suppress(OSError):
            self._stream.write(b"go\n")

    def kill(self) -> None:
        """End it with SIGKILL where it stands; what it was about to do was not done, and will be counted when the next worker does it."""
        if self._at is not None and self._at.moment == "before":
            self._seen[self._at.name] -= 1
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
    """Where workers call in. What they do is counted from one :meth:`new_cycle` to the next."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()
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

    def new_cycle(self) -> None:
        """Count from the beginning: the next worker walks another cycle."""
        self._seen = Counter()

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
        return Worker(connection, self._seen)
