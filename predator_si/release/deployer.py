"""What brings a commit into force: one protocol for the embedded reconciler and for Argo CD.

What belongs here: the protocol, its records, the embedded deployer, and what a deployer's answer and the service's own word mean together. What must not:
committing anything (gitops.py), reconciling (reconcile.py), Argo CD's API (argocd.py).

A deployer is only asked to look, and then believed only about *which commit* is in force. Which model is served, the service says itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol

from predator_si.errors import BadInput, PredatorError, Unavailable
from predator_si.records import Deployment, Record

STATUS_FILE = "status.json"
Includes = Callable[[str, str], bool]
"""``includes(revision, commit)``: whether ``revision`` is ``commit`` or came after it (``GitOpsRepo.includes``)."""


class SyncStatus(Record):
    """Which commit was seen, which one is in force, and why they differ if they do; of the embedded reconciler it is ``applied/status.json``."""

    contour: str
    revision: str | None
    """The newest commit seen; null when the repository was never read."""
    applied_revision: str | None
    """The commit whose files are in force."""
    release_sha256: str | None
    """Of the applied release file; null where the deployer does not say."""
    synced: bool
    error: str | None
    healed: int = 0
    """How often a file that somebody had changed or removed was written again, since the process started."""
    at: datetime
    health: str | None = None
    """Argo CD's word for the application; null where nobody judges health."""


State = Literal["in_force", "refused", "late", "unreachable"]


class SyncResult(Record):
    """What came of asking a deployer to bring a commit into force."""

    commit: str
    state: State
    """``refused``: it saw the commit and will not apply it. ``late``: not within the time given. ``unreachable``: it did not say."""
    revision: str | None
    """What is in force as far as it said."""
    reason: str
    seconds: float
    done: tuple[str, ...] = ()
    """What was asked of it, in order (``refresh``, ``terminate``)."""

    @property
    def in_force(self) -> bool:
        """Whether the commit, or one that came after it, is in force."""
        return self.state == "in_force"


class Deployer(Protocol):
    """Brings commits of the GitOps repository into force."""

    def check(self) -> None:
        """Whether a commit would come into force at all; asked before one is made.

        Raises
        ------
        Refused
            It would not.
        Unavailable
            Nobody can say.
        """
        ...

    def sync(self, commit: str, *, timeout: float) -> SyncResult:
        """Ask for ``commit`` and wait until it is in force, at most ``timeout`` seconds. Faults of the outside are in the result, never raised."""
        ...

    def status(self) -> SyncStatus:
        """What is in force now.

        Raises
        ------
        Unavailable
            It does not answer.
        """
        ...


class LocalDeployer:
    """The embedded reconciler, asked through the status file that it writes each time it looked.

    Parameters
    ----------
    applied
        The reconciler's folder of applied files.
    includes
        Whether a revision has a commit in its history.
    interval
        Seconds between two looks at the file.
    quiet
        Seconds without a sign of life after which the reconciler counts as gone.
    """

    def __init__(self, applied: Path, includes: Includes, *, interval: float = 0.05, quiet: float = 30.0) -> None:
        self._path = Path(applied) / STATUS_FILE
        self._includes, self._interval, self._quiet = includes, interval, quiet

    def check(self) -> None:
        """Nothing to ask: the reconciler applies what it finds, whenever it is started."""

    def sync(self, commit: str, *, timeout: float) -> SyncResult:
        """Wait until the reconciler applied ``commit`` or one after it; its refusal ends the wait at once."""
        started = time.monotonic()
        known: dict[str, bool] = {}

        def has_it(revision: str | None) -> bool:
            if revision is not None and revision not in known:
                known[revision] = self._includes(revision, commit)
            return revision is not None and known[revision]

        def ended(state: State, revision: str | None, reason: str) -> SyncResult:
            return SyncResult(commit=commit, state=state, revision=revision, reason=reason, seconds=time.monotonic() - started)

        while True:
            status, away = None, ""
            try:
                status = self.status()
                if has_it(status.applied_revision):
                    return ended("in_force", status.applied_revision, "the reconciler applied it")
                if not status.synced and has_it(status.revision):
                    return ended("refused", status.applied_revision, f"the reconciler refuses it: {status.error}")
            except PredatorError as problem:
                away = str(problem)
            if time.monotonic() - started + self._interval > timeout:
                break
            time.sleep(self._interval)
        if status is None:
            return ended("unreachable", None, away)
        silent = (datetime.now(status.at.tzinfo) - status.at).total_seconds()
        if silent > self._quiet:
            return ended("unreachable", status.applied_revision, f"the reconciler gave no sign of life for {silent:.0f} s. Start it: `predator-si up`.")
        why = f"; it says: {status.error}" if status.error else ""
        return ended("late", status.applied_revision, f"the reconciler did not apply {commit[:12]} within {timeout:g} s{why}. Look at its log.")

    def status(self) -> SyncStatus:
        """What the reconciler wrote last.

        Raises
        ------
        Unavailable
            It never wrote anything, or something else lies there.
        """
        if not self._path.is_file():
            raise Unavailable(f"{self._path}: no such file, so no reconciler has looked yet. Start it: `predator-si up`.")
        try:
            return SyncStatus.read(self._path)
        except (OSError, BadInput) as error:
            raise Unavailable(f"{error} No reconciler's status can be read; is it running?") from error


def confirm_in_force(deployer: Deployer, commit: str, ask: Callable[[float], Deployment], *, timeout: float, rollback: bool = False) -> Deployment:
    """The deployer brings ``commit`` into force, then the service says what it serves; no metric counts before that.

    Parameters
    ----------
    ask
        ``ask(seconds)`` asks the service for at most so long (``deploy.confirm``).
    timeout
        Seconds for the deployer, and then again for the service.
    rollback
        The way back is open whatever the deployer says: the service's word alone decides, and what the deployer said is told in the reason. A release
        instead must also be in force: one server that has the new model is not all of them.

    Returns
    -------
    Deployment
        With ``sync_seconds``; ``seconds`` is the whole time from the call on.
    """
    started = time.monotonic()
    found = deployer.sync(commit, timeout=timeout)
    waited = found.state in ("refused", "late")  # nothing more will happen by itself
    told = ask(0.0 if waited or (found.state == "unreachable" and not rollback) else timeout)
    update = {"seconds": time.monotonic() - started, "sync_seconds": found.seconds}
    if found.in_force:
        return told.model_copy(update=update)
    reason = f"{found.reason} {told.reason}" if rollback else f"{found.reason} The service: {told.reason}"
    return told.model_copy(update={**update, "confirmed": told.confirmed and rollback, "reason": reason})
