"""``OptimizerClient``: the calls of the REST facade from Python.

What belongs here: sending, and errors as those of this house. What must not: what a call means (CONTRACT.md section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self

import httpx

from predator_si.errors import BadInput, Missing, PredatorError, Refused, Unavailable

BASE = "/api/v1/optimizer"
_ERRORS: dict[int, type[PredatorError]] = {404: Missing, 409: Refused, 401: Refused, 403: Refused, 421: Refused, 429: Unavailable}


class OptimizerClient:
    """One facade.

    Parameters
    ----------
    url
        Like ``http://127.0.0.1:8000``.
    token
        A bearer token; contour ``local`` needs none on its own machine.
    seconds
        How long an answer may take.
    transport
        Stands in for the network.

    Examples
    --------
    >>> with OptimizerClient("http://127.0.0.1:8000") as optimizer:  # doctest: +SKIP
    ...     optimizer.trigger(force=True)["status"]
    'started'
    """

    def __init__(self, url: str, token: str | None = None, *, seconds: float = 30.0, transport: httpx.BaseTransport | None = None) -> None:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        limits = httpx.Timeout(seconds, connect=3.0)
        self._client = httpx.Client(base_url=url, headers=headers, timeout=limits, transport=transport, trust_env=False)
        self.url, self._seconds = url, seconds

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let the connection go."""
        self._client.close()

    # ------------------------------------------------------------------ calls

    def status(self) -> dict[str, Any]:
        """What the loop does now."""
        return self._ask("GET", "/status")

    def metrics(self) -> dict[str, Any]:
        """The newest snapshot."""
        return self._ask("GET", "/metrics")

    def history(self, limit: int = 20, cursor: str | None = None) -> dict[str, Any]:
        """A page of the ledger, newest first."""
        return self._page("/history", limit, cursor)

    def records(self, page: int = 200) -> Iterator[dict[str, Any]]:
        """Every ledger record, newest first."""
        return self._all(self.history, "history", page)

    def quality_gates(self) -> dict[str, Any]:
        """The gates and what they say."""
        return self._ask("GET", "/quality-gates")

    def override_gate(self, metric: str, threshold: float, *, expires_in_minutes: int = 1440, reason: str = "") -> dict[str, Any]:
        """Another threshold for a time."""
        return self._ask("POST", f"/quality-gates/{metric}", {"threshold": threshold, "expires_in_minutes": expires_in_minutes, "reason": reason})

    def end_override(self, metric: str, *, reason: str = "") -> dict[str, Any]:
        """The contour's own threshold again."""
        return self._ask("POST", f"/quality-gates/{metric}/end", {"reason": reason})

    def trigger(
        self,
        *,
        force: bool = False,
        target: Literal["all", "models", "infrastructure"] | None = None,
        reason: str = "",
        wait: float = 0.0,
        key: str | None = None,
    ) -> dict[str, Any]:
        """Begin a cycle; ``key`` makes a repetition of the same call harmless."""
        asked = {"force": force, "target": target, "reason": reason, "wait": float(wait)}
        return self._ask("POST", "/trigger", body=asked, key=key, seconds=self._seconds + wait)

    def start(self, reason: str = "") -> dict[str, Any]:
        """Lift the kill switch and let the loop run."""
        return self._ask("POST", "/start", body={"reason": reason})

    def stop(self, reason: str = "") -> dict[str, Any]:
        """Press the kill switch."""
        return self._ask("POST", "/stop", body={"reason": reason})

    def rollback(self, environment: str, to_version: str | None = None, reason: str = "") -> dict[str, Any]:
        """Take the newest release back."""
        return self._ask("POST", "/rollback", body={"environment": environment, "to_version": to_version, "reason": reason}, seconds=200.0)

    def approvals(self, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        """A page of the queue, newest first."""
        return self._page("/approvals", limit, cursor)

    def all_approvals(self, page: int = 200) -> Iterator[dict[str, Any]]:
        """Every question that was ever asked, newest first."""
        return self._all(self.approvals, "approvals", page)

    def decide(self, cycle_id: str, decision: Literal["approve", "reject"], reason: str) -> dict[str, Any]:
        """Approve or reject a release that waits."""
        return self._ask("POST", f"/approvals/{cycle_id}", body={"decision": decision, "reason": reason})

    def champions(self, limit: int = 50, cursor: str | None = None) -> dict[str, Any]:
        """A page of who served when and why, newest first."""
        return self._page("/champions", limit, cursor)

    def all_champions(self, page: int = 200) -> Iterator[dict[str, Any]]:
        """Everybody who ever served, newest first."""
        return self._all(self.champions, "champions", page)

    def cycles(self, limit: int = 20, cursor: str | None = None) -> dict[str, Any]:
        """A page of the cycles, newest first."""
        return self._page("/cycles", limit, cursor)

    def all_cycles(self, page: int = 200) -> Iterator[dict[str, Any]]:
        """Every cycle of the contour, newest first."""
        return self._all(self.cycles, "cycles", page)

    def cycle(self, cycle_id: str) -> dict[str, Any]:
        """One cycle's story."""
        return self._ask("GET", f"/cycles/{cycle_id}")

    def verdict(self, cycle_id: str) -> dict[str, Any]:
        """A cycle's newest verdict."""
        return self._ask("GET", f"/cycles/{cycle_id}/verdict")

    def feedback(self, query_id: str, **said: Any) -> dict[str, Any]:
        """A ``score``, or ``document_id`` and ``relevant``."""
        return self._ask("POST", "/feedback", body={"query_id": query_id, **said})

    # ------------------------------------------------------------------ the wire

    def _page(self, path: str, limit: int, cursor: str | None) -> dict[str, Any]:
        return self._ask("GET", path, {"limit": limit, **({"cursor": cursor} if cursor is not None else {})})

    def _all(self, page: Callable[[int, str | None], dict[str, Any]], key: str, limit: int) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            found = page(limit, cursor)
            yield from found[key]
            cursor = found["next_cursor"]
            if cursor is None:
                return

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        seconds: float | None = None,
    ) -> dict[str, Any]:
        headers = {} if key is None else {"Idempotency-Key": key}
        limit = httpx.USE_CLIENT_DEFAULT if seconds is None else seconds
        try:
            answer = self._client.request(method, BASE + path, params=query, json=body, headers=headers, timeout=limit)
            content = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"{self.url} does not answer as the REST API does ({type(error).__name__}). Start it with `predator-si up`.") from error
        if answer.is_success and isinstance(content, dict):
            return content
        said = content if isinstance(content, dict) else {}
        kind = _ERRORS.get(answer.status_code, Unavailable if answer.status_code >= 500 else BadInput)
        raise kind(
            f"{self.url}{BASE}{path}: {said.get('detail', f'HTTP {answer.status_code}')} {said.get('next_step', '')} (request {said.get('request_id')})".strip()
        )
