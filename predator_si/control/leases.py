"""A lock with an end and a fencing token: who comes back after its end is refused, whatever it believes."""

from __future__ import annotations

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


def holder(connection: sa.Connection, name: str, now: datetime) -> str | None:
    """Who holds the lease now; ``None`` when it was never taken, was given back, or has ended."""
    row = connection.execute(sa.select(schema.leases).where(schema.leases.c.name == name)).mappings().first()
    if row is None or row["expires_at"] is None or unstamp(row["expires_at"]) <= now:
        return None
    return str(row["holder"])


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
