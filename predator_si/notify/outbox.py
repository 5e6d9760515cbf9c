"""Messages on their way: each matter told once in a while, each message to each channel until it is taken, over restarts.

What belongs here: when a message goes where. What must not: what it says, how a channel is spoken to.

A message is marked as told after the channel took it: a process killed between the two tells it twice, never not at all.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from predator_si.control.secrets import redacted
from predator_si.errors import PredatorError, Refused, Unavailable
from predator_si.notify.channels import Channel
from predator_si.notify.event import Event
from predator_si.notify.log import LOG
from predator_si.records import utc_now

FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
GIVEN_UP = timedelta(hours=24)
"""Older messages are not worth telling any more; that they were dropped is logged."""
KEPT = timedelta(days=30)
MOST_WAITING = 1000
_CLAIM = timedelta(minutes=2)
"""Longer than any channel may take: so long nobody else tries the same message."""
_AT_ONCE = 20
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, key TEXT NOT NULL, at TEXT NOT NULL, body TEXT NOT NULL, again INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS events_by_key ON events (key, at);
CREATE TABLE IF NOT EXISTS deliveries (
  event INTEGER NOT NULL REFERENCES events (id), channel TEXT NOT NULL, state TEXT NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
  next_at TEXT NOT NULL, told_at TEXT, error TEXT, PRIMARY KEY (event, channel));
CREATE INDEX IF NOT EXISTS deliveries_by_state ON deliveries (state, next_at);
"""


@dataclass(frozen=True)
class Delivered:
    """What one round of delivery did."""

    sent: int = 0
    failed: int = 0
    dropped: int = 0
    waiting: int = 0
    """Still on their way: tried later, or held back by the limit of an hour."""


class Outbox:
    """The messages of one home.

    Parameters
    ----------
    path
        An SQLite file, made when missing.
    repeat_after
        The same matter is told again after so long, if it is still noticed.
    most_per_hour
        Messages of one channel in an hour; critical ones go beyond it.
    """

    def __init__(self, path: Path, *, repeat_after: timedelta = timedelta(hours=4), most_per_hour: int = 30) -> None:
        self._path, self._repeat_after, self._most = path, repeat_after, most_per_hour

    def put(self, event: Event, channels: Sequence[str], now: datetime | None = None) -> bool:
        """Take a message for some channels; False when the same matter was taken less than ``repeat_after`` ago. It is logged in either case once."""
        moment = now or utc_now()
        event = event.model_copy(update={name: redacted(getattr(event, name)) for name in ("title", "text", "next_step")})
        with self._open() as database:
            known = database.execute(
                "SELECT id FROM events WHERE key = ? AND at > ? ORDER BY at DESC LIMIT 1", (event.key, _text(moment - self._repeat_after))
            ).fetchone()
            if known is not None:
                database.execute("UPDATE events SET again = again + 1 WHERE id = ?", known)
                return False
            found = database.execute("INSERT INTO events (key, at, body) VALUES (?, ?, ?)", (event.key, _text(moment), event.model_dump_json())).lastrowid
            rows = [(found, channel, _text(moment)) for channel in channels]
            database.executemany("INSERT INTO deliveries (event, channel, state, next_at) VALUES (?, ?, 'waiting', ?)", rows)
            self._tidy(database, moment)
        level = {"info": 20, "warning": 30, "critical": 50}[event.severity]
        LOG.log(level, "%s %s: %s (next: %s)", event.cycle_id or "-", event.kind, event.title, event.next_step)
        return True

    def deliver(self, channels: Sequence[Channel], now: datetime | None = None, seconds: float = 20.0) -> Delivered:
        """Say what is due, the most urgent first; one channel's failure holds neither the others nor the caller up.

        Parameters
        ----------
        seconds
            No message is begun after so long: the caller has other work.
        """
        began, sent, failed, dropped = time.monotonic(), 0, 0, 0
        moment = now or utc_now()
        for channel in channels:
            down = False
            for number, event, tries in self._due(channel.name, moment):
                if down or time.monotonic() - began > seconds:
                    break
                if not self._claim(number, channel.name, moment):
                    continue
                try:
                    channel.send(event)
                except Refused as error:
                    dropped += 1
                    self._end(number, channel.name, "refused", moment, str(error))
                except PredatorError as error:
                    failed, down = failed + 1, True  # the channel is down: its other messages wait, too
                    self._later(number, channel.name, tries + 1, moment, error)
                else:
                    sent += 1
                    self._end(number, channel.name, "told", moment, None)
        return Delivered(sent, failed, dropped, self.waiting())

    def waiting(self) -> int:
        """Messages that some channel has not taken yet."""
        with self._open() as database:
            return int(database.execute("SELECT count(*) FROM deliveries WHERE state = 'waiting'").fetchone()[0])

    def history(self, limit: int = 50) -> list[dict[str, Any]]:
        """The newest messages, newest first: the event, how often its matter was noticed again, and by channel what became of it."""
        with self._open() as database:
            rows = database.execute("SELECT id, at, body, again FROM events ORDER BY id DESC LIMIT ?", (limit,)).fetchall()
            found = []
            for number, at, body, again in rows:
                ways = database.execute("SELECT channel, state, tries, told_at, error FROM deliveries WHERE event = ? ORDER BY channel", (number,)).fetchall()
                told = {name: {"state": state, "tries": tries, "told_at": told_at, "error": error} for name, state, tries, told_at, error in ways}
                found.append({"at": at, "again": again, "event": Event.model_validate_json(body).model_dump(mode="json"), "channels": told})
        return found

    # ------------------------------------------------------------------ the file

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=10.0)) as database:
                database.execute("PRAGMA journal_mode=WAL")
                database.executescript(_SCHEMA)
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    yield database
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"{self._path}: the messages on their way cannot be kept ({error}). Free space, or move the file away.") from error

    def _due(self, channel: str, now: datetime) -> list[tuple[int, Event, int]]:
        with self._open() as database:
            told = database.execute(
                "SELECT count(*) FROM deliveries WHERE channel = ? AND state = 'told' AND told_at > ?", (channel, _text(now - timedelta(hours=1)))
            ).fetchone()[0]
            rows = database.execute(
                "SELECT events.id, events.body, deliveries.tries FROM deliveries JOIN events ON events.id = deliveries.event "
                "WHERE channel = ? AND state = 'waiting' AND next_at <= ? ORDER BY events.id",
                (channel, _text(now)),
            ).fetchall()
        found = [(int(number), Event.model_validate_json(body), int(tries)) for number, body, tries in rows]
        urgent = [one for one in found if one[1].severity == "critical"]
        others = [one for one in found if one[1].severity != "critical"]
        return [*urgent, *others[: max(0, self._most - int(told) - len(urgent))]][:_AT_ONCE]

    def _claim(self, number: int, channel: str, now: datetime) -> bool:
        """Whether this process may try it: of two at once one does."""
        with self._open() as database:
            return (
                database.execute(
                    "UPDATE deliveries SET next_at = ? WHERE event = ? AND channel = ? AND state = 'waiting' AND next_at <= ?",
                    (_text(now + _CLAIM), number, channel, _text(now)),
                ).rowcount
                == 1
            )

    def _end(self, number: int, channel: str, state: str, now: datetime, error: str | None) -> None:
        with self._open() as database:
            database.execute(
                "UPDATE deliveries SET state = ?, told_at = ?, error = ?, tries = tries + 1 WHERE event = ? AND channel = ?",
                (state, _text(now), error, number, channel),
            )
        if error is not None:
            LOG.error("- message %s is dropped: %s", number, error)

    def _later(self, number: int, channel: str, tries: int, now: datetime, error: PredatorError) -> None:
        asked = timedelta(seconds=float(getattr(error, "retry_after", 0.0)))
        pause = max(asked, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(tries - 1, 10)))
        with self._open() as database:
            database.execute(
                "UPDATE deliveries SET tries = ?, next_at = ?, error = ? WHERE event = ? AND channel = ?",
                (tries, _text(now + pause), str(error), number, channel),
            )
        if tries in (1, 5):
            LOG.warning("- message %s, try %d: %s", number, tries, error)

    def _tidy(self, database: sqlite3.Connection, now: datetime) -> None:
        """Give up what is too old or too much, and forget what was told long ago."""
        old = "SELECT deliveries.rowid FROM deliveries JOIN events ON events.id = deliveries.event WHERE state = 'waiting' AND events.at <= ?"
        late = database.execute(
            f"UPDATE deliveries SET state = 'dropped', error = 'not taken within a day' WHERE rowid IN ({old})", (_text(now - GIVEN_UP),)
        ).rowcount
        much = "SELECT rowid FROM deliveries WHERE state = 'waiting' ORDER BY event DESC LIMIT -1 OFFSET ?"
        late += database.execute(f"UPDATE deliveries SET state = 'dropped', error = 'too many wait' WHERE rowid IN ({much})", (MOST_WAITING,)).rowcount
        if late:
            LOG.error("- %d messages were dropped: no channel took them", late)
        gone = (_text(now - KEPT),)
        database.execute("DELETE FROM deliveries WHERE event IN (SELECT id FROM events WHERE at <= ?)", gone)
        database.execute("DELETE FROM events WHERE at <= ?", gone)


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
