"""Two contours, each with a home, a control database and a model store of its own, on one branch: a promotion's bytes, its watch and its way back."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.errors import Missing, Refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.sensors import job_for, reason_to_wait, sensors
from predator_si.orchestration.steps import approve, arrive, improve, keep, onward
from predator_si.orchestration.steps.champions import history
from predator_si.proof.prepare import build_first_index
from predator_si.records import CycleState, Decision, HelmPatch, ServingConfig, Verdict, utc_now
from predator_si.release.deny import SEED_DENY, parse_deny
from predator_si.release.deploy import commit_patch
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import make_patch, save_patch
from predator_si.release.release_file import DENY_FILE, seed_release
from predator_si.search.traffic import replay
from predator_si.settings import Settings
from predator_si_tests.support.platform import (
    load_word_reranker,
    machines,
    ndcg_trigger,
    on_free_port,
    prepare,
    tiny_scale,
    word_model,
)
from predator_si_tests.support.promotion import NEXT, NextService, stable_release
from predator_si_tests.support.waiting import wait_until


class Homes:
    """The first contour with a stable release that the next one's store has never seen, and the next one."""

    def __init__(self, settings: Settings, folder: Path, likes: float = 3.0) -> None:
        self.folder = folder
        promotion, gitops = settings.values.promotion, settings.values.gitops
        there = {"store": str(folder / "shared")}
        values = settings.values.model_copy(update={"promotion": promotion.model_copy(update=there)})
        self.next = Loop(on_free_port(settings.model_copy(update={"contour": NEXT, "home": folder / "next", "values": values})))
        here = there | {"to": NEXT, "search": self.next.search_url}
        changed = {"promotion": promotion.model_copy(update=here), "gitops": gitops.model_copy(update={"url": str(self.next.home.gitops_bare)})}
        self.first = Loop(settings.model_copy(update={"values": settings.values.model_copy(update=changed)}))
        self.old = word_model(self.first, "old", 0.0)
        assert word_model(self.next, "old", 0.0) == self.old, "the same bytes have the same digest everywhere"
        seeds = {loop.release_name: seed_release(ServingConfig(model=self.old, depth=8, fusion_weight=0.2), loop.contour) for loop in (self.first, self.next)}
        GitOpsRepo.init_bare(self.next.home.gitops_bare, {**seeds, DENY_FILE: SEED_DENY})
        prepare(self.next, self.old, tiny_scale())
        prepare(self.first, self.old, tiny_scale())
        self.new = word_model(self.first, "new", likes)
        self.source = stable_release(self.first, self.old, self.new, contour=self.first.contour)

    def approved(self) -> str:
        """The promotion, asked for and approved."""
        cycle_id = onward.propose(self.first, self.source).cycle_id
        approve.give_approval(self.first, cycle_id, "cli:olena", "it held a week at the edge")
        return cycle_id

    def promote(self) -> str:
        """The approved promotion committed and confirmed, while the next home's own loop looks."""
        cycle_id, found = self.approved(), []

        def advance() -> None:
            try:
                found.append(onward.advance(Loop(self.first.settings), cycle_id))
            except Exception as error:
                found.append(error)

        thread = threading.Thread(target=advance)
        thread.start()

        def looked() -> bool:
            arrive.look(self.next)
            return self.watching() is not None or bool(found)

        wait_until(looked, 60, "the next home's watch")
        thread.join(60)
        assert found == [f"{self.new} serves in {NEXT}"], found
        return cycle_id

    def watching(self) -> Any:
        """The next home's cycle for what arrived; null before."""
        return next((cycle for cycle in self.next.control.cycles(50, NEXT) if arrive.is_arrival(cycle) and cycle.state is not CycleState.OPENED), None)

    def champions(self) -> tuple[str, str]:
        return self.first.serving().model, self.next.serving().model


@pytest.fixture
def homes(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Homes]:
    """Two homes; the next one's service is a stand-in that loads what its own store has."""
    monkeypatch.setattr(Loop, "confirm_seconds", 20.0)
    found = Homes(settings, tmp_path)
    with NextService(Loop(found.next.settings), has=lambda digest: digest in found.next.models, port=found.next.settings.ports.search):
        yield found


def test_the_bytes_are_there_before_the_commit_and_the_next_loop_opens_its_own_watch(homes: Homes) -> None:
    assert homes.new not in homes.next.models
    promotion = homes.promote()
    watch = homes.watching()
    assert homes.next.models.card(homes.new) == homes.first.models.card(homes.new), "fetched by its digest, with its card"
    assert watch.state is CycleState.RELEASED and homes.champions() == (homes.new, homes.new)
    assert watch.cycle_id in (homes.source, promotion), "ids are each home's own, and the same ones"
    assert homes.first.control.cycle(promotion).state is CycleState.STABLE
    assert job_for(homes.next, watch.cycle_id) == "watch_job" and "requests since the last check" in (reason_to_wait(homes.next, watch.cycle_id) or "")
    assert arrive.look(homes.next) == [] and len(homes.next.control.cycles()) == 1, "once"
    newest = history(homes.next)[0]
    assert (newest.digest, homes.next.control.current_release(NEXT)) == (homes.new, watch)
    back = keep.take_back(homes.next, watch.cycle_id, "worse on our traffic")
    assert (back.verified, back.to_digest, homes.champions()) == (True, homes.old, (homes.new, homes.old))
    (entry,) = parse_deny(homes.next.repo.show(DENY_FILE))
    assert (entry.digest, entry.contour) == (homes.new, NEXT) and homes.first.denied() == []
    with pytest.raises(Refused, match="on the deny list"):
        onward.propose(homes.first, homes.source)
    assert arrive.look(homes.next) == [], "our own way back is no arrival"
    assert homes.next.control.verify() == [] and homes.first.control.verify() == []


def test_what_the_first_contour_takes_back_itself_is_watched_no_more_and_stays_allowed(homes: Homes) -> None:
    promotion = homes.promote()
    onward.take_back(homes.first, promotion, "cli:olena", "slower on their hardware")
    assert homes.champions() == (homes.new, homes.old)
    assert "local took it back" in arrive.look(homes.next)[0]
    assert homes.watching().state is CycleState.ROLLED_BACK and homes.next.denied() == [] and arrive.look(homes.next) == []


@pytest.mark.parametrize(
    ("state", "ends"), [(CycleState.EVALUATED, CycleState.CANCELLED), (CycleState.RELEASED, CycleState.FAILED), (CycleState.WATCHING, CycleState.FAILED)]
)
def test_an_own_cycle_whose_champion_was_replaced_ends_and_is_not_taken_back(homes: Homes, state: CycleState, ends: CycleState) -> None:
    loop, own = homes.next, word_model(homes.next, "own", 1.0)
    cycle_id = loop.control.open_cycle(NEXT, ndcg_trigger(), "test", "a test wants it").cycle_id
    if state is not CycleState.EVALUATED:
        release(loop, cycle_id, own)
    loop.control.transition(cycle_id, state, "as far as it came", "loop")
    homes.promote()
    assert loop.control.cycle(cycle_id).state is ends and f"promoted {homes.new} over it" in loop.control.cycle(cycle_id).reason
    if state is not CycleState.EVALUATED:
        with pytest.raises(Missing, match="over its release"):
            keep.take_back(loop, cycle_id, "worse")
        assert homes.champions() == (homes.new, homes.new)
        back = keep.take_back(loop, homes.watching().cycle_id, "worse")
        assert back.verified and back.to_digest == own, "the way back leads to what served before"


def release(loop: Loop, cycle_id: str, digest: str) -> HelmPatch:
    """The next contour's own release, as far as Git and its files go."""
    loop.repo.sync()
    patch = make_patch(loop.repo.show(loop.release_name), {"reranker.champion": digest}, cycle_id=cycle_id, stage="promote", file=loop.release_name)
    made = commit_patch(loop.repo, patch, "deploy: own")
    save_patch(loop.artifacts(cycle_id), made)
    sides = {"champion": ServingConfig(model=str(patch.reverse["reranker.champion"]), depth=8), "challenger": ServingConfig(model=digest, depth=8)}
    decision = Decision(cycle_id=cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=[], policy="full", approval_required=False, **sides,
                        reason="better", created_at=utc_now())  # fmt: skip
    loop.save(cycle_id, "decision-promote.json", decision)
    return made


def test_a_look_that_was_killed_goes_on_where_it_was(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    cycle_id = homes.approved()
    monkeypatch.setattr(Loop, "confirm_seconds", 0.0)
    with pytest.raises(Refused):  # its service had no time: committed, and taken back
        onward.advance(homes.first, cycle_id)
    assert homes.champions() == (homes.new, homes.old) and homes.first.control.cycle(cycle_id).state is CycleState.FAILED
    text = homes.next.release_text().replace(homes.old, homes.new)
    edge = homes.first.repo
    edge.sync()
    edge.change(lambda files: {homes.next.release_name: text}, "promote: again", cycle_id="si_2026_11_23_777", stage="promote")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            arrive.look(homes.next)
    (opened,) = homes.next.control.cycles(50, NEXT)
    assert opened.state is CycleState.OPENED and "arrival_sensor" in (reason_to_wait(homes.next, opened.cycle_id) or "")
    assert f"{opened.cycle_id} watches {homes.new}" in arrive.look(homes.next)[-1]
    assert homes.next.control.cycle(opened.cycle_id).state is CycleState.RELEASED


def test_a_store_without_the_bytes_and_without_a_place_to_fetch_them_says_so(homes: Homes, monkeypatch: pytest.MonkeyPatch) -> None:
    values = homes.next.settings.values
    nowhere = values.model_copy(update={"promotion": values.promotion.model_copy(update={"store": None})})
    blind = Loop(homes.next.settings.model_copy(update={"values": nowhere}))
    monkeypatch.setattr(Loop, "confirm_seconds", 1.0)
    cycle_id, seen = homes.approved(), []
    committed = onward._confirm

    def looking(*arguments: Any) -> Any:
        seen.extend(arrive.look(blind))
        return committed(*arguments)

    monkeypatch.setattr(onward, "_confirm", looking)
    with pytest.raises(Refused, match="The commit was taken back"):
        onward.advance(homes.first, cycle_id)
    assert "promotion.store names no place to fetch it from" in seen[0] and "whose bytes are not here yet" in seen[1]
    assert homes.champions() == (homes.new, homes.old) and homes.next.control.cycles() == []


@pytest.mark.parametrize(("likes", "answer"), [(3.0, "keep"), (-3.0, "rollback")])
def test_the_next_loop_watches_real_traffic_and_keeps_or_takes_back(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, likes: float, answer: str
) -> None:
    """The search service and the reconciler of the next home; its loop asks its own judged queries, and its way back is its own."""
    monkeypatch.setattr(Loop, "confirm_seconds", 60.0)
    monkeypatch.setattr(improve, "load_reranker", load_word_reranker)
    homes = Homes(settings, tmp_path, likes)
    build_first_index(homes.next, part=None)
    with machines(homes.next, embedder=homes.next.plan.embedder, load_reranker=load_word_reranker):
        homes.promote()
        watch = homes.watching().cycle_id
        for seed in range(20):
            result = replay(homes.next.search_url, homes.next.corpus, "shift", n=20, seed=seed)
            assert result.failed == 0, result.failures
            found = keep.watch_once(homes.next, watch)
            keep.write_report(homes.next, watch)
            if found.answer in ("keep", "rollback"):
                break
        assert found.answer == answer, found.reason
        if answer == "keep":
            assert homes.next.control.cycle(watch).state is CycleState.STABLE
            return
        back = keep.roll_back_degraded(homes.next, watch)
        assert back.verified and homes.champions() == (homes.new, homes.old)
        assert homes.next.info()["variants"]["champion"]["model_sha"] == homes.old
        assert [entry.digest for entry in homes.next.denied()] == [homes.new] and homes.first.denied() == []


def test_the_sensor_says_what_it_did_and_starts_nothing(homes: Homes) -> None:
    def tick(loop: Loop) -> str:
        (sensor,) = [one for one in sensors(loop.settings) if one.name == "arrival_sensor"]
        with dg.DagsterInstance.ephemeral() as instance, dg.build_sensor_context(instance=instance) as context:
            found = sensor.evaluate_tick(context)
        assert not found.run_requests
        return str(found.skip_message)

    assert tick(homes.next) == "no other contour promoted anything new"
    shutil.rmtree(homes.next.home.gitops_bare)
    assert tick(homes.next).startswith("unknown: ")
