"""Words between a run and the pod that trains for it: they share a folder of the home volume, and no network.

What belongs here: passing words and noticing that the other side is gone. What must not: what is said (``accelerated``), starting a pod
(``orchestration.pod_trainer``).

A network file system may show a new file late (NFS keeps a folder's listing up to a minute), so whoever trains never waits for an answer at each step: the
wish to stop is a file that is looked for now and then.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

SILENCE = 600.0
"""Seconds without a sign of life after which the other side is gone."""
_STOP = "stop"
_SHORTEST, _LONGEST = 0.01, 0.5


class FolderTalk:
    """One end of a talk, with the methods of a ``multiprocessing`` connection that the talk of ``accelerated`` uses.

    Parameters
    ----------
    folder
        Shared by both; its removal ends the talk.
    ours, theirs
        Names of the two ends.
    silence
        Seconds; a tenth of it lies between two signs of life.
    meanwhile
        Called while waiting.
    """

    def __init__(self, folder: Path, ours: str, theirs: str, silence: float = SILENCE, meanwhile: Callable[[], None] = lambda: None) -> None:
        self._folder, self._ours, self._theirs, self._silence, self._meanwhile = folder, ours, theirs, silence, meanwhile
        self._sent = self._read = 0
        self._over = threading.Event()
        self._beat()
        threading.Thread(target=self._live, name=f"sign of life of {ours}", daemon=True).start()

    def close(self) -> None:
        """Give no more signs of life."""
        self._over.set()

    def send_bytes(self, words: bytes) -> None:
        """Say something; raises ``ConnectionError`` where the folder is gone."""
        part = self._folder / f".{self._ours}.part"
        try:
            part.write_bytes(words)
            part.replace(self._folder / f"{self._ours}-{self._sent:08d}")
        except FileNotFoundError as error:
            raise ConnectionError(f"{self._folder} is gone") from error
        self._sent += 1

    def poll(self, seconds: float) -> bool:
        """Whether there is a word within so long; raises ``EOFError`` where the other side is gone."""
        ends, pause = time.monotonic() + seconds, _SHORTEST
        while not self._next.exists():
            self._meanwhile()
            self._check()
            if time.monotonic() >= ends:
                return False
            time.sleep(min(pause, max(0.0, ends - time.monotonic())))
            pause = min(2 * pause, _LONGEST)
        return True

    def recv_bytes(self) -> bytes:
        """The next word, however long it takes."""
        while not self.poll(1.0):
            pass
        words = self._next.read_bytes()
        self._next.unlink()
        self._read += 1
        return words

    def stop(self) -> None:
        """Ask the other side to stop."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / _STOP).touch()

    def stopped(self) -> bool:
        """Whether the other side asked to stop; raises ``EOFError`` where it is gone."""
        self._check()
        return (self._folder / _STOP).exists()

    @property
    def _next(self) -> Path:
        return self._folder / f"{self._theirs}-{self._read:08d}"

    def _beat(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            sign = self._folder / f"{self._ours}.alive"
            sign.touch()
            os.utime(sign)

    def _live(self) -> None:
        while not self._over.wait(self._silence / 10):
            self._beat()

    def _check(self) -> None:
        """By the file server's clock alone: two nodes need not agree what time it is."""
        if not self._folder.is_dir():
            raise EOFError(f"{self._folder} is gone")
        theirs, ours = self._folder / f"{self._theirs}.alive", self._folder / f"{self._ours}.alive"
        try:
            silent = ours.stat().st_mtime - theirs.stat().st_mtime
        except FileNotFoundError:
            return  # it has not begun yet
        if silent > self._silence:
            raise EOFError(f"{self._theirs} gave no sign of life for {silent:.0f} s")
