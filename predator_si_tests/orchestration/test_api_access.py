"""Who may do what: every call for every role with every kind of token, contour local's open door, the proxy's word, lockout, limits, repetition."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Request, Response
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from predator_si.api.__main__ import require_safe_address
from predator_si.api.access import NEEDS, PUBLIC, Bucket, Lockout
from predator_si.api.operations.router import Page
from predator_si.api.operations.session import COOKIE
from predator_si.api.problems import redacted
from predator_si.api.routes import Guarded
from predator_si.api.tokens import Role, TokenFile
from predator_si.contour_api import Api, ApiProxy
from predator_si.control import Control
from predator_si.errors import BadInput, Missing
from predator_si.home import Home
from predator_si.records import CycleState, Decision, ServingConfig, Verdict, utc_now
from predator_si_tests.support.api_ground import OPTIMIZER, ApiGround
from predator_si_tests.support.platform import ndcg_trigger

CYCLE = "si_2026_01_31_001"
BODIES = {
    "/trigger": {}, "/feedback": {"query_id": "q", "score": 3}, "/approvals/{cycle_id}": {"decision": "approve", "reason": "yes"},
    "/rollback": {"environment": "edge-oracle"},
}  # fmt: skip
FORMS = {
    "/operations/kill-switch": {"switch": "stop", "reason": "a test"},
    "/operations/cycles/{cycle_id}/decision": {"decision": "approve", "reason": "a test"},
}
EDGE = "https://loop.example.org"
CALLS = [call for call in sorted(NEEDS.items()) if call[0][1] not in FORMS or call[0][0] == "POST"] + [(("GET", "/operations/kill-switch"), Role.VIEWER)]


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> ApiGround:
    """Contour edge-oracle: nobody comes in without a token."""
    return ApiGround(Home(tmp_path_factory.mktemp("edge") / "home").ensure(), "edge-oracle")


@pytest.fixture(scope="module")
def edge_client(edge: ApiGround) -> Iterator[TestClient]:
    with edge.client("10.9.9.9", EDGE) as client:
        yield client


@pytest.fixture(scope="module")
def headers(edge: ApiGround) -> dict[str, dict[str, str]]:
    """By kind of caller: each role by token and by a page's cookie; nobody; of each role an expired, a revoked and a forged token; things that are no token."""
    found: dict[str, dict[str, str]] = {role.value: edge.token(role) for role in Role}
    past = TokenFile(edge.tokens.path, clock=lambda: utc_now() - timedelta(days=2))
    for role in Role:
        found[f"expired {role}"] = {"Authorization": f"Bearer {past.create(f'old-{role}', role, timedelta(days=1))[0]}"}
        text, token = edge.tokens.create(f"gone-{role}", role, None)
        edge.tokens.revoke(token.id)
        found[f"revoked {role}"] = {"Authorization": f"Bearer {text}"}
        good = found[role.value]["Authorization"]
        found[f"forged {role}"] = {"Authorization": good[:-2] + ("AA" if good[-2:] != "AA" else "BB")}
        found[f"cookie {role}"] = {"Cookie": f"{COOKIE}={good.removeprefix('Bearer ')}"}
    found["nobody"] = {}
    for text in ("Bearer", "Bearer psi_", "Basic YWRtaW46YWRtaW4=", found["admin"]["Authorization"].removeprefix("Bearer "), "Bearer " + "x" * 500):
        found[f"malformed {text[:12]}"] = {"Authorization": text}
    return found


def ask(client: TestClient, method: str, path: str, headers: dict[str, str]) -> httpx.Response:
    address = path.format(cycle_id=CYCLE, metric="ndcg_at_10", name="x.html", commit="c0ffee", rest="nothing")
    params = {"threshold": 0.7} if path.endswith("{metric}") and method == "POST" else None
    if method == "POST" and path in FORMS:
        return client.post(address, data=FORMS[path], headers={**headers, "Origin": EDGE}, follow_redirects=False)
    body = BODIES.get(path.removeprefix(OPTIMIZER), {}) if method == "POST" else None
    return client.request(method, address, json=body, params=params, headers=headers)


def standing(ground: ApiGround) -> object:
    """What a refused call must not change."""
    return ground.loop.control.head(), len(ground.peer.runs), dict(ground.peer.sensors), ground.feedback[:], ground.loop.control.kill_switch("edge-oracle")


@pytest.mark.parametrize(("call", "needed"), CALLS, ids=[f"{method} {path.removeprefix(OPTIMIZER)}" for (method, path), _ in CALLS])
def test_every_call_by_every_caller(edge: ApiGround, edge_client: TestClient, headers: dict[str, dict[str, str]], call: tuple[str, str], needed: Role):
    page = not call[1].startswith(OPTIMIZER)
    for who, given_headers in headers.items():
        edge.app.state.parts.door._lockout = Lockout()
        before = standing(edge)
        answer = ask(edge_client, *call, given_headers)
        kind, _, role = who.rpartition(" ")
        if role in set(Role) and (not kind or (kind == "cookie" and page)):
            expected_403 = Role(role).rank < needed.rank
            assert (answer.status_code == 403) is expected_403 and answer.status_code not in (401, 500), (who, answer.status_code, answer.text)
        else:
            assert answer.status_code == 401 and answer.headers["www-authenticate"].startswith("Bearer"), (who, answer.text)
        if answer.status_code not in (401, 403):
            continue
        assert standing(edge) == before, f"{who} was refused, and something changed"
        if answer.headers["content-type"].startswith("text/html"):  # the operations pages say it as a page
            assert call[1] == "/" or call[1].startswith("/operations/")
        else:
            body = answer.json()
            assert answer.headers["content-type"] == "application/problem+json" and body["status"] == answer.status_code and body["next_step"]


def routes_in(routes: Iterable[Any]) -> Iterator[Any]:
    """Every route, those of included routers among them: FastAPI keeps a router as one."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from [route] if inner is None else routes_in(inner.routes)


def test_every_route_is_guarded_by_the_table_or_named_public(edge: ApiGround):
    found = {(method, getattr(route, "path_format", route.path)): route for route in routes_in(edge.app.routes) for method in route.methods}
    assert set(found) == set(NEEDS) | PUBLIC and not set(NEEDS) & PUBLIC
    assert all(isinstance(found[call], Guarded | Page) for call in NEEDS), "only these classes ask the table"
    assert not any(path.startswith(OPTIMIZER) or path.startswith("/alerts") for _, path in PUBLIC)


def test_a_page_in_no_table_is_refused_to_everybody(home: Home):
    ground = ApiGround(home, prepared=False)
    router = APIRouter(route_class=Page)

    @router.get("/operations-more")
    async def more(request: Request) -> Response:
        return Response("secret")

    ground.app.include_router(router)
    with ground.client() as client:
        answer = client.get("/operations-more", headers=ground.token(Role.ADMIN))
    assert answer.status_code == 403 and "secret" not in answer.text


# --------------------------------------------------------------------------- contour local


@pytest.fixture
def local(home: Home) -> ApiGround:
    return ApiGround(home, prepared=False)


@pytest.mark.parametrize(
    ("address", "host", "more", "status"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", {}, 200),
        ("127.0.0.1", "http://localhost:8000", {}, 200),
        ("::1", "http://[::1]:8000", {}, 200),
        ("127.0.0.1", "http://127.0.0.1:8000", {"Origin": "http://127.0.0.1:8000"}, 200),
        ("10.0.0.7", "http://127.0.0.1:8000", {}, 401),
        ("127.0.0.1", "http://evil.example", {}, 421),
        ("127.0.0.1", "http://127.0.0.1.evil.example", {}, 421),
        ("127.0.0.1", "http://127.0.0.1:8000", {"Origin": "http://evil.example"}, 403),
        ("127.0.0.1", "http://127.0.0.1:8000", {"Origin": "null"}, 403),
        ("127.0.0.1", "http://127.0.0.1:8000", {"Origin": "http://127.0.0.1:9999"}, 403),
        ("127.0.0.1", "http://127.0.0.1:8000", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("127.0.0.1", "http://127.0.0.1:8000", {"X-Forwarded-For": "127.0.0.1"}, 401),
        ("127.0.0.1", "http://127.0.0.1:8000", {"Forwarded": "for=1.2.3.4"}, 401),
        ("127.0.0.1", "http://127.0.0.1:8000", {"Authorization": "Bearer nonsense"}, 401),
        ("127.0.0.1", "http://127.0.0.1:8000", {"X-Forwarded-User": "admin"}, 200),
    ],
)
def test_the_open_door_of_contour_local(local: ApiGround, address: str, host: str, more: dict[str, str], status: int):
    with local.client(address, host, more) as client:
        answer = client.post(f"{OPTIMIZER}/stop")
    assert answer.status_code == status, answer.text
    assert local.loop.control.kill_switch("local") is (status == 200)
    if status == 200:
        assert local.loop.control.records()[-1].actor == "api:local", "a header names nobody here"


def test_the_open_door_is_nowhere_else():
    for contour in ("edge-oracle", "compute-nvidia", "dev-mac", "Local", "local2"):
        require_safe_address(contour, "0.0.0.0")
    for host in ("0.0.0.0", "::", "10.1.2.3", "not an address"):
        with pytest.raises(BadInput):
            require_safe_address("local", host)
    for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9"):
        require_safe_address("local", host)


# --------------------------------------------------------------------------- the proxy


PROXY = "  api:\n    proxy: {addresses: [10.1.2.0/28], roles: {readers: viewer, bosses: admin}}\n    hosts: [loop.example.org]\n"


@pytest.mark.parametrize(
    ("address", "more", "status"),
    [
        ("10.1.2.3", {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "readers, bosses"}, 200),
        ("10.1.2.3", {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "readers"}, 403),
        ("10.1.2.3", {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "others"}, 403),
        ("10.1.2.3", {"X-Forwarded-Groups": "bosses"}, 401),
        ("10.1.3.3", {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "bosses"}, 401),
        ("127.0.0.1", {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "bosses"}, 401),
        ("10.1.2.3", {"X-Forwarded-User": "anna", "X-Forwarded-Groups": "bosses", "Origin": "https://evil.example"}, 403),
    ],
)
def test_the_proxys_word_counts_from_its_own_addresses_only(home: Home, address: str, more: dict[str, str], status: int):
    ground = ApiGround(home, "edge-oracle", PROXY, prepared=False)
    with ground.client(address, "https://loop.example.org", more) as client:
        answer = client.post(f"{OPTIMIZER}/stop")
        assert client.get("/docs", headers={"Host": "other.example"}).status_code == 421
    assert answer.status_code == status, answer.text
    if status == 200:
        assert ground.loop.control.records()[-1].actor == "api:anna"


def test_a_proxy_that_is_everybody_and_addresses_with_passwords_are_refused():
    with pytest.raises(ValueError, match="everybody"):
        ApiProxy(addresses=("0.0.0.0/0",), roles={"a": "viewer"})
    for address in ("http://user:secret@dagster", "file:///etc/passwd", "http://dagster?x=1"):
        with pytest.raises(ValueError, match="without a user") as error:
            Api(dagster=address)
        assert "user:secret" not in str(error.value).split("[type")[0].split("input")[0]


# --------------------------------------------------------------------------- tokens, lockout, limits


def test_tokens_are_kept_as_hashes_and_only_their_owner_reads_them(tmp_path: Path):
    file = TokenFile(tmp_path / "api" / "tokens.json")
    text, token = file.create("anna", Role.APPROVER, timedelta(days=1))
    assert file.verify(text) == token and file.path.stat().st_mode & 0o077 == 0
    assert text.rpartition("_")[2] not in file.path.read_text() and len(json.loads(file.path.read_text())["tokens"][0]["hash"]) == 64
    assert file.verify(text[:-1] + ("A" if text[-1] != "A" else "B")) is None and file.verify("psi_") is None
    with pytest.raises(BadInput, match="valid token of the name"):
        file.create("anna", Role.VIEWER, None)
    later = TokenFile(file.path, clock=lambda: utc_now() + timedelta(days=2))
    assert later.verify(text) is None and later.current(token.id) is None
    file.revoke("anna")
    assert file.verify(text) is None
    with pytest.raises(Missing):
        file.revoke("anna")


def test_a_revoked_token_is_out_at_once_and_a_lost_or_broken_file_lets_nobody_in(home: Home):
    ground = ApiGround(home, "edge-oracle", prepared=False)
    mine = ground.token(Role.VIEWER, "anna")
    with ground.client("10.9.9.9", "https://loop.example.org") as client:
        assert client.get(f"{OPTIMIZER}/history", headers=mine).status_code == 200
        ground.tokens.revoke("anna")
        assert client.get(f"{OPTIMIZER}/history", headers=mine).status_code == 401, "the answer of a minute ago does not count"
        again = ground.token(Role.VIEWER, "anna")
        assert client.get(f"{OPTIMIZER}/history", headers=again).status_code == 200
        content = ground.tokens.path.read_text()
        ground.tokens.path.unlink()
        assert client.get(f"{OPTIMIZER}/history", headers=again).status_code == 401
        assert "tokens" in client.get("/ready").text
        ground.tokens.path.write_text("{broken")
        assert client.get(f"{OPTIMIZER}/history", headers=again).status_code == 503
        assert client.get("/health").status_code == 200
        ground.tokens.path.write_text(content)
        assert client.get(f"{OPTIMIZER}/history", headers=again).status_code == 200


def test_wrong_tokens_lock_their_id_and_address_out_and_never_a_right_one(home: Home, monkeypatch: pytest.MonkeyPatch):
    ground = ApiGround(home, "edge-oracle", prepared=False)
    good, other = ground.token(Role.VIEWER), ground.token(Role.ADMIN)
    forged = {"Authorization": good["Authorization"][:-8] + "AAAAAAAA"}
    hashed: list[str] = []
    verify = ground.tokens.verify
    monkeypatch.setattr(ground.tokens, "verify", lambda text: hashed.append(text) or verify(text))
    with ground.client("10.9.9.9", EDGE) as client:
        for wrong in ({"Authorization": "Bearer nonsense"}, forged, {"Authorization": "Bearer psi_aaaaaaaa_" + "a" * 43}):
            said = [client.get(f"{OPTIMIZER}/history", headers=wrong) for _ in range(12)]
            assert [one.status_code for one in said] == [401] * 10 + [429] * 2 and int(said[-1].headers["retry-after"]) > 800
        assert not hashed, "a wrong token costs no scrypt"
        assert client.get(f"{OPTIMIZER}/history", headers=good).status_code == 200, "its id is locked, and it is the right one"
        assert client.post(f"{OPTIMIZER}/stop", headers=other).status_code == 200 and len(hashed) == 2
    with ground.client("10.9.9.8", EDGE) as client:
        assert client.get(f"{OPTIMIZER}/history", headers=forged).status_code == 401, "another address is another pair"


def test_a_token_of_an_older_file_has_no_first_bits_and_waits_its_turn_to_be_hashed(home: Home):
    ground = ApiGround(home, "edge-oracle", prepared=False)
    good = ground.token(Role.VIEWER)
    rows = json.loads(ground.tokens.path.read_text())
    for row in rows["tokens"]:
        row["check"] = None
    ground.tokens.path.write_text(json.dumps(rows))
    door = ground.app.state.parts.door
    with ground.client("10.9.9.9", EDGE) as client:
        door._waiting = 32
        full = client.get(f"{OPTIMIZER}/history", headers=good)
        assert full.status_code == 429 and full.headers["retry-after"] == "1"
        door._waiting = 0
        assert client.get(f"{OPTIMIZER}/history", headers=good).status_code == 200 and door._waiting == 0


def test_who_may_send_nothing_more_can_stop(home: Home):
    ground = ApiGround(home, "edge-oracle", prepared=False)
    mine = ground.token(Role.ADMIN)
    ground.app.state.parts.door._writes = Bucket(0.001, 1)
    with ground.client("10.9.9.9", EDGE) as client:
        said = [client.post(f"{OPTIMIZER}/quality-gates/none", params={"threshold": 1}, headers=mine).status_code for _ in range(2)]
        assert said == [404, 429] and client.post(f"{OPTIMIZER}/stop", headers=mine).status_code == 200


def test_one_identity_has_its_share(home: Home):
    ground = ApiGround(home, "edge-oracle", "  api: {readsPerSecond: 0.001, writesPerMinute: 0.001}\n", prepared=False)
    one, two = ground.token(Role.VIEWER, "one"), ground.token(Role.VIEWER, "two")
    ground.app.state.parts.door._reads = Bucket(0.001, 3)
    with ground.client("10.9.9.9", "https://loop.example.org") as client:
        said = [client.get(f"{OPTIMIZER}/cycles", headers=one) for _ in range(4)]
        assert [answer.status_code for answer in said] == [200, 200, 200, 429] and int(said[-1].headers["retry-after"]) > 100
        assert client.get(f"{OPTIMIZER}/cycles", headers=two).status_code == 200


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 5)), max_size=60))
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_bucket_never_gives_more_than_its_rate(steps: list[tuple[str, float]]):
    now = 0.0
    bucket = Bucket(2.0, 4.0, clock=lambda: now)
    given_out: dict[str, list[float]] = {"a": [], "b": []}
    for who, pause in steps:
        now += pause
        if bucket.take(who) == 0:
            given_out[who].append(now)
    for times in given_out.values():
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= 4 + 2.0 * (times[last] - times[first]) + 1e-6


# --------------------------------------------------------------------------- separated duties, repetition, sizes


@pytest.mark.parametrize("contour", ["edge-oracle", "local"])
def test_who_overrode_a_gate_cannot_approve_that_cycle(home: Home, contour: str):
    ground = ApiGround(home, contour, prepared=False)
    control: Control = ground.loop.control
    cycle_id = waiting(ground, contour)
    anna, petro = ground.token(Role.ADMIN, "anna"), ground.token(Role.APPROVER, "petro")
    yes = {"decision": "approve", "reason": "mine"}
    with ground.client("127.0.0.1", "http://127.0.0.1:8000") as client:
        assert client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 0.5}, headers=anna).status_code == 200
        own = client.post(f"{OPTIMIZER}/approvals/{cycle_id}", json=yes, headers=anna)
        if contour == "local":
            assert own.status_code == 200 and control.records()[-1].payload["overrode"] == ["error_rate"], "one person has every role there: it is recorded"
            return
        assert own.status_code == 409 and "overrode the gate of error_rate" in own.json()["detail"]
        [asked] = client.get(f"{OPTIMIZER}/approvals", headers=petro).json()["approvals"]
        assert asked["state"] == "waiting" and asked["evidence"] == {"verdict": "promote"} and asked["cycle_id"] == cycle_id
        answer = client.post(f"{OPTIMIZER}/approvals/{cycle_id}", json={"decision": "approve", "reason": "it convinces me"}, headers=petro)
        assert answer.status_code == 200 and answer.json()["actor"] == "api:petro" and answer.json()["decision"] == "approve"
        assert client.get(f"{OPTIMIZER}/approvals", headers=petro).json()["approvals"][0]["state"] == "approved"
        late = client.post(f"{OPTIMIZER}/approvals/{cycle_id}", json={"decision": "reject", "reason": "no"}, headers=anna)
        assert late.status_code == 409


def waiting(ground: ApiGround, contour: str) -> str:
    """A cycle that waits for a person, with its question in the queue."""
    control = ground.loop.control
    cycle_id = control.open_cycle(contour, ndcg_trigger(), "test", "a test").cycle_id
    decision = Decision(
        cycle_id=cycle_id, stage="promote", verdict=Verdict.PROMOTE, gates=[], policy="staging", approval_required=True,
        champion=ServingConfig(model="sha256:" + "a" * 64, depth=8), challenger=ServingConfig(model="sha256:" + "b" * 64, depth=8),
        reason="better", created_at=utc_now(),
    )  # fmt: skip
    ground.loop.save(cycle_id, "decision-promote.json", decision)
    control.transition(cycle_id, CycleState.AWAITING_APPROVAL, "a test", "test")
    control.ask_approval(cycle_id, "promote", contour, "9f" * 32, {"verdict": "promote"}, timedelta(days=1))
    return cycle_id


def test_alerts_of_somebody_else_go_into_the_outbox(local: ApiGround):
    alert = {
        "status": "firing", "labels": {"alertname": "SlowSearch", "severity": "warning"}, "annotations": {"summary": "P95 is high"},
        "startsAt": utc_now().isoformat(), "fingerprint": "f1",
    }  # fmt: skip
    with local.client() as client:
        answer = client.post("/alerts/alertmanager", json={"version": "4", "status": "firing", "alerts": [alert]})
        assert answer.status_code == 202 and answer.json()["alerts"] == 1
        assert client.post("/alerts/alertmanager", json={"version": "3", "status": "firing", "alerts": []}).status_code == 422


def test_the_same_key_is_done_once(local: ApiGround):
    with local.client() as client:
        key = {"Idempotency-Key": "one"}
        first = client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 0.2}, headers=key)
        again = client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 0.2}, headers=key)
        other = client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 0.3}, headers=key)
        assert first.status_code == 200 and again.json() == first.json() and again.headers["idempotency-replayed"] == "true"
        assert other.status_code == 422 and "another request" in other.json()["detail"]
        refused = client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 7}, headers={"Idempotency-Key": "two"})
        assert refused.status_code == 422
        assert client.post(f"{OPTIMIZER}/quality-gates/error_rate", params={"threshold": 0.1}, headers={"Idempotency-Key": "two"}).status_code == 200
    assert len(local.loop.control.records()) == 2


def test_bodies_have_a_size_and_a_time_and_answers_an_id(home: Home):
    ground = ApiGround(home, prepared=False, body_bytes=1000, body_seconds=0.05)
    with ground.client() as client:
        big = client.post(f"{OPTIMIZER}/feedback", content=b"x" * 1001, headers={"Content-Type": "application/json"})
        assert big.status_code == 413 and big.json()["title"] == "Body too large"
        chunked = client.post(f"{OPTIMIZER}/feedback", content=iter([b"x" * 600] * 3), headers={"Content-Type": "application/json"})
        assert chunked.status_code == 413
        assert client.get(f"{OPTIMIZER}/history", params={"cursor": "1" * 5000}).status_code == 400
        kept = client.get("/health", headers={"X-Request-ID": "abc-1"})
        assert kept.headers["x-request-id"] == "abc-1" and kept.headers["x-content-type-options"] == "nosniff"
        assert client.get("/health", headers={"X-Request-ID": "a b\x7f"}).headers["x-request-id"] != "a b\x7f"
        assert "content-encoding" not in client.get("/openapi.json", headers={"Accept-Encoding": "gzip"}).headers

    async def slow() -> httpx.Response:
        async def parts() -> object:
            yield b'{"query_id"'
            await asyncio.sleep(1)
            yield b"}"

        transport = httpx.ASGITransport(ground.app, client=("127.0.0.1", 1), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.post(f"{OPTIMIZER}/feedback", content=parts(), headers={"Content-Type": "application/json"})  # type: ignore[arg-type]

    assert asyncio.run(slow()).status_code == 408


@pytest.mark.parametrize(
    "text",
    [
        "Bearer abc.def.ghi",
        "psi_abcdefgh_" + "x" * 43,
        "postgresql://u:hunter2@db/x",
        "password=hunter2",
        '"token": "hunter2"',
        "https://hooks.slack.com/services/hunter2",
    ],
)
def test_secrets_do_not_get_out(text: str):
    assert (
        not any(secret in redacted(f"it failed: {text} !") for secret in ("hunter2", "abc.def", "xxxx")) and redacted("plain text stays") == "plain text stays"
    )
