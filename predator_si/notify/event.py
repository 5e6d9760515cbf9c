"""One thing that people should know."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from predator_si.records import Record, utc_now

Kind = Literal[
    "degrade", "rollback", "approval", "kill_switch", "stale_data", "failed_cycle", "unwatched_release", "budget", "ledger", "daemon", "report", "outside"
]
"""``outside``: somebody else's alert, such as Alertmanager's."""
Severity = Literal["info", "warning", "critical"]


class Event(Record):
    """A message with its reason, where to look, and what to do."""

    kind: Kind
    severity: Severity
    title: str = Field(min_length=1)
    text: str
    """Facts and numbers; never the text of a query."""
    link: str | None = None
    next_step: str
    key: str = Field(min_length=1)
    """The matter that it is about: the same matter is told once in a while, however often it is noticed."""
    cycle_id: str | None = None
    at: datetime = Field(default_factory=utc_now)

    def plain(self) -> str:
        """Text, next step and link, for channels that know no markup."""
        return "\n".join(filter(None, (self.text, f"Next: {self.next_step}", self.link)))
