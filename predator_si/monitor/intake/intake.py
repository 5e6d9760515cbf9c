"""One intake: read every source from where it stopped, judge, store.

What belongs here: the order of it and the account it gives. What must not: a source's language, rules, files.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
from pydantic import Field

from predator_si.errors import BadInput
from predator_si.monitor.intake.settle import Settled, in_order, settle
from predator_si.monitor.intake.store import WINDOW, Batch, Ledger, RawLayer, reason_class, updated, window_name
from predator_si.monitor.sources.folder import EventFiles
from predator_si.monitor.sources.opensearch import OpenSearchUBI
from predator_si.monitor.sources.postgres import PostgresTables
from predator_si.monitor.sources.reading import Reading, Source
from predator_si.monitor.sources.rules import LATE, Kind
from predator_si.monitor.sources.spool import Spool
from predator_si.privacy import Vault, protect, redact
from predator_si.records import Provenance, Record, utc_now


class IntakeReport(Record):
    """What one intake did."""

    started_at: datetime
    seconds: float
    good: dict[str, int] = Field(default_factory=dict)
    """Events stored now, by kind."""
    quarantined: dict[str, int] = Field(default_factory=dict)
    """Records set aside now, by the rule that they broke."""
    repeated: int = 0
    """Events that were read again and are stored already: nothing happened with them."""
    late: int = 0
    """Events among the good ones that went into closed windows."""
    dirty: tuple[datetime, ...] = ()
    """Closed windows (their start) to be measured again, of this intake and of earlier ones."""
    sources: tuple[Provenance, ...] = ()


class Intake:
    """The way into the raw layer.

    Parameters
    ----------
    folder
        The telemetry folder.
    vault
        Seals what arrives readable. Null leaves text and clients as they are: for tests, and for a store that holds no persons.
    on_step
        See :class:`~predator_si.monitor.intake.store.RawLayer`.
    """

    def __init__(self, folder: Path, vault: Vault | None, *, lookback: timedelta = timedelta(hours=1), on_step: Callable[[str], None] | None = None) -> None:
        self.layer = RawLayer(folder, on_step=on_step)
        self._vault, self._lookback = vault, lookback

    def run(self, sources: Sequence[Source], now: datetime | None = None) -> IntakeReport:
        """Take in what the sources have; a source that is down is named in the report and read again next time.

        Raises
        ------
        BadInput
            The time has no zone, or the ledger is damaged.
        Unavailable
            The layer cannot be written; nothing is lost, the next intake goes on.
        """
        now = now or utc_now()
        if now.tzinfo is None:
            raise BadInput("intake: the time needs a zone; pass datetime.now(UTC) or the like.")
        began, account = time.perf_counter(), _Account()
        with self.layer.locked():
            closed = self.layer.ledger().read_until
        for source in sources:
            while not self._take(source, now, closed, account):
                pass
        with self.layer.locked():
            ledger = self.layer.ledger()
            if ledger.read_until is None or ledger.read_until < now:
                self.layer.store(Batch(ledger=ledger.model_copy(update={"read_until": now})))
        return IntakeReport(
            started_at=now,
            seconds=time.perf_counter() - began,
            good=dict(account.good),
            quarantined=dict(account.quarantined),
            repeated=account.repeated,
            late=account.late,
            dirty=self.layer.dirty_windows(),
            sources=tuple(account.sources),
        )

    def _take(self, source: Source, now: datetime, closed: datetime | None, account: _Account) -> bool:
        """Read a source once and store what it says; whether that was all of it.

        Nothing is held while the source is read, which may take its time-out; should somebody else take the same in the meantime, it counts as repeated.
        """
        ledger = self.layer.ledger()
        until = ledger.sources.get(source.name)
        lookback = source.values.lookback if isinstance(source, PostgresTables | OpenSearchUBI) else timedelta(0)
        start = now - LATE if until is None else max(until - lookback, now - LATE)
        reading = (replace(source, marks=ledger.files) if isinstance(source, Spool | EventFiles) else source).read(start, now)
        with self.layer.locked():
            settled = settle(self.layer, reading, now, redact=redact)
            late = self._add(reading, settled, self.layer.ledger(), now, closed)
        account.add(reading, settled, late)
        return reading.complete or not reading.marks

    def _add(self, reading: Reading, settled: Settled, ledger: Ledger, now: datetime, closed: datetime | None) -> int:
        """Store what a reading brought, and with it how far it was read; how many events came into closed windows."""
        rows: dict[Kind, pl.DataFrame] = {}
        dirty, late = dict(ledger.dirty), 0
        for kind, frame in settled.rows.items():
            if closed is not None:
                behind = frame.filter(pl.col("window") + WINDOW <= closed)
                late += behind.height
                for start in behind["window"].unique().sort():
                    dirty.setdefault(window_name(start), now)
            rows[kind] = self._protected(frame)
        new = bool(rows) or settled.aside.height > 0
        after = ledger.model_copy(
            update={
                "batch": ledger.batch + new,
                "files": {**ledger.files, **reading.marks},
                "markers": ledger.markers | {writer: dict(numbers) for writer, numbers in reading.markers.items()},
                "sources": {**ledger.sources, **({reading.provenance.source: now} if reading.complete else {})},
                "good": updated(ledger.good, {kind: frame.height for kind, frame in rows.items()}),
                "quarantined": updated(ledger.quarantined, Counter(map(reason_class, settled.aside["reason"]))),
                "dirty": dirty,
            }
        )
        if after != ledger:
            self.layer.store(Batch(rows, settled.aside, after))
        return late

    def _protected(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows as they may be stored. What our own spool sealed stays; everything else is redacted and sealed."""
        if self._vault is None:
            return frame.drop("sealed")
        own = frame["source"] == Spool.name  # its text is protected where it was written
        parts = [protect(frame.filter(chosen), self._vault, stored=stored) for chosen, stored in ((own, True), (~own, False)) if chosen.any()]
        return in_order(pl.concat(parts)).drop("sealed") if len(parts) > 1 else parts[0].drop("sealed")


class _Account:
    def __init__(self) -> None:
        self.good: Counter[str] = Counter()
        self.quarantined: Counter[str] = Counter()
        self.repeated = self.late = 0
        self.sources: list[Provenance] = []

    def add(self, reading: Reading, settled: Settled, late: int) -> None:
        self.good.update({kind: frame.height for kind, frame in settled.rows.items()})
        self.quarantined.update(map(reason_class, settled.aside["reason"]))
        self.repeated += settled.repeated
        self.late += late
        self.sources.append(reading.provenance)
