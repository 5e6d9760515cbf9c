"""``ArgoCDDeployer``: ask Argo CD to look at Git, and wait until our commit is what runs.

What belongs here: the three calls that we make of its REST API, and what an application's state means for a commit. What must not: changing the application.

We call ``GET application?refresh=normal``, ``GET application`` and, for a hung operation, ``DELETE operation``. Never ``/rollback``: Argo CD refuses it under
automated sync, and Git would disagree with the cluster without it (argo-cd #2441, #9570, #18072). Never ``/sync``: with automated sync it races the
controller's own (argo-cd #10367). So the token needs ``applications, get`` and, for the last call, ``applications, sync``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from predator_si.errors import BadInput, Missing, PredatorError, Refused, Unavailable
from predator_si.records import utc_now
from predator_si.release.deployer import Includes, State, SyncResult, SyncStatus

if TYPE_CHECKING:
    import httpx

_FAILED = ("Failed", "Error")
_RUNNING = ("Running", "Terminating")
_BROKEN = re.compile(r"Error$")
"""Conditions of a type that ends so tell why Argo CD cannot compare or sync; the others are warnings."""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class _Temporary(Unavailable):
    """May answer the next time it is asked."""


@dataclass(frozen=True)
class Application:
    """What we read of an Argo CD application."""

    automated: bool
    branches: tuple[str, ...]
    """``targetRevision`` of the sources that are our repository."""
    revisions: tuple[str, ...]
    """What those sources were compared at last."""
    sync: str
    health: str
    health_message: str
    phase: str | None
    """Of the last operation; null where there was none."""
    operation: str
    """Which one: its start."""
    operation_revisions: tuple[str, ...]
    operation_message: str
    pending: bool
    """An operation was asked for and not begun."""
    seen_after_operation: bool
    """Whether health was looked at since the last operation ended; before that it is about what ran before."""
    complaints: tuple[str, ...]
    deployed: tuple[str, ...]
    """Revisions of the newest entry of the history."""

    @property
    def running(self) -> bool:
        """Whether an operation runs, or is about to."""
        return self.pending or self.phase in _RUNNING

    def trouble(self) -> str:
        """What it says against itself, in one line; empty where it says nothing."""
        said = [*self.complaints]
        if self.phase in _FAILED or (self.running and self.operation_message):
            said.append(f"operation {self.phase}: {self.operation_message or 'no message'}")
        if self.health not in ("Healthy", "Unknown"):
            said.append(f"health {self.health}" + (f": {self.health_message}" if self.health_message else ""))
        return "; ".join(said)[:500]


def read_application(answer: Mapping[str, Any], repository: str) -> Application:
    """The parts of a ``v1alpha1Application`` that say which commit of ``repository`` runs, and how.

    Raises
    ------
    BadInput
        Not an application.
    """
    spec, status = answer.get("spec"), answer.get("status")
    if not isinstance(spec, Mapping) or not isinstance(answer.get("metadata"), Mapping):
        raise BadInput("the answer is not an Argo CD application (no metadata and spec). Does the address lead to Argo CD's API server?")
    status = status if isinstance(status, Mapping) else {}
    several = spec.get("sources")
    sources = [source for source in (several or [spec.get("source")]) if isinstance(source, Mapping)]
    ours = [place for place, source in enumerate(sources) if _same_repository(str(source.get("repoURL", "")), repository)]
    if not ours:  # Argo CD may reach the same repository by another address; a commit id says the rest
        ours = [place for place, source in enumerate(sources) if not source.get("chart")]

    def revisions(node: Any) -> tuple[str, ...]:
        if not isinstance(node, Mapping):
            return ()
        listed = node.get("revisions") or []
        if several and listed:
            return tuple(str(listed[place]) for place in ours if place < len(listed))
        return (str(node["revision"]),) if node.get("revision") else ()

    sync, health = _mapping(status, "sync"), _mapping(status, "health")
    state = _mapping(status, "operationState")
    finished, looked = _time(state.get("finishedAt")), _time(status.get("reconciledAt"))
    automated = _mapping(_mapping(spec, "syncPolicy"), "automated") if "automated" in _mapping(spec, "syncPolicy") else None
    history = [entry for entry in status.get("history") or [] if isinstance(entry, Mapping)]
    return Application(
        automated=automated is not None and automated.get("enabled") is not False,
        branches=tuple(str(sources[place].get("targetRevision") or "HEAD") for place in ours),
        revisions=revisions(sync),
        sync=str(sync.get("status") or "Unknown"),
        health=str(health.get("status") or "Unknown"),
        health_message=str(health.get("message") or ""),
        phase=str(state["phase"]) if state.get("phase") else None,
        operation=str(state.get("startedAt") or ""),
        operation_revisions=revisions(state.get("syncResult")) or revisions(_mapping(_mapping(state, "operation"), "sync")),
        operation_message=" ".join(str(state.get("message") or "").split()),
        pending=bool(answer.get("operation")),
        seen_after_operation=finished is None or (looked is not None and looked >= finished),
        complaints=tuple(
            f"{entry.get('type')}: {' '.join(str(entry.get('message') or '').split())}"
            for entry in status.get("conditions") or []
            if isinstance(entry, Mapping) and _BROKEN.search(str(entry.get("type", "")))
        ),
        deployed=revisions(history[-1]) if history else (),
    )


class ArgoCDDeployer:
    """One application of an Argo CD server.

    Parameters
    ----------
    address
        ``https://host[:port]``; ``http`` on loopback only.
    application
        Its name.
    includes
        Whether a revision has a commit in its history (``GitOpsRepo.includes``): a commit that came after ours, by whoever, has ours in it.
    repository, branch
        What the loop pushes to, to find our source among several and to see that the application follows the branch.
    contour
        For the record.
    token_env
        Name of the environment variable with the token; read at each call, so that a new one needs no restart.
    project, namespace
        Where the application lies, if that must be said.
    ca_file
        Certificates to trust instead of the system's.
    interval, request_seconds
        Between two looks; for one call. A refresh answers when Argo CD has looked.
    stuck
        Seconds after which a running operation on another commit is ended: one that is tried again and again keeps ours waiting, also the way back
        (argo-cd #11494).
    degraded
        Seconds without a healthy moment after which ``Degraded`` on our commit is final: Argo CD itself never goes back (argo-cd #11713).
    """

    def __init__(
        self,
        address: str,
        application: str,
        includes: Includes,
        *,
        repository: str,
        branch: str,
        contour: str,
        token_env: str,
        project: str | None = None,
        namespace: str | None = None,
        ca_file: Path | None = None,
        interval: float = 1.0,
        request_seconds: float = 30.0,
        stuck: float = 60.0,
        degraded: float = 60.0,
    ) -> None:
        parts = urlsplit(address)
        if parts.username or parts.password or not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
            raise BadInput("deploy.address is not https://host[:port] without a user (http is for loopback only): a token would be sent to it.")
        self._address, self._application, self._includes = address.rstrip("/"), application, includes
        self._repository, self._branch, self._contour = repository, branch, contour
        self._token_env, self._ca_file = token_env, ca_file
        self._query = {name: value for name, value in (("project", project), ("appNamespace", namespace)) if value is not None}
        self._interval, self._request_seconds, self._stuck, self._degraded = interval, request_seconds, stuck, degraded
        self._path = f"/api/v1/applications/{quote(application, safe='')}"

    # ------------------------------------------------------------------ the protocol

    def check(self) -> None:
        """Whether a commit would come into force at all.

        Raises
        ------
        Refused
            The application does not sync by itself, or follows another branch.
        Unavailable
            Argo CD does not answer, or not to us.
        """
        why = self._hopeless(self._read())
        if why is not None:
            raise Refused(why)

    def sync(self, commit: str, *, timeout: float) -> SyncResult:
        """Refresh, then wait for our revision AND Synced AND Healthy AND no operation of ours that runs or failed."""
        started = time.monotonic()
        watch = _Watch(self, commit, started + timeout)
        state, reason = watch.until_settled()
        return SyncResult(
            commit=commit, state=state, revision=watch.revision, reason=reason, seconds=time.monotonic() - started, done=tuple(watch.done)
        )  # fmt: skip

    def status(self) -> SyncStatus:
        """The application as it is now, without asking it to look again."""
        found = self._read()
        synced = found.sync == "Synced" and not found.running and not found.complaints
        last = found.revisions if synced else found.deployed
        return SyncStatus(
            contour=self._contour,
            revision=found.revisions[0] if found.revisions else None,
            applied_revision=last[0] if last else None,
            release_sha256=None,
            synced=synced,
            error=None if synced and found.health == "Healthy" else (found.trouble() or f"{found.sync}, health {found.health}"),
            at=utc_now(),
            health=found.health,
        )

    # ------------------------------------------------------------------ HTTP

    def _hopeless(self, found: Application) -> str | None:
        if not found.automated:
            return f"Argo CD application {self._application} has no automated sync, so no commit comes into force. Turn it on (syncPolicy.automated)."
        strange = [name for name in found.branches if name not in (self._branch, f"refs/heads/{self._branch}", "HEAD")]
        if strange or not found.branches:
            what = strange[0] if strange else "no Git repository"
            return f"Argo CD application {self._application} follows {what}, the loop pushes to {self._branch}. Set its targetRevision."
        return None

    def _read(self, refresh: bool = False) -> Application:
        answer = self._call("GET", self._path, {"refresh": "normal"} if refresh else {})
        try:
            return read_application(answer, self._repository)
        except BadInput as error:
            raise Unavailable(f"{self._address}{self._path}: {error}") from error

    def _terminate(self) -> str:
        """End the running operation; what was done, in words."""
        try:
            self._call("DELETE", f"{self._path}/operation", {})
        except Unavailable as error:
            return f"terminate (did not work: {error})"
        return "terminate"

    def _call(self, method: str, path: str, query: Mapping[str, str]) -> Mapping[str, Any]:
        import httpx

        url = f"{self._address}{path}"
        try:
            with httpx.Client(
                timeout=self._request_seconds, verify=self._verify(), trust_env=False, headers={"Authorization": f"Bearer {self._token()}"}
            ) as client:  # fmt: skip
                response = client.request(method, url, params={**query, **self._query})
        except httpx.HTTPError as error:
            kind = Unavailable if "CERTIFICATE_VERIFY_FAILED" in str(error) else _Temporary
            raise kind(
                f"Argo CD at {self._address} does not answer ({type(error).__name__}: {error}). Check the address, the network and deploy.caFile."
            ) from error
        return self._understood(response)

    def _understood(self, response: httpx.Response) -> Mapping[str, Any]:
        try:
            body = response.json()
        except ValueError:
            body = None
        if response.is_success and isinstance(body, Mapping):
            return body
        said = " ".join(str(body.get("message") or body.get("error") or "") for body in [body] if isinstance(body, Mapping)).strip()[:300]
        status, token = response.status_code, f"the token in {self._token_env}"
        if response.is_success or response.is_redirect:
            raise Unavailable(f"{self._address} answers, but not as Argo CD's API does (status {status}). Is a login page in front of it?")
        if status == 401:
            raise Unavailable(f"Argo CD refuses {token} ({said or 'status 401'}). Make a new one for the project's role.")
        if status in (403, 404):
            raise Unavailable(
                f"Argo CD does not show application {self._application} to {token} ({said or f'status {status}'}). "
                "It hides what a role may not see: check the name, deploy.project and the role's policy."
            )
        kind = _Temporary if status >= 500 or status in (408, 425, 429) else Unavailable
        raise kind(f"Argo CD answers status {status} to {response.request.method} of application {self._application}: {said or 'no message'}.")

    def _token(self) -> str:
        token = os.environ.get(self._token_env, "").strip()
        if not token:
            raise Missing(f"the environment variable {self._token_env} (deploy.tokenEnv) is empty. Put a token of an Argo CD project role into it.")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise BadInput(f"the environment variable {self._token_env} (deploy.tokenEnv) holds no token: only printable ASCII without spaces can be one.")
        return token

    def _verify(self) -> Any:
        if urlsplit(self._address).scheme == "http":
            return True
        import ssl

        try:
            return ssl.create_default_context(cafile=None if self._ca_file is None else str(self._ca_file))
        except (OSError, ssl.SSLError) as error:
            raise Missing(f"{self._ca_file}: no certificates can be read from it ({error}). Put Argo CD's CA there (PEM), or correct deploy.caFile.") from error


class _Watch:
    """One wait for one commit."""

    def __init__(self, server: ArgoCDDeployer, commit: str, deadline: float) -> None:
        self._server, self._commit, self._deadline = server, commit, deadline
        self._known: dict[str, bool] = {}
        self._running_since: tuple[str, float] | None = None
        self._degraded_since: float | None = None
        self._ended: set[str] = set()
        self._good = False
        self._last: Application | None = None
        self.revision: str | None = None
        self.done: list[str] = []

    def until_settled(self) -> tuple[State, str]:
        reason, failures, refreshed, answered = "it was not asked", 0, float("-inf"), False
        while True:
            again = time.monotonic() - refreshed > 15 * self._server._interval
            try:
                found = self._server._read(refresh=again)
                if again:
                    refreshed = time.monotonic()
                    self.done.append("refresh")
                failures, answered = 0, True
                state, reason = self._judge(found)
                if state is not None:
                    return state, reason
                self._end_what_hangs(found)
                if not found.seen_after_operation:
                    refreshed = float("-inf")
            except _Temporary as error:
                failures, reason = failures + 1, str(error)
                self._good = False
            except PredatorError as error:
                return "unreachable", str(error)
            pause = self._server._interval * min(8, 2 ** max(0, failures - 1))
            if time.monotonic() + pause > self._deadline:
                break
            time.sleep(pause)
        if failures or not answered:
            return "unreachable", reason
        self._end_ours()
        return "late", f"Argo CD did not bring {self._commit[:12]} into force in time: {reason}."

    def _has_it(self, revisions: tuple[str, ...]) -> bool:
        for revision in revisions:
            if revision not in self._known:
                self._known[revision] = self._server._includes(revision, self._commit)
        return bool(revisions) and all(self._known[revision] for revision in revisions)

    def _judge(self, found: Application) -> tuple[State | None, str]:
        """The end of the wait, or why it goes on."""
        good, self._good = self._good, False
        self._last = found
        self.revision = found.deployed[0] if found.deployed else None
        hopeless = self._server._hopeless(found)
        if hopeless is not None:
            return "refused", hopeless
        ours = self._has_it(found.revisions)
        if not found.running and found.phase in _FAILED and self._has_it(found.operation_revisions):
            return "refused", f"Argo CD could not apply it: {found.trouble()}."
        trouble = found.trouble()
        also = f"; {trouble}" if trouble else ""
        if not ours:
            compared = ", ".join(revision[:12] for revision in found.revisions) or "nothing"
            return None, f"it looked at {compared} last, {found.sync}, {found.health}{also}"
        if found.running:
            return None, f"an operation is {found.phase or 'about to begin'}{also}"
        if found.sync != "Synced":
            return None, f"{found.sync}{also}"
        if found.health == "Degraded" and found.seen_after_operation:
            self._degraded_since = self._degraded_since or time.monotonic()
            if time.monotonic() - self._degraded_since >= self._server._degraded:
                return "refused", f"Argo CD applied it and calls the application Degraded{also}; it does not go back by itself."
            return None, f"Degraded{also}"
        if found.health == "Healthy":
            self._degraded_since = None
        if found.health != "Healthy":
            return None, f"Synced, health {found.health}{also}"
        if not found.seen_after_operation:
            return None, "Healthy, but looked at before the operation ended"
        if not good:  # once may be a moment between two states
            self._good = True
            return None, "Synced and Healthy once"
        self.revision = found.revisions[0]
        return "in_force", "Argo CD says that it is synced and healthy at this commit"

    def _end_what_hangs(self, found: Application) -> None:
        """End an operation on another commit that does not come to an end."""
        if found.phase != "Running" or self._has_it(found.operation_revisions):
            self._running_since = None
            return
        if self._running_since is None or self._running_since[0] != found.operation:
            self._running_since = (found.operation, time.monotonic())
        if time.monotonic() - self._running_since[1] >= self._server._stuck and found.operation not in self._ended:
            self._ended.add(found.operation)
            self.done.append(self._server._terminate())

    def _end_ours(self) -> None:
        """Out of time: an operation of ours that still runs would keep the way back waiting."""
        if self._last is not None and self._last.phase == "Running" and self._last.operation not in self._ended:
            self.done.append(self._server._terminate())


def _mapping(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = node.get(key)
    return found if isinstance(found, Mapping) else {}


def _time(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _same_repository(left: str, right: str) -> bool:
    """Whether two addresses name one repository: scheme, user, port and a final ``.git`` do not matter."""
    return bool(left) and _place(left) == _place(right)


def _place(url: str) -> tuple[str, str]:
    scp = re.fullmatch(r"(?:[^@/]+@)?([^:/]+):(?!//)(.+)", url)
    if scp is not None and "://" not in url:
        host, path = scp[1], scp[2]
    else:
        parts = urlsplit(url)
        host, path = parts.hostname or "", parts.path if parts.scheme else url
    return host.lower(), path.strip("/").removesuffix(".git")
