"""What every record shares: how it is read and written, the answers and states they speak in."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, ValidationError

from predator_si.errors import BadInput

CYCLE_ID = re.compile(r"^si_\d{4}_\d{2}_\d{2}_\d{3}$")


def utc_now() -> datetime:
    """Now, with its time zone."""
    return datetime.now(UTC)


class Record(BaseModel):
    """Base of all records: frozen, strict about unknown keys, one JSON spelling."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null", protected_namespaces=())

    def to_json(self) -> str:
        """Indented JSON with a final newline, the same bytes for the same content."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record stored in ``path``.

        Raises
        ------
        BadInput
            The file is missing, is not JSON, or does not have this schema; the message names the file and the field.
        """
        try:
            return cls.model_validate_json(Path(path).read_bytes())
        except FileNotFoundError as error:
            raise BadInput(f"{path}: no such file; a {cls.__name__} was expected here. Run the stage that writes it first.") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "(whole file)"
            raise BadInput(f"{path}: not a {cls.__name__}: {where}: {first['msg']}. Restore the file or run its stage again.") from error


class Answer(StrEnum):
    """What a gate says: three answers, and one for a contour that has no such source."""

    PASS = "pass"
    FAIL = "fail"
    UNKNOWN = "unknown"
    NOT_APPLICABLE = "not_applicable"


class Verdict(StrEnum):
    """What a comparison says. ``INCONCLUSIVE`` holds: nothing is promoted."""

    PROMOTE = "promote"
    REJECT = "reject"
    INCONCLUSIVE = "inconclusive"


class CycleState(StrEnum):
    """Where a cycle stands (DESIGN.md section 3)."""

    OPENED = "opened"
    PREPARED = "prepared"
    TRAINED = "trained"
    EVALUATED = "evaluated"
    ON_TRIAL = "on_trial"
    DECIDED = "decided"
    AWAITING_APPROVAL = "awaiting_approval"
    RELEASED = "released"
    WATCHING = "watching"
    STABLE = "stable"
    REJECTED = "rejected"
    ROLLED_BACK = "rolled_back"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    FAILED = "failed"
