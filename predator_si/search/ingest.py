"""The ingest queue: documents in, a new index out, nothing that was accepted lost.

What belongs here: the queue, its workers, retries and dead letters. What must not: HTTP, what an index is made of.

Workers *prepare* documents in parallel (that is the embedding, the costly part); one applier then builds a new index from everything that is ready,
publishes it and swaps it in. Building reads the whole index, so while more documents are on their way the applier waits for them, up to a few times as long
as the last build took: a busy queue is applied in few large steps, a lone document at once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from predator_si.errors import Unavailable
from predator_si.search.journal import Journal, Operation, open_letters

log = logging.getLogger(__name__)

_RATE_WINDOW = 60.0
_LINGER = 4.0
"""While documents are being prepared, the applier waits up to this many times the last build: building then takes a fifth of the time at most."""
_LONGEST_LINGER = 30.0


@dataclass(frozen=True, slots=True)
class Document:
    """A document as it is fed in."""

    doc_id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class IngestState:
    """The queue at one moment. ``lag_seconds`` is the age of the oldest document that was accepted and is not in the index; 0 when there is none."""

    queued: int
    lag_seconds: float
    applied: int
    dead: int
    """Given up since the process started."""
    unsettled: int
    """Given up at any time, and neither indexed nor set aside since (``journal.open_letters``)."""
    documents_per_second: float
    """Applied operations over the last minute."""
    workers: int
    building: bool
    error: str | None
    """Why nothing can be applied at the moment (a full disk, say); None when all is well."""


@dataclass(slots=True)
class _Item:
    operation: Operation
    tries: int = 0
    reason: str = ""
    singly: bool = field(default=False)


class IngestQueue:
    """Accepts documents durably and applies them in the background.

    Parameters
    ----------
    folder
        The journal's folder.
    prepare
        Does the costly part for some documents and remembers it; may be called by several threads. An exception counts against the documents.
    apply
        Builds, publishes and swaps in an index with documents added or replaced and others removed. An ``OSError`` is the disk's fault, so the operations
        wait and are tried again; any other exception counts against the documents.
    workers
        Threads that prepare, 1 or more.
    tries
        After so many failures an operation becomes a dead letter.
    max_queued
        Beyond so many waiting operations no more are accepted.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prepare: Callable[[Sequence[Document]], None],
        apply: Callable[[Sequence[Document], Sequence[str]], None],
        workers: int = 1,
        batch: int = 32,
        tries: int = 3,
        max_queued: int = 50_000,
        retry_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._prepare, self._apply = prepare, apply
        self._batch, self._tries, self._max_queued, self._retry_seconds, self._clock = batch, tries, max_queued, retry_seconds, clock
        self._journal = Journal(folder)
        self._changed = threading.Condition()
        self._fresh: deque[_Item] = deque(_Item(operation) for operation in self._journal.pending)
        self._preparing = 0
        self._ready: list[_Item] = []
        self._waiting: dict[int, Operation] = {operation.seq: operation for operation in self._journal.pending}
        self._next = self._journal.last_seq + 1
        self._newest: dict[str, int] = {}
        self._applied = self._dead = 0
        self._unsettled = len(open_letters(folder))
        self._finished: deque[tuple[float, int]] = deque()
        self._building = False
        self._error: str | None = None
        self._wanted, self._threads, self._applier = max(1, workers), 0, None
        self._running: list[threading.Thread] = []
        self._stopping = False

    def start(self) -> None:
        """Start the workers and the applier."""
        applier = threading.Thread(target=self._apply_forever, name="ingest-apply", daemon=True)
        self._running.append(applier)
        applier.start()
        self.set_workers(self._wanted)

    def stop(self, timeout: float = 30.0) -> None:
        """End the threads after what they have in hand; what waits stays in the journal."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        for thread in self._running:
            thread.join(timeout)
        self._journal.close()

    def set_workers(self, workers: int) -> None:
        """Change how many threads prepare documents."""
        with self._changed:
            self._wanted = max(1, workers)
            while self._threads < self._wanted and not self._stopping:
                self._threads += 1
                thread = threading.Thread(target=self._prepare_forever, name=f"ingest-{self._threads}", daemon=True)
                self._running = [one for one in self._running if one.is_alive() or one.ident is None]
                self._running.append(thread)
                thread.start()
            self._changed.notify_all()

    def put(self, documents: Sequence[Document]) -> list[int]:
        """Accept documents, all or none; returns their numbers. They are durable when this returns.

        Raises
        ------
        Unavailable
            The queue is full or the journal cannot be written; nothing was accepted.
        """
        return self._accept([("put", document) for document in documents])

    def delete(self, doc_id: str) -> int:
        """Accept the removal of a document; removing one that is not there changes nothing. Raises as ``put``."""
        return self._accept([("delete", Document(doc_id, "", ""))])[0]

    def state(self) -> IngestState:
        """Length, lag, rate and troubles of the queue."""
        with self._changed:
            now = self._clock()
            oldest = min((operation.at for operation in self._waiting.values()), default=now)
            while self._finished and self._finished[0][0] < now - _RATE_WINDOW:
                self._finished.popleft()
            rate = sum(count for _, count in self._finished) / _RATE_WINDOW
            return IngestState(
                len(self._waiting), max(0.0, now - oldest), self._applied, self._dead, self._unsettled, rate, self._wanted, self._building, self._error
            )

    def settle(self, seqs: Sequence[int]) -> None:
        """Dead letters that an index build answers for are open no longer. Raises OSError when that cannot be written."""
        left = self._journal.settle(seqs)
        with self._changed:
            self._unsettled = left

    def changed_since(self, seq: int) -> set[str]:
        """Documents of which a change was accepted after number ``seq``."""
        with self._changed:
            return {doc_id for doc_id, known in self._journal.known.items() if known.seq > seq}

    @property
    def applied_through(self) -> int:
        """Up to this number nothing waits any more."""
        with self._changed:
            return min(self._waiting, default=self._next) - 1

    def wait_until_empty(self, timeout: float) -> bool:
        """Wait until nothing is queued; False when ``timeout`` seconds did not suffice."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._waiting:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._changed.wait(left)
        return True

    def _accept(self, changes: list[tuple[str, Document]]) -> list[int]:
        with self._changed:
            if len(self._waiting) + len(changes) > self._max_queued:
                raise Unavailable(
                    f"the ingest queue is full ({len(self._waiting)} documents wait, {self._max_queued} fit). Send them again later, or add workers."
                )
            now = self._clock()
            operations = [
                Operation(self._next + offset, "put" if op == "put" else "delete", document.doc_id, document.title, document.text, now)
                for offset, (op, document) in enumerate(changes)
            ]
            # Under the lock, so that the order of the journal is the order of the numbers.
            self._journal.accept(operations)
            self._next += len(operations)
            for operation in operations:
                self._waiting[operation.seq] = operation
                self._fresh.append(_Item(operation))
            self._changed.notify_all()
            return [operation.seq for operation in operations]

    def _prepare_forever(self) -> None:
        while True:
            with self._changed:
                while not self._fresh and not self._stopping and self._threads <= self._wanted:
                    self._changed.wait()
                if self._stopping or self._threads > self._wanted:
                    self._threads -= 1
                    return
                taken = [self._fresh.popleft()]
                while not taken[0].singly and self._fresh and not self._fresh[0].singly and len(taken) < self._batch:
                    taken.append(self._fresh.popleft())
                self._preparing += len(taken)
            ready, again, dead = self._prepared(taken)
            for item in dead:
                self._bury(item)
            with self._changed:
                self._preparing -= len(taken)
                self._ready.extend(ready)
                self._fresh.extend(again)
                self._changed.notify_all()

    def _prepared(self, items: list[_Item]) -> tuple[list[_Item], list[_Item], list[_Item]]:
        """Prepare items: those that are ready, those to try again, those to give up."""
        documents = [_document(item.operation) for item in items if item.operation.op == "put"]
        try:
            if documents:
                self._prepare(documents)
        except Exception as error:  # one bad document must not take the others with it: each is tried alone
            if len(items) > 1:
                for item in items:
                    item.singly = True
                return [], items, []
            items[0].tries += 1
            items[0].reason = f"preparing failed: {type(error).__name__}: {error}"
            log.warning("document %r: %s (try %d)", items[0].operation.doc_id, items[0].reason, items[0].tries)
            return ([], [], items) if items[0].tries >= self._tries else ([], items, [])
        return items, [], []

    def _apply_forever(self) -> None:
        last_build = 0.0
        while True:
            with self._changed:
                while not self._ready and not self._stopping:
                    self._changed.wait()
                until = time.monotonic() + min(_LINGER * last_build, _LONGEST_LINGER)
                while (self._fresh or self._preparing) and not self._stopping and (left := until - time.monotonic()) > 0:
                    self._changed.wait(left)
                if self._stopping:
                    return
                batch, self._ready = sorted(self._ready, key=lambda item: item.operation.seq), []
                self._building = True
            started = time.monotonic()
            try:
                failed = self._apply_batch(batch)
                last_build = time.monotonic() - started
            except OSError as error:
                log.error("the index cannot be written: %s", error)
                with self._changed:
                    self._error, self._building = f"the index cannot be written: {error}", False
                    self._ready.extend(item for item in batch if item.operation.seq in self._waiting)
                    self._changed.wait(self._retry_seconds)
                continue
            for item in failed:
                if item.tries >= self._tries:
                    self._bury(item)
            with self._changed:
                self._building, self._error = False, None
                self._ready.extend(item for item in failed if item.tries < self._tries)
                self._changed.notify_all()
            with self._changed:  # nothing may be accepted between the look at what waits and the new file
                try:
                    self._journal.shrink(list(self._waiting.values()), self._next - 1)
                except OSError as error:
                    log.error("the ingest journal could not be made smaller: %s", error)

    def _apply_batch(self, items: list[_Item]) -> list[_Item]:
        """Apply items; returns those that failed. A batch that fails is halved until the culprit stands alone."""
        overtaken = [item for item in items if item.operation.seq < self._newest.get(item.operation.doc_id, 0)]
        self._finish(overtaken, "superseded")
        items = [item for item in items if item not in overtaken]
        if not items:
            return []
        last = {item.operation.doc_id: item.operation for item in items}
        try:
            self._apply(
                [_document(operation) for operation in last.values() if operation.op == "put"], [d for d, operation in last.items() if operation.op == "delete"]
            )
        except OSError:
            raise
        except Exception as error:
            if len(items) > 1:
                middle = len(items) // 2
                return self._apply_batch(items[:middle]) + self._apply_batch(items[middle:])
            items[0].tries += 1
            items[0].reason = f"applying failed: {type(error).__name__}: {error}"
            log.warning("document %r: %s (try %d)", items[0].operation.doc_id, items[0].reason, items[0].tries)
            return items
        for doc_id, operation in last.items():
            self._newest[doc_id] = operation.seq
        self._finish(items, "applied")
        return []

    def _finish(self, items: list[_Item], outcome: str) -> None:
        seqs = [item.operation.seq for item in items]
        self._journal.done(seqs, "applied" if outcome == "applied" else "superseded")
        with self._changed:
            for seq in seqs:
                self._waiting.pop(seq, None)
            self._applied += len(seqs)
            self._finished.append((self._clock(), len(seqs)))
            self._changed.notify_all()

    def _bury(self, item: _Item) -> None:
        log.error("document %r is a dead letter after %d tries: %s", item.operation.doc_id, item.tries, item.reason)
        try:
            self._journal.bury(item.operation, item.reason, item.tries, self._clock())
        except OSError as error:
            log.error("the dead letter %r cannot be written (%s); it is tried again after a restart", item.operation.doc_id, error)
        with self._changed:
            self._waiting.pop(item.operation.seq, None)
            self._dead += 1
            self._unsettled += 1
            self._changed.notify_all()


def _document(operation: Operation) -> Document:
    return Document(operation.doc_id, operation.title, operation.text)
