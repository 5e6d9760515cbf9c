"""Erasing a client, and letting what is old go.

What belongs here: what a home still holds of a client, the order of destroying and remembering, retention. What must not: keys (``privacy``), asking a person.

Erasing destroys keys; files are not rewritten, and cannot be where they are versioned or copied. The ledger's record comes first: killed between the two,
the next opening of the vault finishes it. Ids, times, scores and the client's hash stay: they are the evidence of decisions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl

from predator_si.control.opening import open_control
from predator_si.errors import BadInput, Unavailable
from predator_si.home import Home
from predator_si.privacy import Vault
from predator_si.search.events import hour_name
from predator_si.search.losses import is_alive
from predator_si.search.personal import ERASED, EXPIRED, open_vault, vault_file
from predator_si.search.spool import KINDS

MOST = 200
"""Longest client id in characters, as ``payloads.Identifier``."""
_TOKEN = re.compile(rb"v1\.([A-Za-z0-9_-]{11})\.[A-Za-z0-9_-]{38,}")
_TEXT_COLUMNS = ("user_query", "query", "text")
_PARQUET = b"PAR1"


@dataclass(frozen=True, slots=True)
class Holding:
    """What a home holds of one client.

    Attributes
    ----------
    client
        Its hash.
    keys
        Keys that open its text.
    texts
        Sealed texts that these keys open, by file below the home.
    events
        Search and action events that bear its hash.
    plain
        Files of a version before the vault in which its id stands as it is.
    erased
        It was erased before.
    """

    client: str
    keys: int
    texts: dict[str, int] = field(default_factory=dict)
    events: int = 0
    plain: tuple[str, ...] = ()
    erased: bool = False

    @property
    def known(self) -> bool:
        """Whether there is any trace of it."""
        return bool(self.keys or self.events or self.plain or self.erased)


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasing did: keys destroyed, sealed texts that they opened, and how many of those can still be opened (0, or it failed)."""

    client: str
    keys: int
    texts: int
    still_readable: int


@dataclass(frozen=True, slots=True)
class Expiry:
    """What retention took: files, and keys of days before ``before``."""

    before: date
    files: int
    keys: int


def find_client(home: Path, client_id: str) -> Holding:
    """What this home holds of a client, by the id that the client sends; nothing is changed.

    Raises
    ------
    BadInput
        An id that no client can have sent.
    """
    if not 1 <= len(client_id) <= MOST or "\x00" in client_id:
        raise BadInput(f"a client id has 1 to {MOST} characters and no NUL; this one has {len(client_id)}. Give the id that the client sent to the service.")
    if not vault_file(home).is_file():
        return Holding("", 0, plain=_plain(Home(home), client_id))
    vault = open_vault(home)
    client = vault.client_hash(client_id)
    texts = {name: len(tokens) for name, tokens in _sealed(Home(home), vault.key_ids_of(client)) if tokens}
    return Holding(client, vault.keys_of(client), texts, _events(Home(home), client), _plain(Home(home), client_id), vault.is_erased(client))


def erase_client(home: Path, client_id: str, actor: str) -> Erasure:
    """Destroy the keys of a client, after a ledger record that holds its hash only, and try to open every text that they opened.

    A running service goes on: a search of this client within the same second may be lost with it, later ones get a new key.

    Raises
    ------
    BadInput
        An id that no client can have sent, or events of a version before the vault, in plain text.
    Unavailable
        The ledger or the vault cannot be written.
    """
    found = find_client(home, client_id)
    if found.plain:
        raise BadInput(
            f"{', '.join(found.plain)}: events of an older version hold this id in plain text. Start the search service once, it seals them within a minute, "
            "then erase again."
        )
    if not found.known:
        return Erasure(found.client, 0, 0, 0)
    vault = open_vault(home)
    tokens = [token for _, part in _sealed(Home(home), vault.key_ids_of(found.client)) for token in part]
    payload = {"client": found.client, "keys": found.keys, "texts": len(tokens)}
    open_control(Home(home)).append(ERASED, actor, None, "erased on request", payload)
    keys = vault.destroy(found.client)
    fresh = Vault(vault.path)  # nothing cached
    try:
        readable = sum(text is not None for text in fresh.open(tokens)) + fresh.keys_of(found.client)
    finally:
        fresh.close()
    return Erasure(found.client, keys, len(tokens), readable)


def expire(home: Path, now: datetime, days: int, actor: str = "loop") -> Expiry:
    """Delete events older than ``days`` (hourly files, windows of the raw layer and what was measured of them, quarantine), and destroy the keys of days that
    lie wholly before.

    A file goes when all that it may hold is older. A key of a client spans a week, so text in a data set may be readable for six days longer than in events.
    One ledger record says how much it was; none when it was nothing.

    Raises
    ------
    BadInput
        Fewer than one day.
    Unavailable
        Something cannot be deleted.
    """
    if days < 1:
        raise BadInput(f"retention of {days} days: at least 1 is needed. Set selfImprovement.privacy.retentionDays.")
    cutoff = now - timedelta(days=days)
    before = cutoff.astimezone(UTC).date()
    files = 0
    try:
        for path in _older(Home(home), cutoff):
            path.unlink(missing_ok=True)
            files += 1
        for folder in _windowed(Home(home)):
            for window in folder.glob("window=*"):
                if window.is_dir() and not any(window.iterdir()) and window.name < f"window={cutoff.astimezone(UTC):%Y%m%dT%H%M}":
                    window.rmdir()
        for place in sorted(Home(home).telemetry_windows.glob("*/**/"), reverse=True):
            if not any(place.iterdir()):
                place.rmdir()
    except OSError as error:
        raise Unavailable(f"{error.filename}: cannot be deleted although it is older than {days} days ({error.strerror}). Change its owner.") from error
    keys = open_vault(home).expire(before) if vault_file(home).is_file() else 0
    if files or keys:
        payload = {"before": before.isoformat(), "days": days, "files": files, "keys": keys}
        open_control(Home(home)).append(EXPIRED, actor, None, f"older than {days} days", payload)
    return Expiry(before, files, keys)


def _windowed(home: Home) -> tuple[Path, ...]:
    return home.telemetry_search, home.telemetry_actions, home.telemetry_judgments


def _older(home: Home, cutoff: datetime) -> Iterator[Path]:
    """Files of which everything is older than ``cutoff``."""
    hour, window = hour_name(cutoff), f"window={cutoff.astimezone(UTC) - timedelta(minutes=15):%Y%m%dT%H%M}"
    for kind in KINDS:
        yield from (path for path in sorted((home.events / "hourly" / kind).glob("*.parquet")) if path.stem[:10].isdigit() and path.stem[:10] < hour)
    kept = set()
    for path in [*sorted((home.events / "spool").glob("*.jsonl")), *sorted((home.events / "quarantine").glob("*"))]:
        name = path.stem.rpartition("-")[2] if path.suffix == ".jsonl" else path.stem[:10]
        if (name < hour) if len(name) == 10 and name.isdigit() else path.stat().st_mtime < cutoff.timestamp():
            yield path
        else:
            kept.add(path.stem.rpartition("-")[0])
    kept |= {path.stem.partition("-")[2] for path in home.events.glob("hourly/*/*.parquet") if path.stem[:10] >= hour}
    for path in sorted((home.events / "writers").glob("*.seq")):  # the counter of a writer none of whose events is left
        if path.stem not in kept and path.stat().st_mtime < cutoff.timestamp() and not is_alive(path):
            yield path
    for folder in _windowed(home):
        yield from (path for part in sorted(folder.glob("window=*")) if part.name < window for path in sorted(part.glob("*.parquet")))
    measured = (part for part in sorted(home.telemetry_windows.glob("[0-9]*")) if f"window={part.name}" < window)
    yield from (path for part in measured for path in sorted(part.rglob("*")) if path.is_file())
    for path in [*sorted(home.telemetry_quarantine.glob("*.parquet")), *sorted((home.snapshots / "revisions").glob("*.json"))]:
        if path.stat().st_mtime < cutoff.timestamp():
            yield path


def _stores(home: Home) -> Iterator[Path]:
    """Every file in which sealed text may stand: events, raw layer, data sets and their versions."""
    for root in (home.events, home.telemetry, home.artifacts, home.datasets, home.path / "datasets-store"):
        for path in sorted(root.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield path


def _sealed(home: Home, key_ids: frozenset[str]) -> Iterator[tuple[str, list[str]]]:
    """File by file, the tokens that one of these keys opens."""
    if not key_ids:
        return
    names = {key_id.encode() for key_id in key_ids}
    for path in _stores(home):
        try:
            with path.open("rb") as stream:
                kind = stream.read(4)
            if kind == _PARQUET:
                tokens = _in_parquet(path, key_ids)
            elif path.suffix in (".jsonl", ".csv", ".json", ".yaml", ""):  # DVC's files have none
                tokens = [match[0].decode() for match in _TOKEN.finditer(path.read_bytes()) if match[1] in names]
            else:
                continue
        except FileNotFoundError:
            continue  # rolled up meanwhile
        yield path.relative_to(home.path).as_posix(), tokens


def _in_parquet(path: Path, key_ids: frozenset[str]) -> list[str]:
    try:
        schema = pl.read_parquet_schema(path)
        columns = [name for name in _TEXT_COLUMNS if schema.get(name) == pl.String]
        frame = pl.read_parquet(path, columns=columns, hive_partitioning=False) if columns else pl.DataFrame()
    except pl.exceptions.PolarsError as error:
        raise BadInput(
            f"{path}: cannot be read ({str(error).splitlines()[0]}), so nobody knows whom it holds. Delete it, or restore it, then erase again."
        ) from error
    return [token for name in columns for token in frame[name].filter(frame[name].str.slice(3, 11).is_in(list(key_ids))).drop_nulls().to_list()]


def _events(home: Home, client: str) -> int:
    found = 0
    for root in (home.events, home.telemetry):
        for path in sorted(root.rglob("*.parquet")):
            if "client_id" in pl.read_parquet_schema(path):
                found += pl.scan_parquet(path, hive_partitioning=False).filter(pl.col("client_id") == client).select(pl.len()).collect().item()
        found += sum(path.read_bytes().count(f'"{client}"'.encode()) for path in sorted(root.rglob("*.jsonl")))
    return found


def _plain(home: Home, client_id: str) -> tuple[str, ...]:
    """Files of events that hold the id itself."""
    quoted = [json.dumps(client_id, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") for ascii_only in (True, False)]
    found = [path for path in sorted(home.events.rglob("*.jsonl")) if any(one in path.read_bytes() for one in quoted)]
    for path in sorted(home.events.rglob("*.parquet")):
        if "client_id" in pl.read_parquet_schema(path):
            rows = pl.scan_parquet(path, hive_partitioning=False).filter(pl.col("client_id") == client_id).select(pl.len()).collect().item()
            found += [path] if rows else []
    return tuple(path.relative_to(home.path).as_posix() for path in found)
