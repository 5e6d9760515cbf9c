"""The vault of a home, opened so that whatever was erased stays erased; and events on their way to the spool.

What belongs here: where the vault is, applying the ledger to one that came out of a backup. What must not: how text is sealed (``privacy``), erasing.
"""

from __future__ import annotations

import threading
from datetime import UTC, date
from pathlib import Path

from predator_si.errors import BadInput
from predator_si.home import Home
from predator_si.privacy import Tombstone, Vault, redact
from predator_si.privacy.segments import segments_of
from predator_si.records import ActionEvent, SearchEvent

ERASED, EXPIRED = "client_erased", "personal_data_expired"
"""Actions of the ledger. The payload of the first has ``client`` (its hash), that of the second ``before`` (ISO date)."""
_BATCH = 1000
_OPEN: dict[Path, tuple[int, Vault]] = {}
_LOCK = threading.Lock()


def vault_file(home: Path) -> Path:
    """Where the vault of a home lies."""
    return Path(home) / "privacy" / "vault.db"


def open_vault(home: Path) -> Vault:
    """The vault of a home, made where there is none, one object a process.

    Erasings and expiries that the ledger knows and the vault does not are applied first: an old copy of the vault, put back, cannot read what was erased
    after it was taken. It can when ``control.db`` is put back from the same day too: keep the two apart, and keep the newest ledger.
    """
    path = vault_file(home).absolute()
    with _LOCK:
        known = _OPEN.get(path)
        if known is not None and path.exists() and path.stat().st_ino == known[0]:
            return known[1]
        vault = Vault(path)
        _apply_ledger(vault, Home(home))
        _OPEN[path] = (path.stat().st_ino, vault)
        return vault


def existing_vault(home: Path) -> Vault | None:
    """The vault of a home, ``None`` where there is none: reading makes nothing."""
    return open_vault(home) if vault_file(home).is_file() else None


def protect_search(event: SearchEvent, vault: Vault) -> SearchEvent:
    """The event as it may be stored; its key may be new: the vault's ``sync`` comes before the disk."""
    client = None if event.client_id is None else vault.client_hash(event.client_id)
    session = None if event.session_id is None else vault.session_hash(event.session_id)
    query = redact(event.user_query)
    kept = segments_of(query, vault, event.timestamp.astimezone(UTC).toordinal())
    return event.model_copy(update={"user_query": vault.seal(query, client, event.timestamp), "client_id": client, "session_id": session, **kept})


def protect_action(event: ActionEvent, vault: Vault) -> ActionEvent:
    """The event as it may be stored."""
    return event if event.client_id is None else event.model_copy(update={"client_id": vault.client_hash(event.client_id)})


def _apply_ledger(vault: Vault, home: Home) -> None:
    from predator_si.control.opening import is_there, open_control

    if not is_there(home):
        return
    control = open_control(home)
    head = control.head()
    newest = head[0] if head is not None else 0
    after = int(vault.note("ledger") or 0)
    if newest < after:  # another ledger than the one this vault knew: all of it counts
        after = 0
    if newest == after:
        return
    stones, before = list[Tombstone](), list[date]()
    while after < newest:
        records = control.records(_BATCH, after_seq=after)
        if not records:
            break
        for record in records:
            if record.action == ERASED:
                stones.append(Tombstone(str(record.payload["client"]), record.timestamp))
            elif record.action == EXPIRED:
                before.append(_date(record.payload["before"], home.control_db, record.seq))
        after = records[-1].seq
    if stones or before:
        vault.reapply(stones, max(before, default=None))
    vault.set_note("ledger", str(after))


def _date(text: object, database: Path, seq: int) -> date:
    try:
        return date.fromisoformat(str(text))
    except ValueError as error:
        raise BadInput(f"{database}: ledger record {seq} has no date in `before` ({text!r}). Run `predator-si audit verify`.") from error
