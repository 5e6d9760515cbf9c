"""Aggregates: the same numbers from memory, from files and from windows added up; late events measured once more, and only where they belong."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput
from predator_si.measures import per_query
from predator_si.monitor.aggregate import Aggregate, CellKey, Latencies
from predator_si.monitor.intake import window_name
from predator_si.monitor.parts import aggregate_parts
from predator_si.monitor.requests import Plan, aggregate_frames
from predator_si.monitor.snapshot import snapshot_of
from predator_si.monitor.totals import Totals
from predator_si.monitor.windows import Windows
from predator_si.statistics import bootstrap_mean_interval
from predator_si_tests.support.windows import CHALLENGER, CHAMPION, START, action, frames, search

PLAN = Plan(segment="script")
CHAMPIONS = CellKey(CHAMPION, "champion", "person", "latin")


def traffic(n: int, first: int = 0, seed: int = 0):
    """Requests with rankings of many lengths, two models, failures, clients that come again, clicks, ratings; and judgments."""
    rng = np.random.default_rng(seed)
    rows, actions, judgments = [], [], []
    for i in range(first, first + n):
        ranking = [f"d{d}" for d in rng.permutation(40)[: rng.integers(0, 21)]]
        results = [{"object_id": doc, "score": 1.0, "first_stage_score": None, "rerank_score": None} for doc in ranking]
        failed = rng.random() < 0.05
        rows.append(
            search(
                i,
                client_id=f"c{rng.integers(0, n // 3 + 1)}" if rng.random() < 0.9 else None,
                results=[] if failed else results,
                status=503 if failed else 200,
                latency_ms=float(rng.lognormal(4, 0.5)),
                model_digest=CHALLENGER if rng.random() < 0.2 else CHAMPION,
                script=str(rng.choice(["latin", "cyrillic"])),
                query_words=3,
                query_bucket=1,
            )
        )
        if ranking and rng.random() < 0.5:
            actions.append(action(f"r{i}", object_id=str(rng.choice(ranking)), timestamp=START + timedelta(seconds=i)))
        if rng.random() < 0.2:
            actions.append(action(f"r{i}", "rating", value=float(rng.integers(1, 6)), timestamp=START + timedelta(seconds=i), client_id=f"c{i % 5}"))
        if rng.random() < 0.8:
            judgments += [(f"r{i}", f"d{d}", int(rng.integers(0, 4))) for d in rng.permutation(45)[: rng.integers(1, 8)]]
    return frames(rows, actions), pl.DataFrame(judgments, schema=["query_id", "doc_id", "relevance"], orient="row")


def metrics(found: Aggregate, champion: str | None = CHAMPION) -> dict[str, tuple]:
    end = START + timedelta(days=1)
    snapshot = snapshot_of(found, START, end, end, champion=champion, contour="local")
    return {name: (metric.value, metric.n, metric.ci_low, metric.ci_high, metric.reason) for name, metric in snapshot.metrics.items()}


def same(one: Aggregate, other: Aggregate) -> None:
    assert set(one.cells) == set(other.cells)
    for key, cell in one.cells.items():
        assert dict(cell.counts) == dict(other.cells[key].counts)
        assert dict(cell.newest) == dict(other.cells[key].newest)
        for family, totals in cell.families.items():
            for name in totals.names:
                mine, theirs = totals.interval(name), other.cells[key].families[family].interval(name)
                assert (mine.estimate, mine.n) == pytest.approx((theirs.estimate, theirs.n), rel=1e-12)
        assert cell.latencies.percentiles((0.5, 0.95)).equals(other.cells[key].latencies.percentiles((0.5, 0.95)))


def write(folder, events, judgments=None, part="b00000001.parquet"):
    """The events as the raw layer stores them, by 15-minute windows of their own time."""
    for (start,), rows in (
        events.search.with_columns(window=pl.col("timestamp").dt.truncate("15m")).partition_by("window", as_dict=True, include_key=False).items()
    ):
        name = f"window={window_name(start)}"
        kinds = {"search": rows, "actions": events.actions.join(rows.select("query_id"), on="query_id", how="semi")}
        if judgments is not None:
            kinds["judgments"] = judgments.join(rows.select("query_id"), on="query_id", how="semi")
        for kind, frame in kinds.items():
            (folder / kind / name).mkdir(parents=True, exist_ok=True)
            frame.write_parquet(folder / kind / name / part, row_group_size=70)


def test_judged_measures_equal_per_query():
    events, judgments = traffic(400)
    found = aggregate_frames(events.search, events.actions, PLAN, judgments)
    own = events.search.filter((pl.col("model_digest") == CHAMPION) & (pl.col("script") == "latin") & (pl.col("status") == 200))
    run = own.select("query_id", doc_id=pl.col("results").list.eval(pl.element().struct.field("object_id"))).filter(pl.col("doc_id").list.len() > 0)
    run = run.with_columns(rank=pl.int_ranges(1, pl.col("doc_id").list.len() + 1)).explode("doc_id", "rank")
    known = judgments.join(own.select("query_id"), on="query_id", how="semi")
    totals = found.cells[CHAMPIONS].families["judged"]
    expected = per_query(run, known, totals.names)
    assert totals.observations == expected.height > 50
    for name in totals.names:
        if name not in ("judged@10", "RBPres(p=0.8)"):  # a request without results is not a judged query of the long run
            assert totals.interval(name).estimate == pytest.approx(expected[name].mean(), abs=1e-9), name


def test_files_windows_and_memory_agree(tmp_path):
    events, judgments = traffic(3000)
    write(tmp_path, events, judgments)
    together = aggregate_frames(events.search, events.actions, PLAN, judgments)
    files = [sorted((tmp_path / kind).glob("*/*.parquet")) for kind in ("search", "actions", "judgments")]
    assert len(files[0]) == 4
    same(together, aggregate_parts(*files, PLAN, workers=2))
    windows, now = Windows(tmp_path, PLAN), START + timedelta(hours=2)
    assert [one.revision for one in windows.tick(now)] == [1, 1, 1, 1]
    same(together, windows.between(START, now, now))
    assert metrics(windows.between(START, now, now))["ndcg_at_10_clicks"][:2] == pytest.approx(metrics(together)["ndcg_at_10_clicks"][:2], rel=1e-9)


def test_the_edges_of_a_range_count_what_is_inside(tmp_path):
    events, judgments = traffic(2000)
    write(tmp_path, events, judgments)
    start, end = START + timedelta(seconds=321), START + timedelta(seconds=1777)
    inside = events.search.filter(pl.col("timestamp").is_between(start, end, closed="left"))
    same(aggregate_frames(inside, events.actions, PLAN, judgments), Windows(tmp_path, PLAN).between(start, end, end))


def test_late_events_measure_their_window_again_and_no_other(tmp_path):
    events, judgments = traffic(1500)
    write(tmp_path, events, judgments)
    windows, now = Windows(tmp_path, PLAN), START + timedelta(hours=1)
    assert len(windows.tick(now)) == 2 and windows.tick(now) == []
    before = windows.load(START)
    late, more = traffic(100, first=5000, seed=5)
    late = frames(late.search.with_columns(timestamp=pl.lit(START) + pl.duration(seconds=30)).to_dicts(), late.actions.to_dicts())
    write(tmp_path, late, more, part="b00000002.parquet")
    assert [(one.window, one.revision) for one in windows.tick(now)] == [(START, 2)]
    corrected = pl.concat([events.search.filter(pl.col("timestamp") < START + timedelta(minutes=15)), late.search])
    same(windows.load(START), aggregate_frames(corrected, pl.concat([events.actions, late.actions]), PLAN, pl.concat([judgments, more])))
    same(windows.load(START, 1), before)  # what the gates saw then is still there


def test_an_event_that_comes_twice_counts_once(tmp_path):
    events, judgments = traffic(200)
    write(tmp_path, events, judgments)
    write(tmp_path, frames(events.search.head(50).to_dicts()), part="b00000002.parquet")
    files = [sorted((tmp_path / kind).glob("*/*.parquet")) for kind in ("search", "actions", "judgments")]
    found = aggregate_parts(*files, PLAN)
    assert (found.counts["events"], found.counts["repeated"]) == (200, 50)
    same(aggregate_frames(events.search, events.actions, PLAN, judgments), found)


def test_holes_are_counted():
    rows = [search(0, script="latin"), search(1, script="latin"), search(2, script="latin", results=[])]
    judgments = pl.DataFrame([("r0", "d0", 1), ("r0", "d9", 0), ("r9", "d1", 1)], schema=["query_id", "doc_id", "relevance"], orient="row")
    found = aggregate_frames(frames(rows).search, frames([]).actions, PLAN, judgments)
    counts = found.cells[CHAMPIONS].counts
    assert (counts["judged"], counts["unjudged_requests"], counts["documents"], counts["unjudged_documents"]) == (1, 2, 10, 8)
    assert found.counts["missing"] == 1


def test_intervals_of_clustered_means_equal_those_of_all_values():
    rng = np.random.default_rng(3)
    for n in (300, 9000):  # below and above the bootstrap's limit
        values, clients = rng.random(n), rng.integers(0, n, n).astype(str)
        halves = [Totals.of([values[part]], ["x"], pl.Series(clients[part])) for part in (slice(0, n // 2), slice(n // 2, n))]
        found = Totals.added(halves).interval("x", seed=4)
        expected = bootstrap_mean_interval(values, seed=4, n_boot=2_000, cluster=clients)
        assert (found.estimate, found.low, found.high) == pytest.approx((expected.estimate, expected.low, expected.high), abs=2e-3 if n == 300 else 1e-9)
    alone = Totals.added([Totals.of([values[:4000]], ["x"]), Totals.of([values[4000:]], ["x"])])
    assert alone.rows is None
    expected = bootstrap_mean_interval(values)
    assert (alone.interval("x").low, alone.interval("x").high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_percentiles_stay_exact_until_the_limit_and_within_the_sketch_beyond():
    rng = np.random.default_rng(0)
    parts = [Latencies.of(rng.lognormal(4, 0.5, 500)) for _ in range(3)]
    exact, rough = Latencies.added(parts), Latencies.added(parts, limit=1000)
    assert exact.exact and not rough.exact
    values = np.concatenate([part.values[0] for part in parts])
    assert exact.percentiles((0.95,))["value"].item() == np.quantile(values, 0.95)
    assert rough.percentiles((0.95,))["value"].item() == pytest.approx(np.quantile(values, 0.95), rel=0.0051)


def test_what_does_not_fit_is_refused(tmp_path):
    events, judgments = traffic(60)
    with pytest.raises(BadInput, match="judged twice"):
        aggregate_frames(events.search, events.actions, PLAN, pl.concat([judgments, judgments.head(1)]))
    with pytest.raises(BadInput, match="never mixed"):
        aggregate_frames(
            events.search,
            events.actions,
            PLAN,
            judgments.with_columns(origin=pl.Series(["human", "llm"]).sample(judgments.height, with_replacement=True, seed=1)),
        )
    with pytest.raises(BadInput, match="position bias"):
        Aggregate.added([Aggregate({}, {}, 1.0), Aggregate({}, {}, 0.5)])
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(BadInput, match="cannot be read"):
        aggregate_parts([tmp_path / "x.parquet"])
    judgments.write_parquet(tmp_path / "y.parquet")
    with pytest.raises(BadInput, match=r"timestamp|not a file of search events"):
        aggregate_parts([tmp_path / "y.parquet"])
    (tmp_path / "windows" / "20261122T1200" / "r0001").mkdir(parents=True)
    with pytest.raises(BadInput, match="not a stored window"):
        Windows(tmp_path).load(START)
