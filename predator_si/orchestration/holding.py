"""Who may work on a cycle: one run at a time, and one that lost its lease changes nothing any more.

Each run is a holder of its own (cycle, machine, process), renews its lease while it works, and carries the fencing token into every write of the control
database (``Control.fenced``). A run that hangs past the end of its lease is refused at its next write, commit, alias or artifact.

What belongs here: taking, keeping and giving back the contour's lease. What must not: the lease itself (``control.leases``), what a step does.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from predator_si.control import Control, Lease
from predator_si.errors import PredatorError, Refused
from predator_si.notify.log import LOG
from predator_si.records import utc_now

TTL = 120.0
"""Seconds that a lease lives without a renewal: how long a cycle waits for a run that died on another machine."""
_LOOK = 0.25


def holder_of(cycle_id: str) -> str:
    """The name of the run of this process as a holder: ``<cycle>@<machine>:<process>:<random>``."""
    return f"{cycle_id}@{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"


@contextmanager
def hold(control: Control, name: str, cycle_id: str, has_ended: Callable[[str], bool], ttl: float = TTL) -> Iterator[Lease]:
    """Hold lease ``name`` for a cycle's run, renewed every sixth of ``ttl`` seconds; every write within is refused once it is lost.

    A lease that a dead run left goes over: at once where its process was on this machine, after its end where it was on another.

    Parameters
    ----------
    has_ended
        Whether a cycle has ended: its lease is in nobody's way.

    Raises
    ------
    Refused
        Another cycle holds it, or another run of this one that lives.
    """
    lease = _take(control, name, cycle_id, has_ended, ttl)
    over = threading.Event()
    keeper = threading.Thread(target=_renew, args=(control, lease, ttl, over), name=f"lease-{name}", daemon=True)
    keeper.start()
    try:
        with control.fenced(lease):
            yield lease
    finally:
        over.set()
        keeper.join()
        try:
            control.release(lease)
        except PredatorError as error:  # the work is done, or failed for its own reason; the lease ends by itself
            LOG.warning("%s lease not given back: %s", cycle_id, error)


def _take(control: Control, name: str, cycle_id: str, has_ended: Callable[[str], bool], ttl: float) -> Lease:
    """Take the lease; where another run of this cycle holds it, wait until it either ends or shows that it lives."""
    seen: Lease | None = None
    while True:
        found = control.lease_of(name)
        if found is not None and _is_abandoned(found, cycle_id, has_ended, ttl):
            control.release(found)  # by its token: whoever took it meanwhile keeps it
        try:
            return control.acquire(name, holder_of(cycle_id), ttl)
        except Refused:
            found = control.lease_of(name)
            if found is not None and (_cycle_of(found) != cycle_id or _process_of(found) is True or (seen is not None and found != seen)):
                raise
            seen = found
        threading.Event().wait(_LOOK)


def _is_abandoned(found: Lease, cycle_id: str, has_ended: Callable[[str], bool], ttl: float) -> bool:
    cycle = _cycle_of(found)
    if cycle != cycle_id:
        return has_ended(cycle)
    # an end that no renewal can have written was written before the clock went back, or by an older program
    return _process_of(found) is False or found.expires_at - utc_now() > timedelta(seconds=2 * ttl)


def _cycle_of(lease: Lease) -> str:
    return lease.holder.partition("@")[0]


def _process_of(lease: Lease) -> bool | None:
    """Whether the holder's process lives; null where it is on another machine, or not named."""
    machine, _, process = lease.holder.partition("@")[2].rpartition(":")[0].rpartition(":")
    if machine != socket.gethostname() or not process.isdigit():
        return None
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _renew(control: Control, lease: Lease, ttl: float, over: threading.Event) -> None:
    """Until the work is over, or the lease is lost: then the next write of the work says so."""
    while not over.wait(ttl / 6):
        try:
            control.renew(lease, ttl)
        except Refused as error:
            LOG.error("- %s", error)
            return
        except PredatorError as error:  # a database that is locked now may answer at the next try
            LOG.warning("- lease %s not renewed yet: %s", lease.name, error)
