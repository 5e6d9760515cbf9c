"""What people are told by the API: page after page, no secret in any of them, messages also where the daemon is dead, and other origins only when named."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from predator_si.api.client import OptimizerClient
from predator_si.api.tokens import Role
from predator_si.home import Home
from predator_si.orchestration.steps.tell import collect
from predator_si.records import CycleState, Decision, ServingConfig, Verdict, utc_now
from predator_si_tests.support.api_ground import OPTIMIZER, ApiGround
from predator_si_tests.support.chat_peers import slack
from predator_si_tests.support.platform import ndcg_trigger
from predator_si_tests.support.waiting import wait_until

SECRETS = ("psi_abcdefgh_" + "S" * 43, "Bearer hunter2sentinel", "https://ann:hunter2sentinel@git.example/x", "api_key=hunter2sentinel")
WORDS = "because " + " and ".join(SECRETS)


def leaks(text: str) -> list[str]:
    return [word for word in ("hunter2sentinel", "S" * 43) if word in text]


def waiting(ground: ApiGround) -> str:
    """A cycle that waits for a person."""
    control = ground.loop.control
    cycle_id = control.open_cycle("local", ndcg_trigger(), "test", WORDS).cycle_id
    decision = Decision(
        cycle_id=cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=[], policy="full", approval_required=True,
        champion=ServingConfig(model="sha256:" + "a" * 64, depth=8), challenger=ServingConfig(model="sha256:" + "b" * 64, depth=8),
        reason="better", created_at=utc_now(),
    )  # fmt: skip
    ground.loop.save(cycle_id, "decision-promote.json", decision)
    control.ask_approval(cycle_id, "promote", "local", "1" * 64, {"verdict": "promote", "reason": WORDS, "token": "hunter2sentinel"}, timedelta(days=1))
    control.transition(cycle_id, CycleState.AWAITING_APPROVAL, WORDS, "test")
    return cycle_id


def test_no_secret_gets_into_ledger_history_page_or_message(home: Home):
    ground = ApiGround(home)
    ground.measured()
    cycle_id, control = waiting(ground), ground.loop.control
    control.set_note("notify/local", 0)  # old stories, too
    with slack() as peer, pytest.MonkeyPatch.context() as patch, ground.client() as client:
        patch.setenv("TEAM_SLACK", peer.address)
        answers = [
            client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 0.5, "reason": WORDS}),
            client.post(f"{OPTIMIZER}/approvals/{cycle_id}", json={"decision": "approve", "reason": WORDS}),
            client.post(f"{OPTIMIZER}/stop", json={"reason": WORDS}),
        ]
        assert [one.status_code for one in answers] == [200] * 3
        control.append("run_failed", "loop", cycle_id, WORDS, {"job": "watch_job", "error": WORDS, "deep": [{"password": "hunter2sentinel"}]})
        collect(ground.loop, utc_now())
        shown = {path: client.get(path).text for path in (
            f"{OPTIMIZER}/history", f"{OPTIMIZER}/approvals", f"{OPTIMIZER}/status", f"{OPTIMIZER}/cycles", f"{OPTIMIZER}/cycles/{cycle_id}",
            f"{OPTIMIZER}/quality-gates", "/", f"/operations/cycles/{cycle_id}", "/operations/audit",
        )}  # fmt: skip
    assert {path: leaks(text) for path, text in shown.items() if leaks(text)} == {}
    assert not any(str(home.path) in text for text in shown.values()), "nor the folder of this machine"
    assert "because psi_***" in shown["/operations/audit"]
    assert not leaks(str(ground.loop.outbox.history(50))) and ground.loop.outbox.history(50)
    stored = b"".join(path.read_bytes() for path in home.path.glob("control.db*"))
    assert not leaks(stored.decode("latin-1")) and b"because psi_***" in stored
    assert control.verify() == [], "the chain is over what is stored"


def test_lists_are_leafed_through_to_their_end(home: Home):
    ground = ApiGround(home)
    control = ground.loop.control
    cycles = []
    for number in range(5):
        cycle_id = control.open_cycle("local", ndcg_trigger(), "test", "x").cycle_id
        control.ask_approval(cycle_id, "promote", "local", "1" * 64, {}, timedelta(days=1))
        control.transition(cycle_id, CycleState.REJECTED, "x", "test")
        control.champion_changed("local", f"sha256:{number}", "x", cycle_id=cycle_id)
        cycles.append(cycle_id)
    other = control.open_cycle("edge-oracle", ndcg_trigger(), "test", "x").cycle_id
    control.ask_approval(other, "promote", "edge-oracle", "1" * 64, {}, timedelta(days=1))
    with ground.client() as client:
        for path, key, of in (("cycles", "cycles", "cycle_id"), ("approvals", "approvals", "cycle_id"), ("champions", "champions", "cycle_id")):
            seen, cursor, pages = [], None, 0
            while pages < 9:
                found = client.get(f"{OPTIMIZER}/{path}", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
                seen, cursor, pages = seen + [row[of] for row in found[key]], found["next_cursor"], pages + 1
                if cursor is None:
                    break
            assert seen == cycles[::-1] and pages == 3, (path, seen)
            assert client.get(f"{OPTIMIZER}/{path}", params={"cursor": "nonsense"}).status_code == 422
        assert client.get(f"{OPTIMIZER}/approvals", params={"limit": 1}).json()["waiting"] == 5, "of the whole queue"

        def passed_on(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, content=client.request(request.method, str(request.url)).content)

        with OptimizerClient("http://127.0.0.1:8000", transport=httpx.MockTransport(passed_on)) as mine:
            assert [row["cycle_id"] for row in mine.all_approvals(page=2)] == cycles[::-1]
            assert [row["cycle_id"] for row in mine.all_champions(page=2)] == [row["cycle_id"] for row in mine.all_cycles(page=2)] == cycles[::-1]


def test_a_promotion_to_the_next_contour_is_asked_and_told_here(home: Home):
    ground = ApiGround(home, values="  promotion: {to: compute-nvidia, search: http://127.0.0.1:9}\n")
    control = ground.loop.control
    cycle_id = control.open_cycle("compute-nvidia", ndcg_trigger(), "loop", "a release that proved itself").cycle_id
    control.ask_approval(cycle_id, "promote", "compute-nvidia", "1" * 64, {"verdict": "promote", "reason": "proven on local"}, timedelta(days=3))
    with ground.client() as client:
        found = client.get(f"{OPTIMIZER}/approvals").json()
    assert found["waiting"] == 1 and found["approvals"][0]["contour"] == "compute-nvidia"
    [told] = [event for event in collect(ground.loop, utc_now()) if event.kind == "approval"]
    assert told.title.startswith("[compute-nvidia]") and str(told.link).endswith(f"/operations/cycles/{cycle_id}")


def test_with_a_dead_daemon_the_api_tells_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    ground = ApiGround(Home(tmp_path / "home").ensure(), values="  monitoring: {slackWebhook: team-slack}\n", look_seconds=0.02)
    ground.measured()
    ground.peer.healthy = False
    control = ground.loop.control
    control.set_note("notify/local", 0)
    control.append("cycle_failed", "loop", None, "a broken disk", {})
    with slack() as peer:
        monkeypatch.setenv("TEAM_SLACK", peer.address)
        with ground.client():
            wait_until(lambda: sum("broken disk" in str(body) or "is silent" in str(body) for body in peer.taken) >= 2, 30, "both messages")
        assert sum("is silent" in str(body) for body in peer.taken) == 1, "it is told once, however often it is looked"


def test_a_living_daemon_tells_by_itself(home: Home, monkeypatch: pytest.MonkeyPatch):
    ground = ApiGround(home, look_seconds=0.001)
    told: list[object] = []
    monkeypatch.setattr("predator_si.api.app.tell", lambda *given: told.append(given))
    optimizer, asked = ground.app.state.parts.optimizer, []
    known_state = optimizer.known_state

    async def counted(**more: bool) -> object:
        asked.append(1)
        return await known_state(**more)

    monkeypatch.setattr(optimizer, "known_state", counted)
    with ground.client():
        wait_until(lambda: len(asked) > 12, 30, "a dozen looks")
        assert not told
        ground.peer.healthy = False
        wait_until(lambda: bool(told), 30, "the API to stand in")


def test_other_origins_may_ask_only_where_they_are_named(home: Home):
    origin, asked = "https://board.example", {"Origin": "https://board.example"}
    preflight = {**asked, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    shut = ApiGround(home, "edge-oracle", prepared=False)
    mine = shut.token(Role.VIEWER)
    with shut.client("10.9.9.9", "https://loop.example.org") as client:
        assert client.get(f"{OPTIMIZER}/cycles", headers={**mine, **asked}).status_code == 403
        assert "access-control-allow-origin" not in client.options(f"{OPTIMIZER}/stop", headers=preflight).headers
    named = ApiGround(home, "edge-oracle", f"  api: {{corsOrigins: [{origin}]}}\n", prepared=False)
    with named.client("10.9.9.9", "https://loop.example.org") as client:
        good = client.get(f"{OPTIMIZER}/cycles", headers={**mine, **asked})
        assert good.status_code == 200 and good.headers["access-control-allow-origin"] == origin
        assert client.options(f"{OPTIMIZER}/stop", headers=preflight).headers["access-control-allow-origin"] == origin
        assert "access-control-allow-credentials" not in good.headers, "a session's cookie is for our own pages"
        other = client.get(f"{OPTIMIZER}/cycles", headers={**mine, "Origin": "https://evil.example"})
        assert other.status_code == 403 and "access-control-allow-origin" not in other.headers
