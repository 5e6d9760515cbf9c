"""From one contour to the next: two contours' files in one repository, the next contour's service on loopback, each step a commit."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from predator_si.errors import Refused
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import approve, onward
from predator_si.records import CycleState, Decision, Evaluation, Interval, ServingConfig, Verdict, WatchResult, utc_now
from predator_si.release.deny import DENY_FILE, SEED_DENY
from predator_si.release.deploy import commit_changes
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.release_file import parse_release, seed_release
from predator_si.settings import Settings
from predator_si_tests.support.platform import fake_model, open_cycle, prepare

NEXT = "compute-nvidia"


class NextService:
    """The search service of the next contour: ``GET /info`` says what its release file in Git says, or what it is told to say."""

    def __init__(self, loop: Loop) -> None:
        self.stuck_on: str | None = None
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(peer.info(loop)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def info(self, loop: Loop) -> dict[str, Any]:
        loop.repo.sync()
        release = parse_release(loop.repo.show(f"release-{NEXT}.yaml"), "it")
        serving = release.serving
        arm = {"model_sha": self.stuck_on or serving.model, "depth": serving.depth, "fusion_weight": serving.fusion_weight, "early_exit": serving.early_exit}
        return {"variants": {"champion": arm, "candidate": None}, "ingest": {"workers": 1}, "index": {"build": "first"}}


@pytest.fixture
def home(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Loop, NextService, str]]:
    """An edge whose newest release is stable, a next contour with an older champion, and its service."""
    loop = Loop(settings)
    old, new = fake_model(loop, "old"), fake_model(loop, "new")
    other = seed_release(ServingConfig(model=old, depth=7, fusion_weight=0.1), NEXT)
    mine = seed_release(ServingConfig(model=old, depth=8, fusion_weight=0.2), "local")
    GitOpsRepo.init_bare(loop.home.gitops_bare, {loop.release_name: mine, f"release-{NEXT}.yaml": other, DENY_FILE: SEED_DENY})
    prepare(loop, old)
    peer = NextService(loop)
    thread = threading.Thread(target=peer.server.serve_forever, daemon=True)
    thread.start()
    values = settings.values.model_copy(update={"promotion": settings.values.promotion.model_copy(update={"to": NEXT, "search": peer.url})})
    loop = Loop(settings.model_copy(update={"values": values}))
    monkeypatch.setattr(Loop, "confirm_seconds", 3.0)
    try:
        yield loop, peer, stable_release(loop, old, new)
    finally:
        peer.server.shutdown()
        peer.server.server_close()
        thread.join(10)


def stable_release(loop: Loop, old: str, new: str) -> str:
    """A cycle of this contour whose release was watched to its end, with the evidence that it left."""
    cycle_id, now = open_cycle(loop.control).cycle_id, utc_now()
    sides = {"champion": ServingConfig(model=old, depth=8, fusion_weight=0.2), "challenger": ServingConfig(model=new, depth=8, fusion_weight=0.2)}
    gain = Interval(estimate=0.05, low=0.02, high=0.08, p_value=0.001, n=50, sd=0.1)
    evaluation = Evaluation(
        cycle_id=cycle_id, **sides, corpus="toy", split="test", n_queries=50, ndcg_champion=0.5, ndcg_challenger=0.55, ndcg_difference=gain, created_at=now
    )
    loop.save(cycle_id, "evaluation.json", evaluation)
    decided = Decision(
        cycle_id=cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=[], policy="full", approval_required=False, **sides, reason="better", created_at=now
    )
    loop.save(cycle_id, "decision-promote.json", decided)
    watched = WatchResult(cycle_id=cycle_id, checks=[], requests=100, failed_requests=0, answer="keep", gates=[], reason="all checks passed", created_at=now)
    loop.save(cycle_id, "watch.json", watched)
    commit_changes(loop.repo, loop.release_name, {"reranker.champion": new}, "deploy: new", cycle_id, "promote")
    for state in (CycleState.EVALUATED, CycleState.RELEASED, CycleState.STABLE):
        loop.control.transition(cycle_id, state, "a test says so", "loop")
    return cycle_id


def by_git(loop: Loop) -> tuple[ServingConfig, ServingConfig]:
    loop.repo.sync()
    mine, other = loop.release_name, f"release-{NEXT}.yaml"
    return parse_release(loop.repo.show(mine), mine).serving, parse_release(loop.repo.show(other), other).serving


def test_a_stable_release_is_asked_committed_confirmed_and_taken_back_without_touching_the_first_contour(home: tuple[Loop, NextService, str]) -> None:
    loop, _, source = home
    here, there = by_git(loop)
    onward.propose_where_wanted(loop, source)
    promotion = onward.waiting(loop)
    assert promotion is not None and (promotion.contour, promotion.state) == (NEXT, CycleState.AWAITING_APPROVAL)
    assert onward.propose(loop, source).cycle_id == promotion.cycle_id, "it is proposed once"
    (question,) = loop.control.approvals(NEXT, waiting=True)
    assert question.evidence["promotes"] == source and question.evidence["watch"] == "all checks passed" and question.evidence["replaces"]["depth"] == 7
    assert "a person is asked until" in (onward.advance_waiting(loop) or "") and by_git(loop) == (here, there)

    approve.give_approval(loop, promotion.cycle_id, "cli:olena", "it held a week at the edge")
    assert "serves in compute-nvidia" in onward.advance(loop, promotion.cycle_id)
    assert by_git(loop) == (here, here), "model, depth and fusion of the first contour, in a commit of its own"
    assert loop.control.cycle(promotion.cycle_id).state is CycleState.STABLE and onward.waiting(loop) is None
    assert [span.digest for span in loop.control.champions(NEXT)] == [here.model] and loop.control.champions(loop.contour) == []
    log = loop.repo._git("log", "-1", "--format=%s%n%(trailers:only)", loop.repo.head())
    assert f"Predator-Source: {source}" in log and "Predator-Approved-By: cli:olena" in log and f"Predator-Cycle: {promotion.cycle_id}" in log

    back = onward.take_back(loop, promotion.cycle_id, "cli:olena", "slower on their hardware")
    assert back.verified and by_git(loop) == (here, there) and back.denied == []
    assert loop.repo.show(DENY_FILE) == SEED_DENY, "what serves here must stay allowed"
    assert loop.control.cycle(source).state is CycleState.STABLE and loop.control.cycle(promotion.cycle_id).state is CycleState.ROLLED_BACK
    with pytest.raises(Refused, match="was rolled_back in contour compute-nvidia"):
        onward.propose(loop, source)
    assert loop.control.verify() == []


def test_a_service_that_does_not_follow_gets_its_commit_taken_back(home: tuple[Loop, NextService, str]) -> None:
    loop, peer, source = home
    here, there = by_git(loop)
    cycle_id = onward.propose(loop, source).cycle_id
    approve.give_approval(loop, cycle_id, "cli:olena", "yes")
    peer.stuck_on = there.model
    with pytest.raises(Refused, match="The commit was taken back"):
        onward.advance(loop, cycle_id)
    assert by_git(loop) == (here, there) and loop.control.cycle(cycle_id).state is CycleState.FAILED


def test_what_was_approved_is_what_is_committed(home: tuple[Loop, NextService, str]) -> None:
    loop, _, source = home
    before = by_git(loop)
    cycle_id = onward.propose(loop, source).cycle_id
    approve.give_approval(loop, cycle_id, "cli:olena", "yes")
    watch = loop.artifacts(source) / "watch.json"
    kept = watch.read_text()
    watch.write_text(kept.replace("all checks passed", "all checks passed, twice"))
    with pytest.raises(Refused, match="not what was approved"):
        onward.advance(loop, cycle_id)
    watch.write_text(kept)
    loop.control.set_kill_switch(loop.contour, True, "cli:olena", "freeze")
    with pytest.raises(Refused, match="kill switch"):
        onward.advance(loop, cycle_id)
    loop.control.set_kill_switch(loop.contour, False, "cli:olena", "over")
    path = loop.artifacts(cycle_id) / "decision-promote.json"
    path.write_text(Decision.read(path).model_copy(update={"approved_by": "cli:eve"}).to_json())
    with pytest.raises(Refused, match="holds no approval of this decision"):
        onward.advance(loop, cycle_id)
    assert by_git(loop) == before


def test_a_promotion_ends_when_nobody_answers_or_its_source_is_taken_back(home: tuple[Loop, NextService, str], monkeypatch: pytest.MonkeyPatch) -> None:
    loop, _, source = home
    cycle_id = onward.propose(loop, source).cycle_id
    loop.control.transition(source, CycleState.ROLLED_BACK, "worse after all", "loop")
    assert onward.advance(loop, cycle_id) == "cancelled: its source was taken back"
    assert loop.control.cycle(cycle_id).state is CycleState.CANCELLED
    with pytest.raises(Refused, match="only a stable release"):
        onward.propose(loop, source)


def test_without_an_address_of_the_next_service_nothing_is_proposed(home: tuple[Loop, NextService, str]) -> None:
    loop, _, source = home
    values = loop.settings.values.model_copy(update={"promotion": loop.settings.values.promotion.model_copy(update={"search": None})})
    blind = Loop(loop.settings.model_copy(update={"values": values}))
    onward.propose_where_wanted(blind, source)
    record = blind.control.records()[-1]
    assert record.action == "promotion_not_proposed" and "nobody could say what it serves" in record.reason
