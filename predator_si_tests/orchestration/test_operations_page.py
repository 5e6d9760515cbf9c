"""The operations page in process, over real homes: what it says, that it is well made in both languages, and that nothing from data runs on it."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta
from html import escape
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from predator_si.api.operations import views
from predator_si.api.operations.router import POLICY
from predator_si.api.operations.texts import LANGUAGES, TEXTS, phrase
from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState, utc_now
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.markup import complaints
from predator_si_tests.support.operations import NEW, lived_in, page, waiting_cycle
from predator_si_tests.support.platform import open_cycle, prepare, write_snapshot

SWITCH = "/operations/kill-switch"
HOSTILE = """<script>alert("x")</script><img src=x onerror='alert(1)'>"""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Loop:
    """A home with a life behind it; nobody changes it."""
    return lived_in(load_settings(home=Home(tmp_path_factory.mktemp("lived") / "home").ensure().path, env={}))


@pytest.fixture(scope="module")
def client(loop: Loop) -> Iterator[TestClient]:
    with page(loop.settings) as found:
        yield found


def addresses(loop: Loop) -> list[str]:
    active = loop.control.active_cycle(loop.contour)
    assert active is not None
    loop.repo.sync()
    commit = loop.repo.head()
    found = ["/", f"/operations/cycles/{active.cycle_id}", f"/operations/cycles/{active.cycle_id[:-1]}1", "/operations/audit"]
    return [
        *found,
        "/operations/kill-switch",
        f"/operations/commits/{commit}",
        "/operations/cycles/nothing",
        "/operations/no/such/page",
        "/operations/audit?from=yesterday",
    ]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_page_is_well_made_in_both_languages(loop: Loop, client: TestClient, lang: str) -> None:
    for address in addresses(loop):
        answer = client.get(address, headers={"Accept-Language": lang})
        assert answer.status_code in (200, 404, 422), answer.text
        assert complaints(answer.text) == [], f"{address} in {lang}"
        assert f'<html lang="{lang}">' in answer.text and answer.headers["content-language"] == lang
        assert answer.headers["content-security-policy"] == POLICY and "unsafe" not in POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin" and answer.headers["cache-control"] == "no-store"
        assert str(loop.home.path) not in answer.text, "this machine's folders are nobody's business"


def test_the_first_page_says_what_is_so(loop: Loop, client: TestClient) -> None:
    text = client.get("/?lang=en").text
    waiting = loop.control.active_cycle(loop.contour)
    assert waiting is not None
    for words in (
        phrase("now_waiting", "en"), waiting.cycle_id, phrase("approve", "en"), "superior, nothing is worse", "ndcg_superior", "part=shift",
        "ndcg_at_10 0.41", NEW.removeprefix("sha256:")[:12], "better on sealed queries", "the first of this home", phrase("no_messages", "en"),
        "webserver at http://127.0.0.1:3000 does not answer", "etl_lag_seconds is unknown: nobody measured it", phrase("gates_failing", "en"),
    ):  # fmt: skip
        assert words in text, words
    newest = loop.control.page(1)[0]
    assert f">{newest.seq}</th>" in text and newest.action in text
    assert text.count("<svg") == sum(
        any(value is not None for value in one.history) for one in views.gate_lines(loop, views.window_values(loop.home.snapshots, loop.contour))
    )


def test_results_are_computed_over_any_period_and_unknown_where_nothing_was_measured(loop: Loop, client: TestClient) -> None:
    text = client.get("/operations/results?days=1&lang=en").text
    (table, figures) = views.results(loop, 1)
    assert table.value is not None and figures.value is not None
    assert [row.before.windows for row in table.value.rows][:1] != [0] and figures.value.cycles == 2
    for row in table.value.rows:
        assert phrase(f"measure_{row.metric}", "en") in text and str(row.before.windows) in text
    assert phrase("kpi_success", "en") in text
    assert phrase("assurance", "en") in text and "no simulation was run in this home" in text and "no A/A replay was made" in text
    for asked in ("0", "32", "x", "-1", "99999999999"):
        assert client.get(f"/operations/results?days={asked}").status_code == 422


def test_the_switch_of_languages_stays(client: TestClient) -> None:
    assert phrase("audit", "uk") in client.get("/operations/audit?lang=uk").text
    assert phrase("now", "uk") in client.get("/", headers={"Accept-Language": "en"}).text  # the cookie that the switch left
    client.get("/?lang=en")
    assert phrase("now", "en") in client.get("/", headers={"Accept-Language": "uk"}).text
    client.cookies.clear()
    kept = client.get("/operations/audit?text=a%26b&lang=uk").text
    assert "/operations/audit?text=a%26b&amp;lang=en" in kept, "the switch keeps what was asked for"
    client.cookies.clear()


@pytest.mark.parametrize("lang", LANGUAGES)
def test_an_empty_home_says_so_plainly(settings: Settings, lang: str) -> None:
    with page(settings) as client:
        text = client.get(f"/?lang={lang}").text
        assert complaints(text) == []
        for key in ("now_unprepared", "no_cycle", "no_cycles", "no_approvals", "no_champions", "no_messages", "no_windows", "audit_none"):
            assert phrase(key, lang) in text, key
    assert not settings.folders.outbox.exists(), "looking makes nothing"


def test_a_broken_part_is_unknown_with_its_reason_and_the_rest_is_shown(settings: Settings) -> None:
    loop = lived_in(settings)
    active = loop.control.active_cycle(loop.contour)
    assert active is not None
    (loop.home.path / "baseline.json").write_text("{")
    (loop.home.artifacts / active.cycle_id / "evaluation.json").write_text("[]")
    with page(settings) as client:
        first, story = client.get("/").text, client.get(f"/operations/cycles/{active.cycle_id}").text
    assert "baseline.json" in first and phrase("unknown", "en") in first and phrase("champions", "en") in first and "better on sealed" in first
    assert str(settings.home) not in first
    assert "evaluation.json" in story and phrase("timeline", "en") in story


def test_without_its_database_the_page_still_says_what_is_wrong(settings: Settings) -> None:
    settings.folders.control_db.write_bytes(b"this is no database, whatever its name says" * 50)
    with page(settings) as client:
        for address in ("/", "/operations/audit", "/operations/cycles/si_2026_11_23_001", SWITCH):
            answer = client.get(address)
            assert answer.status_code >= 400 and complaints(answer.text) == [] and "control database" in answer.text, address
            assert str(settings.home) not in answer.text


def test_nothing_from_data_runs(settings: Settings) -> None:
    """Names, reasons and payloads come from people, logs and services; on the page they are words."""
    loop = prepare(Loop(settings), NEW)
    write_snapshot(loop, NEW)
    cycle_id = waiting_cycle(loop, reason=HOSTILE, actions=(HOSTILE,))
    loop.control.append("note", f"api:{HOSTILE}", cycle_id, HOSTILE, {HOSTILE: {"deep": [HOSTILE, {"href": "javascript:alert(1)"}]}})
    loop.control.override_gate(loop.contour, "ndcg_at_10", 0.5, HOSTILE, HOSTILE, old=None)
    loop.control.champion_changed(loop.contour, NEW, HOSTILE, cycle_id=cycle_id)
    loop.control.ask_approval(cycle_id, "trial", loop.contour, "1", {"reason": HOSTILE, HOSTILE: [{HOSTILE: HOSTILE}], "gates": HOSTILE}, timedelta(days=1))
    with page(settings) as client:
        for address in ("/", "/?lang=uk", f"/operations/cycles/{cycle_id}", "/operations/audit", f"/operations/audit?text={HOSTILE}", f"/operations/{HOSTILE}"):
            text = client.get(address).text
            assert complaints(text) == [], address
            assert HOSTILE not in text and "<img" not in text and escape(HOSTILE)[:20] in text.replace("&#34;", "&quot;"), address


# --------------------------------------------------------------------------- the road of a cycle


def test_the_stepper_tells_done_now_skipped_and_ahead(settings: Settings) -> None:
    loop = Loop(settings)
    cycle_id = open_cycle(loop.control).cycle_id
    for state in (CycleState.PREPARED, CycleState.EVALUATED):
        loop.control.transition(cycle_id, state, "", "loop")
    shown = views.steps_of(loop.control.cycle(cycle_id), loop.control.records(cycle_id=cycle_id))
    assert [step.standing for step in shown] == ["done", "done", "skipped", "current", *["ahead"] * 6]
    assert all(step.at is not None for step in shown if step.standing in ("done", "current"))
    loop.control.transition(cycle_id, CycleState.REJECTED, "worse", "loop")
    ended = views.steps_of(loop.control.cycle(cycle_id), loop.control.records(cycle_id=cycle_id))
    assert [(step.state, step.standing) for step in ended[-2:]] == [("evaluated", "done"), ("rejected", "done")] and len(ended) == 5


@pytest.mark.parametrize("end", ["released", "watching", "stable", "awaiting_approval"])
def test_what_the_loop_does_now_follows_the_cycle_and_the_switch(loop: Loop, settings: Settings, end: str) -> None:
    other = prepare(Loop(settings), NEW)
    cycle_id = open_cycle(other.control).cycle_id
    other.control.transition(cycle_id, "on_trial", "", "loop")
    kinds = {"awaiting_approval": "waiting", "released": "watching", "watching": "watching", "stable": "silent"}  # Dagster is away
    with page(settings) as client:
        assert phrase("now_cycle", "en") in client.get("/").text
        if end in ("watching", "stable"):
            other.control.transition(cycle_id, "released", "", "loop")
        other.control.transition(cycle_id, end, "", "loop")
        text = client.get("/").text
        assert phrase(f"now_{kinds[end]}", "en") in text
        assert (phrase("unwatched", "en") in text) == (end in ("released", "watching")), "Dagster is away: nobody watches the release"
        if end == "stable":
            assert phrase("why_no_cycle", "en") in text and "there is no metrics snapshot yet" in text
        other.control.set_kill_switch(other.contour, True, "test", "a test")
        assert phrase("now_stopped", "en") in client.get("/").text


# --------------------------------------------------------------------------- quick, however long its life


def test_ten_thousand_cycles_and_a_hundred_thousand_records_stay_quick(settings: Settings) -> None:
    """Counted in processor seconds of this process, so that a busy machine does not decide."""
    loop = prepare(Loop(settings), NEW)
    for back in range(80, 0, -1):
        write_snapshot(loop, NEW, utc_now() - timedelta(minutes=15 * back))
    assert loop.control.count_records() == 0
    fill(loop.home.control_db, cycles=10_000, records=100_000)
    with page(settings) as client:
        pages = ("/", "/operations/audit", "/operations/audit?text=nowhere+to+be+found", "/operations/cycles/si_2016_01_01_001")
        calls = ("status", "cycles?limit=50", "cycles?limit=50&cursor=si_2018_06_01_001", "cycles/si_2016_01_01_001", "history?limit=20")
        for address in (*pages, *(f"/api/v1/optimizer/{call}" for call in calls)):
            assert client.get(address).status_code == 200
            took = []
            for _ in range(3):
                began = time.process_time()
                client.get(address)
                took.append(time.process_time() - began)
            assert min(took) < 0.5, f"{address}: {took}"
        assert len(client.get("/").content) < 300_000


def fill(path: Path, cycles: int, records: int) -> None:
    """A long life, written past the program: pages read it, nobody verifies it."""
    with sqlite3.connect(path) as database:
        trigger = '{"type":"ndcg_at_10_down","metric":"ndcg_at_10","value":0.4,"baseline":0.6,"delta":-0.2,"actions":[],"reason":"a drop"}'
        ids = [f"si_{2016 + n // 3000:04d}_{n // 250 % 12 + 1:02d}_{n // 9 % 28 + 1:02d}_{n % 9 + 1:03d}" for n in range(cycles * 2)]
        ids = list(dict.fromkeys(ids))[:cycles]
        at = "2020-01-01T00:00:00.000000+00:00"
        database.executemany("INSERT INTO cycles VALUES (?, 'local', 'rejected', ?, ?, ?, 'no better', 'loop', ?)", [(one, trigger, at, at, 0) for one in ids])
        payload = '{"contour":"local","from":"opened","to":"rejected","verdict":"reject","numbers":[1,2,3,4,5,6,7,8,9,10]}'
        (first,) = database.execute("SELECT coalesce(max(seq), 0) FROM ledger").fetchone()
        columns = "(seq, timestamp, action, actor, cycle_id, reason, payload, previous_hash, hash)"
        rows = (
            (first + 1 + n, at, "cycle_rejected", "loop", ids[n % len(ids)], "held: nothing was proven", payload, "0" * 64, "1" * 64) for n in range(records)
        )
        database.executemany(f"INSERT INTO ledger {columns} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        assert len(ids) == cycles


def test_every_word_of_the_page_is_in_the_table(loop: Loop, client: TestClient) -> None:
    """What stands in a heading or on a button comes from the table of texts: nothing is typed into a template."""
    import re

    client.cookies.clear()
    text = client.get("/", headers={"Accept-Language": "uk"}).text
    words = re.findall(r"<(?:h[1-4]|button|label|summary|th scope=.col.)(?: [^>]*)?>([^<]+)<", text)
    known = {ukrainian for _, ukrainian in TEXTS.values()}
    recorded = {"name", "answer", "value", "reason", "n", "ndcg champion", "ndcg challenger"}  # keys of evidence, as they were recorded
    assert len(words) > 40
    assert {re.sub(r" \(\d+\)$", "", one).strip(" ,") for one in words} - known - recorded == set()
