"""Who asks, and whether they may: bearer tokens, the proxy's word where a contour trusts it, and the open door of contour ``local``.

What belongs here: identities, the table of roles, lockout, rate limits, Host and Origin. What must not: what a call does.

Contour ``local`` lets a caller without a token act as admin, because the guide's curl lines carry none. That holds on the loopback interface only, for
requests that name this machine in ``Host``, come from no other ``Origin``, and were not passed on by a proxy. No other contour has such a door, and no
setting makes one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from predator_si.api.tokens import PATTERN, Role, Token, TokenFile
from predator_si.contour_api import Api
from predator_si.errors import BadInput

BASE = "/api/v1/optimizer"
NEEDS: dict[tuple[str, str], Role] = {
    ("GET", f"{BASE}/status"): Role.VIEWER,
    ("GET", f"{BASE}/metrics"): Role.VIEWER,
    ("GET", f"{BASE}/history"): Role.VIEWER,
    ("GET", f"{BASE}/quality-gates"): Role.VIEWER,
    ("GET", f"{BASE}/approvals"): Role.VIEWER,
    ("GET", f"{BASE}/champions"): Role.VIEWER,
    ("GET", f"{BASE}/cycles"): Role.VIEWER,
    ("GET", f"{BASE}/cycles/{{cycle_id}}"): Role.VIEWER,
    ("GET", f"{BASE}/cycles/{{cycle_id}}/verdict"): Role.VIEWER,
    ("GET", "/"): Role.VIEWER,
    ("GET", "/operations/cycles/{cycle_id}"): Role.VIEWER,
    ("GET", "/operations/audit"): Role.VIEWER,
    ("GET", "/operations/results"): Role.VIEWER,
    ("GET", "/operations/commits/{commit}"): Role.VIEWER,
    ("GET", "/operations/kill-switch"): Role.VIEWER,
    ("GET", "/operations/{rest}"): Role.VIEWER,
    ("POST", "/operations/cycles/{cycle_id}/decision"): Role.APPROVER,
    ("POST", "/operations/kill-switch"): Role.ADMIN,
    ("GET", "/windows/{name}"): Role.VIEWER,
    ("GET", "/cycles/{cycle_id}"): Role.VIEWER,
    ("GET", "/cycles/{cycle_id}/dataset"): Role.VIEWER,
    ("GET", "/cycles/{cycle_id}/trial"): Role.VIEWER,
    ("POST", f"{BASE}/trigger"): Role.OPERATOR,
    ("POST", f"{BASE}/feedback"): Role.OPERATOR,
    ("POST", "/alerts/alertmanager"): Role.OPERATOR,
    ("POST", f"{BASE}/approvals/{{cycle_id}}"): Role.APPROVER,
    ("POST", f"{BASE}/quality-gates/{{metric}}"): Role.ADMIN,
    ("POST", f"{BASE}/quality-gates/{{metric}}/end"): Role.ADMIN,
    ("POST", f"{BASE}/start"): Role.ADMIN,
    ("POST", f"{BASE}/stop"): Role.ADMIN,
    ("POST", f"{BASE}/rollback"): Role.ADMIN,
}
"""The least role of every guarded call. A call that does not stand here or under :data:`PUBLIC` is refused to everybody."""
PUBLIC = frozenset({
    ("GET", "/health"), ("GET", "/ready"), ("GET", "/metrics"), ("GET", "/docs"), ("GET", "/openapi.json"), ("HEAD", "/openapi.json"),
    ("GET", "/operations/static/{name}"), ("POST", "/operations/sign-in"), ("POST", "/operations/sign-out"),
})  # fmt: skip
"""What anybody may call: whether it lives, its numbers, what it understands, the pages' style and script, coming in and going out."""
_SWITCHES = frozenset({f"{BASE}/stop", "/operations/kill-switch"})
"""Acts with a share of requests of their own: who triggered too often can stop all the same."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_PASSED_ON = ("x-forwarded-for", "x-forwarded-host", "x-real-ip", "forwarded", "via")
_FAILURES = 10
"""Wrong tokens of one id from one address within :data:`_LOCKED_SECONDS` before that pair is locked out for as long."""
_LOCKED_SECONDS = 900.0
_REMEMBERED = 4096
_HASHES = 2
_MOST_WAITING = 32
"""Tokens whose hash is computed at once, and that may wait for it."""


@dataclass(frozen=True)
class Caller:
    """Who asks. ``actor`` is their name in the ledger."""

    name: str
    role: Role
    how: Literal["token", "proxy", "local"]

    @property
    def actor(self) -> str:
        """``api:<name>``."""
        return f"api:{self.name}"


class Bucket:
    """Token buckets by identity: ``rate`` a second, ``burst`` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, burst, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, who: str) -> float:
        """0 where one more is allowed, else the seconds until it is."""
        now = self._clock()
        left, at = self._left.pop(who, (self.burst, now))
        left = min(self.burst, left + (now - at) * self.rate)
        wait = 0.0 if left >= 1.0 else (1.0 - left) / self.rate
        self._left[who] = (left - (1.0 if wait == 0.0 else 0.0), now)
        while len(self._left) > _REMEMBERED:
            self._left.popitem(last=False)
        return wait


class Lockout:
    """Pairs of address and token id that sent too many wrong tokens.

    Behind an ingress everybody has one address, and an id is no secret, so a lock holds against wrong tokens alone: a right one, which holds 256 random
    bits, is never kept out by somebody else's wrong ones. What the lock takes from an attacker is the answer whether a token was right.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[tuple[str, str], list[float]] = OrderedDict()

    def failed(self, address: str, token_id: str) -> float:
        """One more wrong token; how many seconds the pair stays locked out, 0 where it is not."""
        now, pair = self._clock(), (address, token_id)
        recent = [at for at in self._failures.pop(pair, []) if now - at < _LOCKED_SECONDS]
        locked = _LOCKED_SECONDS - (now - recent[-1]) if len(recent) >= _FAILURES else 0.0
        self._failures[pair] = recent if locked else [*recent, now]
        while len(self._failures) > _REMEMBERED:
            self._failures.popitem(last=False)
        return locked


class Door:
    """Lets callers in, or says why not.

    Parameters
    ----------
    contour
        ``local`` has the open door.
    tokens
        Of this installation.
    rules
        The contour's ``api`` block.
    """

    def __init__(self, contour: str, tokens: TokenFile, rules: Api, clock: Callable[[], float] = time.monotonic) -> None:
        self.open_locally = contour == "local"
        self.tokens = tokens
        self._rules = rules
        self._key = secrets.token_bytes(32)
        self._verified: OrderedDict[bytes, Token] = OrderedDict()
        self._hashing = asyncio.Semaphore(_HASHES)
        self._waiting = 0
        self._lockout = Lockout(clock)
        self._reads = Bucket(rules.reads_per_second, rules.reads_per_second * 2, clock)
        self._writes = Bucket(rules.writes_per_minute / 60.0, rules.writes_per_minute, clock)
        self._switches = Bucket(rules.writes_per_minute / 60.0, rules.writes_per_minute, clock)
        self._proxies = [] if rules.proxy is None else [ipaddress.ip_network(one) for one in rules.proxy.addresses]

    # ------------------------------------------------------------------ from where

    def check_place(self, request: Request) -> None:
        """Refuse what a page of somebody else could make a browser send.

        Raises
        ------
        HTTPException
            421 for a name that is not this host's, 403 for a foreign origin.
        """
        host = request.headers.get("host", "")
        if self.open_locally and _hostname(host) not in LOOPBACK:
            raise HTTPException(421, "contour local answers to 127.0.0.1, localhost and ::1 only")
        if self._rules.hosts and not self.open_locally and _hostname(host) not in {*self._rules.hosts, *LOOPBACK}:
            raise HTTPException(421, "this API does not go by that name; selfImprovement.api.hosts lists its names")
        origin = request.headers.get("origin")
        if origin is not None and origin not in self._rules.cors_origins and urlsplit(_plain(origin)).netloc.lower() != host.lower():
            raise HTTPException(403, "a page of another origin may not use this API")
        if origin is None and request.headers.get("sec-fetch-site") == "cross-site" and request.method != "GET":
            raise HTTPException(403, "a page of another site may not use this API")

    # ------------------------------------------------------------------ who

    async def admit(self, request: Request, needed: Role) -> Caller:
        """The caller, where they may make this call.

        Raises
        ------
        HTTPException
            401 nobody known, 403 a role too low, 429 too much or locked out, 503 the tokens cannot be read.
        """
        caller = await self.identify(request)
        if caller.role.rank < needed.rank:
            raise HTTPException(403, f"{caller.name} is {caller.role.value}; this call needs {needed.value}")
        reads = request.method in ("GET", "HEAD")
        bucket = self._reads if reads else self._switches if request.url.path in _SWITCHES else self._writes
        wait = bucket.take(f"{caller.how}:{caller.name}")
        if wait > 0:
            raise HTTPException(429, "more requests than this identity may send", {"Retry-After": str(max(1, round(wait)))})
        return caller

    async def identify(self, request: Request) -> Caller:
        """Who asks, by token, by the proxy's word, or as this machine's user."""
        given = request.headers.getlist("authorization")
        if given:
            return await self._by_token(given, _address(request))
        named = self._by_proxy(request)
        if named is not None:
            return named
        if self.open_locally and _is_loopback(_address(request)) and not any(name in request.headers for name in _PASSED_ON):
            return Caller("local", Role.ADMIN, "local")
        raise HTTPException(401, "this call needs a bearer token", _CHALLENGE)

    async def _by_token(self, given: list[str], address: str) -> Caller:
        scheme, _, text = given[0].partition(" ")
        text = text.strip()
        match = PATTERN.fullmatch(text)
        if len(given) > 1 or scheme.lower() != "bearer" or match is None:
            raise self._wrong(address, "", "the header Authorization holds no token of this API")
        mark = hmac.digest(self._key, text.encode(), hashlib.sha256)
        try:
            token = self._verified.get(mark)
            if token is None or self.tokens.current(match[1]) != token:  # expired, revoked, or another one of this id
                self._verified.pop(mark, None)
                token = await self._verify(text)
        except BadInput as error:
            raise HTTPException(503, "the file of tokens cannot be read; its owner must restore it") from error
        if token is None:
            raise self._wrong(address, match[1], "this token is unknown, expired or revoked")
        self._verified[mark] = token
        while len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)
        return Caller(token.name, token.role, "token")

    async def _verify(self, text: str) -> Token | None:
        """By its hash, which costs time: only a token whose first bits are right gets so far, and not too many at once."""
        if not self.tokens.may_be(text):
            return None
        if self._waiting >= _MOST_WAITING:
            raise HTTPException(429, "too many tokens are being verified", {"Retry-After": "1"})
        self._waiting += 1
        try:
            async with self._hashing:
                return await asyncio.to_thread(self.tokens.verify, text)
        finally:
            self._waiting -= 1

    def _wrong(self, address: str, token_id: str, why: str) -> HTTPException:
        locked = self._lockout.failed(address, token_id)
        if locked > 0:
            return HTTPException(429, "too many wrong tokens of this id from this address", {"Retry-After": str(max(1, round(locked)))})
        return HTTPException(401, why, _CHALLENGE)

    def _by_proxy(self, request: Request) -> Caller | None:
        proxy = self._rules.proxy
        if proxy is None or not _within(_address(request), self._proxies):
            return None
        users = request.headers.getlist(proxy.user_header)
        name = "".join(char for char in (users[0] if len(users) == 1 else "") if char.isprintable()).strip()[:64]
        if not name:
            return None
        groups = {part.strip() for value in request.headers.getlist(proxy.groups_header) for part in value.split(",")}
        roles = [Role(role) for group, role in proxy.roles.items() if group in groups]
        if not roles:
            raise HTTPException(403, "no group of this user has a role here; selfImprovement.api.proxy.roles gives them")
        return Caller(name, max(roles, key=lambda role: role.rank), "proxy")


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="predator_si"'}


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _within(address: str, networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in networks)


def _plain(origin: str) -> str:
    return origin if len(origin) < 300 and origin.isprintable() else "null"


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "") if host.isprintable() else ""
    except ValueError:
        return ""
