"""The warehouse by the real dbt, on DuckDB and on a real PostgreSQL: golden numbers from Polars, windows that change later, the fast path beside it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.home import Home
from predator_si.warehouse import BuildReport, build, fast_path_agreement, open_warehouse
from predator_si.warehouse.build import load
from predator_si.warehouse.engines import PROJECT, Target
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.postgres_server import ABSENT, postgres_is_here, postgres_server
from predator_si_tests.support.raw_layer import WINDOW, snapshot, store_rows
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, action, search

pytestmark = [pytest.mark.live, pytest.mark.slow]

T0 = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
FIRST, SECOND, THIRD, FOURTH = (T0 + n * WINDOW for n in range(4))
GRAIN = ["window_start", "variant", "segment_kind", "segment"]
MARTS = {"mart_window_latency": GRAIN, "mart_window_clicks": GRAIN, "mart_window_cost": GRAIN, "mart_window_quality": GRAIN}
PRICE = 0.04
SECRET = "v1.AAAAAAAAAAA.the-sealed-text-of-a-query-0000000000000000000000"


def requests(start: datetime, n: int, seed: int, name: str) -> list[dict[str, Any]]:
    """Requests of both variants, with probes, stand-ins, the caller's mistakes, failures, degraded ones and some without a variant among them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        kind = rng.choice(["good", "good", "good", "good", "good", "good", "500", "429", "404", "degraded", "probe", "stand-in", "unnamed"])
        candidate = rng.random() < 0.3
        row = search(
            i,
            query_id=f"{name}-{i}",
            timestamp=start + timedelta(microseconds=int(rng.integers(0, 899_999_999))),
            user_query=SECRET,
            client_id="c1.someone",
            variant="candidate" if candidate else "champion",
            model_digest=CHALLENGER if candidate else CHAMPION,
            latency_ms=float(rng.lognormal(4, 0.7)),
            cpu_seconds=None if rng.random() < 0.1 else float(rng.lognormal(-3, 0.5)),
            query_words=None if rng.random() < 0.1 else int(rng.integers(1, 12)),
            script=None if rng.random() < 0.1 else str(rng.choice(["latin", "cyrillic"])),
            query_bucket=None if rng.random() < 0.1 else int(rng.integers(0, max(2, n // 3))),
            simulated=bool(rng.random() < 0.5),
        )
        if kind in ("500", "429", "404"):
            row |= {"status": int(kind), "results": []}
        if kind == "500":
            row |= {"model_digest": None}
        if kind == "unnamed":
            row |= {"variant": None, "model_digest": CHAMPION}
        row |= {"degraded": kind == "degraded", "probe": kind == "probe", "stands_for": CHAMPION if kind == "stand-in" else None}
        rows.append(row)
    return rows


def clicks(rows: list[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Clicks at any place (some twice, some on what was not shown), ratings and dwells."""
    rng = np.random.default_rng(seed)
    found = []
    for row in rows:
        at = row["timestamp"]
        for place in rng.choice(12, size=int(rng.integers(0, 3)), replace=True):
            found.append(action(row["query_id"], object_id=f"d{place}", timestamp=at + timedelta(seconds=float(rng.uniform(0.1, 5))), position=1))
        if rng.random() < 0.2:
            found.append(action(row["query_id"], "rating", object_id=None, value=float(rng.integers(1, 6)), timestamp=at + timedelta(seconds=6)))
        if rng.random() < 0.2:
            found.append(action(row["query_id"], "dwell", value=3.0, timestamp=at + timedelta(seconds=7)))
    return [one | {"seq": number, "writer": f"w{seed}"} for number, one in enumerate(found)]


def probes(n: int, failed: int) -> pl.DataFrame:
    """What ``monitor.probe`` keeps of a round."""
    rng = np.random.default_rng(n)
    good = [None] * failed + [True] * (n - failed)
    score = [None if one is None else float(rng.random()) for one in good]
    return pl.DataFrame(
        {
            "query_id": [f"p{i}" for i in range(n)],
            "text": ["read csv" if i % 2 else "відкрити великий файл" for i in range(n)],
            "status": [200 if one else 503 for one in good],
            "error": [None if one else "HTTP 503" for one in good],
            "latency_ms": [10.0] * n,
            "model_digest": [CHAMPION if one else None for one in good],
            "ndcg_at_10": score,
            "recall_at_20": score,
            "rr_at_10": score,
        },
        schema_overrides={"error": pl.String, "ndcg_at_10": pl.Float64, "recall_at_20": pl.Float64, "rr_at_10": pl.Float64, "model_digest": pl.String},
    )


def read(home: Home, table: str, target: Target = "duckdb", order: list[str] | None = None) -> list[dict[str, Any]]:
    with open_warehouse(home, target, read_only=True) as warehouse:
        names = [row[0] for row in warehouse.rows(
            f"select column_name from information_schema.columns where table_schema = 'warehouse' and table_name = '{table}' order by ordinal_position"
        )]  # fmt: skip
        rows = warehouse.rows(f"select {', '.join(names)} from warehouse.{table}" + (f" order by {', '.join(order)}" if order else ""))
    return [dict(zip(names, row, strict=True)) for row in rows]


class Story:
    """One home through two builds; what was stored, and what each build said."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder).ensure()
        self.searches, self.actions, self.reports = list[dict[str, Any]](), list[dict[str, Any]](), list[BuildReport]()
        self.kept: dict[str, list[dict[str, Any]]] = {}

    def add(self, searches: list[dict[str, Any]], actions: list[dict[str, Any]], aside: list[dict[str, Any]] | None = None) -> None:
        self.searches += searches
        self.actions += actions
        store_rows(self.home, searches, actions, aside or [])

    def build(self) -> BuildReport:
        self.reports.append(build(self.home, usd_per_vcpu_hour=PRICE))
        return self.reports[-1]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Three windows are built; then late events reach the second, a fourth begins, and retention takes the first away."""
    it = Story(tmp_path_factory.mktemp("warehouse") / "home")
    aside = {"source": "events", "origin": "bad.jsonl", "reason": "not JSON", "kind": None, "text": SECRET, "seen_at": T0, "line": 1, "key": "k1"}
    for number, start in enumerate((FIRST, SECOND)):
        rows = requests(start, 300, number, f"w{number}")
        it.add(rows, clicks(rows, number), [aside | {"line": n, "key": f"k{number}{n}"} for n in range(number + 1)])
    it.add(requests(THIRD, 60, 2, "w2"), [])  # nobody clicks here
    # unaligned, as the tick's windows are: half of the first window and half of the second
    snapshot(it.home, FIRST + timedelta(minutes=7), SECOND + timedelta(minutes=8), at=datetime.now(UTC), probes=probes(40, 0))
    it.build()
    it.kept = {table: read(it.home, table, order=grain) for table, grain in MARTS.items()}

    late = requests(SECOND, 15, 7, "late")
    it.add(late, clicks(late, 7))
    fourth = requests(FOURTH, 80, 3, "w3")
    it.add(fourth, clicks(fourth, 3))
    for folder in (it.home.telemetry_search, it.home.telemetry_actions):
        for part in (folder / f"window={FIRST:%Y%m%dT%H%M}").glob("*"):
            part.unlink()
    snapshot(it.home, FOURTH, FOURTH + WINDOW, at=datetime.now(UTC), probes=probes(40, 4))
    it.build()
    return it


# --------------------------------------------------------------------------- golden numbers


def expected(story: Story, start: datetime, variant: str, keep: Any = None) -> dict[str, Any]:
    """The numbers of one window, variant and segment from the rows themselves, without the package's own metrics."""
    mine = [
        row for row in story.searches
        if start <= row["timestamp"] < start + WINDOW and not row["probe"] and row.get("stands_for") is None and (row["variant"] or "champion") == variant
        and (keep is None or keep(row))
    ]  # fmt: skip
    answered = [row for row in mine if 200 <= row["status"] < 400 and not row["degraded"]]
    failed = [row for row in mine if row["status"] >= 500 or row["status"] == 429 or row["degraded"]]
    served = answered + failed
    clicked: dict[str, set[int]] = {}
    for one in story.actions:
        if one["action_name"] == "click" and int(one["object_id"][1:]) < 10:
            clicked.setdefault(one["query_id"], set()).add(int(one["object_id"][1:]) + 1)
    times = np.array([row["latency_ms"] for row in answered])
    cpu = [row["cpu_seconds"] for row in served if row["cpu_seconds"] is not None]
    ids = {row["query_id"] for row in mine}
    ratings = [one["value"] for one in story.actions if one["action_name"] == "rating" and one["query_id"] in ids]
    places = [clicked.get(row["query_id"], set()) for row in answered]
    return {
        "requests": len(mine),
        "served": len(served),
        "answered": len(answered),
        "error_rate": len(failed) / len(served),
        "avg_latency_ms": times.mean(),
        "p50_latency_ms": np.quantile(times, 0.5),
        "p95_latency_ms": np.quantile(times, 0.95),
        "p99_latency_ms": np.quantile(times, 0.99),
        "clicked": sum(bool(found) for found in places),
        "click_through": sum(bool(found) for found in places) / len(answered),
        "click_mrr": np.mean([1 / min(found) for found in places if found]) if any(places) else None,
        "click_dcg_at_10": np.mean([sum(r / math.log2(r + 1) for r in found) for found in places]),
        "ratings": len(ratings),
        "satisfaction": np.mean(ratings) if ratings else None,
        "timed": len(cpu),
        "estimated_usd_per_1k_requests": np.mean(cpu) * PRICE / 3600 * 1000,
    }


def the_row(rows: list[dict[str, Any]], start: datetime, variant: str, kind: str, segment: str) -> dict[str, Any]:
    (found,) = [
        row for row in rows
        if (row["window_start"], row["variant"], row["segment_kind"], row["segment"]) == (start.replace(tzinfo=None), variant, kind, segment)
    ]  # fmt: skip
    return found


@pytest.mark.parametrize("variant", ["champion", "candidate"])
@pytest.mark.parametrize(
    ("kind", "segment", "keep"),
    [
        ("all", "all", None),
        ("traffic", "simulated", lambda row: row["simulated"]),
        ("script", "cyrillic", lambda row: row["script"] == "cyrillic"),
        ("script", "unknown", lambda row: row["script"] is None),
        ("query_words", "5-8", lambda row: row["query_words"] is not None and 5 <= row["query_words"] <= 8),
    ],
)
def test_the_marts_hold_the_numbers_of_the_rows(story: Story, variant: str, kind: str, segment: str, keep: Any) -> None:
    """The second window, whose late events came after its first build: the marts are those of all its rows."""
    assert all(report.good for report in story.reports), [report.wrong for report in story.reports]
    wanted = expected(story, SECOND, variant, keep)
    found = {}
    for table in ("mart_window_latency", "mart_window_clicks", "mart_window_cost"):
        found |= the_row(read(story.home, table), SECOND, variant, kind, segment)
    for name, value in wanted.items():
        assert found[name] == (value if value is None else pytest.approx(value, rel=1e-12)), name


def test_head_and_tail_are_told_by_how_often_a_query_was_asked_in_the_window(story: Story) -> None:
    mine = [row for row in story.searches if SECOND <= row["timestamp"] < SECOND + WINDOW and not row["probe"] and row.get("stands_for") is None]
    counts = pl.Series([row["query_bucket"] for row in mine if row["query_bucket"] is not None]).value_counts()
    often = set(counts.filter(pl.col("count") >= 3)[counts.columns[0]].to_list())
    head = sum(row["query_bucket"] in often for row in mine)
    rows = [row for row in read(story.home, "mart_window_latency") if row["segment_kind"] == "head_tail" and row["window_start"] == SECOND.replace(tzinfo=None)]
    assert 0 < head < len(mine)
    assert sum(row["requests"] for row in rows if row["segment"] == "head") == head
    assert {row["segment"] for row in rows} == {"head", "tail", "unknown"}


def test_without_a_click_in_a_window_click_through_is_unknown_and_not_zero(story: Story) -> None:
    found = the_row(read(story.home, "mart_window_clicks"), THIRD, "champion", "all", "all")
    assert found["answered"] > 0 and found["clicked"] == 0
    assert found["click_through"] is None and found["click_dcg_at_10"] is None and found["click_mrr"] is None


def test_quality_is_unknown_where_too_many_probes_failed(story: Story) -> None:
    rows = read(story.home, "mart_window_quality")
    fair, unfair = (the_row(rows, start, "champion", "all", "all") for start in (SECOND, FOURTH))
    assert fair["probes"] == 40 and fair["ndcg_at_10"] == pytest.approx(probes(40, 0)["ndcg_at_10"].mean(), rel=1e-12)
    assert (unfair["probes"], unfair["failed"], unfair["ndcg_at_10"]) == (40, 4, None)
    assert the_row(rows, SECOND, "champion", "script", "cyrillic")["probes"] == 20


def test_the_quarantine_is_counted_by_reason_and_origin(story: Story) -> None:
    (row,) = read(story.home, "mart_quarantine")
    assert (row["source"], row["origin"], row["reason"], row["records"]) == ("events", "bad.jsonl", "not JSON", 3)


# --------------------------------------------------------------------------- windows that change


def test_only_windows_that_changed_are_made_anew(story: Story) -> None:
    assert [report.windows for report in story.reports] == [3, 2]
    changed = {start.replace(tzinfo=None) for start in (SECOND, FOURTH)}
    for table in ("mart_window_latency", "mart_window_clicks", "mart_window_cost"):
        before = [row for row in story.kept[table] if row["window_start"] not in changed]
        after = [row for row in read(story.home, table, order=GRAIN) if row["window_start"] not in changed]
        assert before == after and before  # the third is as it was, and the first stays although its events are gone
    earlier, later = story.kept["mart_window_latency"], read(story.home, "mart_window_latency")
    assert the_row(later, SECOND, "champion", "all", "all")["requests"] > the_row(earlier, SECOND, "champion", "all", "all")["requests"]


def test_what_retention_removes_leaves_the_rows_and_stays_in_the_marts(story: Story) -> None:
    gone = FIRST.replace(tzinfo=None)
    for table in ("stg_search_events", "stg_actions", "int_requests", "int_clicks"):
        assert gone not in {row["window_start"] for row in read(story.home, table)}, table
    assert gone in {row["window_start"] for row in read(story.home, "mart_window_latency")}


def test_neither_text_nor_client_reaches_the_warehouse(story: Story) -> None:
    """Not as a column, and not as bytes anywhere below the folder."""
    with open_warehouse(story.home, read_only=True) as warehouse:
        columns = {row[0] for row in warehouse.rows("select column_name from information_schema.columns")}
    assert not columns & {"user_query", "client_id", "session_id", "text"}
    files = [path for path in story.home.warehouse.rglob("*") if path.is_file()]
    assert any(path.name == "marts.duckdb" for path in files)
    for path in files:
        content = path.read_bytes()
        assert SECRET.encode() not in content and b"c1.someone" not in content, path


def test_dbt_writes_nothing_into_the_package(story: Story) -> None:
    known = {".sql", ".yml"}
    assert {path.suffix for path in PROJECT.rglob("*") if path.is_file()} == known
    assert (story.home.warehouse / "target-duckdb" / "manifest.json").is_file()


# --------------------------------------------------------------------------- the fast path


def test_the_fast_path_agrees_for_the_same_time_and_champion(story: Story) -> None:
    """The window of the snapshot reaches over two windows of the raw layer; both ways start from the same rows."""
    newest = fast_path_agreement(story.home)
    assert newest.answer == "agrees", newest
    assert len(newest.comparisons) == 8
    rows = [row for row in read(story.home, "mart_fast_path") if row["measured_from"] == (FIRST + timedelta(minutes=7)).replace(tzinfo=None)]
    answers = {row["metric"]: row["answer"] for row in rows}
    # late events reached the second window after this snapshot, and retention took the first: it cannot be compared any more, and does not pass
    assert "agrees" not in {answers[name] for name in ("served_requests", "answered_requests", "p95_latency_ms")}
    assert set(answers.values()) == {"unknown"}
    assert {row["reason"] for row in rows} == {"events were added to this time after the snapshot was taken"}


# --------------------------------------------------------------------------- PostgreSQL


@pytest.fixture(scope="module")
def postgres(story: Story) -> Iterator[Home]:
    """The same home built once, from scratch, in a real PostgreSQL."""
    if not postgres_is_here():
        pytest.skip(ABSENT)
    with postgres_server() as server:
        found = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": server.user, "PGPASSWORD": server.password, "PGDATABASE": server.database}
        before = {name: os.environ.get(name) for name in found}
        os.environ.update(found)
        try:
            report = build(story.home, "postgres", usd_per_vcpu_hour=PRICE)
            assert report.good, report.wrong
            with load(story.home, "postgres") as batch:  # a second time there is nothing to do, and nothing is written twice
                assert (report.windows, batch.windows, batch.snapshots, batch.quarantined) == (3, (), 0, 0)
            yield story.home
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def test_postgresql_in_one_go_says_what_duckdb_says_after_two(story: Story, postgres: Home) -> None:
    for table, grain in MARTS.items():
        theirs = read(postgres, table, "postgres", grain)
        ours = [row for row in read(story.home, table, order=grain) if table == "mart_window_quality" or row["window_start"] != FIRST.replace(tzinfo=None)]
        assert len(ours) == len(theirs) > 0
        for mine, other in zip(ours, theirs, strict=True):
            assert list(mine) == list(other)
            for name, value in mine.items():
                assert other[name] == (pytest.approx(value, rel=1e-12) if isinstance(value, float) else value), (table, name, mine)


def test_each_event_is_stored_once_in_postgresql(story: Story, postgres: Home) -> None:
    there = [row for row in story.searches if row["timestamp"] >= SECOND]
    with open_warehouse(postgres, "postgres", read_only=True) as warehouse:
        assert warehouse.rows("select count(*), count(distinct query_id) from raw.search_events") == [(len(there), len(there))]
        shown = warehouse.rows("select count(*) from warehouse.int_results")[0][0]
    assert shown == 10 * sum(bool(row["results"]) for row in there)


def test_the_fast_path_agrees_with_postgresql_too(postgres: Home) -> None:
    assert fast_path_agreement(postgres, "postgres").answer == "agrees"


# --------------------------------------------------------------------------- the commands


def test_the_commands_build_and_ask(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    run = CommandLine(story.home.path, capsys)
    built = run("warehouse", "build")
    assert built.code == 0 and "every test passed" in built.out, built.err
    asked = run("warehouse", "query", "select count(*) as rows from warehouse.mart_window_latency", "--json")
    assert asked.code == 0 and asked.json == [{"rows": len(read(story.home, "mart_window_latency"))}]


# --------------------------------------------------------------------------- a fault; last, because it leaves the home as it should not be


def test_a_build_that_finds_a_fault_is_not_good_and_is_made_again(story: Story) -> None:
    """A request stands in a window that is not its own, and one stands twice: the first is a fault, the second is set aside with its reason."""
    folder = story.home.telemetry_search / f"window={FOURTH:%Y%m%dT%H%M}"
    part = pl.read_parquet(sorted(folder.glob("*.parquet"))[0], hive_partitioning=False)
    late = part.head(1).with_columns(query_id=pl.lit("astray"), timestamp=pl.lit(FOURTH + WINDOW + timedelta(seconds=1)).cast(part.schema["timestamp"]))
    pl.concat([late, part.slice(1, 1)]).write_parquet(folder / "b99999999.parquet")
    report = build(story.home, usd_per_vcpu_hour=PRICE)
    assert not report.good
    wrong = {node.name: node.status for node in report.wrong}
    assert wrong["times_lie_in_their_window"] == "fail"
    assert wrong["mart_window_latency"] == "skipped"  # nothing is made from what a test has refused
    assert "rows_are_conserved" not in wrong
    (reject,) = read(story.home, "stg_rejects")
    assert (reject["reason"], reject["query_id"]) == ("duplicate query_id", part["query_id"][1])
    with load(story.home) as batch:
        assert batch.windows == (FOURTH.replace(tzinfo=None),), "its windows are not done"
