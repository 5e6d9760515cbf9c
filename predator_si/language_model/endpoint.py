"""Where a model is, what its tokens cost, and one HTTP call to it.

What belongs here: the wire: address, key, prices, limits, what an answer's usage says. What must not: budgets, caches, waiting between attempts.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from predator_si.errors import Missing, Unavailable

if TYPE_CHECKING:
    import httpx

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_BYTES_PER_TOKEN = 2.0
"""Fewer than any tokenizer needs on average, so that the estimate before a call is not below what it will cost."""
_MOST_BYTES_PER_TOKEN = 16
"""More than any tokenizer reaches on average: usage that claims fewer tokens than this many bytes each is not believed."""
_MESSAGE_TOKENS = 16
_MOST_TOKENS = 10**9
_OVERHEAD = 65_536
"""Bytes of an answer beside the message itself."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is and what it costs.

    Attributes
    ----------
    base_url
        Up to and without ``/v1``.
    key_env
        Name of the environment variable that holds the key; null sends none. The key itself is never stored or shown.
    usd_per_million_in, usd_per_million_out
        Prices of tokens; 0 for a model of one's own.
    timeout_seconds
        For a whole call, however slowly its bytes drip.
    """

    base_url: str
    model: str
    key_env: str | None = None
    usd_per_million_in: float = 0.0
    usd_per_million_out: float = 0.0
    max_answer_tokens: int = 32
    timeout_seconds: float = 60.0
    attempts: int = 4

    @property
    def url(self) -> str:
        """The address that is asked."""
        return f"{self.base_url.rstrip('/')}/v1/chat/completions"

    def price(self, tokens_in: int, tokens_out: int) -> float:
        """USD."""
        return (tokens_in * self.usd_per_million_in + tokens_out * self.usd_per_million_out) / 1e6

    def estimate(self, messages: Sequence[dict[str, str]]) -> tuple[int, int]:
        """Tokens in and out that a call will hardly exceed."""
        return int(_size(messages) / _BYTES_PER_TOKEN) + _MESSAGE_TOKENS, self.max_answer_tokens

    def headers(self) -> dict[str, str]:
        """The headers that carry the key.

        Raises
        ------
        Missing
            The key's environment variable is not set.
        """
        if self.key_env is None:
            return {}
        key = os.environ.get(self.key_env)
        if not key:
            raise Missing(f"{self.model} at {self.base_url} needs the environment variable {self.key_env}, which is not set; set it, or switch the model off.")
        return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Completion:
    """A chat completion as it came, whatever it is."""

    content: Any

    @property
    def text(self) -> str | None:
        """The message of the first choice; null where there is none."""
        try:
            text = self.content["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            return None
        return text if isinstance(text, str) else None

    def usage(self, messages: Sequence[dict[str, str]]) -> tuple[int, int] | None:
        """Tokens in and out as the answer says them; null where it says nothing that can be.

        More than was allowed is believed, because it will be charged; less than any tokenizer could make of these texts is not.
        """
        try:
            used = self.content["usage"]["prompt_tokens"], self.content["usage"]["completion_tokens"]
        except (KeyError, TypeError):
            return None
        if not all(type(count) is int and 0 <= count <= _MOST_TOKENS for count in used):
            return None
        least = _size(messages) // _MOST_BYTES_PER_TOKEN, len((self.text or "").encode()) // _MOST_BYTES_PER_TOKEN
        return None if used[0] < least[0] or used[1] < least[1] else used


@dataclass(frozen=True)
class Failure:
    """A call that brought no completion."""

    problem: str
    may_be_charged: bool
    """Whether the model may have worked for it: the question went out and no refusal came back."""
    wait: float | None = None
    """Seconds that the endpoint asks to wait."""


def call(client: httpx.Client, endpoint: Endpoint, messages: Sequence[dict[str, str]], spelling: dict[str, str]) -> Completion | Failure:
    """One call, answered or failed.

    ``spelling`` is changed where the endpoint says (HTTP 400 naming the parameter) that it wants ``max_completion_tokens`` or takes no ``temperature``, and the
    call is a failure that may be tried again.

    Raises
    ------
    Unavailable
        The endpoint refuses the key, the model or the request: asking again will not help.
    """
    import httpx

    body: dict[str, Any] = {"model": endpoint.model, "messages": list(messages), spelling.get("max_tokens", "max_tokens"): endpoint.max_answer_tokens}
    if "temperature" not in spelling:
        body["temperature"] = 0
    deadline = time.monotonic() + endpoint.timeout_seconds
    try:
        with client.stream("POST", endpoint.url, json=body) as response:
            raw = bytearray()
            for chunk in response.iter_bytes():
                raw += chunk
                if len(raw) > endpoint.max_answer_tokens * 8 * _MOST_BYTES_PER_TOKEN + _OVERHEAD:
                    return Failure(f"more than {len(raw):,} bytes", True)
                if time.monotonic() > deadline:
                    return Failure(f"not finished after {endpoint.timeout_seconds:g} s", True)
            status, told = response.status_code, response.headers.get("Retry-After", "")
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol) as error:
        return Failure(type(error).__name__, False)
    except httpx.HTTPError as error:
        return Failure(type(error).__name__, True)
    try:
        content = json.loads(bytes(raw))
    except (ValueError, RecursionError):
        content = None
    if status == 200:
        return Completion(content)
    if status in RETRIED:
        return Failure(f"HTTP {status}", False, min(float(told), 60.0) if told.isascii() and told.isdigit() else None)
    if status == 400 and _respelled(content, spelling, body):
        return Failure("HTTP 400", False, 0.0)
    raise Unavailable(f"{endpoint.url} refuses (HTTP {status}): check key, model {endpoint.model!r} and address; nothing came of this call.")


def _respelled(content: Any, spelling: dict[str, str], body: dict[str, Any]) -> bool:
    """Whether the refusal is about a parameter of this call that some models spell otherwise; the next call does."""
    try:
        parameter = content["error"]["param"]
    except (KeyError, TypeError):
        return False
    known = {"max_tokens": "max_completion_tokens", "temperature": ""}
    if not isinstance(parameter, str) or parameter not in known or parameter not in body:
        return False
    spelling[parameter] = known[parameter]
    return True


def _size(messages: Sequence[dict[str, str]]) -> int:
    return sum(len(message["content"].encode()) for message in messages)
