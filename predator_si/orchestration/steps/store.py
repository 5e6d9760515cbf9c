"""The model store, once a day: what is old and nobody needs goes.

What belongs here: gathering what is needed. What must not: the rule (``release.retention``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from predator_si.control import ACTIVE
from predator_si.orchestration.loop import Loop
from predator_si.records import ServingConfig, utc_now
from predator_si.release.champions import champions_of
from predator_si.release.deny import parse_deny
from predator_si.release.patch import load_patch, patch_name
from predator_si.release.release_file import DENY_FILE, contour_of, parse_release
from predator_si.release.retention import models_to_delete, protected_models
from predator_si.train.tracking import ExperimentTracker

_NOTE = "retention:models"
_KEEP_NEWEST = 10
_GOLD = 1000


def needed_models(loop: Loop, tracker: ExperimentTracker | None = None) -> dict[str, str]:
    """Every model that must stay, with the reason: by Git, the ledger, the registry and the cycles that are under way or serve.

    Raises
    ------
    PredatorError
        One of them does not answer. What is not known is not deleted.
    """
    loop.repo.sync()
    files = {name: text for name, text in loop.repo.files().items() if name.startswith("release-")}
    champions = {name: champions_of(loop.repo, name, contour_of(name))[::-1] for name in files}
    listed = loop.repo.show(DENY_FILE)
    denied = {name: {entry.digest for entry in parse_deny(listed, contour=contour_of(name))} for name in files}
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
    for name in files:
        back = _way_back(loop, contour_of(name))
        if back is not None:
            in_use.setdefault(*back)
    cards = {card.digest: card for card in loop.models.cards()}
    twins = {digest: twin for digest in cards if (twin := loop.models.twin(digest)) is not None}
    golds = {str(record.payload["digest"]) for record in loop.control.records_of("gold_set", _GOLD)}
    if tracker is not None:
        golds |= {digest for alias, digest in tracker.aliases().items() if alias.startswith("gold-")}
    return protected_models(champions, golds, in_use, cards, twins, denied)


def _way_back(loop: Loop, contour: str) -> tuple[str, str] | None:
    """Where the release that serves a contour would be taken back to, by its stored reverse, and why it stays."""
    cycle = loop.control.current_release(contour)
    folder = None if cycle is None else loop.home.artifacts / cycle.cycle_id
    if cycle is None or folder is None or not (folder / patch_name("promote")).is_file():
        return None
    back = load_patch(folder, "promote").reverse.get("reranker.champion")
    return None if back is None else (str(back), f"the way back of {cycle.cycle_id}")


def let_old_models_go(loop: Loop, now: datetime | None = None) -> list[str] | None:
    """Delete stored models that are old and not needed; their digests, or null where this day's sweep is done already. A deletion is a ledger record."""
    from predator_si.orchestration.tracking import existing_tracker

    moment = now or utc_now()
    if loop.control.get_note(_NOTE) == moment.date().isoformat():
        return None
    tracker = existing_tracker(loop.home)
    days = loop.settings.values.training.keep_models_days
    gone = models_to_delete(loop.models.cards(), needed_models(loop, tracker), moment, timedelta(days=days), _KEEP_NEWEST)
    for card in gone:
        loop.models.remove(card.digest)
    if gone:
        payload = {"digests": [card.digest for card in gone]}
        loop.control.append("models_deleted", "loop", None, f"older than {days} days, and nobody needs them", payload)
    loop.control.set_note(_NOTE, moment.date().isoformat())
    return [card.digest for card in gone]
