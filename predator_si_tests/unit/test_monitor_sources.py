"""Sources on their own: what they ask, what they make of the answer, and what they say when there is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from predator_si.contour import Credential, MetricSource, OpenSearchEvents, PostgresEvents, Sources
from predator_si.errors import BadInput
from predator_si.monitor.gates import evaluate_gate
from predator_si.monitor.intake import Intake, read_window
from predator_si.monitor.sources import OpenCost, OpenSearchUBI, PostgresTables, Prometheus, plan, resolve, resolve_snapshot
from predator_si.monitor.sources.prometheus import EXPRESSIONS, selectors
from predator_si.records import Answer, Metric, MetricsSnapshot
from predator_si.settings import load_settings
from predator_si_tests.support.peers import UbiIndexes, allocation, opencost, opensearch
from predator_si_tests.support.waiting import free_port

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
END = START + timedelta(minutes=15)


def requests(count: float | None, reason: str | None = None):
    return lambda start, end: Metric(name="requests", value=count, source="search events", reason=reason)


# --------------------------------------------------------------------------- precedence and age


def metric(value: float | None, age: float | None = 10.0, **more: Any) -> Metric:
    return Metric(name="p95_latency_ms", value=value, n=60, unit="ms", direction="down", age_seconds=age, source="somewhere", **more)


WANTED = (MetricSource(source="prometheus", max_age=timedelta(minutes=10)), MetricSource(source="events"))


def test_the_first_fresh_source_wins_and_the_others_stay_as_evidence():
    taken, said = resolve("p95_latency_ms", WANTED, {"prometheus": metric(300.0), "events": metric(310.0)})
    assert taken.value == 300.0 and [(one.source, one.chosen, one.value) for one in said] == [("prometheus", True, 300.0), ("events", False, 310.0)]
    assert said[1].reason == "prometheus comes first and has a fresh value"


@pytest.mark.parametrize(
    ("first", "why"),
    [
        (metric(300.0, 601.0), "stale: 601 s old, at most 600 s are asked for"),
        (metric(300.0, None), "stale: nothing says how old it is"),
        (metric(None, None, reason="connection refused"), "unknown: connection refused"),
        (None, "unknown: it does not have this metric"),
    ],
)
def test_a_stale_or_silent_source_gives_way(first: Metric | None, why: str):
    found = {"events": metric(310.0)} | ({"prometheus": first} if first is not None else {})
    taken, said = resolve("p95_latency_ms", WANTED, found)
    assert taken.value == 310.0 and (said[0].chosen, said[0].reason) == (False, why) and said[1].chosen


def test_when_none_is_fresh_the_metric_is_unknown_with_every_reason():
    taken, said = resolve("p95_latency_ms", WANTED, {"prometheus": metric(300.0, 900.0), "events": metric(None, reason="no request")})
    assert taken.value is None and taken.reason == "prometheus: stale: 900 s old, at most 600 s are asked for; events: unknown: no request"
    assert not any(one.chosen for one in said)


def snapshot(**metrics: Metric) -> MetricsSnapshot:
    shared = {"contour": "local", "created_at": END, "window_start": START, "window_end": END, "champion": None}
    return MetricsSnapshot(snapshot_id="s", **shared, metrics=metrics)


def test_a_contour_without_a_source_makes_the_gate_not_applicable_and_one_with_a_silent_source_unknown():
    criterion = next(one for one in load_settings("local", env={}).quality_gates if one.metric == "gpu_utilization").model_copy(update={"no_data": "unknown"})
    without = resolve_snapshot(snapshot(), Sources(), {})
    assert without.metrics["gpu_utilization"].reason == "not applicable: this contour has no source for gpu_utilization"
    assert evaluate_gate(criterion, without, None, END).answer is Answer.NOT_APPLICABLE
    down = Metric(name="gpu_utilization", value=None, source="prometheus", reason="cannot be reached")
    silent = resolve_snapshot(snapshot(), Sources(prometheus="http://prom:9090"), {"prometheus": {"gpu_utilization": down}})
    assert evaluate_gate(criterion, silent, None, END).answer is Answer.UNKNOWN and "cannot be reached" in (silent.metrics["gpu_utilization"].reason or "")


def test_a_snapshot_keeps_what_it_measured_itself_where_nothing_comes_before_it():
    own = {"p95_latency_ms": metric(310.0), "ndcg_at_10_clicks": Metric(name="ndcg_at_10_clicks", value=0.5)}
    found = resolve_snapshot(snapshot(**own), Sources(prometheus="http://prom:9090"), {"prometheus": {"p95_latency_ms": metric(300.0)}})
    assert found.metrics["p95_latency_ms"].value == 310.0 and found.metrics["ndcg_at_10_clicks"].value == 0.5
    assert [one.source for one in found.candidates["p95_latency_ms"]] == ["events", "prometheus"]
    assert set(plan(Sources())["p95_latency_ms"]) == {MetricSource(source="events")}


# --------------------------------------------------------------------------- what a contour may say


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"prometheus": "http://user:secret@host:9090"}, "they go into credentials"),
        ({"opencost": "host:9003"}, "not an http"),
        ({"credentials": {"prometheus": {"tokenEnv": "eyJhbGciOi.secret"}}}, "the name of an environment variable"),
        ({"credentials": {"prometheus": {}}}, "either tokenEnv or passwordEnv"),
        ({"credentials": {"grafana": {"tokenEnv": "X"}}}, "credentials are for"),
        ({"postgres": {"address": "postgresql://me:secret@host/db", "searches": "s"}}, "user and password go into credentials"),
        ({"postgres": {"address": "postgresql://host/db"}}, "name the table"),
        ({"postgres": {"address": "postgresql://host/db", "searches": "s; drop table s"}}, "is not a table"),
        ({"postgres": {"address": "postgresql://host/db", "searches": "s", "columns": {"ms": "latency_ms"}}}, "'ms' is no column of an event"),
        ({"postgres": {"address": "postgresql://host/db", "searches": "s", "columns": {"actions.status": "x"}}}, "no column of an event"),
        ({"metrics": {"p95_latncy": [{"source": "events"}]}}, "did you mean 'p95_latency"),
        ({"metrics": {"p95_latency": [{"source": "events"}], "p95_latency_ms": [{"source": "events"}]}}, "twice"),
        ({"metrics": {"p95_latency": []}}, "at least 1"),
        ({"metrics": {"p95_latency": [{"source": "events", "query": "x"}]}}, "takes no query"),
        ({"metrics": {"cost_per_1k_requests": [{"source": "opencost"}]}}, "which allocation"),
        ({"metrics": {"p95_latency": [{"source": "graphite"}]}}, "Input should be"),
    ],
)
def test_what_cannot_be_is_refused(given: dict[str, Any], why: str):
    with pytest.raises(ValidationError, match=why):
        Sources.model_validate(given)


def test_a_values_file_names_sources_and_a_wrong_key_is_pointed_at(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    order = "[{source: prometheus, maxAge: 10m}, {source: events}]"
    file.write_text(f"selfImprovement:\n  sources:\n    prometheus: http://prom:9090/\n    metrics:\n      p95_latency: {order}\n")
    sources = load_settings("local", values_file=file, env={}).sources
    assert sources.prometheus == "http://prom:9090" and sources.metrics["p95_latency_ms"] == WANTED
    file.write_text("selfImprovement:\n  sources:\n    postgres: {address: 'postgresql://db/x', serches: s}\n")
    with pytest.raises(BadInput, match=r"mine.yaml:3: unknown key .*serches.*did you mean 'searches'"):
        load_settings("local", values_file=file, env={})
    file.write_text("selfImprovement:\n  sources:\n    credentials: {postgres: {passwordenv: X}}\n")
    with pytest.raises(BadInput, match="did you mean 'passwordEnv'"):
        load_settings("local", values_file=file, env={})


# --------------------------------------------------------------------------- Prometheus


@pytest.mark.parametrize(
    ("expression", "series"),
    [
        ("up", ["up"]),
        ('max(queue_depth{job="a, b", x!~"y{2}"}) / 2', ['queue_depth{job="a, b", x!~"y{2}"}']),
        ("1000 * histogram_quantile(0.95, sum(rate(x_bucket[900s])) by (le))", ["x_bucket"]),
        ("sum by (le, job) (rate(a:b:c[5m] offset 1h)) or vector(0)", ["a:b:c"]),
        ('label_replace(foo, "dst", "$1", "src", "(bar).*") and on(instance) bar', ["foo", "bar"]),
        ("a / ignoring(code) group_left a > bool 0", ["a"]),
        ("time() - 5e3", []),
    ],
)
def test_the_series_of_an_expression_are_found(expression: str, series: list[str]):
    assert selectors(expression) == series


def test_every_default_expression_reads_series_of_our_service_or_of_the_gpu_exporter():
    for name, (query, count) in EXPRESSIONS.items():
        for expression in filter(None, (query, count)):
            found = selectors(expression.replace("$window", "900s"))
            assert found and all(one.startswith(("predator_si_", "DCGM_FI_DEV_")) for one in found), name


def test_a_prometheus_that_is_down_makes_its_metrics_unknown_with_the_reason():
    wanted = {name: MetricSource(source="prometheus") for name in ("p95_latency_ms", "error_rate")}
    reading = Prometheus(f"http://127.0.0.1:{free_port()}", wanted).read(START, END)
    assert all(one.value is None and "cannot be reached" in (one.reason or "") for one in reading.metrics.values())
    assert len(reading.provenance.unknown) == 2 and reading.provenance.rows_good == 0


def test_a_secret_that_is_not_there_is_named_by_its_variable():
    reading = Prometheus("http://127.0.0.1:1", {"error_rate": MetricSource(source="prometheus")}, Credential(token_env="PROM_TOKEN"), env={}).read(START, END)
    assert reading.metrics["error_rate"].reason == "the environment variable PROM_TOKEN is not set, which holds the token; set it"


# --------------------------------------------------------------------------- OpenCost


def cost(peer: Any, count: Any = 3000.0, **more: Any) -> Metric:
    source = OpenCost(peer.address, "namespace=search", count if callable(count) else requests(count), **more)
    return source.read(START, END).metrics["cost_per_1k_requests"]


def test_usd_per_thousand_requests_over_the_same_window():
    with opencost({"search": allocation("search", 0.9, START, END), "other": allocation("other", 7.0, START, END)}, token="t0p") as peer:
        found = cost(peer, credential=Credential(token_env="COST_TOKEN"), env={"COST_TOKEN": "t0p"})
    assert found.value == pytest.approx(0.3) and found.n == 3000 and found.age_seconds == 0.0 and "estimated" not in found.source
    assert peer.requests[0][1] == "/allocation"
    asked = peer.requests[0][2]
    assert asked["window"] == "2026-11-22T12:00:00Z,2026-11-22T12:15:00Z" and asked["aggregate"] == "namespace"


def test_kubecost_is_found_below_model():
    with opencost({"search": allocation("search", 0.9, START, END)}, prefix="/model") as peer:
        assert cost(peer).value == pytest.approx(0.3)
        assert [path for _, path, _ in peer.requests] == ["/allocation", "/model/allocation"]
        peer.address += "/model"
        assert cost(peer).value == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("rows", "count", "why"),
    [
        (None, 3000.0, "no allocation data"),
        ({"other": allocation("other", 1.0, START, END)}, 3000.0, "knows no allocation namespace=search; there are other"),
        ({"search": allocation("search", 1.0, START, START + timedelta(minutes=5))}, 3000.0, "covers 33% of the window"),
        ({"search": allocation("search", 1.0, START - timedelta(hours=1), END)}, 3000.0, "of another window"),
        ({"search": allocation("search", -1.0, START, END)}, 3000.0, "totalCost is -1"),
        ({"search": {**allocation("search", 1.0, START, END), "totalCost": None}}, 3000.0, "totalCost is None"),
        ({"search": allocation("search", 1.0, START, END)}, 0.0, "no request to share it"),
        ({"search": allocation("search", 1.0, START, END)}, requests(None, "the answer is empty"), "the number of requests is unknown: the answer is empty"),
    ],
)
def test_a_cost_that_cannot_be_known_is_not_made_up(rows: Any, count: Any, why: str):
    with opencost(rows) as peer:
        found = cost(peer, count)
    assert found.value is None and why in (found.reason or "")


def test_a_refusal_and_a_wrong_aggregate_are_said():
    with opencost({}, token="other") as peer:
        assert "refuses us (401); check this source's credentials" in (cost(peer).reason or "")
    with opencost({}, aggregate="label:app") as peer:
        assert "Invalid 'aggregate' parameter: namespace" in (cost(peer).reason or "")


# --------------------------------------------------------------------------- OpenSearch UBI


def ubi(i: int, **changes: Any) -> dict[str, Any]:
    when = START + timedelta(milliseconds=100 * i)
    row = {"application": "shop", "query_id": f"q{i:04}", "client_id": f"c{i % 7}", "user_query": f"boots {i}", "timestamp": when.isoformat()}
    return row | {"query_response_id": f"a{i}", "query_response_hit_ids": ["d1", "d2"], "query_attributes": {}} | changes


def ubi_click(i: int, **changes: Any) -> dict[str, Any]:
    where = {"object": {"object_id": "d2", "object_id_field": "_id"}, "position": {"ordinal": 2}}
    row = {"application": "shop", "action_name": "click", "query_id": f"q{i:04}", "client_id": f"c{i % 7}", "event_attributes": where}
    return row | {"timestamp": int((START + timedelta(seconds=60)).timestamp() * 1000), "message": "clicked"} | changes


def ubi_source(peer: Any, page: int = 100, **more: Any) -> OpenSearchUBI:
    return OpenSearchUBI(OpenSearchEvents(address=peer.address, application="shop"), page=page, **more)


def test_pages_are_followed_to_the_end_and_ties_on_their_border_are_not_skipped(tmp_path: Path):
    queries = [ubi(i) for i in range(457)] + [ubi(999, application="other"), ubi(998, timestamp=END.isoformat())]
    events = [ubi_click(i) for i in range(300)] + [ubi_click(7, action_name="impression")]  # 300 clicks in the same millisecond
    events += [ubi_click(0, event_attributes={"object": {"object_id": f"d{i}"}}) for i in range(60)]  # and 61 of the same query
    with opensearch(UbiIndexes(queries, events)) as peer:
        reading = ubi_source(peer).read(START, END)
        assert reading.complete and reading.frames["search"].height == 457 and reading.frames["action"].height == 360
        assert sum(path == "/ubi_queries/_search" for _, path, _ in peer.requests) == 5
        report = Intake(tmp_path, None).run([ubi_source(peer)], END)
    assert report.good == {"search": 457, "action": 360} and report.quarantined == {}
    frames = read_window(tmp_path, START, END)
    row = frames.search.row(0, named=True)
    assert (row["status"], row["latency_ms"], [one["object_id"] for one in row["results"]]) == (200, None, ["d1", "d2"]), "UBI does not measure latency"
    assert frames.actions.row(0, named=True)["position"] == 2 and frames.unknown


def test_a_second_reading_looks_back_and_stores_nothing_twice(tmp_path: Path):
    indexes = UbiIndexes([ubi(i) for i in range(20)], [ubi_click(i) for i in range(5)])
    with opensearch(indexes) as peer:
        Intake(tmp_path, None).run([ubi_source(peer)], END)
        indexes.queries = [*indexes.queries, ubi(3, query_id="late"), ubi(0, query_id="q0000", user_query="boots", timestamp=END.isoformat())]
        again = Intake(tmp_path, None).run([ubi_source(peer)], END + timedelta(minutes=15))
        assert again.good == {"search": 1} and again.repeated == 25 and again.quarantined == {"duplicate id": 1} and again.dirty == (START,)
        asked = peer.requests[-2][2]["query"]["bool"]["filter"][0]["range"]["timestamp"]
        assert asked["gte"] == "2026-11-22T11:15:00.000Z", "an hour before where it stopped"


@pytest.mark.parametrize("bad", [{"query_attributes": {"took_ms": -3}}, {"variant": "gold"}, {"user_query": 5}, {"query_id": None}])
def test_a_bad_document_is_set_aside_and_the_others_are_kept(tmp_path: Path, bad: dict[str, Any]):
    with opensearch(UbiIndexes([ubi(1), ubi(2, **bad)])) as peer:
        report = Intake(tmp_path, None).run([ubi_source(peer)], END)
    assert report.good == {"search": 1} and sum(report.quarantined.values()) == 1


def test_too_many_equal_documents_for_a_page_are_said_not_skipped():
    with opensearch(UbiIndexes([], [ubi_click(0, event_attributes={"object": {"object_id": f"d{i}"}}) for i in range(60)])) as peer:
        reading = ubi_source(peer, page=50).read(START, END)
    assert not reading.complete and "the same time, query and action" in reading.provenance.unknown[0]


def test_part_of_an_answer_is_no_answer_and_a_missing_index_is_named(tmp_path: Path):
    with opensearch(UbiIndexes([ubi(1)], failed_shards=1)) as peer:
        reading = ubi_source(peer).read(START, END)
        assert not reading.complete and "1 shards failed" in reading.provenance.unknown[0]
        values = OpenSearchEvents(address=peer.address, queries="nothing")
        assert "no such index [nothing]" in OpenSearchUBI(values).read(START, END).provenance.unknown[0]
        report = Intake(tmp_path, None).run([ubi_source(peer)], END)
    assert report.sources[0].unknown and report.good == {}


def test_a_user_and_a_password_from_the_environment():
    with opensearch(UbiIndexes([ubi(1)], user="reader", password="pw")) as peer:
        credential = Credential(user="reader", password_env="OS_PASSWORD")
        assert ubi_source(peer, credential=credential, env={"OS_PASSWORD": "pw"}).read(START, END).frames["search"].height == 1
        refused = ubi_source(peer, credential=credential, env={"OS_PASSWORD": "wrong"}).read(START, END)
    assert "refuses us (401)" in refused.provenance.unknown[0] and "wrong" not in refused.provenance.unknown[0]


def test_a_down_source_is_asked_again_for_what_it_missed(tmp_path: Path):
    port = free_port()
    down = OpenSearchUBI(OpenSearchEvents(address=f"http://127.0.0.1:{port}"))
    report = Intake(tmp_path, None).run([down], END)
    assert "cannot be reached" in report.sources[0].unknown[0]
    with opensearch(UbiIndexes([ubi(1)])) as peer:
        later = Intake(tmp_path, None).run([ubi_source(peer)], END + timedelta(hours=5))
    assert later.good == {"search": 1}, "five hours later the window is still asked for"


def test_a_database_that_is_down_is_said():
    values = PostgresEvents(address=f"postgresql://127.0.0.1:{free_port()}/x", searches="s")
    reading = PostgresTables(values, timeout=2.0).read(START, END)
    assert not reading.complete and "postgresql://127.0.0.1" in reading.provenance.unknown[0]
