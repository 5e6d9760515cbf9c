"""The model store, once a day: what is old and nobody needs goes.

What belongs here: gathering what is needed. What must not: the rule (``release.retention``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from predator_si.control import ACTIVE
from predator_si.orchestration.loop import Loop
from predator_si.records import ServingConfig, utc_now
from predator_si.release.champions import champions_of
from predator_si.release.release_file import parse_release
from predator_si.release.retention import models_to_delete, protected_models

_NOTE = "retention:models"
_KEEP_NEWEST = 10
_GOLD = 1000


def needed_models(loop: Loop) -> dict[str, str]:
    """Every model that must stay, with the reason: by Git, the ledger and the cycles that are under way."""
    loop.repo.sync()
    files = {name: text for name, text in loop.repo.files().items() if name.startswith("release-")}
    champions = {name: champions_of(loop.repo, name, name.removeprefix("release-").removesuffix(".yaml"))[::-1] for name in files}
    in_use: dict[str, str] = {}
    for name, text in files.items():
        reranker = parse_release(text, name).reranker
        for digest, what in ((reranker.candidate, "on trial"), (reranker.shadow, "in shadow")):
            if digest is not None:
                in_use[digest] = f"{what} by {name}"
    for cycle in loop.control.cycles(_GOLD):
        path = loop.home.artifacts / cycle.cycle_id / "challenger.json"
        if cycle.state in ACTIVE and path.is_file():
            in_use[ServingConfig.read(path).model] = f"the challenger of {cycle.cycle_id}"
    cards = {card.digest: card for card in loop.models.cards()}
    twins = {digest: twin for digest in cards if (twin := loop.models.twin(digest)) is not None}
    golds = [str(record.payload["digest"]) for record in loop.control.records_of("gold_set", _GOLD)]
    return protected_models(champions, golds, in_use, cards, twins)


def let_old_models_go(loop: Loop, now: datetime | None = None) -> list[str] | None:
    """Delete stored models that are old and not needed; their digests, or null where this day's sweep is done already. A deletion is a ledger record."""
    moment = now or utc_now()
    if loop.control.get_note(_NOTE) == moment.date().isoformat():
        return None
    days = loop.settings.values.training.keep_models_days
    gone = models_to_delete(loop.models.cards(), needed_models(loop), moment, timedelta(days=days), _KEEP_NEWEST)
    for card in gone:
        loop.models.remove(card.digest)
    if gone:
        payload = {"digests": [card.digest for card in gone]}
        loop.control.append("models_deleted", "loop", None, f"older than {days} days, and nobody needs them", payload)
    loop.control.set_note(_NOTE, moment.date().isoformat())
    return [card.digest for card in gone]
