"""Sources against the real things: Prometheus and PostgreSQL of this machine, the search service over HTTP, and an intake that is killed with kill -9."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from predator_si.contour import Credential, MetricSource, PostgresEvents
from predator_si.monitor.intake import Intake, RawLayer, read_window
from predator_si.monitor.sources import EventFiles, PostgresTables, Prometheus, Spool
from predator_si.records import utc_now
from predator_si_tests.support import postgres_server as pg
from predator_si_tests.support import prometheus_server as prom
from predator_si_tests.support.search_fakes import FakeHome, fake_home
from predator_si_tests.support.waiting import free_port, wait_until

pytestmark = pytest.mark.live
needs_prometheus = pytest.mark.skipif(not prom.prometheus_is_here(), reason=prom.ABSENT)
needs_postgres = pytest.mark.skipif(not pg.postgres_is_here(), reason=pg.ABSENT)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[int, FakeHome]]:
    """A search service whose champion takes ten milliseconds, in a process of its own."""
    home = fake_home(tmp_path / "home")
    home.release(home.model("slow", seconds=0.01), depth=5)
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "predator_si_tests.support.search_fakes", str(home.path), str(port), "0.1"])

    def ready() -> bool:
        assert process.poll() is None, "the service ended"
        try:
            return httpx.get(f"http://127.0.0.1:{port}/ready", timeout=2, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_until(ready, 60, "readiness of the search service")
        yield port, home
    finally:
        process.terminate()
        process.wait(timeout=30)


# --------------------------------------------------------------------------- Prometheus

WANTED = ("avg_latency_ms", "p50_latency_ms", "p95_latency_ms", "p99_latency_ms", "error_rate", "etl_lag_seconds", "index_throughput", "index_errors")


@needs_prometheus
def test_our_service_through_a_real_prometheus_says_what_its_events_say(service: tuple[int, FakeHome], tmp_path: Path):
    port, home = service
    began = utc_now()
    with prom.prometheus_server({"search": port}) as server, httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        source = Prometheus(server.url, {name: MetricSource(source="prometheus") for name in (*WANTED, "gpu_utilization")})
        empty = source.read(began, utc_now()).metrics
        assert empty["p95_latency_ms"].value is None and empty["error_rate"].value is None, "nothing was asked yet: unknown, not 0"
        client.post("/search", json={"query": "the first one makes the series"}).raise_for_status()
        wait_until(lambda: bool(server.query("predator_si_search_requests_total")), 15, "a scrape of the first request")
        first = utc_now()
        for i in range(60):
            client.post("/search", json={"query": f"number {i}"}).raise_for_status()
        client.post("/flush").raise_for_status()
        total = "sum(predator_si_search_requests_total)"
        wait_until(lambda: float(server.query(total)[0]["value"][1]) == 61, 15, "a scrape of all requests")
        wait_until(lambda: utc_now() > first + timedelta(seconds=5), 15, "a window of five seconds")
        end = utc_now()
        found = source.read(first - timedelta(seconds=2), end)
        requests = source.requests(first - timedelta(seconds=2), end)
    taken = Intake(tmp_path / "telemetry", None).run([Spool(home.events)], end)
    events = read_window(tmp_path / "telemetry", first, end, events=home.events)
    assert taken.good == {"search": 61} and events.search.height == 60 and events.lost == 0

    latency = events.search["latency_ms"]
    metrics = found.metrics
    assert metrics["avg_latency_ms"].value == pytest.approx(latency.mean(), rel=0.35), "rate() extrapolates to the window's borders"
    exact = latency.quantile(0.95, "higher")
    bucket = next((low * 1000, high * 1000) for low, high in zip((0, *BUCKETS), BUCKETS, strict=False) if exact <= high * 1000)
    assert bucket[0] * 0.5 <= (metrics["p95_latency_ms"].value or 0) <= bucket[1] * 2.5, (bucket, metrics["p95_latency_ms"])
    assert metrics["p50_latency_ms"].value <= metrics["p95_latency_ms"].value <= metrics["p99_latency_ms"].value
    assert metrics["error_rate"].value == 0.0 and 30 <= metrics["error_rate"].n <= 90
    assert metrics["etl_lag_seconds"].value == 0.0 and metrics["index_errors"].value == 0.0 and metrics["index_throughput"].value == 0.0
    assert all(0 <= metrics[name].age_seconds <= 5 for name in WANTED), "scraped each second"
    assert 30 <= (requests.value or 0) <= 90
    gpu = metrics["gpu_utilization"]
    assert gpu.value is None and "the answer is empty" in (gpu.reason or ""), "no GPU exporter is scraped"
    assert found.provenance.rows_good == len(WANTED) and len(found.provenance.unknown) == 1


BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0)


@needs_prometheus
def test_what_a_real_prometheus_cannot_answer_is_unknown_with_its_reason():
    registry = CollectorRegistry()
    Counter("asked", "Never.", ["replica"], registry=registry).labels("a").inc(0)
    load = Gauge("load", "By replica.", ["replica"], registry=registry)
    load.labels("a").set(0.25)
    load.labels("b").set(0.75)
    Gauge("broken", "Not a number.", registry=registry).set(float("inf"))
    port = free_port()
    exporter, thread = start_http_server(port, addr="127.0.0.1", registry=registry)
    try:
        with prom.prometheus_server({"x": port}) as server:
            wait_until(lambda: len(server.query("rate(asked_total[10s])")) == 1, 15, "two scrapes")

            def ask(query: str, at: timedelta = timedelta()) -> Any:
                wanted = {"gpu_utilization": MetricSource(source="prometheus", query=query)}
                end = utc_now() + at
                return Prometheus(server.url, wanted).read(end - timedelta(seconds=10), end).metrics["gpu_utilization"]

            assert (ask("avg(load)").value, ask("avg(load)").n) == (0.5, 1) and ask("0.25").value == 0.25
            reasons = {
                "load": "answers with 2 series",
                "nothing_there": "the answer is empty",
                "sum(rate(asked_total[$window])) / sum(rate(asked_total[$window]))": "answers nan",
                "broken": "answers inf",
                "avg(load) * 100": "which gpu_utilization cannot be; check the unit",
                "avg(load": "does not take this request",
                '"text"': "an expression with one number is needed",
                "load[5m]": "answers a matrix",
            }
            for query, reason in reasons.items():
                assert ask(query).value is None and reason in (ask(query).reason or ""), (query, ask(query).reason)
            assert ask("avg(load)", timedelta(hours=-1)).value is None, "it is evaluated at the window's end, not now"
            counted = MetricSource(source="prometheus", query="avg(load)", count="count(load)")
            end = utc_now()
            assert Prometheus(server.url, {"gpu_utilization": counted}).read(end - timedelta(seconds=10), end).metrics["gpu_utilization"].n == 2
            exporter.shutdown()
            thread.join()
            exporter.server_close()
            last = utc_now()
            wait_until(lambda: server.targets_up() == 0, 15, "a failed scrape")
            wait_until(lambda: utc_now() > last + timedelta(seconds=3), 15, "age")
            stale = ask("max_over_time(load{replica='a'}[5m])")
            assert stale.value == 0.25 and stale.age_seconds is None, "a series that ended has no newest sample: nothing says how old it is"
    finally:
        exporter.server_close()


# --------------------------------------------------------------------------- PostgreSQL

TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.searches (qid uuid PRIMARY KEY, at timestamptz NOT NULL, q text, who text, ms numeric(10, 3), code int, found jsonb, arm text);
CREATE TABLE shop.actions (qid uuid, at timestamptz, what text, doc text, pos int, val double precision);
CREATE VIEW shop.clicks AS
  SELECT qid AS query_id, at AS "timestamp", what AS action_name, doc AS object_id, pos AS "position", val AS "value" FROM shop.actions;
CREATE ROLE reader LOGIN PASSWORD 'read-me';
GRANT USAGE ON SCHEMA shop TO reader;
GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA shop TO reader;
"""
COLUMNS = {
    "searches.query_id": "qid", "searches.timestamp": "at", "user_query": "q", "searches.client_id": "who",
    "latency_ms": "ms", "status": "code", "results": "found", "variant": "arm",
}  # fmt: skip
AT = datetime.fromisoformat("2026-11-22T12:00:00+00:00")
CREDENTIAL = Credential(user="reader", password_env="SHOP_PASSWORD")
ENV = {"SHOP_PASSWORD": "read-me"}


@pytest.fixture(scope="module")
def database() -> Iterator[pg.PostgresServer]:
    if not pg.postgres_is_here():
        pytest.skip(pg.ABSENT)
    with pg.postgres_server() as server:
        with server.connect() as connection:
            connection.execute(TABLES)
        yield server


def tables(server: pg.PostgresServer, **changes: Any) -> PostgresTables:
    address = f"postgresql://127.0.0.1:{server.port}/{server.database}"
    values = PostgresEvents(address=address, **{"searches": "shop.searches", "actions": "shop.clicks", "columns": COLUMNS, **changes})
    return PostgresTables(values, CREDENTIAL, ENV, timeout=5.0)


@needs_postgres
def test_tables_of_a_real_postgres_reach_the_raw_layer_once(database: pg.PostgresServer, tmp_path: Path):
    with database.connect() as connection:
        connection.execute(
            """INSERT INTO shop.searches SELECT ('00000000-0000-4000-8000-' || lpad(i::text, 12, '0'))::uuid, %s::timestamptz + i * interval '30 milliseconds',
               'query ' || i, 'client ' || i %% 50, 10 + i / 1000.0, 200, '[{"object_id": "d1", "score": 2.5}, {"object_id": "d2"}]'::jsonb, 'champion'
               FROM generate_series(0, 11999) AS i""",
            (AT,),
        )
        connection.execute(
            "INSERT INTO shop.actions SELECT qid, at + interval '20 seconds', 'click', 'd2', 2, NULL FROM shop.searches ORDER BY at LIMIT 40", ()
        )
        connection.execute("UPDATE shop.searches SET ms = -1 WHERE qid::text LIKE '%%0000007'")
        connection.execute("UPDATE shop.searches SET arm = 'gold' WHERE qid::text LIKE '%%0000008'")
        connection.execute("UPDATE shop.searches SET found = '{\"no\": \"list\"}' WHERE qid::text LIKE '%%0000009'")
    end = AT + timedelta(minutes=15)
    report = Intake(tmp_path, None).run([tables(database)], end)
    assert report.good == {"search": 11997, "action": 40} and report.quarantined == {"negative latency": 1, "unknown variant": 1, "wrong type": 1}
    row = read_window(tmp_path, AT, end).search.filter(pl.col("query_id").str.ends_with("000000000100")).row(0, named=True)
    assert (row["latency_ms"], row["timestamp"], row["source"], row["origin"]) == (10.1, AT + timedelta(seconds=3), "postgres", "postgres:shop.searches")
    assert row["results"][0]["score"] == 2.5 and row["results"][1]["score"] is None

    with database.connect() as connection:  # a row that was written late, and one that was corrected
        connection.execute("INSERT INTO shop.searches VALUES (gen_random_uuid(), %s, 'late', 'client', 5, 200, '[]', NULL)", (AT + timedelta(minutes=1),))
    again = Intake(tmp_path, None).run([tables(database)], end + timedelta(minutes=15))
    assert again.good == {"search": 1} and again.quarantined == {} and again.repeated == 11997 + 40 and again.dirty == (AT,)
    assert RawLayer(tmp_path).ledger().quarantined == {"negative latency": 1, "unknown variant": 1, "wrong type": 1}


@needs_postgres
def test_the_session_cannot_write_and_what_is_wrong_is_named(database: pg.PostgresServer):
    import psycopg

    with tables(database)._session() as connection, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("INSERT INTO shop.actions VALUES (gen_random_uuid(), now(), 'click', 'd', 1, NULL)")

    def said(source: PostgresTables) -> str:
        reading = source.read(AT, AT + timedelta(minutes=15))
        assert not reading.complete
        return reading.provenance.unknown[0]

    assert "table shop.searches has no column at_all; it has arm, at, code" in said(tables(database, columns={**COLUMNS, "searches.timestamp": "at_all"}))
    assert 'relation "shop.nothing" does not exist' in said(tables(database, searches="shop.nothing"))
    wrong = PostgresTables(tables(database).values, CREDENTIAL, {"SHOP_PASSWORD": "not-this-one"}, timeout=5.0)
    assert "password authentication failed" in said(wrong) and "not-this-one" not in said(wrong)
    assert "SHOP_PASSWORD is not set" in said(PostgresTables(tables(database).values, CREDENTIAL, {}))


@needs_postgres
def test_a_query_that_takes_too_long_is_ended_by_the_server(database: pg.PostgresServer):
    with database.connect() as connection:
        connection.execute(
            'CREATE OR REPLACE VIEW shop.slow AS SELECT qid AS query_id, at AS "timestamp", q AS user_query FROM shop.searches, pg_sleep(20) AS nothing'
        )
        connection.execute("GRANT SELECT ON shop.slow TO reader")
    source = PostgresTables(tables(database, searches="shop.slow", actions=None, columns={}).values, CREDENTIAL, ENV, timeout=0.5)
    began = time.monotonic()
    reading = source.read(AT, AT + timedelta(minutes=15))
    assert "statement timeout" in reading.provenance.unknown[0] and time.monotonic() - began < 10


# --------------------------------------------------------------------------- kill -9

_KILLED = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from predator_si.monitor.intake import Intake
from predator_si.monitor.sources import EventFiles
left = int(sys.argv[3])
def on_step(name):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
Intake(Path(sys.argv[1]), None, on_step=on_step).run([EventFiles(Path(sys.argv[2]))], datetime.fromisoformat(sys.argv[4]))
"""


@pytest.mark.parametrize("step", [2, 6, 9, 12])
def test_an_intake_killed_with_kill_9_neither_loses_nor_doubles(tmp_path: Path, step: int):
    """In the middle of writing, just before and just after the deciding rename, in the middle of moving, before the manifest goes."""
    events, layer = tmp_path / "events", tmp_path / "layer"
    events.mkdir()
    times = [AT + timedelta(seconds=i) for i in range(2000)]
    table = pl.DataFrame({"query_id": [f"q{i}" for i in range(2000)], "timestamp": times, "user_query": "boots", "status": 200, "latency_ms": 5.0})
    table.with_columns(latency_ms=pl.when(pl.col("query_id") == "q7").then(-1.0).otherwise(5.0)).write_parquet(events / "a.parquet")
    now = AT + timedelta(hours=1)
    os.utime(events / "a.parquet", (now.timestamp(), now.timestamp()))
    ended = subprocess.run([sys.executable, "-c", _KILLED, str(layer), str(events), str(step), now.isoformat()], capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    before = read_window(layer, AT, now)
    assert before.search.height in (0, 1999), "all of a batch or nothing"
    Intake(layer, None).run([EventFiles(events)], now)
    after = read_window(layer, AT, now)
    assert after.search.height == after.search["query_id"].n_unique() == 1999 and after.quarantine.height == 1
    assert RawLayer(layer).ledger().good == {"search": 1999}
