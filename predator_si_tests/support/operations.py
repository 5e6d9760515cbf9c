"""A home with a life behind it, and the operations page over it in process: cycles, gates, approvals, champions, messages, without any service."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import httpx
from starlette.testclient import TestClient

from predator_si.api.app import create_app
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.approve import ask
from predator_si.records import Answer, Criterion, CycleState, Decision, Evaluation, GateResult, Interval, ServingConfig, Verdict, utc_now
from predator_si.settings import Settings
from predator_si_tests.support.platform import ndcg_trigger, open_cycle, prepare, write_baseline, write_snapshot

HOST = "127.0.0.1:8000"
ORIGIN = {"Origin": f"http://{HOST}"}
OLD, NEW = "sha256:" + "a1" * 32, "sha256:" + "b2" * 32
COMMIT = "c" * 40


def nobody_answers(request: httpx.Request) -> httpx.Response:
    """Dagster's webserver and the search service are away."""
    raise httpx.ConnectError("nobody listens there", request=request)


def page(settings: Settings, **headers: str) -> TestClient:
    """A browser of this machine before the API of a home whose Dagster is away."""
    away = httpx.MockTransport(nobody_answers)
    app = create_app(settings, dagster=away, search=away)
    client = TestClient(app, base_url=f"http://{HOST}", client=("127.0.0.1", 50000), follow_redirects=False, raise_server_exceptions=True)
    client.headers.update(headers)
    return client


def lived_in(settings: Settings) -> Loop:
    """A prepared home: a champion with a history, windows with a drop, one stable cycle, one that waits for a person."""
    loop = prepare(Loop(settings), OLD)
    now = utc_now()
    for back in range(12, 0, -1):
        write_snapshot(loop, NEW, now - timedelta(minutes=15 * back), {"ndcg_at_10": 0.6 + 0.001 * back, "user_satisfaction": None})
    write_snapshot(loop, NEW, now, {"ndcg_at_10": 0.41, "etl_lag_seconds": None})
    write_baseline(loop, NEW)
    loop.control.champion_changed(loop.contour, OLD, "the first of this home")
    first = open_cycle(loop.control).cycle_id
    for state in ("prepared", "trained", "evaluated", "on_trial", "decided", "released", "watching", "stable"):
        loop.control.transition(first, state, f"it is {state}", "loop")
    loop.control.champion_changed(loop.contour, NEW, "better on sealed queries", cycle_id=first, commit=COMMIT)
    waiting_cycle(loop)
    return loop


def waiting_cycle(loop: Loop, **trigger: Any) -> str:
    """A cycle that waits for a person, asked as the loop asks."""
    cycle_id = loop.control.open_cycle(loop.contour, ndcg_trigger(**trigger), "quality_gate_sensor", "ndcg_at_10 0.41 misses >= 0.58").cycle_id
    for state in ("prepared", "trained", "evaluated", "on_trial", "decided"):
        loop.control.transition(cycle_id, state, f"it is {state}", "loop")
    gate = GateResult(
        criterion=Criterion(name="ndcg_superior", metric="ndcg_at_10", direction="min", threshold=0.0),
        answer=Answer.PASS, value=0.03, limit=0.0, n=500, reason="+0.03 [+0.01, +0.05] is above 0",
    )  # fmt: skip
    evaluation = Evaluation(
        cycle_id=cycle_id, champion=ServingConfig(model=OLD, depth=8), challenger=ServingConfig(model=NEW, depth=8), corpus="toy", split="test", n_queries=500,
        ndcg_champion=0.60, ndcg_challenger=0.63, ndcg_difference=Interval(estimate=0.03, low=0.01, high=0.05, n=500), created_at=utc_now(),
        slices=[{"name": "part=shift", "n": 120, "ndcg_champion": 0.5, "ndcg_challenger": 0.56}],
    )  # fmt: skip
    loop.save(cycle_id, "evaluation.json", evaluation)
    decision = Decision(
        cycle_id=cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=[gate], policy="staging", approval_required=True,
        champion=ServingConfig(model=OLD, depth=8), challenger=ServingConfig(model=NEW, depth=8), evidence={"evaluation.json": "9f" * 32},
        reason="superior, nothing is worse", created_at=utc_now(),
    )  # fmt: skip
    loop.save(cycle_id, "decision-promote.json", decision)
    loop.control.transition(cycle_id, CycleState.AWAITING_APPROVAL, "the contour wants a person's approval", "loop")
    loop.repo.sync()  # as the jobs of the cycle did
    ask(loop, cycle_id, decision)
    return cycle_id
