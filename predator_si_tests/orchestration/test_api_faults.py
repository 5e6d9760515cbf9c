"""What the API does when many ask at once, when a part is away, and when there is a lot: one cycle, a stop that takes effect, pages that stay quick."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from predator_si.api.once import Answers
from predator_si.api.routes import Held, language
from predator_si.control import Control
from predator_si.control.ledger import stamp
from predator_si.errors import BadInput, Refused
from predator_si.home import Home
from predator_si.records import Cycle, CycleState, Decision, Rollback, ServingConfig, Verdict, utc_now
from predator_si_tests.support.api_ground import OPTIMIZER, ApiGround
from predator_si_tests.support.dagster_peer import bare_schema
from predator_si_tests.support.platform import ndcg_trigger


@pytest.fixture
def ground(home: Home) -> ApiGround:
    bare_schema()
    return ApiGround(home)


def test_two_hundred_triggers_at_once_start_one_cycle(ground: ApiGround):
    ground.measured()

    async def all_at_once() -> list[httpx.Response]:
        transport = httpx.ASGITransport(ground.app, client=("127.0.0.1", 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=120) as client:
            return await asyncio.gather(*(client.post(f"{OPTIMIZER}/trigger", json={"force": True}) for _ in range(200)))

    said = [answer.json() for answer in asyncio.run(all_at_once())]
    assert [one["status"] for one in said].count("started") == 1 and [one["status"] for one in said].count("skipped") == 199
    cycles = ground.loop.control.cycles(10)
    assert len(cycles) == 1 and {one["cycle_id"] for one in said} == {cycles[0].cycle_id}
    assert [run["jobName"] for run in ground.peer.runs] == ["cycle_prepare_job"]


def test_two_hundred_triggers_where_nothing_was_measured_take_one_first_snapshot(ground: ApiGround):
    async def all_at_once() -> list[httpx.Response]:
        transport = httpx.ASGITransport(ground.app, client=("127.0.0.1", 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=120) as client:
            return await asyncio.gather(*(client.post(f"{OPTIMIZER}/trigger", json={"force": True}) for _ in range(200)))

    said = [answer.json() for answer in asyncio.run(all_at_once())]
    [run] = ground.peer.runs
    assert run["jobName"] == "observe_job" and {one["run_id"] for one in said} == {run["runId"]} and not ground.loop.control.cycles(10)
    assert [one["status"] for one in said].count("started") == 1 and [one["status"] for one in said].count("skipped") == 199
    with ApiGround(ground.loop.home, prepared=False).client() as client:  # another process: it asks Dagster
        again = client.app.state.parts.optimizer.dagster  # type: ignore[attr-defined]
        again._client = httpx.AsyncClient(transport=ground.peer.transport())
        assert client.post(f"{OPTIMIZER}/trigger", json={"force": True}).json()["run_id"] == run["runId"] and len(ground.peer.runs) == 1


def test_without_the_webserver_reads_answer_and_stop_takes_effect(ground: ApiGround):
    ground.measured()
    ground.peer.down = True
    with ground.client() as client:
        for path in ("status", "metrics", "history", "quality-gates", "approvals", "cycles", "champions"):
            assert client.get(f"{OPTIMIZER}/{path}").status_code == 200, path
        assert "does not answer" in client.get(f"{OPTIMIZER}/status").json()["problems"][0]
        ready = client.get("/ready").json()
        assert ready["status"] == "degraded" and ready["problems"][0]["part"] == "dagster" and "stop" in ready["problems"][0]["still_works"]
        trigger = client.post(f"{OPTIMIZER}/trigger", json={"force": True})
        assert trigger.status_code == 503 and trigger.json()["next_step"] and "retry-after" in trigger.headers
        assert client.post(f"{OPTIMIZER}/start").status_code == 503
        stopped = client.post(f"{OPTIMIZER}/stop")
        assert stopped.status_code == 200 and "stays as it is" in stopped.json()["message"]
    assert ground.loop.control.kill_switch("local") and ground.loop.control.active_cycle("local") is None


def test_runs_that_cannot_be_told_are_named(ground: ApiGround):
    run = ground.peer.run("cycle_train_job", "train")
    ground.peer.deaf = True
    with ground.client() as client:
        found = client.post(f"{OPTIMIZER}/stop").json()
    assert found["terminated_runs"] == [] and found["asked_runs"] == [run]


def test_a_dead_daemon_is_said_and_a_release_that_nobody_watches(ground: ApiGround):
    cycle_id = ground.loop.control.open_cycle("local", ndcg_trigger(), "test", "a test").cycle_id
    ground.loop.control.transition(cycle_id, CycleState.RELEASED, "released", "test")
    with ground.client() as client:
        assert client.get(f"{OPTIMIZER}/status").json()["unwatched_release"] is None
        ground.peer.healthy = False
        client.post(f"{OPTIMIZER}/stop")  # a change, so that nothing is held; watch and rollback are not stopped by it
        found = client.get(f"{OPTIMIZER}/status").json()
        numbers = client.get("/metrics").text
    assert found["unwatched_release"]["cycle_id"] == cycle_id and "SENSOR" in found["unwatched_release"]["reason"]
    assert any("SENSOR" in problem for problem in found["problems"])
    assert "predator_si_unwatched_release 1.0" in numbers and "predator_si_kill_switch 1.0" in numbers


def test_a_locked_database_is_503_and_health_answers(home: Home, monkeypatch: pytest.MonkeyPatch):
    ground = ApiGround(home, prepared=False)
    ground.loop.control.append("noted", "test", None, "one", {})
    impatient = Control(home.control_db, busy_seconds=0.05)
    monkeypatch.setattr(ground.app.state.parts.optimizer.loop, "control", impatient)
    holder = sqlite3.connect(home.control_db, isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with ground.client() as client:
            answer = client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 0.5})
            assert answer.status_code == 503 and "still locked" in answer.json()["detail"] and str(home.path) not in answer.text
            assert client.get("/health").status_code == 200
    finally:
        holder.execute("ROLLBACK")
        holder.close()


def released(ground: ApiGround) -> str:
    """A cycle whose model is in production, with the decision behind it."""
    cycle_id = ground.loop.control.open_cycle("local", ndcg_trigger(), "test", "a test").cycle_id
    decision = Decision(
        cycle_id=cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=[], policy="full", approval_required=False,
        champion=ServingConfig(model="sha256:" + "a" * 64, depth=8), challenger=ServingConfig(model="sha256:" + "b" * 64, depth=8),
        reason="better", created_at=utc_now(),
    )  # fmt: skip
    ground.loop.save(cycle_id, "decision-promote.json", decision)
    for state in (CycleState.RELEASED, CycleState.STABLE):
        ground.loop.control.transition(cycle_id, state, "a test", "test")
    return cycle_id


def lane_of(ground: ApiGround, cycle_id: str) -> Callable[..., Awaitable[str]]:
    """Launching ``rollback_job``, and what the run that Dagster would start does, as far as the caller sees it."""
    launched = ground.app.state.parts.optimizer.dagster.launch

    async def launch(name: str, *args: object) -> str:
        found = Rollback(cycle_id=cycle_id, reason="x", from_digest="sha256:" + "b" * 64, to_digest="sha256:" + "a" * 64, commit="c0ffee", verified=True,
                         seconds=1.0, denied=[], created_at=utc_now())  # fmt: skip
        ground.loop.save(cycle_id, "rollback.json", found)
        ground.loop.control.transition(cycle_id, CycleState.ROLLED_BACK, "x", "loop")
        return str(await launched(name, *args))

    return launch


def test_rollback_goes_through_its_lane_and_says_what_came_of_it(ground: ApiGround, monkeypatch: pytest.MonkeyPatch):
    cycle_id = released(ground)
    monkeypatch.setattr(ground.app.state.parts.optimizer.dagster, "launch", lane_of(ground, cycle_id))
    with ground.client() as client:
        assert client.post(f"{OPTIMIZER}/rollback", json={"environment": "edge-oracle"}).status_code == 404
        wrong = client.post(f"{OPTIMIZER}/rollback", json={"environment": "local", "to_version": "cccccc"})
        assert wrong.status_code == 409 and "leads to sha256:aaaa" in wrong.json()["detail"]
        answer = client.post(f"{OPTIMIZER}/rollback", json={"environment": "local", "to_version": "aaaaaa", "reason": "users complain"})
        assert client.post(f"{OPTIMIZER}/rollback", json={"environment": "local"}).status_code == 409, "nothing is released any more"
    found = answer.json()
    assert answer.status_code == 200 and found["status"] == "completed" and found["revert_commit"] == "c0ffee" and found["seconds"] >= 0
    [run] = ground.peer.runs
    assert run["jobName"] == "rollback_job" and run["tags"]["predator/actor"] == "api:local"
    ordered = [record for record in ground.loop.control.records() if record.action == "rollback_ordered"]
    assert [(one.actor, one.reason) for one in ordered] == [("api:local", "users complain")]


def test_the_order_is_what_the_lane_believes(ground: ApiGround, monkeypatch: pytest.MonkeyPatch):
    from predator_si.orchestration.steps import keep

    cycle_id = released(ground)
    taken: list[str] = []
    monkeypatch.setattr(keep, "take_back", lambda loop, cycle, reason, **_: taken.append(reason))
    with pytest.raises(BadInput, match="no such file"):
        keep.roll_back_degraded(ground.loop, cycle_id)
    keep.order_rollback(ground.loop, cycle_id, "api:anna", "users complain")
    keep.roll_back_degraded(ground.loop, cycle_id)
    assert taken == ["api:anna: users complain"]


# --------------------------------------------------------------------------- small parts


def test_held_answers_are_made_once_and_not_after_a_change():
    made: list[int] = []

    async def check() -> None:
        from predator_si.api.answers import Started

        held = Held(60.0)

        async def make() -> Started:
            made.append(1)
            await asyncio.sleep(0)
            return Started(status="started", message=str(len(made)), interval_minutes=15)

        first = await asyncio.gather(*(held.body("x", make) for _ in range(20)))
        assert len(made) == 1 and len(set(first)) == 1
        held.clear()
        assert await held.body("x", make) != first[0]

        async def changed_meanwhile() -> Started:
            held.clear()
            return await make()

        held.clear()
        await held.body("y", changed_meanwhile)
        await held.body("y", make)
        assert len(made) == 4, "what was read before a change is not used after it"

        now = 0.0
        moving = Held(0.5, 3.0, clock=lambda: now)
        old = await moving.body("z", make)
        now = 1.0
        assert await moving.body("z", make) == old, "nobody waits for the next one"
        await asyncio.sleep(0.01)
        new = await moving.body("z", make)
        assert new != old
        now = 10.0
        assert await moving.body("z", make) != new, "what is old is not given any more"

    asyncio.run(check())


def test_an_answer_is_remembered_for_a_day_and_a_process_that_died_is_named(tmp_path: Path):
    now = 1000.0
    answers = Answers(tmp_path / "answers.db", clock=lambda: now)
    assert answers.begin("anna", "k", b"a") is None
    with pytest.raises(Refused, match="not answered yet"):
        answers.begin("anna", "k", b"a")
    assert answers.begin("petro", "k", b"a") is None, "keys are each caller's own"
    with pytest.raises(Refused, match="process that has ended"):
        Answers(tmp_path / "answers.db", clock=lambda: now).begin("anna", "k", b"a")
    answers.finish("anna", "k", 202, "application/json", b"{}")
    found = answers.begin("anna", "k", b"a")
    assert found is not None and (found.status, found.body) == (202, b"{}")
    with pytest.raises(BadInput, match="another request"):
        answers.begin("anna", "k", b"b")
    now += 90_000
    assert answers.begin("anna", "k", b"b") is None
    for key in ("", "x" * 201, "ї", "a\nb"):
        with pytest.raises(BadInput):
            answers.begin("anna", key, b"a")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, "en"),
        ("", "en"),
        ("uk", "uk"),
        ("uk-UA,uk;q=0.9,en;q=0.8", "uk"),
        ("en-GB,uk;q=0.5", "en"),
        ("de, uk;q=0.3", "uk"),
        ("uk;q=x", "en"),
        ("fr", "en"),
    ],
)
def test_language(said: str | None, expected: str):
    assert language(said) == expected


def test_cycles_of_a_long_life_are_listed_quickly(home: Home):
    control = Control(home.control_db)
    trigger = ndcg_trigger().model_dump_json()
    began = datetime.now(UTC) - timedelta(days=300)
    rows = [
        (f"si_{began + timedelta(hours=number):%Y_%m_%d}_{number % 24 + 1:03d}", "local", "stable", trigger, stamp(began), stamp(began), "r", "loop")
        for number in range(5000)
    ]
    with sqlite3.connect(home.control_db) as connection:
        connection.executemany(
            "INSERT OR IGNORE INTO cycles (cycle_id, contour, state, trigger, opened_at, updated_at, reason, actor) VALUES (?,?,?,?,?,?,?,?)", rows
        )
    began_at = time.perf_counter()
    newest: list[Cycle] = control.cycles(20, "local")
    assert len(newest) == 20 and time.perf_counter() - began_at < 0.5
