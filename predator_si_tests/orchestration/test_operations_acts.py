"""What a person does on the operations page, and who may: answers, the kill switch in two steps, the search of the ledger, signing in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from starlette.testclient import TestClient

from predator_si.api.operations.session import COOKIE
from predator_si.api.operations.texts import phrase
from predator_si.api.tokens import Role, TokenFile
from predator_si.control.pages import RecordQuery
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState, Decision, utc_now
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.markup import complaints
from predator_si_tests.support.operations import NEW, ORIGIN, lived_in, page, waiting_cycle
from predator_si_tests.support.platform import ndcg_trigger, prepare

SWITCH = "/operations/kill-switch"


@pytest.fixture
def loop(settings: Settings) -> Loop:
    return prepare(Loop(settings), NEW)


@pytest.fixture
def client(loop: Loop) -> Iterator[TestClient]:
    with page(loop.settings) as found:
        yield found


def send(client: TestClient, address: str, origin: dict[str, str] | None = None, **form: str) -> Any:
    return client.post(address, data=form, headers=ORIGIN if origin is None else origin)


# --------------------------------------------------------------------------- approvals


def test_an_approval_is_written_with_who_and_why(loop: Loop, client: TestClient) -> None:
    cycle_id = waiting_cycle(loop)
    answer = send(client, f"/operations/cycles/{cycle_id}/decision", decision="approve", reason="  the interval convinces me ")
    assert answer.status_code == 303 and answer.headers["location"] == f"/operations/cycles/{cycle_id}?done=approve"
    asked = loop.control.approval(cycle_id)
    assert asked is not None and (asked.decision, asked.actor, asked.reason) == ("approved", "api:local", "the interval convinces me")
    assert Decision.read(loop.home.artifacts / cycle_id / "decision-promote.json").approved_by == "api:local"
    after = client.get(answer.headers["location"]).text
    assert phrase("done_approve", "en") in after and phrase("approve", "en") not in after and complaints(after) == []
    assert phrase("no_approvals", "en") in client.get("/").text


def test_a_refusal_ends_the_cycle_and_takes_a_second_answer_no_more(loop: Loop, client: TestClient) -> None:
    cycle_id = waiting_cycle(loop)
    assert send(client, f"/operations/cycles/{cycle_id}/decision", decision="reject", reason="not before the freeze").status_code == 303
    assert loop.control.cycle(cycle_id).state is CycleState.REJECTED
    late = send(client, f"/operations/cycles/{cycle_id}/decision", decision="approve", reason="after all")
    assert late.status_code == 409 and phrase("refused", "en") in late.text and "waits for nobody" in late.text and complaints(late.text) == []
    assert loop.control.cycle(cycle_id).state is CycleState.REJECTED


def test_the_commands_answer_what_the_page_shows(loop: Loop, client: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    run = CommandLine(loop.home.path, capsys)
    approved = waiting_cycle(loop)
    listed = run("cycle", "queue")
    assert listed.code == 1 and approved in listed.out
    assert run("cycle", "approve", approved).code == 2, "a reason is asked for"
    said = run("cycle", "approve", approved, "--reason", "the interval convinces me")
    asked = loop.control.approval(approved)
    assert said.code == 0 and asked is not None and asked.decision == "approved" and asked.reason == "the interval convinces me"
    assert asked.actor is not None and asked.actor.startswith("cli:") and asked.actor in said.out
    assert asked.actor in client.get(f"/operations/cycles/{approved}").text
    loop.control.transition(approved, CycleState.REJECTED, "a test", "test")
    refused = waiting_cycle(loop)
    assert run("cycle", "reject", refused, "--reason", "not before the freeze").code == 0 and loop.control.cycle(refused).state is CycleState.REJECTED
    assert run("cycle", "approve", refused, "--reason", "after all").code == 2


def test_an_answer_without_a_reason_or_a_choice_changes_nothing(loop: Loop, client: TestClient) -> None:
    cycle_id = waiting_cycle(loop)
    before = loop.control.head()
    for form in ({"decision": "approve", "reason": "  "}, {"decision": "approve"}, {"decision": "maybe", "reason": "x"}, {"reason": "x"}):
        answer = send(client, f"/operations/cycles/{cycle_id}/decision", **form)
        assert answer.status_code == 422 and phrase("refused", "en") in answer.text, form
    assert loop.control.head() == before


def test_a_promotion_to_the_next_contour_waits_on_the_page_of_the_one_it_comes_from(settings: Settings) -> None:
    values = settings.values.model_copy(update={"promotion": settings.values.promotion.model_copy(update={"to": "compute-nvidia"})})
    loop = prepare(Loop(settings.model_copy(update={"values": values})), NEW)
    cycle = loop.control.open_cycle("compute-nvidia", ndcg_trigger(), "loop", "a release that proved itself")
    loop.control.ask_approval(cycle.cycle_id, "promote", "compute-nvidia", "1", {"verdict": "promote", "reason": "proven on local"}, timedelta(days=3))
    with page(loop.settings) as client:
        text = client.get("/").text
    assert f"{phrase('contour', 'en')} compute-nvidia" in text and "proven on local" in text and phrase("approve", "en") in text
    assert phrase("no_cycle", "en") in text, "it is another contour's cycle"
    assert complaints(text) == []


# --------------------------------------------------------------------------- the kill switch


def test_the_kill_switch_takes_two_steps_and_a_reason(loop: Loop, client: TestClient) -> None:
    first = client.get("/").text
    assert f'href="{SWITCH}"' in first and phrase("kill_press", "en") in first
    second = client.get(SWITCH).text
    assert phrase("kill_effect_stop", "en") in second and complaints(second) == []
    assert not loop.control.kill_switch(loop.contour), "looking is not pressing"
    assert send(client, SWITCH, switch="stop", reason="").status_code == 422 and not loop.control.kill_switch(loop.contour)
    assert send(client, SWITCH, switch="stop", reason="release freeze").headers["location"] == "/?done=stop"
    assert loop.control.kill_switch(loop.contour), "it takes effect although Dagster's webserver is away"
    (record,) = loop.control.search(RecordQuery(action="kill_switch_on"), 5)
    assert (record.actor, record.reason) == ("api:local", "release freeze")
    assert phrase("kill_effect_start", "en") in client.get(SWITCH).text
    lifted = send(client, SWITCH, switch="start", reason="freeze is over")
    assert lifted.status_code == 503 and "does not answer" in lifted.text, "without Dagster nothing would run, and that is said"
    assert loop.control.kill_switch(loop.contour)


def test_a_form_counts_only_from_the_page_itself(loop: Loop, client: TestClient) -> None:
    for headers, status in (
        ({}, 403), ({"Origin": "https://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://127.0.0.1:8001"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "none"}, 403), ({"Sec-Fetch-Site": "same-origin"}, 303), (ORIGIN, 303),
    ):  # fmt: skip
        loop.control.set_kill_switch(loop.contour, False, "test", "the next one")
        assert send(client, SWITCH, headers, switch="stop", reason="x").status_code == status, headers
        assert loop.control.kill_switch(loop.contour) is (status == 303), headers


def test_what_is_no_form_is_refused(loop: Loop, client: TestClient) -> None:
    assert client.post(SWITCH, json={"switch": "stop", "reason": "x"}, headers=ORIGIN).status_code == 415
    assert client.post(SWITCH, content=b"a=1&" * 50, headers={**ORIGIN, "Content-Type": "application/x-www-form-urlencoded"}).status_code == 422
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 421
    assert not loop.control.kill_switch(loop.contour)


# --------------------------------------------------------------------------- who may


def elsewhere(settings: Settings) -> tuple[Loop, TokenFile]:
    """A contour that wants to know who asks."""
    other = load_settings("edge-oracle", home=settings.home, env={})
    return lived_in(other), TokenFile(settings.home / "api" / "tokens.json")


def test_a_browser_signs_in_with_a_token_and_may_what_its_role_may(settings: Settings) -> None:
    loop, tokens = elsewhere(settings)
    viewer, approver = (tokens.create(name, role, timedelta(days=1))[0] for name, role in (("anna", Role.VIEWER), ("olha", Role.APPROVER)))
    waiting = loop.control.active_cycle(loop.contour)
    assert waiting is not None
    decision = f"/operations/cycles/{waiting.cycle_id}/decision"
    with page(loop.settings) as client:
        door = client.get("/")
        assert door.status_code == 401 and phrase("sign_in", "en") in door.text and complaints(door.text) == []
        assert waiting.cycle_id not in door.text, "nobody sees anything before that"
        wrong = send(client, "/operations/sign-in", token="psi_abcdefgh_" + "x" * 43)
        assert wrong.status_code == 401 and phrase("sign_in_failed", "en") in wrong.text and "set-cookie" not in wrong.headers
        good = send(client, "/operations/sign-in", token=viewer)
        assert good.status_code == 303
        cookie = good.headers["set-cookie"]
        assert cookie.startswith(f"{COOKIE}=") and "HttpOnly" in cookie and "SameSite=strict" in cookie
        first = client.get("/").text
        assert "anna" in first and phrase("approve_needs", "en") in first and phrase("approve", "en") not in first
        assert phrase("kill_needs", "en") in client.get(SWITCH).text
        assert send(client, decision, decision="approve", reason="x").status_code == 403
        assert send(client, SWITCH, switch="stop", reason="x").status_code == 403
        assert client.get("/api/v1/optimizer/status").status_code == 401, "the REST facade knows no cookies"
        assert client.get(f"/cycles/{waiting.cycle_id}").status_code == 404, "reports are pages: known, and not written yet"
        assert send(client, "/operations/sign-out", out="").status_code == 303 and client.get("/").status_code == 401
        send(client, "/operations/sign-in", token=approver)
        assert send(client, decision, decision="approve", reason="I looked").status_code == 303
    asked = loop.control.approval(waiting.cycle_id)
    assert asked is not None and asked.actor == "api:olha"
    assert not loop.control.kill_switch(loop.contour)


def test_a_revoked_token_ends_its_session(settings: Settings) -> None:
    loop, tokens = elsewhere(settings)
    text, token = tokens.create("anna", Role.VIEWER, None)
    with page(loop.settings) as client:
        send(client, "/operations/sign-in", token=text)
        assert client.get("/").status_code == 200
        tokens.revoke(token.id)
        assert client.get("/").status_code == 401


def test_elsewhere_nothing_links_to_a_port_of_the_server(settings: Settings) -> None:
    loop, tokens = elsewhere(settings)
    waiting = loop.control.active_cycle(loop.contour)
    assert waiting is not None
    folder = loop.home.artifacts / waiting.cycle_id
    (folder / "report.html").write_text("<p>")
    (folder / "dataset_manifest.yaml").write_text("mlflow: {artifact_uri: 'http://127.0.0.1:5000/#/experiments/1/runs/abc'}\n")
    with page(loop.settings) as client:
        client.headers["Host"] = "ops.example.org"
        client.headers["Authorization"] = f"Bearer {tokens.create('anna', Role.VIEWER, None)[0]}"
        for address in ("/", f"/operations/cycles/{waiting.cycle_id}"):
            text = client.get(address).text
            assert 'href="http://127.0.0.1' not in text and f'href="/cycles/{waiting.cycle_id}"' in text
        client.headers["Host"] = "127.0.0.1:8000"
        assert 'href="http://127.0.0.1:5000/#/experiments/1/runs/abc"' in client.get(f"/operations/cycles/{waiting.cycle_id}").text


# --------------------------------------------------------------------------- the ledger


def told(loop: Loop) -> None:
    control = loop.control
    control.append("gate_overridden", "api:Олена", None, "Знижую поріг на ніч", {"metric": "ndcg_at_10"})
    control.append("watch_check", "loop", "si_2026_11_23_001", "all well", {"note": "Ювілейний запит", "percent": "100%"})
    control.append("watch_check", "loop", "si_2026_11_23_002", "100_percent", {})
    control.append("kill_switch_on", "cli:ann", None, "Release FREEZE", {})


def test_the_ledger_is_found_by_cycle_actor_action_and_words(loop: Loop) -> None:
    told(loop)
    found: list[tuple[dict[str, str], list[str]]] = [
        ({"cycle_id": "si_2026_11_23_001"}, ["watch_check"]), ({"cycle_id": "si_2026_11_23_0"}, []), ({"actor": "ann"}, ["kill_switch_on"]),
        ({"actor": "ОЛЕНА"}, ["gate_overridden"]), ({"action": "watch"}, ["watch_check", "watch_check"]), ({"text": "freeze"}, ["kill_switch_on"]),
        ({"text": "ювілейний"}, ["watch_check"]), ({"text": "знижую"}, ["gate_overridden"]), ({"text": "100%"}, ["watch_check"]),
        ({"text": "0_p"}, ["watch_check"]), ({"text": "ndcg_at_10", "actor": "олена"}, ["gate_overridden"]), ({"text": "' OR 1=1 --"}, []),
    ]  # fmt: skip
    for asked, actions in found:
        assert [record.action for record in loop.control.search(RecordQuery(**asked), 50)] == actions, asked  # type: ignore[arg-type]


def test_the_ledger_is_found_by_day(loop: Loop, client: TestClient) -> None:
    told(loop)
    today = utc_now().date()
    for query, found in (
        (f"from={today}", True), (f"to={today}", True), (f"from={today}&to={today}", True), (f"from={today + timedelta(days=1)}", False),
        (f"to={today - timedelta(days=1)}", False),
    ):  # fmt: skip
        text = client.get(f"/operations/audit?{query}").text
        assert ("Release FREEZE" in text) is found and (phrase("audit_none", "en") in text) is not found, query
    bad = client.get("/operations/audit?from=23.11.2026")
    assert bad.status_code == 422 and "2026-11-23" in bad.text


def test_leafing_through_shows_every_record_once(loop: Loop, client: TestClient) -> None:
    import re

    for number in range(120):
        loop.control.append("note", "cli:ann", None, f"number {number}", {})
    address, seen = "/operations/audit?actor=ann", []
    while address:
        text = client.get(address).text
        seen += [int(one) for one in re.findall(r'<th scope="row" class="num">(\d+)</th>', text)]
        older = re.search(r'id="older" href="([^"]+)"', text)
        address = older[1].replace("&amp;", "&") if older else ""
    assert len(seen) == 120 and seen == sorted(set(seen), reverse=True)


# --------------------------------------------------------------------------- commits


def test_a_commit_is_shown_as_git_knows_it_and_nothing_else_is(loop: Loop, client: TestClient) -> None:
    loop.repo.sync()
    head = loop.repo.head()
    text = client.get(f"/operations/commits/{head}").text
    assert loop.release_name in text and "+reranker:" in text and complaints(text) == []
    for other in ("0" * 40, "HEAD", "--help", "main", head[:6], "..%2f..", f"{head}^"):
        assert client.get(f"/operations/commits/{other}").status_code == 404, other
