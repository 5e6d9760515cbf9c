"""Approvals, gate overrides, champion history and feature flags, as methods that ``Control`` has.

Each change is one row and one ledger record in the same transaction. What belongs here: what was asked, answered and set. What must not: what
follows from it (``control.policy``, orchestration).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa

from predator_si.control import ledger, schema
from predator_si.control.ledger import stamp, unstamp
from predator_si.control.secrets import redacted_values
from predator_si.errors import BadInput, Missing, Refused
from predator_si.records import Approval, ChampionSpan, FeatureFlag, GateOverride

Stage = Literal["trial", "promote"]
DEFAULT_OVERRIDE = timedelta(hours=24)
LONGEST_OVERRIDE = timedelta(days=30)


def person(actor: str) -> str:
    """Who somebody is, whatever door they came through: ``cli:ann`` and ``api:ann`` are one person."""
    return actor.rpartition(":")[2].strip().casefold()


class Registers:
    """What people and policy said about cycles, gates and champions. ``Control`` is made of this; it has no life of its own."""

    _database: schema.Database
    _clock: Callable[[], datetime]

    # ------------------------------------------------------------------ approvals

    def ask_approval(
        self,
        cycle_id: str,
        stage: Stage,
        contour: str,
        evidence_hash: str,
        evidence: Mapping[str, Any],
        expires_in: timedelta,
        *,
        actor: str = "loop",
        now: datetime | None = None,
    ) -> Approval:
        """Put a question to a person into the queue. The same question on the same evidence stands; other evidence asks anew, and voids the answer before.

        Parameters
        ----------
        evidence_hash
            Of everything the verdict was computed from.
        evidence
            Plain JSON that a person decides by.
        expires_in
            How long an answer counts.
        """
        if expires_in <= timedelta(0):
            raise BadInput(f"cycle {cycle_id}: an approval must have some time, got {expires_in}.")
        moment = now or self._clock()
        text = ledger.canonical_json(redacted_values(dict(evidence)), f"evidence of {cycle_id}")
        table = schema.approvals
        with self._database.writing() as connection:
            known = _approval(connection, cycle_id, stage)
            if known is not None and known.evidence_hash == evidence_hash:
                return known
            mine = sa.and_(table.c.cycle_id == cycle_id, table.c.stage == stage)
            connection.execute(table.delete().where(mine))
            row = {"cycle_id": cycle_id, "stage": stage, "contour": contour, "evidence_hash": evidence_hash, "evidence": text, "reason": ""}
            connection.execute(table.insert().values(**row, asked_at=stamp(moment), expires_at=stamp(moment + expires_in)))
            payload = {"stage": stage, "contour": contour, "evidence_hash": evidence_hash, "expires_at": stamp(moment + expires_in)}
            if known is not None:
                payload["voids"] = known.evidence_hash
            why = "a person is asked" if known is None else "a person is asked again: the evidence is another one"
            ledger.append(connection, now=moment, action="approval_asked", actor=actor, cycle_id=cycle_id, reason=why, payload=payload)
            found = _approval(connection, cycle_id, stage)
        assert found is not None
        return found

    def approval(self, cycle_id: str, stage: Stage = "promote") -> Approval | None:
        """The question about a stage of a cycle; null where none was asked."""
        with self._database.reading() as connection:
            return _approval(connection, cycle_id, stage)

    def approvals(
        self,
        contours: str | Collection[str] | None = None,
        *,
        waiting: bool = False,
        limit: int = 100,
        now: datetime | None = None,
        before: tuple[str, str] | None = None,
    ) -> list[Approval]:
        """Questions, newest first, of these contours or of all; with ``waiting`` only those that may be answered, with ``before`` (cycle, stage) older ones."""
        table = schema.approvals
        query = sa.select(table).order_by(table.c.asked_at.desc(), table.c.cycle_id.desc()).limit(limit)
        if contours is not None:
            query = query.where(table.c.contour.in_([contours] if isinstance(contours, str) else contours))
        if before is not None:
            asked_at = sa.select(table.c.asked_at).where(table.c.cycle_id == before[0], table.c.stage == before[1]).scalar_subquery()
            query = query.where(sa.tuple_(table.c.asked_at, table.c.cycle_id) < sa.tuple_(asked_at, sa.literal(before[0])))
        if waiting:
            query = query.where(table.c.decision.is_(None), table.c.expires_at > stamp(now or self._clock()))
        with self._database.reading() as connection:
            return [_approval_of(row) for row in connection.execute(query).mappings()]

    def decide_approval(
        self,
        cycle_id: str,
        decision: Literal["approved", "rejected"],
        actor: str,
        reason: str,
        *,
        stage: Stage = "promote",
        separated: bool = True,
        now: datetime | None = None,
    ) -> Approval:
        """A person's answer. Repeated by the same person it changes nothing.

        Parameters
        ----------
        separated
            Whether who overrode a gate since the cycle was opened is refused as its approver; false: it is only recorded.

        Raises
        ------
        Missing
            Nobody was asked.
        Refused
            It was answered otherwise, has expired or was cancelled, or the approver overrode a gate in this cycle.
        """
        if not actor.strip() or not reason.strip():
            raise BadInput(f"cycle {cycle_id}: an answer needs who gives it and why, got {actor!r} and {reason!r}.")
        moment = now or self._clock()
        table = schema.approvals
        with self._database.writing() as connection:
            known = _approval(connection, cycle_id, stage)
            if known is None:
                raise Missing(f"cycle {cycle_id}: nobody was asked for an approval of its {stage}. `predator-si cycle queue` shows what waits.")
            if known.decision == decision and known.actor == actor:
                return known
            if known.decision is not None:
                raise Refused(f"cycle {cycle_id} was {known.decision} by {known.actor} at {known.at}: {known.reason}. It is asked again on new evidence only.")
            if moment >= known.expires_at:
                raise Refused(f"cycle {cycle_id}: the question expired at {known.expires_at:%Y-%m-%d %H:%M} UTC. The next cycle asks again.")
            theirs = [one for one in _overrides_since(connection, known.contour, _opened(connection, cycle_id)) if person(one.actor) == person(actor)]
            if theirs and decision == "approved" and separated:
                raise Refused(f"{actor} overrode the gate of {theirs[0].metric} in cycle {cycle_id} and cannot approve it. Ask somebody else.")
            mine = sa.and_(table.c.cycle_id == cycle_id, table.c.stage == stage)
            connection.execute(table.update().where(mine).values(decision=decision, actor=actor, reason=reason, at=stamp(moment)))
            payload = {"stage": stage, "decision": decision, "evidence_hash": known.evidence_hash, "overrode": [one.metric for one in theirs]}
            ledger.append(connection, now=moment, action=f"approval_{decision}", actor=actor, cycle_id=cycle_id, reason=reason, payload=payload)
            found = _approval(connection, cycle_id, stage)
        assert found is not None
        return found

    def close_approval(
        self, cycle_id: str, decision: Literal["expired", "cancelled"], reason: str, *, stage: Stage = "promote", now: datetime | None = None
    ) -> bool:
        """The loop takes its question back: nobody answered in time, or the reason to ask is gone. False where it was answered or never asked."""
        moment = now or self._clock()
        table = schema.approvals
        with self._database.writing() as connection:
            known = _approval(connection, cycle_id, stage)
            if known is None or known.decision is not None:
                return False
            mine = sa.and_(table.c.cycle_id == cycle_id, table.c.stage == stage)
            connection.execute(table.update().where(mine).values(decision=decision, actor="loop", reason=reason, at=stamp(moment)))
            payload = {"stage": stage, "decision": decision, "evidence_hash": known.evidence_hash}
            ledger.append(connection, now=moment, action=f"approval_{decision}", actor="loop", cycle_id=cycle_id, reason=reason, payload=payload)
        return True

    # ------------------------------------------------------------------ gate overrides

    def override_gate(
        self,
        contour: str,
        metric: str,
        threshold: float,
        actor: str,
        reason: str,
        *,
        old: float | None,
        expires_in: timedelta = DEFAULT_OVERRIDE,
        now: datetime | None = None,
    ) -> GateOverride:
        """Give a metric's gate another threshold for a time; one that was in force is replaced.

        Whether the metric exists and may have this threshold is asked by the caller (``monitor.overrides.check_override``): this leaf knows no metrics.
        """
        if not timedelta(0) < expires_in <= LONGEST_OVERRIDE:
            raise BadInput(f"{metric}: an override lasts up to {LONGEST_OVERRIDE.days} days, got {expires_in}. Change the contour's values for good.")
        if not actor.strip() or not reason.strip():
            raise BadInput(f"{metric}: an override needs who sets it and why, got {actor!r} and {reason!r}.")
        moment = now or self._clock()
        with self._database.writing() as connection:
            _end_overrides(connection, contour, metric, moment)
            row = {"contour": contour, "metric": metric, "threshold": threshold, "old": old, "actor": actor, "reason": reason}
            until = stamp(moment + expires_in)
            connection.execute(schema.gate_overrides.insert().values(**row, set_at=stamp(moment), expires_at=until))
            active = connection.execute(sa.select(schema.cycles.c.cycle_id).where(schema.cycles.c.contour == contour, schema.IS_ACTIVE)).scalar()
            payload = {"contour": contour, "metric": metric, "threshold": threshold, "old": old, "expires_at": until}
            ledger.append(connection, now=moment, action="gate_overridden", actor=actor, cycle_id=active, reason=reason, payload=payload)
            return _overrides(connection, contour, moment)[metric]

    def end_override(self, contour: str, metric: str, actor: str, reason: str, *, now: datetime | None = None) -> bool:
        """Take an override back before its end; False where there is none."""
        moment = now or self._clock()
        with self._database.writing() as connection:
            if not _end_overrides(connection, contour, metric, moment):
                return False
            payload = {"contour": contour, "metric": metric}
            ledger.append(connection, now=moment, action="gate_override_ended", actor=actor, cycle_id=None, reason=reason, payload=payload)
        return True

    def gate_overrides(self, contour: str, now: datetime | None = None) -> dict[str, GateOverride]:
        """Overrides in force, by metric."""
        with self._database.reading() as connection:
            return _overrides(connection, contour, now or self._clock())

    def overrides_of_cycle(self, cycle_id: str) -> list[GateOverride]:
        """Overrides that were in force, or set, since a cycle was opened."""
        with self._database.reading() as connection:
            contour = connection.execute(sa.select(schema.cycles.c.contour).where(schema.cycles.c.cycle_id == cycle_id)).scalar()
            return _overrides_since(connection, str(contour), _opened(connection, cycle_id))

    # ------------------------------------------------------------------ champions

    def champion_changed(
        self, contour: str, digest: str, why: str, *, cycle_id: str | None = None, commit: str | None = None, actor: str = "loop", now: datetime | None = None
    ) -> bool:
        """Somebody else is champion of a contour now: ends the span before and begins one. False, and nothing written, where this digest serves already."""
        moment = now or self._clock()
        table = schema.champions
        with self._database.writing() as connection:
            query = sa.select(table.c.digest).where(table.c.contour == contour, table.c.until.is_(None))
            before = connection.execute(query).scalar()
            if before == digest:
                return False
            connection.execute(table.update().where(table.c.contour == contour, table.c.until.is_(None)).values(until=stamp(moment)))
            row = {"contour": contour, "digest": digest, "cycle_id": cycle_id, "why": why, "commit": commit}
            connection.execute(table.insert().values(**row, since=stamp(moment)))
            payload = {"contour": contour, "digest": digest, "before": before, "commit": commit}
            ledger.append(connection, now=moment, action="champion_changed", actor=actor, cycle_id=cycle_id, reason=why, payload=payload)
        return True

    def champions(self, contour: str | None = None, limit: int = 100, before: str | None = None) -> list[ChampionSpan]:
        """Who was champion when and why, newest first; with ``before`` (as ``ledger.stamp`` writes it) the spans older than the one that began then."""
        table = schema.champions
        query = sa.select(*(column for column in table.c if column.name != "id")).order_by(table.c.id.desc()).limit(limit)
        if contour is not None:
            query = query.where(table.c.contour == contour)
        if before is not None:
            query = query.where(table.c.id < sa.select(sa.func.max(table.c.id)).where(table.c.since == before).scalar_subquery())
        with self._database.reading() as connection:
            return [_span(row) for row in connection.execute(query).mappings()]

    def restore_champions(self, contour: str, spans: Sequence[ChampionSpan], actor: str, reason: str) -> None:
        """Put a history that was derived from Git in place of the stored one.

        Raises
        ------
        BadInput
            The spans are another contour's, overlap, or more than the last one is open.
        """
        ordered = sorted(spans, key=lambda one: one.since)
        for one, following in zip(ordered, [*ordered[1:], None], strict=True):
            if one.contour != contour or (following is not None and (one.until is None or one.until > following.since)):
                raise BadInput(f"contour {contour}: the span of {one.digest} since {one.since} does not fit the next one. Derive the history from Git again.")
        table = schema.champions
        with self._database.writing() as connection:
            connection.execute(table.delete().where(table.c.contour == contour))
            for one in ordered:
                until = None if one.until is None else stamp(one.until)
                connection.execute(table.insert().values({**one.model_dump(), "since": stamp(one.since), "until": until}))
            payload = {"contour": contour, "spans": len(ordered)}
            ledger.append(connection, now=self._clock(), action="champions_restored", actor=actor, cycle_id=None, reason=reason, payload=payload)

    # ------------------------------------------------------------------ feature flags

    def set_feature_flag(self, contour: str, name: str, on: bool, actor: str, reason: str, now: datetime | None = None) -> bool:
        """Turn a switch of a contour; True where this call changed it."""
        if not name.strip() or not actor.strip():
            raise BadInput(f"a feature flag needs a name and who turns it, got {name!r} and {actor!r}.")
        moment = now or self._clock()
        table = schema.feature_flags
        with self._database.writing() as connection:
            mine = sa.and_(table.c.contour == contour, table.c.name == name)
            if connection.execute(sa.select(table.c.on).where(mine)).scalar() is on:
                return False
            connection.execute(table.delete().where(mine))
            connection.execute(table.insert().values(contour=contour, name=name, on=on, actor=actor, reason=reason, set_at=stamp(moment)))
            payload = {"contour": contour, "flag": name, "on": on}
            ledger.append(connection, now=moment, action="feature_flag_set", actor=actor, cycle_id=None, reason=reason, payload=payload)
        return True

    def feature_flags(self, contour: str) -> dict[str, FeatureFlag]:
        """The contour's switches that somebody turned, by name."""
        table = schema.feature_flags
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(table).where(table.c.contour == contour).order_by(table.c.name)).mappings()
            return {row["name"]: FeatureFlag(**{**row, "set_at": unstamp(row["set_at"])}) for row in rows}


# --------------------------------------------------------------------------- rows


def _approval(connection: sa.Connection, cycle_id: str, stage: str) -> Approval | None:
    table = schema.approvals
    row = connection.execute(sa.select(table).where(table.c.cycle_id == cycle_id, table.c.stage == stage)).mappings().first()
    return None if row is None else _approval_of(row)


def _approval_of(row: sa.RowMapping) -> Approval:
    moments = {name: None if row[name] is None else unstamp(row[name]) for name in ("asked_at", "expires_at", "at")}
    return Approval(**{**row, **moments, "evidence": json.loads(row["evidence"])})


def _opened(connection: sa.Connection, cycle_id: str) -> datetime:
    found = connection.execute(sa.select(schema.cycles.c.opened_at).where(schema.cycles.c.cycle_id == cycle_id)).scalar()
    if found is None:
        raise Missing(f"no cycle {cycle_id!r} in the control database. List the cycles with `predator-si cycle list`.")
    return unstamp(str(found))


def _override_of(row: sa.RowMapping) -> GateOverride:
    moments = {name: None if row[name] is None else unstamp(row[name]) for name in ("set_at", "expires_at", "ended_at")}
    return GateOverride(**{**{name: value for name, value in row.items() if name != "id"}, **moments})


def _overrides(connection: sa.Connection, contour: str, now: datetime) -> dict[str, GateOverride]:
    table = schema.gate_overrides
    query = sa.select(table).where(table.c.contour == contour, table.c.ended_at.is_(None), table.c.expires_at > stamp(now)).order_by(table.c.id)
    return {one.metric: one for one in map(_override_of, connection.execute(query).mappings())}


def _overrides_since(connection: sa.Connection, contour: str, since: datetime) -> list[GateOverride]:
    table = schema.gate_overrides
    still = sa.or_(table.c.ended_at.is_(None), table.c.ended_at > stamp(since))
    query = sa.select(table).where(table.c.contour == contour, table.c.expires_at > stamp(since), still).order_by(table.c.id)
    return [_override_of(row) for row in connection.execute(query).mappings()]


def _end_overrides(connection: sa.Connection, contour: str, metric: str, now: datetime) -> bool:
    table = schema.gate_overrides
    mine = sa.and_(table.c.contour == contour, table.c.metric == metric, table.c.ended_at.is_(None), table.c.expires_at > stamp(now))
    return connection.execute(table.update().where(mine).values(ended_at=stamp(now))).rowcount > 0


def _span(row: sa.RowMapping) -> ChampionSpan:
    return ChampionSpan(**{**row, "since": unstamp(row["since"]), "until": None if row["until"] is None else unstamp(row["until"])})
