"""Writing events: an append-only spool that never makes a search wait and never loses an event unseen.

What belongs here: numbering, buffering and flushing. What must not: reading back (``events``), Parquet (``rollup``), deciding what an event holds.

How loss stays countable. Every event gets the next number of its kind in this writer, and the number is written at once, without fsync, into a small
counter file of fixed size (``writers/<writer>.seq``). Events themselves are written and fsynced by a background thread, at the latest after
``flush_seconds`` or ``flush_events``. After ``kill -9`` the operating system still has the counter, so *issued minus stored* is the loss, exactly. After
a crash of the machine the counter itself may be old: then only a lower bound is known, from the last marker that was fsynced with a batch.
A writer holds a lock on its counter file while it lives; the lock goes with the process, so a reader can tell "not flushed yet" from "lost".
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from predator_si.errors import Unavailable
from predator_si.privacy import Vault
from predator_si.records import ActionEvent, ExposureEvent, SearchEvent, ShadowEvent, utc_now
from predator_si.search.personal import protect_action, protect_search

log = logging.getLogger(__name__)

COUNTER_BYTES = 512
_ROLL_RETRY_SECONDS = 30.0
KINDS = ("search", "action", "exposure", "shadow")


@dataclass(frozen=True, slots=True)
class SpoolState:
    """Where the spool stands. ``issued`` and ``durable`` count per kind; ``dropped`` are events given up because the disk refused them for too long."""

    writer: str
    issued: dict[str, int]
    durable: dict[str, int]
    dropped: dict[str, int]
    pending: int
    write_errors: int
    error: str | None


def writer_name(pid: int, started: datetime) -> str:
    """Id of a writer process: process id and start time, so that a recycled pid is another writer."""
    return f"{pid}-{started.astimezone(UTC):%Y%m%dT%H%M%S%f}"


def writer_start(writer: str) -> datetime | None:
    """Start time hidden in a writer id, or None when the id was not made by ``writer_name``."""
    try:
        return datetime.strptime(writer.rsplit("-", 1)[-1], "%Y%m%dT%H%M%S%f").replace(tzinfo=UTC)
    except ValueError:
        return None


class EventSpool:
    """The one writer of events in a process.

    Parameters
    ----------
    folder
        The events folder; ``spool/`` and ``writers/`` are made in it.
    flush_seconds, flush_events
        An event is durable at most this long, or this many events, after it was added.
    max_buffered
        Events kept in memory while the disk refuses; beyond it the oldest are dropped and counted.
    on_roll
        Called in a thread of its own, so that events go on to the disk meanwhile, with the hour (``yyyymmddHH``) that is now written; everything before is
        complete. A file is locked while it is open here, and whoever rolls it up locks it too: a clock that steps back must not add to what is taken away.
    vault
        Protects what identifies people before an event is taken into the buffer; its new keys are durable before the events are. Without one events are
        written as they come: for events that are nobody's.

    Raises
    ------
    Unavailable
        The folder cannot be written at the start. Later write failures never raise: they show in ``state``.
    """

    def __init__(
        self,
        folder: Path,
        *,
        flush_seconds: float = 1.0,
        flush_events: int = 200,
        max_buffered: int = 50_000,
        now: Callable[[], datetime] = utc_now,
        on_roll: Callable[[str], None] | None = None,
        vault: Vault | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.flush_seconds, self.flush_events, self.max_buffered = flush_seconds, flush_events, max_buffered
        self._now, self._on_roll, self._vault = now, on_roll, vault
        self.writer = writer_name(os.getpid(), utc_now())
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._writing = threading.Lock()
        self._buffer: deque[tuple[str, str, int, str]] = deque()
        self._issued = dict.fromkeys(KINDS, 0)
        self._durable = dict.fromkeys(KINDS, 0)
        self._dropped = dict.fromkeys(KINDS, 0)
        self._written = 0
        self._write_errors = 0
        self._error: str | None = None
        self._closing = self._closed = False
        self._stream: tuple[str, int, int] | None = None
        self._rolled_hour, self._roll_again = "", 0.0
        self._roller: threading.Thread | None = None
        try:
            for name in ("spool", "writers"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
            path = self.folder / "writers" / f"{self.writer}.seq"
            self._counter = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            fcntl.flock(self._counter, fcntl.LOCK_EX)
            self._write_counter()
            if self._error:
                raise OSError(self._error)
            sync_folder(path.parent)
        except OSError as error:
            raise Unavailable(
                f"{self.folder}: events cannot be written ({error}). Make the folder writable, free some space, or choose another home."
            ) from error
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the background thread."""
        self._thread = threading.Thread(target=self._run, name="event-spool", daemon=True)
        self._thread.start()

    def add_search(self, event: SearchEvent) -> SearchEvent:
        """Take a served request; returns it as it is stored, with its ``seq`` and ``writer``. Never waits for a write."""
        if self._vault is not None:
            event = protect_search(event, self._vault)
        with self._lock:
            numbered = event.model_copy(update={"seq": self._issued["search"] + 1, "writer": self.writer})
            self._take("search", numbered.model_dump_json())
        return numbered

    def add_action(self, event: ActionEvent) -> ActionEvent:
        """Take a click, dwell or rating; returns it as it is stored, with its ``seq`` and ``writer``. Never waits for a write."""
        if self._vault is not None:
            event = protect_action(event, self._vault)
        with self._lock:
            numbered = event.model_copy(update={"seq": self._issued["action"] + 1, "writer": self.writer})
            self._take("action", numbered.model_dump_json())
        return numbered

    def add_exposure(self, event: ExposureEvent) -> None:
        """Take what a request was exposed to. Never waits for a write. It holds nothing that identifies people."""
        with self._lock:
            self._take("exposure", event.model_copy(update={"seq": self._issued["exposure"] + 1, "writer": self.writer}).model_dump_json())

    def add_shadow(self, event: ShadowEvent) -> None:
        """Take what a model in shadow made of a request. Never waits for a write. It holds nothing that identifies people."""
        with self._lock:
            self._take("shadow", event.model_copy(update={"seq": self._issued["shadow"] + 1, "writer": self.writer}).model_dump_json())

    def state(self) -> SpoolState:
        """Numbers issued, durable, dropped and pending, and the last write error if it still stands."""
        with self._lock:
            return SpoolState(self.writer, dict(self._issued), dict(self._durable), dict(self._dropped), len(self._buffer), self._write_errors, self._error)

    def flush(self) -> SpoolState:
        """Write and fsync everything added so far, in the caller's thread; look at ``error`` and ``pending`` of the answer for what did not work."""
        self._write_out()
        return self.state()

    def close(self) -> SpoolState:
        """Flush, write the closing marker, let go of the lock. A second call does nothing more."""
        with self._lock:
            self._closing = True
            self._wake.notify_all()
        for thread in (self._thread, self._roller):
            if thread is not None:
                thread.join(timeout=30)
        if not self._closed:
            self._write_out(closing=True)
            with self._writing, self._lock:
                self._closed = True
                self._write_counter()
                if self._stream is not None:
                    os.close(self._stream[1])
                    self._stream = None
                os.close(self._counter)
        return self.state()

    def _take(self, kind: str, body: str) -> None:
        if self._closed:
            raise Unavailable(f"the event spool of writer {self.writer} is closed; no event can be taken. Start the service again.")
        self._issued[kind] += 1
        hour = f"{self._now().astimezone(UTC):%Y%m%d%H}"
        self._buffer.append((hour, kind, self._issued[kind], f'{{"kind":"{kind}",{body[1:]}\n'))
        while len(self._buffer) > self.max_buffered:
            self._dropped[self._buffer.popleft()[1]] += 1
        self._write_counter()
        if len(self._buffer) >= self.flush_events and self._error is None:
            self._wake.notify_all()

    def _write_counter(self) -> None:
        """One pwrite of a fixed size: short enough to be whole, cheap enough for every event, and kept by the system when the process is killed."""
        record = {"issued": self._issued, "durable": self._durable, "dropped": self._dropped, "closed": self._closed}
        text = json.dumps(record, separators=(",", ":"))
        try:
            os.pwrite(self._counter, text.ljust(COUNTER_BYTES - 1).encode() + b"\n", 0)
        except OSError as error:
            self._error = f"counter file: {error}"

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._closing and len(self._buffer) < self.flush_events:
                    self._wake.wait(self.flush_seconds)
                elif self._error and not self._closing:
                    self._wake.wait(self.flush_seconds)  # a full buffer on a full disk must not turn into a busy loop
                if self._closing:
                    return
            self._write_out()
            hour = f"{self._now().astimezone(UTC):%Y%m%d%H}"
            with self._lock:
                oldest = self._buffer[0][0] if self._buffer else hour
            rolling = self._roller is not None and self._roller.is_alive()
            if self._on_roll is not None and not rolling and oldest > self._rolled_hour and time.monotonic() >= self._roll_again:
                with self._writing:
                    if self._stream is not None and self._stream[0] < oldest:
                        os.close(self._stream[1])
                        self._stream = None
                self._roller = threading.Thread(target=self._roll, args=(self._on_roll, oldest), name="event-roll-up", daemon=True)
                self._roller.start()

    def _roll(self, on_roll: Callable[[str], None], oldest: str) -> None:
        try:
            on_roll(oldest)
            self._rolled_hour = oldest
        except Exception as error:  # the spool keeps the events; rolling up is tried again a little later
            if self._closing:
                return
            log.exception("hourly roll-up failed")
            self._roll_again = time.monotonic() + _ROLL_RETRY_SECONDS
            with self._lock:
                self._error = f"roll-up: {error}"

    def _write_out(self, closing: bool = False) -> None:
        with self._writing:
            with self._lock:
                batch = list(self._buffer)
            if not batch and not closing:
                return
            try:
                if self._vault is not None:
                    self._vault.sync()  # text without its key would be lost
                for hour in sorted({row[0] for row in batch}) or ([self._stream[0]] if self._stream else []):
                    self._append(hour, [row for row in batch if row[0] == hour], closing)
            except Exception as error:  # mostly the disk; whatever it is, the events stay in memory, the thread lives, and everybody sees it
                with self._lock:
                    self._write_errors += 1
                    self._error = f"{self.folder / 'spool'}: {error}"
                log.error("events cannot be written, %d wait in memory: %s", len(batch), error)

    def _append(self, hour: str, rows: list[tuple[str, str, int, str]], closing: bool) -> None:
        """Append one hour's rows and a marker, fsync, and only then forget them."""
        path = self.folder / "spool" / f"{self.writer}-{hour}.jsonl"
        if self._stream is not None and (self._stream[0] != hour or os.fstat(self._stream[1]).st_nlink == 0):
            os.close(self._stream[1])  # another hour, or somebody deleted the file: what goes into a nameless file is lost
            self._stream = None
        if self._stream is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _open_shared(path)
            self._stream = (hour, descriptor, os.fstat(descriptor).st_size)
            sync_folder(path.parent)
        _, descriptor, end = self._stream
        last = dict(self._durable)
        for _, kind, seq, _ in rows:
            last[kind] = max(last[kind], seq)
        marker = {"kind": "marker", "writer": self.writer, **{f"last_{kind}": last[kind] for kind in KINDS}, "at": self._now().isoformat(), "closing": closing}
        body = ("".join(row[3] for row in rows) + json.dumps(marker, separators=(",", ":")) + "\n").encode()
        try:
            written = 0
            while written < len(body):
                written += os.pwrite(descriptor, body[written:], end + written)
            os.fsync(descriptor)
        except OSError:
            # Half a batch may stand in the file. It is cut off, the batch stays in memory and is written again from the start.
            os.ftruncate(descriptor, end)
            raise
        self._stream = (hour, descriptor, end + len(body))
        with self._lock:
            done = {(kind, seq) for _, kind, seq, _ in rows}
            while self._buffer and (self._buffer[0][1], self._buffer[0][2]) in done:
                done.discard((self._buffer[0][1], self._buffer[0][2]))
                self._buffer.popleft()
            for kind, _ in done:  # overflow pushed it out of the buffer while it was being written: not lost after all
                self._dropped[kind] -= 1
            self._durable.update(last)
            self._error = None
            self._write_counter()


def _open_shared(path: Path) -> int:
    """The file, open for writing and locked against being rolled up; one that was rolled up while we waited is begun anew."""
    while True:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a new name in ``folder`` survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
