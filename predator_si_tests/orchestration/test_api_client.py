"""The Python client and `predator-si optimizer` against the real facade on loopback; open-loop load counts what it sends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from predator_si.api.client import OptimizerClient
from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.home import Home
from predator_si.proof.http_load import Loaded, open_loop
from predator_si.records import CycleState
from predator_si_tests.orchestration.test_api_faults import lane_of, released
from predator_si_tests.support.api_ground import ApiGround
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.waiting import free_port, wait_until


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiGround, str, int]]:
    ground = ApiGround(Home(tmp_path_factory.mktemp("client") / "home").ensure())
    ground.measured()
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(ground.app, host="127.0.0.1", port=port, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, 60, "the API")
    yield ground, f"http://127.0.0.1:{port}", port
    server.should_exit = True
    thread.join(30)


def test_the_client_makes_every_call(served: tuple[ApiGround, str, int]):
    ground, url, _ = served
    with OptimizerClient(url) as client:
        assert client.status()["contour"] == "local" and client.metrics()["ndcg_at_10"] == 0.4
        assert client.quality_gates()["gates"]["error_rate"] == 0.01
        assert client.override_gate("error_rate", 0.02, reason="a try")["new_threshold"] == 0.02
        assert client.end_override("error_rate", reason="enough")["status"] == "ended" and client.end_override("error_rate")["status"] == "none"
        assert client.quality_gates()["details"]["error_rate"]["override"] is None
        first = client.trigger(force=True, key="once")
        assert first["status"] == "started" and client.trigger(force=True, key="once") == first, "the same key is answered the same"
        cycle_id = first["cycle_id"]
        assert client.cycles()["cycles"][0]["cycle_id"] == cycle_id and client.cycle(cycle_id)["cycle"]["state"] == "opened"
        assert client.verdict(cycle_id)["verdict"] == "inconclusive" and client.approvals()["waiting"] == 0 and client.champions()["champions"] == []
        assert client.stop("freeze")["status"] == "stopped" and client.start()["status"] == "started"
        assert client.feedback("q", score=5)["status"] == "accepted"
        assert [row["seq"] for row in client.records(page=2)] == list(range(ground.loop.control.count_records(), 0, -1))
        assert [row["cycle_id"] for row in client.all_cycles(page=1)] == [one.cycle_id for one in ground.loop.control.cycles(50, "local")]
        assert list(client.all_approvals(page=1)) == list(client.all_champions(page=1)) == []
        for call, error in (
            (lambda: client.cycle("si_2020_01_01_001"), Missing),
            (lambda: client.override_gate("error_rate", 5), BadInput),
            (lambda: client.rollback("local"), Refused),
            (lambda: client.decide(cycle_id, "approve", "yes"), Refused),
        ):
            with pytest.raises(error, match="request "):
                call()
    with pytest.raises(Unavailable, match="predator-si up"), OptimizerClient(f"http://127.0.0.1:{free_port()}") as nobody:
        nobody.status()


def test_the_commands_show_what_the_api_says(served: tuple[ApiGround, str, int], capsys: pytest.CaptureFixture[str]):
    ground, url, _ = served
    run = CommandLine(ground.loop.home.path, capsys)
    ground.loop.control.set_kill_switch("local", False, "test", "a test")
    ground.peer.sensors["quality_gate_sensor"] = True
    assert "quality_gate_sensor" not in run("optimizer", "status", "--url", url).out
    found: dict[str, Any] = run("optimizer", "status", "--url", url, "--json").json
    assert found["contour"] == "local"
    assert "ndcg_at_10" in run("optimizer", "metrics", "--url", url).out and "error_rate" in run("optimizer", "gates", "--url", url).out
    assert run("optimizer", "history", "--url", url, "--limit", "3", "--json").json["showing"] == 3
    assert "instead of" in run("optimizer", "override", "error_rate", "0.03", "--url", url).out
    assert [run("optimizer", "end-override", "error_rate", "--url", url).code for _ in range(2)] == [0, 1]
    assert run("optimizer", "trigger", "--target", "nonsense", "--url", url).code == 2
    assert run("optimizer", "approvals", "--url", url).code == 0
    assert run("optimizer", "status", "--url", f"http://127.0.0.1:{free_port()}").code == 2


def test_the_command_takes_a_release_back(served: tuple[ApiGround, str, int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    ground, url, _ = served
    run = CommandLine(ground.loop.home.path, capsys)
    ground.loop.control.set_kill_switch("local", False, "test", "a test")
    for cycle in ground.loop.control.cycles(50, "local"):
        if cycle.state is CycleState.OPENED:
            ground.loop.control.transition(cycle.cycle_id, CycleState.REJECTED, "a test", "test")
    words = ("optimizer", "rollback", "--reason", "users complain", "--url", url)
    assert run(*words).code == 2, "nothing is released"
    cycle_id = released(ground)
    monkeypatch.setattr(ground.app.state.parts.optimizer.dagster, "launch", lane_of(ground, cycle_id))
    said = run(*words)
    assert said.code == 0 and cycle_id in said.out and "sha256:bbbb" in said.out and "sha256:aaaa" in said.out
    assert ground.loop.control.cycle(cycle_id).state is CycleState.ROLLED_BACK


def test_open_loop_load_counts_every_request_and_the_waiting(served: tuple[ApiGround, str, int]):
    *_, port = served
    found = asyncio.run(open_loop("127.0.0.1", port, ["/health", "/nowhere"], rate=40, seconds=0.5, connections=2))
    assert len(found.milliseconds) == 10 and found.errors == 10, "every other one is not there"
    assert found.percentile(99) == max(found.milliseconds) and found.per_second > 0
    assert Loaded((), 3, 1.0).percentile(50) is None
    nobody = asyncio.run(open_loop("127.0.0.1", free_port(), ["/"], rate=20, seconds=0.2))
    assert nobody.errors == 4 and not nobody.milliseconds
