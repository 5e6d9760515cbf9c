"""What a run has finished, in its folder, so that a run that was killed goes on instead of starting anew.

What belongs here: remembering finished parts and finding the folder of a run that never ended. What must not: what the parts are.

A part is a JSON value under a name, written whole or not at all. A folder belongs to one set of inputs, the code of this package among them: whatever
differs makes another run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from predator_si.proof.adapt.plan import Clock

_INPUTS, _LOCK, _DONE = "inputs.json", "lock", "figures.json"


class Kept:
    """The finished parts in a folder; ``clock`` goes on where an earlier attempt ended, so that the run's seconds are those of all its attempts.

    Without a folder nothing is kept.
    """

    def __init__(self, folder: Path | None, clock: Clock) -> None:
        self._folder, self._clock = folder, clock
        known = self.known("clock")
        self.resumed = known is not None
        if known is not None:
            clock.earlier = float(known["spent"])
            for name, seconds in known["phases"].items():
                clock.phases[name] = clock.phases.get(name, 0.0) + float(seconds)

    def get(self, name: str, make: Callable[[], Any]) -> Any:
        """The part of a name: as it was kept, or made now and kept. Both are what JSON makes of it, so that nothing depends on which it was."""
        found = self.known(name)
        if found is not None:
            return found
        value = json.dumps(make())
        self._write(name, value)
        self._write("clock", json.dumps({"spent": self._clock.spent, "phases": self._clock.so_far}))
        return json.loads(value)

    def known(self, name: str) -> Any:
        """The part of a name, null where it was never finished."""
        path = None if self._folder is None else self._folder / f"{name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else None

    def _write(self, name: str, text: str) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".{name}.partial"
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._folder / f"{name}.json")


def inputs_digest(facts: dict[str, Any]) -> str:
    """Fingerprint of everything that a run's result depends on: ``facts``, and the code of this package."""
    code = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(Path(__file__).parent.glob("*.py"))}
    return hashlib.sha256(json.dumps([facts, code], sort_keys=True, default=str).encode()).hexdigest()


def run_folder(root: Path, fresh: str, facts: dict[str, Any]) -> tuple[Path, int]:
    """The folder of an unfinished run with these inputs that no living process works in, else ``root``/``fresh``; with it the descriptor that holds it.

    The caller keeps the descriptor open as long as it works there.
    """
    digest = inputs_digest(facts)
    for path in sorted(Path(root).glob(f"*/{_INPUTS}")):
        try:
            same = json.loads(path.read_text(encoding="utf-8"))["digest"] == digest and not (path.parent / _DONE).exists()
        except (OSError, ValueError, KeyError, TypeError):
            continue
        held = _hold(path.parent) if same else None
        if held is not None:
            return path.parent, held
    folder = Path(root) / fresh
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _INPUTS).write_text(json.dumps({"digest": digest, "facts": facts}, default=str) + "\n", encoding="utf-8")
    held = _hold(folder)
    assert held is not None  # nobody else knows it yet
    return folder, held


def _hold(folder: Path) -> int | None:
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
