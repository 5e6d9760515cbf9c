"""A lock with an end and a fencing token: who comes back after its end is refused, whatever it believes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from predator_si.control import schema
from predator_si.control.ledger import stamp, unstamp
from predator_si.errors import BadInput, Refused


@dataclass(frozen=True)
class Lease:
    """A lease as its holder knows it.

    ``token`` strictly increases with every acquisition of ``name``, so a side effect that carries it can be refused once a newer one was
    seen (Kleppmann, "How to do distributed locking", 2016). Times are the wall clock of the machines that share the database.
    """

    name: str
    holder: str
    token: int
    expires_at: datetime


class Leases:
    """Leases as ``Control`` gives them. ``Control`` is made of this; it has no life of its own."""

    _database: schema.Database
    _clock: Callable[[], datetime]
    _held: threading.local

    def _begin_leases(self) -> None:
        self._held = threading.local()
        self._database.fence = self._require

    def acquire(self, name: str, holder: str, ttl_seconds: float) -> Lease:
        """Take the lease ``name`` for ``ttl_seconds``. Refused while somebody else holds it; every success has a higher token."""
        with self._database.writing(fenced=False) as connection:
            return acquire(connection, name, holder, ttl_seconds, self._clock())

    def renew(self, lease: Lease, ttl_seconds: float) -> Lease:
        """Give a held lease a later end, with the same token. Refused when it ended or was superseded."""
        with self._database.writing(fenced=False) as connection:
            return renew(connection, lease, ttl_seconds, self._clock())

    def release(self, lease: Lease) -> bool:
        """Give the lease back; False when it had been superseded (then nothing happens)."""
        with self._database.writing(fenced=False) as connection:
            return release(connection, lease)

    def lease_of(self, name: str) -> Lease | None:
        """The lease that somebody holds now; ``None`` when nobody does."""
        with self._database.reading() as connection:
            return held(connection, name, self._clock())

    def check(self, lease: Lease) -> None:
        """Raise ``Refused`` when the lease ended or was superseded: ask before every side effect."""
        with self._database.reading() as connection:
            check(connection, lease, self._clock())

    @contextmanager
    def fenced(self, lease: Lease) -> Iterator[None]:
        """Within, each write of this thread is refused, in its own transaction, once ``lease`` has ended or was superseded; leases and the switch apart."""
        before = getattr(self._held, "lease", None)
        self._held.lease = lease
        try:
            yield
        finally:
            self._held.lease = before

    def require_lease(self) -> None:
        """Raise ``Refused`` where this thread works under a lease that was lost: ask before each side effect outside the database."""
        if getattr(self._held, "lease", None) is not None:
            with self._database.reading() as connection:
                self._require(connection)

    def _require(self, connection: sa.Connection) -> None:
        lease: Lease | None = getattr(self._held, "lease", None)
        if lease is not None:
            check(connection, lease, self._clock())


# --------------------------------------------------------------------------- in the database


def acquire(connection: sa.Connection, name: str, holder: str, ttl_seconds: float, now: datetime) -> Lease:
    """Take the lease: refused while somebody else holds it. The same holder gets a new token, and its older lease is superseded."""
    if ttl_seconds <= 0 or not holder:
        raise BadInput(f"lease {name!r}: needs a holder and a lifetime above 0 s, got {holder!r} and {ttl_seconds} s.")
    row = connection.execute(sa.select(schema.leases).where(schema.leases.c.name == name)).mappings().first()
    expires_at = now + timedelta(seconds=ttl_seconds)
    if row is None:
        connection.execute(schema.leases.insert().values(name=name, holder=holder, token=1, expires_at=stamp(expires_at)))
        return Lease(name, holder, 1, expires_at)
    if row["expires_at"] is not None and unstamp(row["expires_at"]) > now and row["holder"] != holder:
        raise Refused(f"lease {name!r} is held by {row['holder']} until {row['expires_at']}. Wait for its end, or end its holder first.")
    token = int(row["token"]) + 1
    connection.execute(schema.leases.update().where(schema.leases.c.name == name).values(holder=holder, token=token, expires_at=stamp(expires_at)))
    return Lease(name, holder, token, expires_at)


def held(connection: sa.Connection, name: str, now: datetime) -> Lease | None:
    """The lease as it is held now; ``None`` when it was never taken, was given back, or has ended."""
    row = connection.execute(sa.select(schema.leases).where(schema.leases.c.name == name)).mappings().first()
    if row is None or row["expires_at"] is None or unstamp(row["expires_at"]) <= now:
        return None
    return Lease(name, str(row["holder"]), int(row["token"]), unstamp(row["expires_at"]))


def check(connection: sa.Connection, lease: Lease, now: datetime) -> None:
    """Raise ``Refused`` unless ``lease`` is the newest of its name and has not ended. The database's end counts, not the caller's."""
    row = connection.execute(sa.select(schema.leases).where(schema.leases.c.name == lease.name)).mappings().first()
    if row is None:
        raise Refused(f"lease {lease.name!r} does not exist in this database. Acquire it first.")
    if int(row["token"]) != lease.token:
        raise Refused(f"lease {lease.name!r} (token {lease.token}) was superseded by token {row['token']} of {row['holder']}. Stop, and change nothing more.")
    if row["expires_at"] is None or unstamp(row["expires_at"]) <= now:
        raise Refused(f"lease {lease.name!r} (token {lease.token}) ended at {row['expires_at'] or 'its release'}. Acquire it again before going on.")


def renew(connection: sa.Connection, lease: Lease, ttl_seconds: float, now: datetime) -> Lease:
    """Give a lease that is still held a later end, with the same token."""
    if ttl_seconds <= 0:
        raise BadInput(f"lease {lease.name!r}: a lifetime must be above 0 s, got {ttl_seconds} s.")
    check(connection, lease, now)
    expires_at = now + timedelta(seconds=ttl_seconds)
    connection.execute(schema.leases.update().where(schema.leases.c.name == lease.name).values(expires_at=stamp(expires_at)))
    return Lease(lease.name, lease.holder, lease.token, expires_at)


def release(connection: sa.Connection, lease: Lease) -> bool:
    """Give the lease back. False when it was superseded: then it belongs to somebody else and stays theirs."""
    mine = sa.and_(schema.leases.c.name == lease.name, schema.leases.c.token == lease.token)
    return connection.execute(schema.leases.update().where(mine).values(expires_at=None)).rowcount == 1
