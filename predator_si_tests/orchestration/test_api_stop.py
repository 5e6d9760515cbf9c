"""Stop and start when a part is away: a database that cannot be written, a webserver that dies between two steps, answers that cannot be remembered."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from predator_si.control.stop_flag import StopFlags
from predator_si.errors import Unavailable
from predator_si.home import Home
from predator_si.orchestration.coordinator import kill_switch_refusal
from predator_si_tests.support.api_ground import OPTIMIZER, ApiGround
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import write_snapshot


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Somebody else writes, and does not end."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


def test_stop_with_a_locked_database_ends_runs_and_holds_by_a_file(home: Home):
    ground = ApiGround(home, busy_seconds=0.1)
    ground.measured()
    control, run = ground.loop.control, ground.peer.run("cycle_train_job", "train")
    head = control.head()
    with ground.client() as client:
        with locked(home.control_db):
            answer = client.post(f"{OPTIMIZER}/stop", json={"reason": "freeze"})
            said = answer.json()["detail"]
            assert answer.status_code == 503 and "still locked" in said and "on by stop-local.flag" in said and "told to end: 1" in said, said
            assert str(home.path) not in answer.text
            assert ground.peer.runs[0]["runId"] == run and ground.peer.runs[0]["status"] == "CANCELED" and not ground.peer.sensors["quality_gate_sensor"]
            assert client.get(f"{OPTIMIZER}/status").json()["kill_switch"] is True
            assert "by a file" in str(kill_switch_refusal(ground.settings)) and ground.loop.should_stop("si_2026_01_01_001")()
            assert client.post(f"{OPTIMIZER}/trigger", json={"force": True}).json()["status"] == "refused"
        assert control.head() == head
        again = client.post(f"{OPTIMIZER}/stop")
        assert again.status_code == 200 and "was on already" in again.json()["message"]
        assert not StopFlags(home.path).path("local").exists()
        record = control.records()[-1]
        assert (record.action, record.actor, record.reason) == ("kill_switch_on", "api:local", "freeze")
        assert client.post(f"{OPTIMIZER}/start").json()["status"] == "started" and not control.kill_switch("local")


def test_where_neither_takes_the_switch_runs_end_all_the_same(home: Home, monkeypatch: pytest.MonkeyPatch):
    ground = ApiGround(home, busy_seconds=0.05)
    ground.loop.control.append("noted", "test", None, "one", {})
    ground.peer.run("cycle_train_job", "train")

    def refuses(*_: object) -> Path:
        raise Unavailable("the folder is read-only.")

    monkeypatch.setattr(StopFlags, "press", refuses)
    with ground.client() as client, locked(home.control_db):
        answer = client.post(f"{OPTIMIZER}/stop")
    assert answer.status_code == 503 and "neither in the control database nor by its file" in answer.json()["detail"]
    assert ground.peer.runs[0]["status"] == "CANCELED" and not ground.peer.sensors["quality_gate_sensor"]


def test_stop_with_a_full_database_holds_by_a_file(home: Home):
    ground = ApiGround(home)
    control = ground.app.state.parts.optimizer.loop.control
    sa.event.listen(control._database._engine, "connect", lambda raw, _: raw.execute("PRAGMA max_page_count=1"))  # SQLite keeps what pages there are
    for size in (2000, 1):
        with pytest.raises(Unavailable, match="disk refuses"):
            for number in range(2000):
                control.append("noted", "test", None, "x" * size, {"n": number})
    run = ground.peer.run("cycle_train_job", "train")
    with ground.client() as client:
        answer = client.post(f"{OPTIMIZER}/stop")
        assert answer.status_code == 503 and "disk refuses" in answer.json()["detail"]
        assert ground.peer.runs[0] == {**ground.peer.runs[0], "runId": run, "status": "CANCELED"}
        assert client.get(f"{OPTIMIZER}/status").json()["kill_switch"] is True
        assert client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 0.5}).status_code == 503


def test_the_command_stops_by_a_file_too(home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    ground = ApiGround(home)
    ground.loop.control.append("noted", "test", None, "one", {})
    real = type(ground.loop.control).__init__
    monkeypatch.setattr(type(ground.loop.control), "__init__", lambda self, *given, **named: real(self, *given, **{**named, "busy_seconds": 0.1}))
    cli = CommandLine(home.path, capsys)
    with locked(home.control_db):
        answer = cli("stop", "--reason", "freeze")
    assert answer.code == 2 and "stop-local.flag" in answer.err and StopFlags(home.path).pressed("local") is not None
    assert cli("stop").code == 0 and ground.loop.control.kill_switch("local") and StopFlags(home.path).pressed("local") is None


def test_a_start_that_fails_half_way_leaves_the_switch_on(home: Home, monkeypatch: pytest.MonkeyPatch):
    ground = ApiGround(home)
    with ground.client() as client:
        client.post(f"{OPTIMIZER}/stop")
        head, turn = ground.loop.control.head(), ground.peer._turn

        def dies(name: str, on: bool) -> dict[str, object]:
            ground.peer.down = True
            raise httpx.ConnectError("it died")

        monkeypatch.setattr(ground.peer, "_turn", dies)
        failed = client.post(f"{OPTIMIZER}/start")
        assert failed.status_code == 503 and ground.loop.control.kill_switch("local") and ground.loop.control.head() == head
        ground.peer.down = False
        monkeypatch.setattr(ground.peer, "_turn", turn)
        assert client.post(f"{OPTIMIZER}/start").json()["status"] == "started" and ground.peer.sensors["quality_gate_sensor"]


def test_an_answer_that_cannot_be_remembered_is_given_and_not_done_again(home: Home):
    ground = ApiGround(home, prepared=False)
    once = ground.app.state.parts.once
    once._busy_seconds = 0.05
    key = {"Idempotency-Key": "k"}
    with ground.client() as client:
        ask = f"{OPTIMIZER}/quality-gates/error_rate?threshold=0.5"
        with pytest.MonkeyPatch.context() as patch:
            finish = once.finish

            def finish_locked(*given: object) -> None:
                with locked(home.path / "api" / "answers.db"):
                    finish(*given)

            patch.setattr(once, "finish", finish_locked)
            assert client.post(ask, headers=key).status_code == 200
        records = ground.loop.control.count_records()
        again = client.post(ask, headers=key)
        assert again.status_code == 409 and "not answered yet" in again.json()["detail"] and ground.loop.control.count_records() == records
        with locked(home.path / "api" / "answers.db"):
            busy = client.post(ask, headers={"Idempotency-Key": "other"})
        assert busy.status_code == 503 and "idempotency keys cannot be kept" in busy.json()["detail"] and ground.loop.control.count_records() == records


def test_who_goes_before_the_answer_gets_it_by_the_same_key(home: Home, monkeypatch: pytest.MonkeyPatch):
    """A client that left, and a request that ran into its limit, are cancelled alike."""
    ground = ApiGround(home, prepared=False)
    optimizer, key, done = ground.app.state.parts.optimizer, {"Idempotency-Key": "slow"}, list[str]()
    override, changing = optimizer.override, optimizer.changing

    def slow(*given: object) -> object:
        done.append("once")
        return override(*given)

    async def story() -> tuple[httpx.Response, httpx.Response]:
        began, goes_on = asyncio.Event(), asyncio.Event()

        async def held(act: object, *given: object) -> object:
            if act is slow:
                began.set()
                await goes_on.wait()
            return await changing(act, *given)

        monkeypatch.setattr(optimizer, "changing", held)
        monkeypatch.setattr(optimizer, "override", slow)
        transport = httpx.ASGITransport(ground.app, client=("127.0.0.1", 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=60) as client:
            ask = f"{OPTIMIZER}/quality-gates/error_rate?threshold=0.5"
            first = asyncio.create_task(client.post(ask, headers=key))
            await began.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            meanwhile = await client.post(ask, headers=key)
            goes_on.set()
            await asyncio.gather(*ground.app.state.parts.acting)
            return meanwhile, await client.post(ask, headers=key)

    meanwhile, after = asyncio.run(story())
    assert meanwhile.status_code == 409 and "not answered yet" in meanwhile.json()["detail"]
    assert after.status_code == 200 and after.headers["idempotency-replayed"] == "true" and done == ["once"]


def test_writers_that_wait_for_a_lock_hold_no_reader_up(home: Home):
    ground = ApiGround(home, prepared=False, busy_seconds=1.0)
    ground.loop.control.append("noted", "test", None, "one", {})

    async def story() -> list[str]:
        ended: list[str] = []
        transport = httpx.ASGITransport(ground.app, client=("127.0.0.1", 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=60) as client:

            async def ask(name: str, method: str, path: str) -> None:
                await client.request(method, f"{OPTIMIZER}/{path}")
                ended.append(name)

            writes = [asyncio.create_task(ask("write", "POST", "quality-gates/error_rate?threshold=0.5")) for _ in range(12)]
            await asyncio.sleep(0)
            await asyncio.gather(*(ask("read", "GET", path) for path in ("history", "cycles", "approvals", "champions", "quality-gates")))
            await asyncio.gather(*writes)
        return ended

    with locked(home.control_db):
        ended = asyncio.run(story())
    assert ended[:5] == ["read"] * 5 and ended[5:] == ["write"] * 12


def test_ready_and_metrics_cost_one_status_for_many(home: Home, monkeypatch: pytest.MonkeyPatch):
    ground = ApiGround(home, prepared=False)
    optimizer, asked = ground.app.state.parts.optimizer, []
    status = optimizer.status

    async def counted() -> object:
        asked.append(1)
        return await status()

    monkeypatch.setattr(optimizer, "status", counted)
    ground.app.state.parts.held._seconds = 60.0
    with ground.client() as client:
        for path in ("/metrics", "/ready", f"{OPTIMIZER}/status") * 5:
            assert client.get(path).status_code == 200
    assert len(asked) == 1


def test_a_shared_home_shows_each_contour_its_own_snapshots(home: Home):
    edge, local = ApiGround(home, "edge-oracle", prepared=False), ApiGround(home)
    write_snapshot(local.loop, local.champion)
    write_snapshot(edge.loop, local.champion)
    assert {one.contour for one in local.loop.snapshots()} == {"local"} and {one.contour for one in edge.loop.snapshots()} == {"edge-oracle"}
