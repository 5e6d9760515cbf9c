"""Every call of CONTRACT.md section 1: its keys, what it changes, what it says. The control database and the files are real, the webserver is a peer that
holds to Dagster's schema."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from predator_si.api import answers
from predator_si.home import Home
from predator_si.records import CycleState, Decision, ExperimentResult, ServingConfig, Verdict, utc_now
from predator_si_tests.support.api_ground import OPTIMIZER, ApiGround
from predator_si_tests.support.platform import open_cycle


@pytest.fixture
def ground(home: Home) -> ApiGround:
    return ApiGround(home)


def test_status_of_a_healthy_home(ground: ApiGround):
    ground.measured(ndcg_at_10=0.6)
    with ground.client() as client:
        found = client.get(f"{OPTIMIZER}/status").json()
    assert found["is_running"] is True and found["kill_switch"] is False and found["contour"] == "local" and found["problems"] == []
    assert found["quality_gates_status"] in ("passing", "warning") and found["total_optimizations_24h"] == 0 and found["actions_by_type"] == {}
    assert 9 < found["next_cycle_in_minutes"] <= 10, "the next tick that Dagster plans"
    assert found["current_cycle"] is None and found["unwatched_release"] is None and found["last_action"] is None
    assert found["champion"] == ground.champion


def test_metrics_are_null_where_unknown_and_have_their_evidence(ground: ApiGround):
    ground.measured(ndcg_at_10=0.61, user_satisfaction=None)
    with ground.client() as client:
        found = client.get(f"{OPTIMIZER}/metrics").json()
    assert found["ndcg_at_10"] == 0.61 and found["p95_latency_ms"] == 90.0 and found["user_satisfaction"] is None and found["gpu_utilization"] is None
    detail = found["details"]["ndcg_at_10"]
    assert {"n", "ci_low", "ci_high", "source", "age_seconds", "window"} <= detail.keys() and detail["n"] == 200 and detail["age_seconds"] >= 1.0
    assert found["details"]["user_satisfaction"]["reason"] == "nobody measured it"


def test_trigger_opens_a_cycle_and_launches_its_first_job(ground: ApiGround):
    ground.measured()
    with ground.client() as client:
        answer = client.post(f"{OPTIMIZER}/trigger", json={"force": False})
        again = client.post(f"{OPTIMIZER}/trigger", json={"force": True})
    assert answer.status_code == 202, answer.text
    found = answer.json()
    cycle = ground.loop.control.active_cycle("local")
    assert cycle is not None and cycle.actor == "api:local" and cycle.trigger.type == "ndcg_at_10_down"
    assert (
        found["status"] == "started"
        and found["cycle_id"] == cycle.cycle_id
        and found["target"] == "all"
        and "cycle_prepare_job launched" in found["actions_taken"]
    )
    assert found["improvements"] == {"ndcg_delta": None, "latency_delta": None}
    [run] = ground.peer.runs
    assert run["jobName"] == "cycle_prepare_job" and run["tags"]["dagster/partition"] == cycle.cycle_id and run["tags"]["predator/actor"] == "api:local"
    assert ground.peer.partitions == [cycle.cycle_id] and "api:local" in ground.peer.users
    assert again.status_code == 200 and again.json()["status"] == "skipped" and again.json()["cycle_id"] == cycle.cycle_id
    assert len(ground.peer.runs) == 1


def test_trigger_without_a_failed_gate_needs_force_and_a_target_limits_it(ground: ApiGround):
    ground.measured(ndcg_at_10=0.6)
    with ground.client() as client:
        calm = client.post(f"{OPTIMIZER}/trigger", json={}).json()
        forced = client.post(f"{OPTIMIZER}/trigger", json={"force": True, "target": "infrastructure", "reason": "a try"}).json()
    assert calm["status"] == "skipped" and "no gate asks for a cycle" in calm["message"] and calm["cycle_id"] is None
    assert forced["status"] == "started" and forced["target"] == "infrastructure"
    cycle = ground.loop.control.cycle(forced["cycle_id"])
    assert cycle.trigger.type == "p95_latency_ms_up" and "a person insists: a try" in cycle.reason


def test_trigger_for_another_target_than_the_failed_gate_starts_nothing(ground: ApiGround):
    ground.measured()
    with ground.client() as client:
        found = client.post(f"{OPTIMIZER}/trigger", json={"target": "infrastructure"}).json()
    assert found["status"] == "skipped" and "asks for ndcg_at_10_down" in found["message"] and ground.loop.control.active_cycle("local") is None


def test_trigger_where_nothing_was_measured_measures_first(ground: ApiGround):
    with ground.client() as client:
        found = client.post(f"{OPTIMIZER}/trigger", json={"force": True}).json()
        assert found["status"] == "started" and found["cycle_id"] is None and "first snapshot" in found["message"]
        assert [run["jobName"] for run in ground.peer.runs] == ["observe_job"]
    assert ground.loop.control.active_cycle("local") is None


def test_trigger_waits_for_the_end_and_tells_what_was_done(ground: ApiGround):
    ground.measured()
    with ground.client() as client:
        started = client.post(f"{OPTIMIZER}/trigger", json={}).json()
        ground.loop.control.transition(started["cycle_id"], CycleState.REJECTED, "not better", "test")
        ended = client.post(f"{OPTIMIZER}/trigger", json={"force": True, "wait": 0.2}).json()
    assert ended["cycle_id"] != started["cycle_id"] and ended["status"] == "started" and ended["state"] == "opened", "its time is over before its end"
    assert ended["actions_taken"] == ["cycle_opened"]


def test_stop_and_start_drive_the_switch_the_sensor_and_the_runs(ground: ApiGround):
    training = ground.peer.run("cycle_train_job", "train")
    watching = ground.peer.run("watch_job", "watch")
    with ground.client() as client:
        stopped = client.post(f"{OPTIMIZER}/stop", json={"reason": "freeze"}).json()
        assert stopped["status"] == "stopped" and stopped["terminated_runs"] == [training]
        assert ground.loop.control.kill_switch("local") and not ground.peer.sensors["quality_gate_sensor"] and ground.peer.sensors["cycle_advance_sensor"]
        assert next(run for run in ground.peer.runs if run["runId"] == watching)["status"] == "STARTED", "a watch is never ended"
        again = client.post(f"{OPTIMIZER}/stop").json()
        assert again["status"] == "stopped" and again["terminated_runs"] == [] and "already" in again["message"]
        status = client.get(f"{OPTIMIZER}/status").json()
        assert status["is_running"] is False and status["kill_switch"] is True and status["next_cycle_in_minutes"] is None
        assert client.post(f"{OPTIMIZER}/trigger", json={"force": True}).json()["status"] == "refused", "force does not pass the kill switch"
        started = client.post(f"{OPTIMIZER}/start").json()
        assert started == {"status": "started", "message": started["message"], "interval_minutes": 15}
        assert not ground.loop.control.kill_switch("local") and ground.peer.sensors["quality_gate_sensor"]
        assert client.post(f"{OPTIMIZER}/start").json()["status"] == "already_running"
    said = [(record.action, record.reason) for record in ground.loop.control.records()]
    assert said == [("kill_switch_on", "freeze"), ("runs_terminated", "freeze"), ("kill_switch_off", "POST start")]


def test_a_sensor_that_somebody_stopped_in_dagster_is_started_again(ground: ApiGround):
    ground.peer.sensors["quality_gate_sensor"] = False
    with ground.client() as client:
        before = client.get(f"{OPTIMIZER}/status").json()
        assert before["is_running"] is False and "stopped in Dagster" in before["problems"][0]
        assert client.post(f"{OPTIMIZER}/start").json()["status"] == "started"
    assert ground.peer.sensors["quality_gate_sensor"]


def test_history_pages_back_to_the_first_record(ground: ApiGround):
    for number in range(7):
        ground.loop.control.append("noted", "test", None, f"number {number}", {"ndcg_at_10": 0.1 * number})
    with ground.client() as client:
        first = client.get(f"{OPTIMIZER}/history", params={"limit": 3}).json()
        second = client.get(f"{OPTIMIZER}/history", params={"limit": 3, "cursor": first["next_cursor"]}).json()
        last = client.get(f"{OPTIMIZER}/history", params={"limit": 3, "cursor": second["next_cursor"]}).json()
    rows = [*first["history"], *second["history"], *last["history"]]
    assert [row["action"]["reason"] for row in rows] == [f"number {number}" for number in range(6, -1, -1)]
    assert first["total"] == 7 and first["showing"] == 3 and last["showing"] == 1 and last["next_cursor"] is None
    assert all(one["previous_hash"] == two["hash"] for one, two in itertools.pairwise(rows)), "the chain can be followed"
    assert rows[0]["metrics"] == {"ndcg_at_10": pytest.approx(0.6)} and rows[0]["action"]["type"] == "noted"


def test_gates_are_told_in_two_languages_and_overridden_for_a_time(ground: ApiGround):
    ground.measured(ndcg_at_10=0.6)
    with ground.client() as client:
        english = client.get(f"{OPTIMIZER}/quality-gates").json()
        ukrainian = client.get(f"{OPTIMIZER}/quality-gates", headers={"Accept-Language": "uk-UA, en;q=0.5"}).json()
        assert english["description"]["error_rate"] == "Share of searches that failed" and ukrainian["description"]["error_rate"] == "Частка пошуків з помилкою"
        assert english["gates"]["error_rate"] == 0.01
        assert {"direction", "kind", "unit", "min_sample", "status", "value"} <= english["details"]["error_rate"].keys()
        changed = client.post(f"{OPTIMIZER}/quality-gates/ndcg_at_10", params={"threshold": 0.70}).json()
        assert changed["metric"] == "ndcg_at_10" and changed["new_threshold"] == 0.7 and changed["old_threshold"] is None and changed["actor"] == "api:local"
        assert changed["updated_at"] < changed["expires_at"]
        shown = client.get(f"{OPTIMIZER}/quality-gates").json()["details"]["ndcg_at_10"]
        assert shown["override"]["threshold"] == 0.7
        lower = client.post(f"{OPTIMIZER}/quality-gates/ndcg@10", params={"threshold": 0.5, "expires_in_minutes": 5, "reason": "a try"}).json()
        assert lower["old_threshold"] == 0.7 and lower["metric"] == "ndcg_at_10", "an alias is the same metric"
        for metric, threshold, status in (("nonsense", 0.5, 404), ("ndcg_at_10", 1.5, 422), ("ndcg_at_10", "nan", 422), ("ndcg_at_10", "lots", 422)):
            refused = client.post(f"{OPTIMIZER}/quality-gates/{metric}", params={"threshold": threshold})
            assert refused.status_code == status and refused.headers["content-type"] == "application/problem+json", (metric, threshold)
    assert [record.action for record in ground.loop.control.records()] == ["gate_overridden", "gate_overridden"]


def test_cycles_and_the_verdict_that_argo_asks_for(ground: ApiGround):
    ground.measured()
    with ground.client() as client:
        cycle_id = client.post(f"{OPTIMIZER}/trigger", json={}).json()["cycle_id"]
        [row] = client.get(f"{OPTIMIZER}/cycles").json()["cycles"]
        assert row["cycle_id"] == cycle_id and row["state"] == "opened" and row["trigger"] == "ndcg_at_10_down"
        story = client.get(f"{OPTIMIZER}/cycles/{cycle_id}").json()
        assert story["audit"]["cycle_id"] == cycle_id and story["trigger"]["metric"] == "ndcg_at_10" and cycle_id in story["links"]["dagster"]
        assert {"timestamp", "environment", "trigger", "actions", "approver", "total_cost_usd", "outcome", "rollback_available"} <= story["audit"].keys()
        verdict = client.get(f"{OPTIMIZER}/cycles/{cycle_id}/verdict").json()
        assert verdict["verdict"] == "inconclusive" and verdict["phase"] == "opened" and verdict["digest"] is None and verdict["evidence"] == {}
        assert client.get(f"{OPTIMIZER}/cycles/si_2020_01_01_001").status_code == 404
        assert client.get(f"{OPTIMIZER}/cycles/..%2F..%2Fetc").status_code in (404, 422)


def test_a_rollout_hears_promote_from_a_decided_and_approved_release_alone(ground: ApiGround):
    cycle_id = open_cycle(ground.loop.control).cycle_id
    config = ServingConfig(model=ground.champion, depth=8)
    facts = {"policy": "full", "gates": [], "approval_required": True, "champion": config, "challenger": config, "created_at": utc_now()}
    tried = Decision(cycle_id=cycle_id, stage="trial", verdict=Verdict.PROMOTE, reason="may be tried", **facts)
    trial = ExperimentResult(cycle_id=cycle_id, mode="ab", started_at=utc_now(), ended_at=utc_now(), requests={}, simulated=False, arms={}, guardrails=[],
                             sample_ratio_p=None, verdict=Verdict.PROMOTE, reason="no harm in this step")  # fmt: skip
    release = tried.model_copy(update={"stage": "promote", "reason": "better"})
    steps = [
        ("decision-trial.json", tried, "inconclusive", "trial"),
        ("ab_test_results.json", trial, "inconclusive", "experiment"),
        ("ab_test_results.json", trial.model_copy(update={"verdict": Verdict.REJECT}), "reject", "experiment"),
        ("decision-promote.json", release, "inconclusive", "promote"),  # a person is asked
        ("decision-promote.json", release.model_copy(update={"approved_by": "ann"}), "promote", "promote"),
    ]
    ground.loop.artifacts(cycle_id).mkdir(parents=True, exist_ok=True)
    with ground.client() as client:
        for name, record, verdict, stage in steps:
            ground.loop.save(cycle_id, name, record)
            found = client.get(f"{OPTIMIZER}/cycles/{cycle_id}/verdict").json()
            assert (found["verdict"], found["stage"]) == (verdict, stage), found["reason"]


def test_feedback_goes_to_the_search_service(ground: ApiGround):
    with ground.client() as client:
        answer = client.post(f"{OPTIMIZER}/feedback", json={"query_id": "q1", "score": 4})
        assert answer.status_code == 202 and answer.json() == {"status": "accepted", "query_id": "q1", "known_query": True}
        marked = client.post(f"{OPTIMIZER}/feedback", json={"query_id": "unknown1", "document_id": "d1", "relevant": False, "client_id": "c"})
        assert marked.json()["known_query"] is False
        for wrong in (
            {"query_id": "q1"},
            {"query_id": "q1", "score": 6},
            {"query_id": "q1", "relevant": True},
            {"query_id": "q1", "score": 3, "relevant": True},
        ):
            assert client.post(f"{OPTIMIZER}/feedback", json=wrong).status_code == 422, wrong
        ground.search_down = True
        assert client.post(f"{OPTIMIZER}/feedback", json={"query_id": "q1", "score": 4}).status_code == 503
    assert ground.feedback == [
        {"query_id": "q1", "action_name": "rating", "value": 4.0},
        {"query_id": "unknown1", "action_name": "rating", "value": 1.0, "object_id": "d1", "client_id": "c"},
    ]


def test_the_document_names_every_guarded_call_and_the_page_shows_them(ground: ApiGround):
    from predator_si.api.access import NEEDS

    with ground.client() as client:
        document = client.get("/openapi.json").json()
        page = client.get("/docs")
    described = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert {call for call in NEEDS if call[1].startswith(OPTIMIZER)} <= described
    assert "http" not in page.text.split("<body>")[0].replace("http-equiv", "") and "<script" not in page.text, "nothing is loaded from anywhere"
    assert "curl -X POST" in page.text and "role: operator" in page.text


def test_every_example_in_the_document_is_one():
    shown = [one for one in vars(answers).values() if isinstance(one, type) and issubclass(one, BaseModel) and "json_schema_extra" in one.model_config]
    assert len(shown) > 15
    for model in shown:
        extra = model.model_config["json_schema_extra"]
        assert isinstance(extra, dict)
        for example in extra["examples"]:
            model.model_validate_json(json.dumps(example))


def test_nothing_is_written_by_looking(home: Home, tmp_path: Path):
    ground = ApiGround(home, prepared=False)
    with ground.client() as client:
        for path in ("status", "metrics", "history", "quality-gates", "approvals", "cycles", "champions"):
            assert client.get(f"{OPTIMIZER}/{path}").status_code == 200, path
    assert ground.loop.control.head() is None
