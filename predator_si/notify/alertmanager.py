"""Alertmanager's webhook (version 4 of its payload) as events: a second road to the same channels.

What belongs here: reading that payload. What must not: receiving it (``api``), the rules that fire (``deploy/prometheus``).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from predator_si.errors import BadInput
from predator_si.notify.event import Event, Severity

MOST_ALERTS = 100
_MOST_TEXT = 2000
_SEVERITIES: dict[str, Severity] = {
    "critical": "critical", "page": "critical", "error": "critical", "warning": "warning", "info": "info", "none": "info",
}  # fmt: skip


class _Alert(BaseModel):
    model_config = ConfigDict(extra="ignore")
    status: str = Field(pattern="^(firing|resolved)$")
    labels: dict[str, str] = Field(max_length=100)
    annotations: dict[str, str] = Field(default_factory=dict, max_length=100)
    startsAt: datetime
    endsAt: datetime | None = None
    generatorURL: str = ""
    fingerprint: str = Field(min_length=1, max_length=100)


class _Payload(BaseModel):
    model_config = ConfigDict(extra="ignore")
    version: str = Field(pattern="^4$")
    status: str = Field(pattern="^(firing|resolved)$")
    externalURL: str = ""
    alerts: list[_Alert] = Field(max_length=MOST_ALERTS)
    truncatedAlerts: int = 0


def from_alertmanager(payload: Any) -> list[Event]:
    """One event for each alert, firing or resolved; the same firing is one matter, its end is another.

    Parameters
    ----------
    payload
        The JSON body as Alertmanager posts it.

    Raises
    ------
    BadInput
        It is not a payload of version 4; the message names the field.
    """
    try:
        found = _Payload.model_validate(payload)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise BadInput(f"Alertmanager's payload: {where}: {first['msg']}. Send version 4 of its webhook format.") from None
    events = [_event(alert, found.externalURL) for alert in found.alerts]
    if found.truncatedAlerts:
        text = f"{found.truncatedAlerts} more alerts of the same group were left out by Alertmanager (max_alerts)."
        key = f"alertmanager:truncated:{events[0].key if events else found.status}"
        title, step = "Alertmanager left alerts out", "Open Alertmanager and look at the group."
        events.append(Event(kind="outside", severity="warning", title=title, text=text, link=found.externalURL or None, next_step=step, key=key))
    return events


def _event(alert: _Alert, outside: str) -> Event:
    name = alert.labels.get("alertname", "alert")
    over = alert.status == "resolved"
    said = alert.annotations
    what = said.get("summary") or said.get("description") or said.get("message") or ", ".join(f"{key}={value}" for key, value in sorted(alert.labels.items()))
    more = said.get("description", "") if said.get("summary") else ""
    link = next((url for url in (said.get("runbook_url"), alert.generatorURL, outside) if url and url.startswith(("http://", "https://"))), None)
    severity: Severity = "info" if over else _SEVERITIES.get(alert.labels.get("severity", ""), "warning")
    return Event(
        kind="outside",
        severity=severity,
        title=f"{'Resolved' if over else 'Firing'}: {name}"[:200],
        text=f"{what}. {more}".strip(" .")[:_MOST_TEXT],
        link=link,
        next_step="Nothing to do." if over else said.get("action", "Open the link and look at the expression behind the alert.")[:_MOST_TEXT],
        key=f"alertmanager:{alert.fingerprint}:{alert.status}:{alert.startsAt.isoformat()}",
        at=(alert.endsAt if over and alert.endsAt is not None else alert.startsAt),
    )
