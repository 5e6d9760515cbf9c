"""How a source is reached over HTTP: credentials from the environment, time limits, one wording for every failure.

What belongs here: one request and what may go wrong with it. What must not: what any source answers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from predator_si.contour import Credential
from predator_si.errors import BadInput, Unavailable

TIMEOUT = 10.0
"""Seconds for connecting, and for each answer."""


def secret(credential: Credential, env: Mapping[str, str] | None = None) -> str:
    """The token or password that the credential's variable holds.

    Raises
    ------
    Unavailable
        The variable is not set.
    """
    env = os.environ if env is None else env
    name = credential.token_env or credential.password_env or ""
    value = env.get(name)
    if not value:
        raise Unavailable(f"the environment variable {name} is not set, which holds the {'token' if credential.token_env else 'password'}; set it")
    return value


class Endpoint:
    """One HTTP API. Redirects are not followed and proxies of the environment not asked: a secret goes to the address in the contour and nowhere else.

    Parameters
    ----------
    address
        ``http(s)://host:port[/path]``.
    credential
        Null: no authentication.
    env
        Where the credential's variable is looked up.
    """

    def __init__(self, address: str, credential: Credential | None = None, *, env: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> None:
        import httpx

        headers, auth = {}, None
        if credential is not None and credential.token_env is not None:
            headers["Authorization"] = f"Bearer {secret(credential, env)}"
        elif credential is not None:
            auth = httpx.BasicAuth(credential.user or "", secret(credential, env))
        self.address = address.rstrip("/")
        self._client = httpx.Client(headers=headers, auth=auth, timeout=timeout, trust_env=False, follow_redirects=False)

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._client.close()

    def ask(self, method: str, path: str, *, missing_ok: bool = False, **request: Any) -> dict[str, Any] | None:
        """The JSON object that the API answers; null for a 404 where that is allowed.

        Raises
        ------
        BadInput
            It says that the request itself is wrong (400, 422).
        Unavailable
            It cannot be reached, refuses us, or answers something else than a JSON object; the message is short and holds no secret.
        """
        import httpx

        try:
            answer = self._client.request(method, f"{self.address}{path}", **request)
        except httpx.TimeoutException as error:
            raise Unavailable(f"no answer from {self.address}{path} in time ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            raise Unavailable(f"{self.address} cannot be reached ({type(error).__name__}: {error})") from error
        if answer.status_code == 404 and missing_ok:
            return None
        if answer.status_code in (401, 403):
            raise Unavailable(f"{self.address}{path} refuses us ({answer.status_code}); check this source's credentials")
        try:
            found = answer.json()
        except ValueError as error:
            raise Unavailable(f"{self.address}{path} answers {answer.status_code} without JSON") from error
        if answer.status_code in (400, 422):
            raise BadInput(f"{self.address}{path} does not take this request: {_said(found)}")
        if answer.status_code != 200 or not isinstance(found, dict):
            raise Unavailable(f"{self.address}{path} answers {answer.status_code}: {_said(found)}")
        return found


def _said(body: Any) -> str:
    """What an error's body says, short: ``error`` or ``message`` as these APIs spell it."""
    if isinstance(body, dict):
        inner = body.get("error", body.get("message", body.get("detail", "")))
        body = inner.get("reason", inner.get("type", "")) if isinstance(inner, dict) else inner
    return str(body)[:200] or "no reason given"
