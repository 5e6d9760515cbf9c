"""Keys that make stored query text readable, and the destroying of them.

What belongs here: the salt of the client hash, keys, tombstones, sealing and opening. What must not: what a query is (``redaction``), frames (``frames``), the
ledger: a caller that knows it hands over what it says about erased clients (``Vault.reapply``).

How erasing reaches copies. Text is stored once per place, sealed (AES-256-GCM) under a key of its client and week; no copy of a file holds a key. Whoever
destroys the keys makes every copy unreadable at once: events, raw layer, data sets, their versions and their backups. A request without a client is
sealed under a key of its day, so that retention reaches it. What remains are ids.

Two rules follow. The vault never lies in the same backup as the data. And a copy of an old vault would bring keys back: so an erasing is also a record in the
ledger, and who opens the vault applies again whatever the ledger says since then.

A key lives in memory first and is written by ``sync``, which whoever stores sealed text must call before: a search never waits for the disk.
"""

from __future__ import annotations

import binascii
import hmac
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from predator_si.errors import BadInput, Unavailable
from predator_si.records import utc_now

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

TOKEN = r"^v1\.[A-Za-z0-9_-]{11}\.[A-Za-z0-9_-]{38,}$"
CLIENT = r"^c1\.[A-Za-z0-9_-]{22}$"
SESSION = r"^s1\.[A-Za-z0-9_-]{22}$"
WEEK = 7
"""Days that share a client's key. Retention destroys whole keys, so sealed text in a data set outlives it by less than this."""
_SALT_DAYS = 2
_ID, _BODY = slice(3, 14), 15
"""Where a token has its key's id, and from where on what was sealed."""
_URL, _STANDARD = bytes.maketrans(b"+/", b"-_"), str.maketrans("-_", "+/")
_TOKEN, _CLIENT, _SESSION = re.compile(TOKEN), re.compile(CLIENT), re.compile(SESSION)
_BUSY_SECONDS = 30.0
_CACHED = 100_000
_LOOKUP = 500
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (key_id TEXT PRIMARY KEY, owner TEXT NOT NULL, first_day INTEGER NOT NULL, last_day INTEGER NOT NULL, key BLOB NOT NULL,
    created_at TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS keys_of_owner ON keys (owner, first_day);
CREATE TABLE IF NOT EXISTS tombstones (owner TEXT PRIMARY KEY, destroyed_at TEXT NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A client (its hash) whose keys were destroyed, and when."""

    client: str
    destroyed_at: datetime


@dataclass(slots=True)
class _NewKey:
    key_id: str
    cipher: AESGCM
    key: bytes
    created_at: str


def is_sealed(text: str) -> bool:
    """Whether a stored text is a token of a vault."""
    return _TOKEN.match(text) is not None


class Vault:
    """The keys of one installation, in one SQLite file that only its owner may read.

    Several processes may have it open. Whoever asks for a key sees a destruction by another process at once.

    Parameters
    ----------
    path
        The file; it and its folder (mode 0700) are made when missing.

    Raises
    ------
    BadInput
        The file is there and is no vault.
    Unavailable
        The file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock, self._writing = threading.RLock(), threading.RLock()
        self._current: dict[tuple[str, int], tuple[str, AESGCM]] = {}
        self._new: dict[tuple[str, int], _NewKey] = {}
        self._ciphers: dict[str, AESGCM | None] = {}
        self._hashes: dict[tuple[str, str], str] = {}
        self._day_salts: dict[int, bytes | None] = {}
        self._seen: tuple[int, bytes] = (-1, b"")
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.parent.chmod(0o700)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self.path.chmod(0o600)
            self._writer, self._reader = self._connect(), self._connect()
            with self._transaction() as connection:
                for statement in _SCHEMA.split(";"):
                    connection.execute(statement)
                connection.execute("INSERT OR IGNORE INTO meta VALUES ('salt', ?)", (os.urandom(32),))
                connection.execute("INSERT OR IGNORE INTO meta VALUES ('destroyed', ?)", (b"",))
                self._salt = bytes(connection.execute("SELECT value FROM meta WHERE name = 'salt'").fetchone()[0])

    # ------------------------------------------------------------------ names

    def client_hash(self, client_id: str) -> str:
        """``c1.`` and 128 bits of HMAC-SHA256 of the client's id under this installation's salt: the same client, the same name, and no way back."""
        return self._hash("c1.", client_id)

    def session_hash(self, session_id: str) -> str:
        """The same for a session; clients often put their own id into it."""
        return self._hash("s1.", session_id)

    def query_bucket(self, text: str, buckets: int, day: int) -> int | None:
        """One of ``buckets`` numbers for a text on a day (``date.toordinal``): equal texts share it, and so do many different ones.

        Under a salt of that day, made when first asked for and destroyed by ``expire`` two days later (late events come within one): a bucket of older
        days tells nothing about a text any more, and is null when asked for.
        """
        salt = self._day_salt(day)
        return None if salt is None else int.from_bytes(hmac.digest(salt, text.encode("utf-8", "surrogatepass"), "sha256")[:8], "big") % buckets

    def _day_salt(self, day: int) -> bytes | None:
        if day not in self._day_salts:
            name = f"bucket:{day}"
            with self._lock, self._explained():
                row = self._reader.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            if row is None and day >= _day(utc_now()) - _SALT_DAYS:
                with self._explained(), self._transaction() as connection:
                    connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, os.urandom(32)))
                    row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
            self._day_salts = {known: salt for known, salt in self._day_salts.items() if known >= day - _SALT_DAYS}
            self._day_salts[day] = None if row is None else bytes(row[0])
        return self._day_salts[day]

    def _hash(self, kind: str, name: str) -> str:
        known = self._hashes.get((kind, name))
        if known is None:
            digest = hmac.digest(self._salt, (kind + name).encode("utf-8", "surrogatepass"), "sha256")[:16]
            known = kind + _encoded(digest)
            if len(self._hashes) >= _CACHED:
                self._hashes.clear()
            self._hashes[kind, name] = known
        return known

    # ------------------------------------------------------------------ text

    def seal(self, text: str, client: str | None, when: datetime) -> str:
        """A token that holds the text, readable as long as the key of its client and week (of its day, without a client) exists.

        The key may be new and in memory only: call ``sync`` before the token is stored.

        Parameters
        ----------
        client
            As ``client_hash`` gives it.
        when
            When the text was written, with a time zone: says which key.
        """
        return self.seal_all([text], [client], [_day(when)])[0]

    def seal_all(self, texts: Sequence[str], clients: Sequence[str | None], days: Sequence[int]) -> list[str]:
        """``seal`` of many texts at once; ``days`` are proleptic ordinals of UTC days (``date.toordinal``)."""
        owners = [("", day) if client is None else (client, day - day % WEEK) for client, day in zip(clients, days, strict=True)]
        keys = self._keys(dict.fromkeys(owners))
        nonces = os.urandom(12 * len(texts))
        tokens = []
        for at, (text, owner) in enumerate(zip(texts, owners, strict=True)):
            key_id, cipher = keys[owner]
            nonce = nonces[12 * at : 12 * at + 12]
            body = nonce + cipher.encrypt(nonce, text.encode("utf-8", "surrogatepass"), key_id.encode())
            tokens.append(f"v1.{key_id}.{_encoded(body)}")
        return tokens

    def open(self, values: Sequence[str | None]) -> list[str | None]:
        """The texts of tokens, null where the key is gone or the token is damaged; a value that is no token comes back as it is."""
        from cryptography.exceptions import InvalidTag

        sealed = [value is not None and value.startswith("v1.") and _TOKEN.match(value) is not None for value in values]
        ciphers = self._find({value[_ID] for value, token in zip(values, sealed, strict=True) if token and value is not None})
        texts = list(values)
        for at, (value, token) in enumerate(zip(values, sealed, strict=True)):
            if not token or value is None:
                continue
            texts[at], cipher = None, ciphers.get(value[_ID])
            if cipher is not None:
                try:
                    body = binascii.a2b_base64(value[_BODY:].translate(_STANDARD) + "==")
                    texts[at] = cipher.decrypt(body[:12], body[12:], value[_ID].encode()).decode("utf-8", "surrogatepass")
                except (InvalidTag, binascii.Error):
                    continue  # damaged, or sealed under another key of this name: nobody can read it
        return texts

    def sync(self) -> None:
        """Make all new keys durable. A key of a client that was erased since it was made is thrown away, and with it what it sealed.

        Raises
        ------
        Unavailable
            The disk refuses; the keys stay in memory, the next call tries again.
        """
        if not self._new:
            return
        with self._writing:
            with self._lock:
                waiting = dict(self._new)
            with self._explained(), self._transaction() as connection:
                for (owner, day), new in waiting.items():
                    last = day if not owner else day + WEEK - 1
                    connection.execute(
                        "INSERT INTO keys SELECT ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM tombstones WHERE owner = ? AND destroyed_at >= ?)",
                        (new.key_id, owner, day, last, new.key, new.created_at, owner, new.created_at),
                    )
            with self._lock:
                for name in waiting:
                    del self._new[name]

    # ------------------------------------------------------------------ destroying

    def destroy(self, client: str, at: datetime | None = None) -> int:
        """Destroy every key of a client (its hash) made until ``at`` (now), leave a tombstone, and return how many there were.

        The bytes of the keys are overwritten in the file (SQLite's ``secure_delete``) and the write-ahead log is emptied. What a file system or a disk
        keeps of former blocks is beyond this.
        """
        return self.reapply([Tombstone(client, at or utc_now())])

    def reapply(self, tombstones: Iterable[Tombstone], expired_until: date | None = None) -> int:
        """Apply what was destroyed before, as the ledger tells it; for a vault that came out of a backup. How many keys that destroyed."""
        destroyed = 0
        with self._writing, self._explained():
            with self._transaction() as connection:
                for stone in tombstones:
                    at = _stamp(stone.destroyed_at)
                    connection.execute(
                        "INSERT INTO tombstones VALUES (?, ?) ON CONFLICT (owner) DO UPDATE SET destroyed_at = max(destroyed_at, excluded.destroyed_at)",
                        (stone.client, at),
                    )
                    destroyed += connection.execute("DELETE FROM keys WHERE owner = ? AND created_at <= ?", (stone.client, at)).rowcount
                if expired_until is not None:
                    destroyed += connection.execute("DELETE FROM keys WHERE last_day < ?", (expired_until.toordinal(),)).rowcount
                connection.execute("UPDATE meta SET value = ? WHERE name = 'destroyed'", (os.urandom(8),))
            self._forget_log()
        return destroyed

    def expire(self, before: date) -> int:
        """Destroy all keys whose days all lie before ``before``, and the salts of days long over; how many keys there were."""
        with self._explained(), self._transaction() as connection:
            for (name,) in connection.execute("SELECT name FROM meta WHERE name LIKE 'bucket:%'").fetchall():
                if int(name.partition(":")[2]) < _day(utc_now()) - _SALT_DAYS:
                    connection.execute("DELETE FROM meta WHERE name = ?", (name,))
        return self.reapply([], before)

    def keys_of(self, client: str) -> int:
        """How many keys of this client (its hash) there are."""
        with self._lock, self._explained():
            written = int(self._reader.execute("SELECT count(*) FROM keys WHERE owner = ?", (client,)).fetchone()[0])
            return written + sum(owner == client for owner, _ in self._new)

    def key_ids_of(self, client: str) -> frozenset[str]:
        """Ids of the keys of this client: the middle part of the tokens that they open."""
        with self._lock, self._explained():
            return frozenset(str(row[0]) for row in self._reader.execute("SELECT key_id FROM keys WHERE owner = ?", (client,)))

    def is_erased(self, client: str) -> bool:
        """Whether this client (its hash) was erased at some time."""
        with self._lock, self._explained():
            return self._reader.execute("SELECT 1 FROM tombstones WHERE owner = ?", (client,)).fetchone() is not None

    def note(self, name: str) -> str | None:
        """What was remembered under a name in the vault itself: it goes back in time with a restored copy, which is the use of it."""
        with self._lock, self._explained():
            row = self._reader.execute("SELECT value FROM meta WHERE name = ?", ("note:" + name,)).fetchone()
        return None if row is None else str(row[0])

    def set_note(self, name: str, value: str) -> None:
        """Remember something in the vault."""
        with self._writing, self._explained(), self._transaction() as connection:
            connection.execute("INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", ("note:" + name, value))

    def close(self) -> None:
        """Write what is new and let go of the file."""
        self.sync()
        with self._writing, self._lock:
            self._writer.close()
            self._reader.close()

    # ------------------------------------------------------------------ keys

    def _keys(self, names: Iterable[tuple[str, int]]) -> dict[tuple[str, int], tuple[str, AESGCM]]:
        """Key id and cipher of each (owner, first day); made where there is none yet."""
        found = {}
        with self._lock, self._explained():
            self._look_for_destruction()
            missing = []
            for name in names:
                known = self._current.get(name)
                if known is None and name in self._new:
                    known = self._new[name].key_id, self._new[name].cipher
                if known is None:
                    missing.append(name)
                else:
                    found[name] = known
            for start in range(0, len(missing), _LOOKUP):
                part = missing[start : start + _LOOKUP]
                found.update(self._stored(part))
                for name in part:
                    if name not in found:
                        key = os.urandom(32)
                        new = self._new[name] = _NewKey(_encoded(os.urandom(8)), _cipher(key), key, _stamp(utc_now()))
                        found[name] = new.key_id, new.cipher
        return found

    def _stored(self, names: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[str, AESGCM]]:
        """Keys of these names that are in the file; the oldest where two processes made one each."""
        wanted, owners, days = set(names), list({owner for owner, _ in names}), [day for _, day in names]
        marks = ",".join("?" * len(owners))
        query = f"SELECT owner, first_day, key_id, key FROM keys WHERE owner IN ({marks}) AND first_day BETWEEN ? AND ? ORDER BY created_at DESC"
        rows = self._reader.execute(query, [*owners, min(days), max(days)])
        stored = {(str(owner), int(day)): (str(key_id), _cipher(key)) for owner, day, key_id, key in rows if (owner, day) in wanted}
        if len(self._current) + len(stored) > _CACHED:
            self._current.clear()
        self._current.update(stored)
        return stored

    def _find(self, key_ids: set[str]) -> dict[str, AESGCM | None]:
        with self._lock, self._explained():
            self._look_for_destruction()
            found: dict[str, AESGCM | None] = {new.key_id: new.cipher for new in self._new.values() if new.key_id in key_ids}
            wanted = []
            for key_id in key_ids - found.keys():
                if key_id in self._ciphers:
                    found[key_id] = self._ciphers[key_id]
                else:
                    wanted.append(key_id)
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                for key_id, key in self._reader.execute(f"SELECT key_id, key FROM keys WHERE key_id IN ({marks})", part):
                    found[str(key_id)] = _cipher(key)
            if len(self._ciphers) + len(wanted) > _CACHED:
                self._ciphers.clear()
            self._ciphers.update((key_id, found[key_id]) for key_id in wanted if key_id in found)
            return found

    def _look_for_destruction(self) -> None:
        """Forget all cached keys once somebody, here or elsewhere, has destroyed some."""
        version = int(self._reader.execute("PRAGMA data_version").fetchone()[0])
        if version != self._seen[0]:
            mark = bytes(self._reader.execute("SELECT value FROM meta WHERE name = 'destroyed'").fetchone()[0])
            if mark != self._seen[1]:
                self._current.clear()
                self._ciphers.clear()
            self._seen = (version, mark)

    # ------------------------------------------------------------------ the file

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._writing:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
            except BaseException:
                self._writer.execute("ROLLBACK")
                raise
            self._writer.execute("COMMIT")

    def _forget_log(self) -> None:
        """Move the write-ahead log into the file and cut it to nothing: old pages in it still hold keys."""
        deadline = time.monotonic() + _BUSY_SECONDS
        while self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"{self.path}: the keys are deleted, but another process has been reading for {_BUSY_SECONDS:g} s, so that their bytes still stand in the "
                    "write-ahead log. End it and erase once more."
                )
            time.sleep(0.05)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            if "not a database" in str(error) or "malformed" in str(error):
                raise BadInput(
                    f"{self.path}: not a usable vault ({error}). Without its keys no stored query can be read: restore it from its own backup."
                ) from error
            raise Unavailable(f"{self.path}: the vault cannot be used ({error}). Free some space, or end who holds it, and try again.") from error
        except OSError as error:
            raise Unavailable(f"{self.path}: the vault cannot be used ({error}). Make its folder writable for this user, and free some space.") from error


def _cipher(key: Any) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(bytes(key))


def _encoded(raw: bytes) -> str:
    """base64url without padding (RFC 4648, section 5)."""
    return binascii.b2a_base64(raw, newline=False).translate(_URL).rstrip(b"=").decode()


def _day(when: datetime) -> int:
    if when.tzinfo is None:
        raise BadInput(f"{when!r} has no time zone; text is sealed by its UTC day. Give a UTC moment.")
    return when.astimezone(UTC).toordinal()


def _stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
