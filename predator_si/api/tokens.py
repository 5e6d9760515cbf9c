"""Bearer tokens: made here, shown once, kept as scrypt hashes in one file that only its owner may read.

What belongs here: making, keeping, verifying. What must not: roles' meaning and requests (``access``).

A token is ``psi_<id>_<secret>``. The id finds the row; the secret has 256 random bits and is compared in constant time as its hash. scrypt (RFC 7914) costs
tens of milliseconds on purpose, so whoever verified a text keeps that, as long as the row in the file stays the same (``access``). Ids are no secret: whether
one is known may show in the time of an answer.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from predator_si.errors import BadInput, Missing
from predator_si.records import Record, utc_now

PATTERN = re.compile(r"psi_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_N, _R, _P = 2**14, 8, 1
"""16 MB and some 50 ms each: OWASP's least for scrypt is higher for passwords, which people choose; these are random."""


class Role(StrEnum):
    """What a caller may do; each may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    APPROVER = "approver"
    ADMIN = "admin"

    @property
    def rank(self) -> int:
        """0 for the least."""
        return list(Role).index(self)


class Token(Record):
    """A token as it is kept: never its secret."""

    id: str
    name: str
    """Whose it is: the ledger calls its bearer ``api:<name>``."""
    role: Role
    salt: str
    hash: str
    check: str | None = None
    """The first 32 bits of the secret's SHA-256: what tells a wrong token apart without scrypt. 224 bits stay unknown. Null in older files."""
    n: int = _N
    r: int = _R
    p: int = _P
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def standing(self, now: datetime) -> str:
        """``valid``, ``expired`` or ``revoked``."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and now >= self.expires_at else "valid"


class TokenList(Record):
    """The file's content."""

    tokens: tuple[Token, ...] = ()


def _hash(secret: str, salt: str, n: int, r: int, p: int) -> str:
    return hashlib.scrypt(secret.encode(), salt=bytes.fromhex(salt), n=n, r=r, p=p, maxmem=64 * 1024 * 1024, dklen=32).hex()


def _check(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()[:8]


class TokenFile:
    """The tokens of one installation.

    Parameters
    ----------
    path
        Made with mode 0600 when the first token is created; a mounted secret may stand there instead.
    """

    def __init__(self, path: Path, clock: Callable[[], datetime] = utc_now) -> None:
        self.path = path
        self._clock = clock
        self._read: tuple[tuple[int, int], TokenList] | None = None

    def tokens(self) -> tuple[Token, ...]:
        """All tokens; none where there is no file. The file is read again when it changed.

        Raises
        ------
        BadInput
            The file is not a list of tokens.
        """
        try:
            found = self.path.stat()
        except OSError:
            self._read = None
            return ()
        version = (found.st_mtime_ns, found.st_size)
        if self._read is None or self._read[0] != version:
            self._read = (version, TokenList.read(self.path))
        return self._read[1].tokens

    def create(self, name: str, role: Role, expires_in: timedelta | None) -> tuple[str, Token]:
        """A new token, and its text, which is nowhere else.

        Raises
        ------
        BadInput
            The name is not one, or belongs to a valid token.
        """
        if _NAME.fullmatch(name) is None:
            raise BadInput(f"{name!r} is not a name for a token: letters, digits and ._@- , at most 64, beginning with a letter or digit.")
        if expires_in is not None and expires_in <= timedelta(0):
            raise BadInput(f"a token must have some time, got {expires_in}.")
        now = self._clock()
        if any(one.name == name and one.standing(now) == "valid" for one in self.tokens()):
            raise BadInput(f"there is a valid token of the name {name!r}; revoke it first, or choose another name.")
        alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
        identity, secret, salt = "".join(secrets.choice(alphabet) for _ in range(8)), secrets.token_urlsafe(32), secrets.token_hex(16)
        expires_at = None if expires_in is None else now + expires_in
        hashed, check = _hash(secret, salt, _N, _R, _P), _check(secret)
        token = Token(id=identity, name=name, role=role, salt=salt, hash=hashed, check=check, created_at=now, expires_at=expires_at)
        self._write((*self.tokens(), token))
        return f"psi_{identity}_{secret}", token

    def revoke(self, which: str) -> Token:
        """Make a token worthless from now on, by its id or its name.

        Raises
        ------
        Missing
            No valid token is called so.
        """
        now = self._clock()
        found = next((one for one in self.tokens() if which in (one.id, one.name) and one.revoked_at is None), None)
        if found is None:
            raise Missing(f"no token {which!r} that is not revoked. `predator-si token list` shows what there is.")
        gone = found.model_copy(update={"revoked_at": now})
        self._write(tuple(gone if one.id == found.id else one for one in self.tokens()))
        return gone

    def may_be(self, text: str) -> bool:
        """Whether it is worth its hash: an id that is known, and the right first bits. Microseconds, so that a flood of wrong tokens keeps nobody out."""
        match = PATTERN.fullmatch(text)
        row = None if match is None else next((one for one in self.tokens() if one.id == match[1]), None)
        if match is None or row is None:
            return False
        return row.check is None or hmac.compare_digest(row.check, _check(match[2]))

    def verify(self, text: str) -> Token | None:
        """The token whose text this is, where it is valid now."""
        match = PATTERN.fullmatch(text)
        if match is None:
            return None
        row = next((one for one in self.tokens() if one.id == match[1]), None)
        if row is None or not hmac.compare_digest(_hash(match[2], row.salt, row.n, row.r, row.p), row.hash):
            return None
        return row if row.standing(self._clock()) == "valid" else None

    def current(self, identity: str) -> Token | None:
        """The token of an id where it is still valid: what a verified one is asked again each time."""
        now = self._clock()
        return next((one for one in self.tokens() if one.id == identity and one.standing(now) == "valid"), None)

    def _write(self, tokens: tuple[Token, ...]) -> None:
        import filelock

        self.path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=10):
            partial = self.path.with_name(f".{self.path.name}.{os.getpid()}")
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                stream.write(TokenList(tokens=tokens).to_json())
            partial.replace(self.path)
        self._read = None
