"""``Control``: the one class through which the rest of the house reads and changes state."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from predator_si.control import ledger, schema
from predator_si.control.leases import Leases
from predator_si.control.ledger import stamp, unstamp
from predator_si.control.pages import Pages
from predator_si.control.registers import Registers
from predator_si.control.segments import base_of
from predator_si.control.states import ACTIVE, is_legal, reachable
from predator_si.control.stop_flag import Press, StopFlags
from predator_si.errors import BadInput, Missing, Refused
from predator_si.records import Cycle, CycleState, LedgerRecord, SealedOpening, Trigger, utc_now

_MOST_A_DAY = 999
_BATCH = 1000
"""Ledger records in memory at once: a ledger may be longer than that holds."""
_NEWEST = (schema.cycles.c.opened_seq.desc(), schema.cycles.c.cycle_id.desc())
_RELEASE_STATES = (CycleState.RELEASED.value, CycleState.WATCHING.value, CycleState.STABLE.value)


class Control(Registers, Leases, Pages):
    """State and permission of the loop in one database.

    Every change of a cycle or of a flag is one ledger record in the same transaction: either both are there or neither.

    Parameters
    ----------
    url_or_path
        A file path or ``sqlite:///FILE``; the file and its folder are made when missing. Or the URL of a PostgreSQL database.
    clock
        Where "now" comes from; with time zone.
    busy_seconds
        How long a writer waits for another one.
    flags
        Where the kill switch lies as a file while this database cannot be written; by default beside a SQLite file, and nowhere for a server.

    Raises
    ------
    BadInput
        The folder cannot be written, the file is not a control database, or another schema version wrote it.
    Unavailable
        The database stays locked, or the server does not answer.
    """

    def __init__(
        self,
        url_or_path: str | Path,
        *,
        clock: Callable[[], datetime] = utc_now,
        busy_seconds: float = schema.BUSY_SECONDS,
        flags: StopFlags | None = None,
    ) -> None:
        self._database = schema.Database(url_or_path, busy_seconds)
        self._clock = clock
        self._begin_leases()
        self._flags = StopFlags(Path(self._database.name).parent) if flags is None and self._database.sqlite else flags
        self.archive = None if self._flags is None else self._flags.folder / "ledger"

    @property
    def name(self) -> str:
        """The file, or the server's address without its password."""
        return self._database.name

    # ------------------------------------------------------------------ cycles

    def open_cycle(self, contour: str, trigger: Trigger, actor: str, reason: str, now: datetime | None = None) -> Cycle:
        """Start a cycle: allocate ``si_YYYY_MM_DD_NNN`` (UTC day, daily sequence from 001) and record it.

        Raises
        ------
        Refused
            The kill switch is on, another cycle of the contour is active, or the day's 999 numbers are used up.
        """
        moment = now or self._clock()
        with self._database.writing() as connection:
            if self._flag(contour) is not None or _kill_switch(connection, contour):
                raise Refused(f"contour {contour}: the kill switch is on, no cycle may start. Switch it off first.")
            busy = _active(connection, contour)
            if busy is not None:
                raise Refused(f"contour {contour}: cycle {busy.cycle_id} is {busy.state.value}. Wait for its end, or cancel it.")
            prefix = moment.astimezone(UTC).strftime("si_%Y_%m_%d_")
            of_today = schema.cycles.c.cycle_id.startswith(prefix, autoescape=True)
            newest = connection.execute(sa.select(sa.func.max(schema.cycles.c.cycle_id)).where(of_today)).scalar()
            number = 1 if newest is None else int(newest[-3:]) + 1
            if number > _MOST_A_DAY:
                raise Refused(f"contour {contour}: {_MOST_A_DAY} cycles were opened on {prefix[3:-1]} (UTC). Something opens cycles in a loop; stop it.")
            cycle = Cycle(
                cycle_id=f"{prefix}{number:03d}",
                contour=contour,
                state=CycleState.OPENED,
                trigger=trigger,
                opened_at=unstamp(stamp(moment)),
                updated_at=unstamp(stamp(moment)),
                reason=reason,
                actor=actor,
            )
            payload = {"contour": contour, "from": None, "to": cycle.state.value, "trigger": trigger.model_dump(mode="json")}
            record = ledger.append(connection, now=moment, action="cycle_opened", actor=actor, cycle_id=cycle.cycle_id, reason=reason, payload=payload)
            stored = {"state": cycle.state.value, "trigger": trigger.model_dump_json(), "opened_at": stamp(moment), "updated_at": stamp(moment)}
            connection.execute(schema.cycles.insert().values(**{**cycle.model_dump(), **stored, "opened_seq": record.seq}))
        return cycle

    def cycle(self, cycle_id: str) -> Cycle:
        """The cycle as it stands now.

        Raises
        ------
        Missing
            No cycle has this id.
        """
        with self._database.reading() as connection:
            return _cycle(connection, cycle_id)

    def cycles(self, limit: int = 50, contour: str | None = None, before: str | None = None) -> list[Cycle]:
        """The newest ``limit`` cycles, newest first, of one contour or of all; with ``before`` those opened before that cycle.

        The order is that of the ledger, not of the wall clock, which may jump.
        """
        query = sa.select(schema.cycles).order_by(*_NEWEST).limit(limit)
        if contour is not None:
            query = query.where(schema.cycles.c.contour == contour)
        if before is not None:
            than = sa.select(schema.cycles.c.opened_seq).where(schema.cycles.c.cycle_id == before).scalar_subquery()
            query = query.where(sa.tuple_(schema.cycles.c.opened_seq, schema.cycles.c.cycle_id) < sa.tuple_(than, sa.literal(before)))
        with self._database.reading() as connection:
            return [_from_row(row) for row in connection.execute(query).mappings()]

    def active_cycle(self, contour: str) -> Cycle | None:
        """The cycle that keeps the contour busy: neither stable nor ended. One that is ``watching`` is active."""
        with self._database.reading() as connection:
            return _active(connection, contour)

    def current_release(self, contour: str) -> Cycle | None:
        """The newest cycle whose model is in production (released, watching or stable). Git is the truth; this is its index."""
        query = sa.select(schema.cycles).where(schema.cycles.c.contour == contour, schema.cycles.c.state.in_(_RELEASE_STATES))
        with self._database.reading() as connection:
            row = connection.execute(query.order_by(*_NEWEST).limit(1)).mappings().first()
        return None if row is None else _from_row(row)

    def transition(
        self,
        cycle_id: str,
        to: CycleState | str,
        reason: str,
        actor: str,
        payload: Mapping[str, Any] | None = None,
        expected: Collection[CycleState | str] | None = None,
        now: datetime | None = None,
    ) -> Cycle:
        """Move a cycle and write the one ledger record of the move. Moving to where it already stands changes and records nothing.

        Parameters
        ----------
        payload
            Plain JSON that belongs to the move (digests, commit, numbers).
        expected
            States from which the caller thinks it moves; another one means that somebody was faster.

        Raises
        ------
        Missing
            No such cycle.
        Refused
            The move is not legal (``control.states``), or the cycle is in no ``expected`` state.
        """
        moment = now or self._clock()
        target = _state(to)
        with self._database.writing() as connection:
            cycle = _cycle(connection, cycle_id)
            if cycle.state is target:
                return cycle
            if expected is not None and cycle.state not in {_state(state) for state in expected}:
                names = ", ".join(sorted(_state(state).value for state in expected))
                raise Refused(
                    f"cycle {cycle_id} is {cycle.state.value}, not {names}: it was moved meanwhile. Read it again before moving it to {target.value}."
                )
            if not is_legal(cycle.state, target):
                ways = ", ".join(state.value for state in reachable(cycle.state)) or "nowhere: it has ended"
                raise Refused(f"cycle {cycle_id} cannot go from {cycle.state.value} to {target.value}; it may go to: {ways}.")
            change = {"state": target.value, "updated_at": stamp(moment), "reason": reason}
            connection.execute(schema.cycles.update().where(schema.cycles.c.cycle_id == cycle_id).values(**change))
            body = {**(payload or {}), "from": cycle.state.value, "to": target.value}
            ledger.append(connection, now=moment, action=f"cycle_{target.value}", actor=actor, cycle_id=cycle_id, reason=reason, payload=body)
            return _cycle(connection, cycle_id)

    # ------------------------------------------------------------------ flags and notes

    def kill_switch(self, contour: str) -> bool:
        """Whether the loop is stopped in this contour, by the database or by the file beside it (``control.stop_flag``)."""
        if self._flag(contour) is not None:
            return True
        with self._database.reading() as connection:
            return _kill_switch(connection, contour)

    def set_kill_switch(self, contour: str, on: bool, actor: str, reason: str) -> bool:
        """Stop or start the loop; True when this call changed it. A change is a ledger record, a repetition is not.

        A switch that was pressed by the file becomes a record of whoever pressed it first, and the file goes.
        """
        by_file = self._flag(contour)
        with self._database.writing(fenced=False) as connection:
            now = _kill_switch(connection, contour)
            if by_file is not None and not now:
                self._turn(connection, contour, True, by_file.actor, by_file.reason)
                now = True
            if now is not on:
                self._turn(connection, contour, on, actor, reason)
        if by_file is not None and self._flags is not None:
            self._flags.lift(contour)  # last: until then the switch is on, whatever happens
        return now is not on

    def settle_stop(self, contour: str) -> bool:
        """Take the word of the file that stands for the kill switch into the database; whether there was one."""
        found = self._flag(contour)
        if found is not None:
            self.set_kill_switch(contour, True, found.actor, found.reason)
        return found is not None

    def _flag(self, contour: str) -> Press | None:
        return None if self._flags is None else self._flags.pressed(contour)

    def _turn(self, connection: sa.Connection, contour: str, on: bool, actor: str, reason: str) -> None:
        connection.execute(schema.flags.delete().where(schema.flags.c.name == "kill_switch", schema.flags.c.contour == contour))
        connection.execute(schema.flags.insert().values(name="kill_switch", contour=contour, on=on))
        action = "kill_switch_on" if on else "kill_switch_off"
        ledger.append(connection, now=self._clock(), action=action, actor=actor, cycle_id=None, reason=reason, payload={"contour": contour})

    def get_note(self, key: str) -> Any:
        """The JSON value last stored under ``key``; ``None`` when there is none."""
        with self._database.reading() as connection:
            text = connection.execute(sa.select(schema.notes.c.value).where(schema.notes.c.key == key)).scalar()
        return None if text is None else json.loads(text)

    def set_note(self, key: str, value: Any) -> None:
        """Remember a small JSON value (a cursor, an outside id). Not audited: what must be goes into the ledger."""
        text = ledger.canonical_json(value, f"note {key!r}")
        with self._database.writing() as connection:
            connection.execute(schema.notes.delete().where(schema.notes.c.key == key))
            connection.execute(schema.notes.insert().values(key=key, value=text, updated_at=stamp(self._clock())))

    # ------------------------------------------------------------------ the sealed test set

    def open_sealed(self, cycle_id: str, corpus: str, actor: str, evaluation_id: str = "evaluation") -> int:
        """Record that the sealed test queries of ``corpus`` are opened, before they are read.

        The same ``evaluation_id`` of the same cycle opens once, however often it is repeated (a resumed run). Another one is another
        opening, and is counted: every look at the test set costs some of its honesty. What the opening is the how-manieth of is in its ledger
        record, and :meth:`sealed_opening` says it again.

        Returns
        -------
        int
            Openings of this corpus so far, over all cycles.
        """
        table = schema.sealed_openings
        with self._database.writing() as connection:
            earlier = _openings(connection, corpus)
            if any(one[:2] == (cycle_id, evaluation_id) for one in earlier):
                return len(earlier)
            now = self._clock()
            moments = [moment for *_, moment in earlier]
            payload = {"corpus": corpus, "evaluation_id": evaluation_id, **_nth(moments, now).model_dump()}
            record = ledger.append(connection, now=now, action="sealed_test_opened", actor=actor, cycle_id=cycle_id, reason="", payload=payload)
            connection.execute(
                table.insert().values(cycle_id=cycle_id, corpus=corpus, evaluation_id=evaluation_id, ledger_seq=record.seq, opened_at=stamp(now))
            )
            return len(earlier) + 1

    def sealed_opening(self, cycle_id: str, corpus: str, evaluation_id: str = "evaluation") -> SealedOpening | None:
        """What the ledger says about an opening, counted anew from its records; null where there was none."""
        with self._database.reading() as connection:
            moments: list[datetime] = []
            for cycle, evaluation, moment in _openings(connection, corpus):
                if (cycle, evaluation) == (cycle_id, evaluation_id):
                    return _nth(moments, moment)
                moments.append(moment)
        return None

    def sealed_openings(self, corpus: str) -> int:
        """How often the sealed test queries of ``corpus`` were opened."""
        with self._database.reading() as connection:
            return len(_openings(connection, corpus))

    # ------------------------------------------------------------------ ledger

    def append(self, action: str, actor: str, cycle_id: str | None = None, reason: str = "", payload: Mapping[str, Any] | None = None) -> LedgerRecord:
        """Write one ledger record that is no transition.

        Raises
        ------
        BadInput
            No action or actor, or a payload that is not plain JSON.
        """
        with self._database.writing() as connection:
            return ledger.append(connection, now=self._clock(), action=action, actor=actor, cycle_id=cycle_id, reason=reason, payload=payload or {})

    def records(self, limit: int = 100, cycle_id: str | None = None, after_seq: int | None = None) -> list[LedgerRecord]:
        """Ledger records, oldest first: the last ``limit`` ones, or with ``after_seq`` the first ``limit`` ones after it."""
        query = sa.select(schema.ledger)
        if cycle_id is not None:
            query = query.where(schema.ledger.c.cycle_id == cycle_id)
        if after_seq is None:
            return self.page(limit, cycle_id=cycle_id)[::-1]
        with self._database.reading() as connection:
            base = base_of(connection)[0]
        earlier: list[LedgerRecord] = []
        if after_seq < base:
            earlier = list(islice(self.sealed(after_seq=after_seq, cycle_id=cycle_id), limit))
        query = query.where(schema.ledger.c.seq > after_seq).order_by(schema.ledger.c.seq).limit(limit - len(earlier))
        with self._database.reading() as connection:
            return earlier + [ledger.from_row(row) for row in connection.execute(query).mappings()]

    def every_record(self, cycle_id: str | None = None) -> Iterator[LedgerRecord]:
        """All ledger records, or those of a cycle, oldest first, a thousand in memory at once."""
        after = 0
        while page := self.records(_BATCH, cycle_id=cycle_id, after_seq=after):
            yield from page
            after = page[-1].seq

    def records_of(self, action: str, limit: int = 1000) -> list[LedgerRecord]:
        """The newest ``limit`` records of one action, oldest first."""
        query = sa.select(schema.ledger).where(schema.ledger.c.action == action).order_by(schema.ledger.c.seq.desc()).limit(limit)
        with self._database.reading() as connection:
            found = [ledger.from_row(row) for row in connection.execute(query).mappings()]
        return self._with_sealed(found, limit, self.sealed(newest_first=True, action=action))[::-1]

    def hash_at(self, seq: int) -> str | None:
        """Hash of the ledger record with this number; null where there is none."""
        with self._database.reading() as connection:
            found = connection.execute(sa.select(schema.ledger.c.hash).where(schema.ledger.c.seq == seq)).scalar()
            base = base_of(connection)
        if found is None and 0 < seq <= base[0]:
            return base[1] if seq == base[0] else next((record.hash for record in self.sealed(after_seq=seq - 1, before_seq=seq + 1)), None)
        return None if found is None else str(found)

    def head(self) -> tuple[int, str] | None:
        """Sequence number and hash of the newest ledger record: what to copy out of reach as an anchor."""
        with self._database.reading() as connection:
            return ledger.head(connection)

    def verify(self, *, full: bool = False) -> list[str]:
        """Problems of the ledger in words; empty when it is whole.

        Detects an edited record, one removed from or put into the middle, another order, a cut tail, and a cycle whose state is not the
        one of its last ledger record. Cannot detect a chain rewritten up to its end together with the head row, nor an older copy of the
        whole file: compare ``head()`` with a copy kept elsewhere for that. Of records that are sealed in files (``control.segments``) the files' hashes are
        compared; with ``full`` each of them is read.
        """
        problems: list[str] = []
        said: dict[str | None, Any] = {}

        def readable(connection: sa.Connection) -> Iterator[LedgerRecord]:
            query = sa.select(schema.ledger).order_by(schema.ledger.c.seq).execution_options(yield_per=_BATCH)
            for row in connection.execute(query).mappings():
                try:
                    record = ledger.from_row(row)
                except BadInput as error:
                    problems.append(str(error))
                    continue
                if record.action.startswith("cycle_") and {"from", "to"} <= record.payload.keys():
                    said[record.cycle_id] = record.payload["to"]
                yield record

        with self._database.reading() as connection:
            base = base_of(connection)
            problems += ledger.chain_problems(readable(connection), ledger.head(connection), base)
            table = schema.cycles.c
            rows = connection.execute(sa.select(table.cycle_id, table.state, table.opened_seq).order_by(table.cycle_id)).tuples().all()
        if base[0]:
            problems += self.segment_problems(full=full)
            if full:
                moves = (record for record in self.sealed() if record.action.startswith("cycle_") and {"from", "to"} <= record.payload.keys())
                said = {record.cycle_id: record.payload["to"] for record in moves} | said
        for cycle_id, state, opened in rows:
            sealed = cycle_id not in said and opened <= base[0] and not full  # its moves lie in the files, which `full` reads
            if said.get(cycle_id) != state and not sealed:
                problems.append(f"cycle {cycle_id} stands at {state}, the ledger says {said.get(cycle_id, 'nothing')}")
        return problems


def _state(name: CycleState | str) -> CycleState:
    try:
        return CycleState(name)
    except ValueError as error:
        raise BadInput(f"{name!r} is no state of a cycle. The states are: {', '.join(state.value for state in CycleState)}.") from error


def _from_row(row: sa.RowMapping) -> Cycle:
    fields = {name: value for name, value in row.items() if name != "opened_seq"}
    fields |= {"trigger": Trigger.model_validate_json(row["trigger"]), "opened_at": unstamp(row["opened_at"]), "updated_at": unstamp(row["updated_at"])}
    return Cycle(**fields)


def _cycle(connection: sa.Connection, cycle_id: str) -> Cycle:
    row = connection.execute(sa.select(schema.cycles).where(schema.cycles.c.cycle_id == cycle_id)).mappings().first()
    if row is None:
        raise Missing(f"no cycle {cycle_id!r} in the control database. List the cycles with `predator-si cycle show`.")
    return _from_row(row)


def _active(connection: sa.Connection, contour: str) -> Cycle | None:
    query = sa.select(schema.cycles).where(schema.cycles.c.contour == contour, schema.cycles.c.state.in_([state.value for state in ACTIVE]))
    row = connection.execute(query).mappings().first()
    return None if row is None else _from_row(row)


def _kill_switch(connection: sa.Connection, contour: str) -> bool:
    query = sa.select(schema.flags.c.on).where(schema.flags.c.name == "kill_switch", schema.flags.c.contour == contour)
    return bool(connection.execute(query).scalar())


def _openings(connection: sa.Connection, corpus: str) -> list[tuple[str, str, datetime]]:
    """(cycle, evaluation, when) of every opening of a corpus, oldest first."""
    table = schema.sealed_openings
    query = sa.select(table.c.cycle_id, table.c.evaluation_id, table.c.opened_at).where(table.c.corpus == corpus).order_by(table.c.ledger_seq)
    return [(str(cycle), str(evaluation), unstamp(str(moment))) for cycle, evaluation, moment in connection.execute(query)]


def _nth(earlier: Sequence[datetime], now: datetime) -> SealedOpening:
    periods = [f"{moment.astimezone(UTC):%Y-%m}" for moment in earlier]
    period = f"{now.astimezone(UTC):%Y-%m}"
    return SealedOpening(opening=len(periods) + 1, period=period, candidate=periods.count(period) + 1, rotation=len(set(periods) - {period}))
