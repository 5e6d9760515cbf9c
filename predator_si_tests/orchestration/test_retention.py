"""The tick lets old events go, once a day, as long back as the contour says."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import store
from predator_si.orchestration.steps.retention import let_old_go
from predator_si.orchestration.steps.store import let_old_models_go
from predator_si.records import CycleState, SearchEvent, ServingConfig, utc_now
from predator_si.release.deny import add_denied, deny_entries
from predator_si.release.deploy import commit_changes, commit_patch
from predator_si.release.patch import make_patch, save_patch
from predator_si.release.release_file import DENY_FILE
from predator_si.search.events import hour_name, read_events
from predator_si.search.personal import open_vault
from predator_si.search.rollup import roll_up
from predator_si.search.spool import EventSpool
from predator_si.settings import Settings, load_settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.support.platform import fake_model, open_cycle, prepare


def test_once_a_day_what_is_older_than_the_contour_allows_goes(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("selfImprovement: {privacy: {retentionDays: 7}}\n")
    loop, now = Loop(load_settings("local", tmp_path / "home", values, env={})), utc_now()
    vault = open_vault(loop.home.ensure().path)
    tokens = {}
    for days in (0, 6, 20):
        at = now - timedelta(days=days)
        spool = EventSpool(loop.home.events, vault=vault, now=lambda at=at: at)
        event = SearchEvent(query_id=f"q{days}", timestamp=at, user_query=f"asked {days} days ago", client_id="ann", status=200, latency_ms=1)
        tokens[days] = spool.add_search(event).user_query
        spool.close()
    roll_up(loop.home.events, hour_name(now + timedelta(hours=1)), vault=vault)

    def left() -> list[str | None]:
        return read_events(loop.home.events, now - timedelta(days=30), now + timedelta(hours=1)).search["user_query"].to_list()

    assert left() == ["asked 20 days ago", "asked 6 days ago", "asked 0 days ago"]
    done = let_old_go(loop, now)
    assert done is not None and (done.files, done.keys) == (1, 1)  # the counter of that writer was touched just now, so it stays
    assert left() == ["asked 6 days ago", "asked 0 days ago"]
    assert vault.open([tokens[20], tokens[0]]) == [None, "asked 0 days ago"]  # also where a copy of the file was kept
    assert let_old_go(loop, now) is None
    assert [record.action for record in loop.control.records()] == ["personal_data_expired"]
    later = let_old_go(loop, now + timedelta(days=8))
    assert later is not None and later.files >= 2 and left() == []


def test_old_models_go_once_a_day_and_those_that_may_be_needed_stay(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop(settings)
    names = ("first", "second", "third", "gold", "tried", "forgotten")
    models = {name: fake_model(loop, name) for name in names}
    prepare(loop, models["first"])
    for name in ("second", "third"):
        commit_changes(loop.repo, loop.release_name, {"reranker.champion": models[name]}, f"deploy: {name}", f"si_2026_11_23_00{len(name)}", "promote")
    loop.control.append("gold_set", "loop", None, "gold-1", {"alias": "gold-1", "digest": models["gold"]})
    cycle_id = open_cycle(loop.control).cycle_id
    loop.save(cycle_id, "challenger.json", ServingConfig(model=models["tried"], depth=8))
    monkeypatch.setattr(store, "_KEEP_NEWEST", 0)
    assert let_old_models_go(loop, utc_now()) == [], "nothing is old yet"
    later = utc_now() + timedelta(days=91)
    gone = let_old_models_go(loop, later)
    assert set(gone or ()) == {models["first"], models["forgotten"]}, "neither of the newest two champions, gold, nor the one under way"
    assert sorted(card.digest for card in loop.models.cards()) == sorted(models[name] for name in names if name not in ("first", "forgotten"))
    assert loop.control.records()[-1].payload["digests"] == gone
    assert let_old_models_go(loop, later) is None, "once a day"


def test_after_a_way_back_the_model_that_the_next_one_leads_to_stays(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """OLDER, OLD, BAD, OLD: the champion before is not the denied BAD, and OLD's own reverse leads to OLDER. A gold that only the registry knows stays too."""
    loop = Loop(settings)
    models = {name: fake_model(loop, name) for name in ("older", "old", "bad", "gold", "forgotten")}
    prepare(loop, models["older"])
    monkeypatch.setattr(store, "_KEEP_NEWEST", 0)
    for number, (name, after) in enumerate((("old", CycleState.STABLE), ("bad", CycleState.ROLLED_BACK)), 1):
        cycle_id, text = open_cycle(loop.control).cycle_id, loop.release_text()
        patch = make_patch(text, {"reranker.champion": models[name]}, cycle_id=cycle_id, stage="promote", file=loop.release_name)
        save_patch(loop.artifacts(cycle_id), commit_patch(loop.repo, patch, f"deploy: {name}"))
        loop.save(cycle_id, "challenger.json", ServingConfig(model=models[name], depth=8))
        loop.control.transition(cycle_id, CycleState.RELEASED, f"number {number}", "loop")
        loop.control.transition(cycle_id, after, f"number {number}", "loop")
    entries = deny_entries(loop.models.card(models["bad"]), cycle_id=cycle_id, reason="worse", at=utc_now(), keep=(), contour=loop.contour)

    def back(files: Mapping[str, str]) -> Mapping[str, str]:
        text = files[loop.release_name].replace(models["bad"], models["old"])
        return {loop.release_name: text, DENY_FILE: add_denied(files[DENY_FILE], entries)}

    loop.repo.change(back, "rollback: bad", cycle_id=cycle_id, stage="rollback")
    tracker = NullTracker()
    tracker.register(models["gold"], loop.models.path(models["gold"]))
    tracker.set_alias("gold-1", models["gold"])
    kept = store.needed_models(loop, tracker)
    assert {models[name] for name in ("old", "older", "gold")} <= set(kept) and models["bad"] not in kept and models["forgotten"] not in kept
    (release,) = [cycle for cycle in loop.control.cycles() if cycle.state is CycleState.STABLE]
    assert kept[models["older"]] in (f"the way back of {release.cycle_id}", f"the champion before of {loop.release_name}")
