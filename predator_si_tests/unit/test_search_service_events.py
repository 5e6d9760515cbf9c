"""What the service takes and keeps: actions, searches that another service pushes, and a disk that is full."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from predator_si.monitor.intake import Intake, read_window
from predator_si.monitor.sources import Spool
from predator_si.privacy import is_sealed
from predator_si.records import utc_now
from predator_si_tests.support.search_client import Client, run
from predator_si_tests.support.search_client import home as home
from predator_si_tests.support.search_fakes import FakeHome


def test_actions_are_recorded_and_unknown_queries_flagged(home: FakeHome) -> None:
    async def scenario(client: Client) -> None:
        known = (await client.search())["query_id"]
        click = {"query_id": known, "action_name": "click", "object_id": "d1", "position": 2, "simulated": True}
        assert (await client.http.post("/events", json=click)).json() == {"accepted": 1, "refused": [], "unknown_query_id": 0}
        several = {
            "events": [{"query_id": known, "action_name": "rating", "value": 4}, {"query_id": "else", "action_name": "dwell", "object_id": "d1", "value": 3.5}]
        }
        answer = await client.http.post("/events", json=several)
        assert answer.status_code == 202 and answer.json() == {"accepted": 2, "refused": [], "unknown_query_id": 1}
        actions = client.events().actions
        assert actions.select("query_id", "action_name", "value", "simulated").rows() == [
            (known, "click", None, True), (known, "rating", 4.0, False), ("else", "dwell", 3.5, False)
        ]  # fmt: skip
        assert await client.metric("actions_unknown_query_total") == 1

    run(home, scenario)


def pushed(name: str, **changes: Any) -> dict[str, Any]:
    """A search of another service, as a UBI document."""
    attributes = {"latency_ms": 12.5, "status": 200, "variant": "champion"}
    row = {"application": "shop", "query_id": name, "user_query": "red boots", "client_id": "olena", "query_response_hit_ids": ["d1", "d2"]}
    return row | {"timestamp": utc_now().isoformat(), "query_attributes": attributes} | changes


def test_another_service_pushes_its_searches_and_the_refused_ones_are_named(home: FakeHome, tmp_path: Path) -> None:
    async def scenario(client: Client) -> None:
        where = {"object": {"object_id": "d2", "object_id_field": "sku"}, "position": {"ordinal": 2}}
        events = [
            pushed("one"),
            {"query_id": "one", "action_name": "click", "event_attributes": where, "session_id": "s", "message": "clicked"},
            pushed("two", query_attributes={"took_ms": -1, "status": 200}),
            pushed("three", user_query="x" * 1001),
            pushed("four", timestamp=(utc_now() - timedelta(hours=25)).isoformat()),
            pushed("five", query_attributes={"status": 503, "took": 3}, query_response_hit_ids=None, timestamp=(utc_now() - timedelta(hours=23)).isoformat()),
            {"query_id": "one", "action_name": "purchase"},
            17,
        ]
        answer = await client.http.post("/events", json={"events": events})
        body = answer.json()
        assert answer.status_code == 202 and (body["accepted"], body["unknown_query_id"]) == (3, 0)
        assert [(one["index"], one["errors"][0]["field"]) for one in body["refused"]] == [
            (2, "latency_ms"), (3, "user_query"), (4, "timestamp"), (6, "action_name"), (7, "body")
        ]  # fmt: skip
        assert "x" * 50 not in answer.text and "olena" not in answer.text
        assert (await client.metric("searches_pushed_total"), await client.metric("events_refused_total")) == (2, 5)
        client.service.spool.flush()
        report = Intake(tmp_path / "telemetry", client.service.vault).run([Spool(client.service.spool.folder)])
        assert report.good == {"search": 2, "action": 1} and report.quarantined == {}
        frames = read_window(tmp_path / "telemetry", utc_now() - timedelta(hours=24), utc_now(), events=client.service.spool.folder)
        five, one = frames.search.iter_rows(named=True)
        assert (five["query_id"], five["status"], five["latency_ms"]) == ("five", 503, 3.0) and one["results"][1]["object_id"] == "d2"
        assert one["client_id"].startswith("c1.") and is_sealed(one["user_query"]) and frames.actions["position"].to_list() == [2]
        recent = read_window(tmp_path / "telemetry", utc_now() - timedelta(minutes=5), utc_now(), events=client.service.spool.folder)
        assert recent.search.height == 1 and recent.lost == 0, "the late one has the number after it: it is not lost, it lies in its own window"

    run(home, scenario)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (pushed("x", query_attributes={}), ["status", "latency_ms"]),
        (pushed("x", seq=4, writer="w"), ["seq", "writer"]),
        (pushed("x", timestamp="2999-01-01T00:00:00Z"), ["timestamp"]),
        ({"events": [pushed("x")] * 1001}, ["events"]),
        ({"events": [], "more": 1}, ["events"]),
        ({"events": [pushed("x", query_id=""), 1]}, ["events.0.query_id", "events.1"]),
        (None, ["body"]),
    ],
)
def test_a_request_of_which_nothing_can_be_used_is_refused(home: FakeHome, body: Any, field: list[str]) -> None:
    async def scenario(client: Client) -> None:
        response = await client.http.post("/events", json=body)
        assert response.status_code == 422 and sorted(error["field"] for error in response.json()["errors"]) == sorted(field), response.json()
        assert len(client.events().search) == 0

    run(home, scenario)


def test_events_that_cannot_be_written_are_seen_and_fail_no_search(home: FakeHome, monkeypatch: pytest.MonkeyPatch) -> None:
    real, full = os.pwrite, [True]

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        if full[0] and "/spool/" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data, offset)

    async def scenario(client: Client) -> None:
        monkeypatch.setattr(os, "pwrite", pwrite)
        await client.search()
        refused = await client.http.post("/flush")
        assert refused.status_code == 503 and "No space left" in refused.json()["detail"]
        ready = await client.http.get("/ready")
        assert ready.status_code == 200 and "No space left" in ready.json()["problems"][0]
        assert await client.metric("event_write_failing") == 1
        await client.search()
        full[0] = False
        flushed = (await client.http.post("/flush")).json()
        assert flushed["durable"] == flushed["issued"] == {"search": 2, "action": 0, "exposure": 0, "shadow": 0}
        assert (await client.http.get("/ready")).json()["problems"] == []

    run(home, scenario)
