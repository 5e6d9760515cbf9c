"""Who is told what, and where copies of everything go: the keys ``monitoring``, ``notify`` and ``backup`` of a contour's values.

What belongs here: their shape, ranges and defaults. What must not: an address or a secret; values name secrets, they never hold them.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator

from predator_si.contour_types import Block, Duration, http_address


def _name_of_a_secret(value: str | None) -> str | None:
    if value is not None and "://" in value:
        raise ValueError("is the name of a secret; an address in a values file would be readable by everybody who reads the repository")
    return value


class Monitoring(Block):
    """Alerts. ``slack_webhook`` is the name of a secret, never the address itself."""

    slack_webhook: str | None = None
    alert_on_degrade: bool = True

    _named = field_validator("slack_webhook")(_name_of_a_secret)


class Backup(Block):
    """Backups; ``schedule`` is a cron line, ``destination`` any fsspec URL."""

    enabled: bool = False
    schedule: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] = "0 2 * * *"
    destination: str | None = None
    keep: Annotated[int, Field(ge=1)] | None = 30
    """Newest copies that stay at the destination; null: all of them."""
    history_days: Annotated[int, Field(ge=30)] | None = 400
    """After so long ledger records are sealed into files, the chain unbroken; snapshots, runs and files of ended cycles go. Null: all stays."""


class Notify(Block):
    """Who is told about rollbacks, approvals and unwatched releases, beside the log and the ledger."""

    channels: Annotated[tuple[Literal["slack", "apprise"], ...], Field(strict=False)] = ()
    """``slack`` is the webhook in the secret of ``monitoring.slackWebhook``, ``apprise`` the addresses in the secret ``apprise_secret``."""
    apprise_secret: str | None = None
    """Name of the secret that holds Apprise addresses, one a line."""
    link: str | None = None
    """Address of the operations page as people reach it; null: loopback."""
    repeat_after: Duration = timedelta(hours=4)
    """The same matter is told again after so long, if it is still noticed."""
    at_most_per_hour: Annotated[int, Field(ge=1, le=1000)] = 30
    """Messages of one channel in an hour; critical ones go beyond it."""
    weekly_report: Annotated[str, Field(pattern=r"^\S+( \S+){4}$")] | None = "0 8 * * 1"
    """A cron line in UTC: when the weekly report is written and sent; null: never."""

    _checked = field_validator("link")(http_address)

    _named = field_validator("apprise_secret")(_name_of_a_secret)
