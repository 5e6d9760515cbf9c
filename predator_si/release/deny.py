"""The deny list: models that were taken back and must not come back by themselves.

An entry names the artifact and, where that is a model of its own, the weights it was made from: quantising bad weights once more does not
make them good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from pydantic import ConfigDict, Field, field_validator
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from predator_si.errors import Refused
from predator_si.records import ModelCard, Record
from predator_si.release.release_file import DENY_FILE, Digest, dump, load, validated

SEED_DENY = """\
# Models that were rolled back. predator_si refuses to release them, or anything made from the same weights.
# To allow one again, a person removes its entry.
denied: []
"""


class DenyEntry(Record):
    """One model that must not be served."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_alias=True, validate_by_name=True)

    digest: Digest
    source_digest: Digest | None = Field(default=None, alias="sourceDigest")
    contour: str | None = None
    """Where the model was taken back, and may not be served again; null, as a person writes it: in every contour."""
    cycle: str | None = None
    reason: str = Field(min_length=1)
    at: datetime

    @field_validator("at")
    @classmethod
    def _utc(cls, value: datetime) -> datetime:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _DenyFile(Record):
    denied: list[DenyEntry]


def parse_deny(text: str, name: str = DENY_FILE, contour: str | None = None) -> list[DenyEntry]:
    """The entries of a deny file, or with ``contour`` those that forbid a model there.

    Contours share the file. What one took back may serve another one well, whose own way back must not be closed by it.

    Raises
    ------
    BadInput
        Malformed; the message names file, line and key. A deny list that cannot be read allows nothing.
    """
    entries = validated(_DenyFile, load(text, name), name).denied
    return entries if contour is None else [entry for entry in entries if entry.contour in (None, contour)]


def deny_entries(card: ModelCard, *, cycle_id: str, reason: str, at: datetime, keep: Iterable[ModelCard], contour: str | None = None) -> list[DenyEntry]:
    """What to put on the deny list for a model that is taken back.

    Parameters
    ----------
    card
        The model's card.
    keep
        Models that must stay allowed, first of all the one that the rollback returns to. Where the denied model was made from the same
        weights as one of them (a bad quantisation of good weights), only the artifact is denied. Where it is itself the weights behind
        one of them, nothing can be denied, and the list is empty: the way back must never be blocked by its own deny list.
    contour
        Where it is denied.
    """
    kept = {digest for other in keep for digest in (other.digest, other.source_digest) if digest is not None}
    if card.digest in kept:
        return []
    source = card.source_digest if card.source_digest not in {*kept, card.digest} else None
    return [DenyEntry(digest=card.digest, sourceDigest=source, contour=contour, cycle=cycle_id, reason=reason, at=at)]


def find_denied(entries: Sequence[DenyEntry], model: ModelCard | Iterable[str | None]) -> DenyEntry | None:
    """The entry that forbids a model, given as its card or as its digests (its own and its source's); ``None`` when it is allowed."""
    digests = {model.digest, model.source_digest} if isinstance(model, ModelCard) else set(model)
    digests.discard(None)
    for entry in entries:
        if entry.digest in digests or (entry.source_digest is not None and entry.source_digest in digests):
            return entry
    return None


def is_denied(entries: Sequence[DenyEntry], model: ModelCard | Iterable[str | None]) -> bool:
    """Whether ``find_denied`` finds an entry."""
    return find_denied(entries, model) is not None


def check_allowed(entries: Sequence[DenyEntry], model: ModelCard | Iterable[str | None]) -> None:
    """Raise ``Refused`` with the entry's reason when the model is denied."""
    entry = find_denied(entries, model)
    if entry is not None:
        since = f"since {entry.at.isoformat()}, cycle {entry.cycle}" if entry.cycle else f"since {entry.at.isoformat()}"
        raise Refused(f"model {entry.digest} is on the deny list ({since}): {entry.reason}. A person may remove the entry from {DENY_FILE}.")


def add_denied(text: str, entries: Sequence[DenyEntry], name: str = DENY_FILE) -> str:
    """The deny file with ``entries`` added, comments kept; one whose digests are all listed for its contour already is not repeated."""
    known = parse_deny(text, name)
    fresh: list[DenyEntry] = []
    for entry in entries:
        covered = {digest for other in [*known, *fresh] if other.contour in (None, entry.contour) for digest in (other.digest, other.source_digest)}
        if entry.digest not in covered or (entry.source_digest is not None and entry.source_digest not in covered):
            fresh.append(entry)
    if not fresh:
        return text
    document = load(text, name)
    listed: Any = document["denied"]
    if not listed:  # a flow-style [] would go on in one line
        listed = CommentedSeq()
        document["denied"] = listed
    for entry in fresh:
        listed.append(CommentedMap(entry.model_dump(mode="json", by_alias=True)))
    result = dump(document)
    parse_deny(result, name)
    return result
