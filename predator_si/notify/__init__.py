"""What people are told while the loop runs: alerts on their channels, the loop's log, traces of whole cycles.

It must not decide anything: a channel that is dead never holds a cycle up, and nothing here is read back by the loop.

Public functions
----------------
- ``Event``: one thing that people should know, with a link and the next step
- ``Outbox(path)``: ``put``, ``deliver``, ``waiting``, ``history``: told once, retried with back-off, kept over restarts
- ``channels_of(notify, monitoring, secrets)``: the contour's channels; ``SlackChannel``, ``AppriseChannel``
- ``Secrets``: secrets by name, from the environment or a mounted file; ``scrub`` takes them out of a text
- ``events_of(records, place)``: what the ledger says that people must know; ``notify.rules`` has the questions about the state of things
- ``from_alertmanager(payload)``: Alertmanager's webhook as events
- ``LOG``: the loop's logger, named ``AutoOptimizer``
"""

from predator_si.notify.alertmanager import from_alertmanager
from predator_si.notify.channels import AppriseChannel, Channel, SlackChannel, channels_of
from predator_si.notify.event import Event, Kind, Severity
from predator_si.notify.outbox import Delivered, Outbox
from predator_si.notify.rules import Place, events_of
from predator_si.notify.secrets import Secrets

__all__ = [
    "AppriseChannel",
    "Channel",
    "Delivered",
    "Event",
    "Kind",
    "Outbox",
    "Place",
    "Secrets",
    "Severity",
    "SlackChannel",
    "channels_of",
    "events_of",
    "from_alertmanager",
]
