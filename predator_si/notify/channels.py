"""Where events go: Slack's incoming webhook, and anything that Apprise reaches.

What belongs here: how one event is said on one channel, and whether that worked. What must not: when to try again (``outbox``).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from predator_si.contour_notify import Monitoring, Notify
from predator_si.errors import BadInput, PredatorError, Refused, Unavailable
from predator_si.notify.event import Event
from predator_si.notify.secrets import Secrets, parts_of, scrub

SECONDS = 10
_TITLE, _SECTION = 150, 3000
"""Slack's limits of a header and of a section, in characters."""
_SIGN = {"info": ":information_source:", "warning": ":warning:", "critical": ":rotating_light:"}


class Channel(Protocol):
    """One address."""

    @property
    def name(self) -> str:
        """Short, without anything secret; what the outbox remembers."""
        ...

    def send(self, event: Event) -> None:
        """Say it.

        Raises
        ------
        Unavailable
            Not now: try again later. Its ``retry_after`` is how many seconds the other side asks for, where it does.
        Refused
            Never: the address or the message is not accepted.
        """
        ...


class TooFast(Unavailable):
    """The other side asks for a pause."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True)
class SlackChannel:
    """An incoming webhook of Slack.

    Parameters
    ----------
    url
        The address; whoever has it may write there, so it stays out of every text.
    """

    url: str
    name: str = "slack"

    def send(self, event: Event) -> None:
        """Post header, facts, next step and link; 200 with the body ``ok`` is Slack's yes."""
        from slack_sdk.webhook import WebhookClient

        try:
            with _silenced(("slack_sdk",), parts_of(self.url)):
                answer = WebhookClient(self.url, timeout=SECONDS, retry_handlers=[]).send(text=f"{event.title}: {event.text}"[:_SECTION], blocks=blocks(event))
        except Exception as error:  # urllib's and ssl's own, whichever: the address is not reached
            raise Unavailable(scrub(f"{self.name} is not reached ({type(error).__name__}: {error}); it is tried again later.", parts_of(self.url))) from None
        if answer.status_code == 200 and answer.body.strip() == "ok":
            return
        said = scrub(f"{self.name} answers {answer.status_code} {answer.body[:200]!r}", parts_of(self.url))
        if answer.status_code == 429:
            raise TooFast(f"{said}; it asks for a pause.", _seconds(answer.headers))
        if answer.status_code >= 500 or answer.status_code == 200:
            raise Unavailable(f"{said}; it is tried again later.")
        raise Refused(f"{said}. Make a new webhook and put its address into the secret.")


@dataclass(frozen=True)
class AppriseChannel:
    """One address of any kind that Apprise knows, such as ``mailto://``, ``msteams://`` or ``json://``."""

    url: str
    name: str = "apprise"

    def send(self, event: Event) -> None:
        """Title, facts, next step and link."""
        import apprise

        kinds = {"info": apprise.NotifyType.INFO, "warning": apprise.NotifyType.WARNING, "critical": apprise.NotifyType.FAILURE}
        with _silenced(("apprise", "urllib3"), parts_of(self.url)):
            target = apprise.Apprise()
            if not target.add(self.url):
                raise Refused(f"{self.name}: Apprise does not understand the address {self.url.partition('://')[0]}://... Look at its list of services.")
            done = target.notify(title=event.title, body=event.plain(), notify_type=kinds[event.severity], body_format=apprise.NotifyFormat.TEXT)
        if not done:
            raise Unavailable(f"{self.name} ({self.url.partition('://')[0]}) did not take it; it is tried again later.")


def blocks(event: Event) -> list[dict[str, Any]]:
    """The message in Slack's blocks: header, section, context. ``&``, ``<`` and ``>`` are escaped as Slack wants it."""
    title = f"{_SIGN[event.severity]} {event.title}"
    section = escape(event.text)[: _SECTION - 300] or "(no details)"
    found: list[dict[str, Any]] = [
        {"type": "header", "text": {"type": "plain_text", "text": title[:_TITLE], "emoji": True}},
        {"type": "section", "text": {"type": "mrkdwn", "text": section}},
        {"type": "section", "text": {"type": "mrkdwn", "text": f"*Next:* {escape(event.next_step)}"[:_SECTION]}},
    ]
    told = [{"type": "mrkdwn", "text": escape(f"{event.kind} | {event.at:%Y-%m-%d %H:%M:%S} UTC" + (f" | {event.cycle_id}" if event.cycle_id else ""))}]
    if event.link:
        told.append({"type": "mrkdwn", "text": f"<{event.link}|open>"})
    return [*found, {"type": "context", "elements": told}]


def escape(text: str) -> str:
    """Slack's three escapes."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def channels_of(notify: Notify, monitoring: Monitoring, secrets: Secrets) -> tuple[list[Channel], list[str]]:
    """The contour's channels, and for each one that cannot be used the reason; a missing secret must not stop the loop."""
    found: list[Channel] = []
    problems: list[str] = []
    if "slack" in notify.channels or monitoring.slack_webhook is not None:
        try:
            if monitoring.slack_webhook is None:
                raise BadInput("notify.channels has slack, but monitoring.slackWebhook names no secret. Name it.")
            url = secrets.get(monitoring.slack_webhook)
            if not url.startswith(("https://", "http://127.0.0.1:", "http://localhost:")):
                raise BadInput(f"secret {monitoring.slack_webhook} does not hold an https address. Copy the webhook's address into it.")
            found.append(SlackChannel(url))
        except PredatorError as error:
            problems.append(f"slack: {error}")
    if "apprise" in notify.channels:
        try:
            if notify.apprise_secret is None:
                raise BadInput("notify.channels has apprise, but notify.appriseSecret names no secret. Name the one that holds the addresses, one a line.")
            addresses = secrets.get(notify.apprise_secret).split()
            found += [AppriseChannel(url, f"apprise-{number}") for number, url in enumerate(addresses, 1)]
        except PredatorError as error:
            problems.append(f"apprise: {error}")
    return found, problems


def _seconds(headers: Any) -> float:
    value = {str(name).lower(): str(one) for name, one in dict(headers).items()}.get("retry-after", "")
    return min(3600.0, float(value)) if value.isdigit() else 60.0


class _Scrubbing(logging.Filter):
    """Takes secrets out of a library's own log lines."""

    def __init__(self, hidden: set[str]) -> None:
        super().__init__()
        self._hidden = hidden

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = scrub(record.getMessage(), self._hidden), ()
        record.exc_info, record.exc_text = None, None  # a traceback quotes the address, too
        return True


@contextlib.contextmanager
def _silenced(names: Sequence[str], hidden: set[str]) -> Iterator[None]:
    """While a message is on its way, no handler of the process sees an address in the library's log lines."""
    known = {key: one for key, one in logging.root.manager.loggerDict.items() if isinstance(one, logging.Logger)}
    loggers = [logging.getLogger(name) for name in names] + [one for key, one in known.items() if key.startswith(tuple(f"{name}." for name in names))]
    scrubbing = _Scrubbing(hidden)
    for one in loggers:
        one.addFilter(scrubbing)
    try:
        yield
    finally:
        for one in loggers:
            one.removeFilter(scrubbing)
