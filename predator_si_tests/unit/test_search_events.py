import fcntl
import json
import os
import random
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from predator_si.errors import BadInput, Unavailable
from predator_si.privacy import is_sealed
from predator_si.records import ActionEvent, SearchEvent
from predator_si.search import events, rollup
from predator_si.search.events import ACTION_SCHEMA, SEARCH_SCHEMA, read_events
from predator_si.search.personal import open_vault
from predator_si.search.rollup import RollProcess, roll_up
from predator_si.search.spool import COUNTER_BYTES, EventSpool, writer_name
from predator_si_tests.support.waiting import wait_until

T0 = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
DAY = (T0 - timedelta(hours=12), T0 + timedelta(hours=12))
WRITER = writer_name(7, T0)


def line(seq: int, minute: float, query_id: str | None = None, **changes: Any) -> str:
    row = {
        "kind": "search",
        "query_id": query_id or f"q{seq}",
        "timestamp": (T0 + timedelta(minutes=minute)).isoformat(),
        "user_query": "x",
        "status": 200,
        "latency_ms": 1.0,
    }
    return json.dumps({**row, "seq": seq, "writer": WRITER, **changes}) + "\n"


def click(seq: int, minute: float) -> str:
    event = ActionEvent(query_id="q1", action_name="click", object_id="d1", timestamp=T0 + timedelta(minutes=minute), seq=seq, writer=WRITER)
    return '{"kind":"action",' + event.model_dump_json()[1:] + "\n"


def spool_file(folder: Path, hour: int, text: str, writer: str = WRITER) -> Path:
    path = folder / "spool" / f"{writer}-{T0 + timedelta(hours=hour):%Y%m%d%H}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def counter(folder: Path, issued: int, at: datetime, writer: str = WRITER, durable: int | None = None) -> Path:
    """The counter file of a writer that was killed."""
    path = folder / "writers" / f"{writer}.seq"
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = {
        "issued": {"search": issued, "action": 0},
        "durable": {"search": issued if durable is None else durable, "action": 0},
        "dropped": {},
        "closed": False,
    }
    path.write_text(json.dumps(counts).ljust(COUNTER_BYTES - 1) + "\n")
    os.utime(path, (at.timestamp(), at.timestamp()))
    return path


def test_schemas_are_those_of_the_records() -> None:
    assert list(SEARCH_SCHEMA) == list(SearchEvent.model_fields)
    assert list(ACTION_SCHEMA) == list(ActionEvent.model_fields)


def test_an_empty_or_absent_folder_has_no_events_and_times_need_a_zone(tmp_path: Path) -> None:
    frames = read_events(tmp_path / "nothing", *DAY)
    assert len(frames.search) == len(frames.actions) == frames.lost == 0
    assert frames.search.schema == pl.Schema(SEARCH_SCHEMA)
    with pytest.raises(BadInput, match="time zone"):
        read_events(tmp_path, datetime(2026, 1, 1), T0)  # noqa: DTZ001
    with pytest.raises(BadInput, match="before it starts"):
        read_events(tmp_path, T0, T0 - timedelta(seconds=1))


def test_lines_that_cannot_be_used_are_set_aside_with_place_and_reason(tmp_path: Path) -> None:
    bad = ["{not json\n", '{"kind": "tea"}\n', line(3, 1, status="fine"), line(4, 1, timestamp="2026-11-22T10:00:00"), line(5, 1, latency_ms=-1)]
    spool_file(tmp_path, 0, line(1, 0) + "".join(bad) + line(6, 2) + line(7, 3)[:40])
    frames = read_events(tmp_path, *DAY)
    assert frames.search["seq"].to_list() == [1, 6]
    assert frames.quarantine["line"].to_list() == [2, 3, 4, 5, 6, 8]
    assert frames.quarantine["origin"].unique().to_list() == [f"spool/{WRITER}-2026112210.jsonl"]
    reasons = " | ".join(frames.quarantine["reason"])
    for said in ("not JSON", "kind search", "status", "without a time zone", "latency_ms", "torn line"):
        assert said in reasons
    assert frames.lost == 4  # 2 to 5; the torn 7 is beyond the last number that is known
    assert any("no readable counter" in note for note in frames.unknown)


def test_the_window_is_half_open_and_looks_into_the_next_hours_file(tmp_path: Path) -> None:
    spool_file(tmp_path, 0, line(1, 0) + line(2, 59))
    spool_file(tmp_path, 1, line(3, 59.99) + line(4, 60))
    frames = read_events(tmp_path, T0, T0 + timedelta(hours=1))
    assert frames.search["seq"].to_list() == [1, 2, 3]


def test_losses_belong_to_the_window_whose_time_they_touch(tmp_path: Path) -> None:
    counter(tmp_path, 10, T0 + timedelta(minutes=185))
    spool_file(tmp_path, 0, line(1, 1) + line(2, 2))
    spool_file(tmp_path, 2, line(5, 130) + line(6, 140) + line(8, 150))
    spool_file(tmp_path, 3, line(9, 180))

    def lost(start: float, end: float) -> int:
        return read_events(tmp_path, T0 + timedelta(minutes=start), T0 + timedelta(minutes=end)).lost

    assert lost(0, 600) == 4  # 3, 4, 7, and 10 at the end
    assert lost(0, 1.5) == 0
    assert lost(0, 60) == 2  # 3 and 4 vanished some time between minutes 2 and 130
    assert lost(145, 149) == 1
    assert lost(155, 170) == 0
    assert lost(181, 200) == 1
    assert lost(200, 600) == 0


def test_old_batches_are_left_unread_and_nothing_else_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hours of batches with gaps, broken lines, late events and two kinds, asked for by many windows: as if everything had been read."""
    rng = random.Random(5)
    last = {"search": 0, "action": 0}
    for hour in range(2):
        text = ""
        for batch in range(120):
            for _ in range(rng.randrange(4)):
                minute = hour * 60 + batch / 2 + rng.random() / 2 - (rng.random() < 0.1) * rng.randrange(1, 30)  # some came late, as pushed ones do
                kind = rng.choice(["search", "search", "action"])
                last[kind] += rng.choice([1, 1, 1, 1, 3])
                text += "{broken\n" if rng.random() < 0.05 else line(last[kind], minute) if kind == "search" else click(last[kind], minute)
            at = T0 + timedelta(minutes=hour * 60 + batch / 2 + 0.5)
            numbers = {f"last_{kind}": last.get(kind, 0) for kind in ("search", "action", "exposure", "shadow")}
            text += json.dumps({"kind": "marker", "writer": WRITER, **numbers, "at": at.isoformat()}, separators=(",", ":")) + "\n"
        spool_file(tmp_path, hour, text)
    counter(tmp_path, last["search"] + 2, T0 + timedelta(minutes=121))
    monkeypatch.setattr(events, "_TAIL_BYTES", 2_000)
    windows = [(begin, begin + length) for begin in (0, 3, 30, 59, 61, 90, 119, 125) for length in (1, 10, 200)]
    seen = list[int]()
    parse_line = events.parse_line
    monkeypatch.setattr(events, "parse_line", lambda text: seen.append(1) or parse_line(text))  # type: ignore[func-returns-value]

    def read(begin: float, end: float) -> tuple[events.EventFrames, int]:
        seen.clear()
        return read_events(tmp_path, T0 + timedelta(minutes=begin), T0 + timedelta(minutes=end)), len(seen)

    found = [read(*window) for window in windows]
    monkeypatch.setattr(events, "_CLOCK", timedelta(days=400))  # no batch is that old
    for window, (frames, lines) in zip(windows, found, strict=True):
        whole, all_lines = read(*window)
        for name in ("search", "actions", "losses"):
            assert_frame_equal(getattr(frames, name), getattr(whole, name), check_row_order=name != "losses")
        assert (frames.lost, frames.unknown) == (whole.lost, whole.unknown)
        assert window[0] != 119 or lines < all_lines / 5, (window, lines, all_lines)
    assert any(frames.lost for frames, _ in found)


def test_what_cannot_be_known_is_said(tmp_path: Path) -> None:
    counter(tmp_path, 20, T0 + timedelta(minutes=130))
    spool_file(tmp_path, 2, line(20, 130))
    frames = read_events(tmp_path, T0 + timedelta(hours=2), T0 + timedelta(hours=3))
    assert frames.lost == 0 and "lost or removed" in frames.unknown[0]


def test_a_writer_that_was_killed_before_its_first_flush_lost_everything(tmp_path: Path) -> None:
    counter(tmp_path, 3, T0 + timedelta(seconds=1), durable=0)
    assert read_events(tmp_path, *DAY).lost == 3
    assert read_events(tmp_path, T0 + timedelta(hours=1), T0 + timedelta(hours=2)).lost == 0


def test_rolling_up_keeps_every_event_once_and_the_quarantine_visible(tmp_path: Path) -> None:
    counter(tmp_path, 6, T0 + timedelta(minutes=70))
    spool_file(tmp_path, 0, line(1, 0) + "{broken\n" + line(2, 1) + line(2, 1))
    spool_file(tmp_path, 1, line(3, 61) + line(4, 62))
    before = read_events(tmp_path, *DAY)
    assert roll_up(tmp_path, "2026112211") == 1
    between = read_events(tmp_path, *DAY)
    assert roll_up(tmp_path, "2026112212") == 1
    assert roll_up(tmp_path, "2026112212") == 0
    after = read_events(tmp_path, *DAY)
    assert not list((tmp_path / "spool").iterdir())
    assert sorted(p.name for p in (tmp_path / "hourly" / "search").iterdir()) == [f"2026112210-{WRITER}.parquet", f"2026112211-{WRITER}.parquet"]
    for frames in (before, between, after):
        assert frames.search["seq"].to_list() == [1, 2, 3, 4]
        assert frames.quarantine.drop("origin").rows() == before.quarantine.drop("origin").rows() != []
        assert frames.lost == 2
    assert after.search.equals(before.search)


def test_killed_between_parquet_and_delete_nothing_counts_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counter(tmp_path, 2, T0 + timedelta(minutes=5))
    spool_file(tmp_path, 0, line(1, 0) + line(2, 1))
    with monkeypatch.context() as patched:

        def refuse(path: Path, missing_ok: bool = False) -> None:
            if path.suffix == ".jsonl":
                raise PermissionError("killed here")
            unlink(path, missing_ok=missing_ok)

        unlink = Path.unlink
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(Unavailable, match="spool is kept"):
            roll_up(tmp_path, "2026112211")
    both = read_events(tmp_path, *DAY)
    assert both.search["seq"].to_list() == [1, 2] and both.lost == 0
    assert roll_up(tmp_path, "2026112211") == 1
    assert read_events(tmp_path, *DAY).search.equals(both.search)


def test_killed_before_the_parquet_was_whole_the_spool_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool_file(tmp_path, 0, line(1, 0))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(Unavailable):
            roll_up(tmp_path, "2026112211")
    assert read_events(tmp_path, *DAY).search["seq"].to_list() == [1]
    assert not list((tmp_path / "hourly" / "search").iterdir())


def test_a_second_spool_file_of_a_rolled_hour_is_added_to_it(tmp_path: Path) -> None:
    spool_file(tmp_path, 0, line(1, 0))
    roll_up(tmp_path, "2026112211")
    spool_file(tmp_path, 0, line(2, 1))  # the clock stepped back
    roll_up(tmp_path, "2026112211")
    assert read_events(tmp_path, *DAY).search["seq"].to_list() == [1, 2]


def test_a_damaged_parquet_file_is_quarantined_and_its_events_count_as_lost(tmp_path: Path) -> None:
    counter(tmp_path, 3, T0 + timedelta(minutes=62))
    spool_file(tmp_path, 0, line(1, 0) + line(2, 1))
    roll_up(tmp_path, "2026112211")
    spool_file(tmp_path, 1, line(3, 61))
    damaged = tmp_path / "hourly" / "search" / f"2026112210-{WRITER}.parquet"
    damaged.write_bytes(damaged.read_bytes()[:200])
    frames = read_events(tmp_path, *DAY)
    assert frames.search["seq"].to_list() == [3] and frames.lost == 2
    assert "unreadable Parquet" in frames.quarantine["reason"][0] and frames.quarantine["line"].to_list() == [None]
    spool_file(tmp_path, 0, line(1, 0))  # rolling into a damaged file keeps its bytes aside
    roll_up(tmp_path, "2026112211")
    assert (tmp_path / "quarantine" / damaged.name).is_file()
    again = read_events(tmp_path, *DAY)
    assert again.search["seq"].to_list() == [1, 3] and "unreadable Parquet" in again.quarantine["reason"][0]


def test_parquet_of_an_older_version_reads_with_defaults_and_another_schema_does_not(tmp_path: Path) -> None:
    folder = tmp_path / "hourly" / "search"
    folder.mkdir(parents=True)
    row = {"query_id": ["q"], "timestamp": [T0], "user_query": ["x"], "status": [200], "latency_ms": [1.0]}
    pl.DataFrame(row).write_parquet(folder / "2026112210-a.parquet")
    pl.DataFrame({"query_id": ["p"]}).write_parquet(folder / "2026112210-b.parquet")
    frames = read_events(tmp_path, *DAY)
    assert frames.search["query_id"].to_list() == ["q"]
    assert frames.search.select("degraded", "simulated", "results").row(0) == (False, False, None)
    assert "timestamp is missing" in frames.quarantine["reason"][0]


def search(name: str) -> SearchEvent:
    return SearchEvent(query_id=name, timestamp=T0, user_query="x", status=200, latency_ms=1)


def test_the_spool_of_a_living_writer_is_left_to_it(tmp_path: Path) -> None:
    moment = [T0]
    spool = EventSpool(tmp_path, now=lambda: moment[0])
    spool.add_search(search("a"))
    spool.flush()
    assert roll_up(tmp_path, "2026112213") == 0
    assert roll_up(tmp_path, "2026112213", spool.writer) == 0, "it is open"
    moment[0] += timedelta(hours=1)
    spool.add_search(search("b"))
    spool.flush()
    rolled = roll_up(tmp_path, "2026112211", spool.writer)
    assert rolled == 1
    moment[0] = T0  # the clock steps back
    spool.add_search(search("c"))
    spool.close()
    assert roll_up(tmp_path, "2026112213") == 2
    assert sorted(read_events(tmp_path, *DAY).search["query_id"]) == ["a", "b", "c"]


def test_what_comes_for_an_hour_that_is_being_rolled_up_goes_into_a_file_of_its_own(tmp_path: Path) -> None:
    spool = EventSpool(tmp_path, now=lambda: T0)
    path = spool_file(tmp_path, 0, line(1, 0), spool.writer)
    with path.open("rb") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)  # somebody rolls it up
        spool.add_search(search("late"))
        flushing = threading.Thread(target=spool.flush)
        flushing.start()
        flushing.join(0.2)
        assert flushing.is_alive(), "what is written now would be deleted"
        path.unlink()
    flushing.join(5)
    assert path.stat().st_size and spool.state().durable["search"] == 1
    spool.close()
    assert read_events(tmp_path, *DAY).search["query_id"].to_list() == ["late"]


def test_a_large_hour_is_rolled_up_in_parts_and_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollup, "_PART_BYTES", 500)
    monkeypatch.setattr(rollup, "_GROUP_ROWS", 7)
    shown = {"results": [{"object_id": "d1", "score": 0.5, "first_stage_score": None, "rerank_score": 1.5}]}
    lines = [line(number, number / 10, **(shown if number % 2 else {})) if number % 3 else click(number, number / 10) for number in range(1, 41)]
    lines[10:10] = ["not json\n", lines[2], lines[1]]  # also what is there twice, far apart
    spool_file(tmp_path, 0, "".join(lines) + '{"torn')
    counter(tmp_path, 27, T0 + timedelta(minutes=5))
    left = tmp_path / "hourly" / "search" / f".2026112210-{WRITER}.parquet.4711.tmp"  # by a roll-up that was killed
    left.parent.mkdir(parents=True)
    left.write_text("half")
    before = read_events(tmp_path, *DAY)
    assert roll_up(tmp_path, "2026112211") == 1 and not list((tmp_path / "spool").iterdir())
    assert len(list(pl.read_parquet(tmp_path / "hourly" / "search").iter_rows())) == before.search.height == 27
    after = read_events(tmp_path, *DAY)
    for frame in ("search", "actions"):
        assert_frame_equal(getattr(after, frame), getattr(before, frame))
    assert after.quarantine["line"].to_list() == before.quarantine["line"].to_list() == [11, 44]
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_process_rolls_up_and_says_why_it_cannot(tmp_path: Path) -> None:
    folder = tmp_path / "service" / "events"
    vault, roller = open_vault(tmp_path), RollProcess()
    spool_file(folder, 0, line(1, 0))
    plain = folder / "hourly" / "search" / "2026112209-old.parquet"
    plain.parent.mkdir(parents=True)
    row = {"query_id": ["q"], "timestamp": [T0], "user_query": ["in plain words"], "status": [200], "latency_ms": [1.0]}
    pl.DataFrame(row).write_parquet(plain)
    assert roller.roll(folder, "2026112211", WRITER, vault, seal=True) == 1
    frames = read_events(folder, *DAY)
    assert sorted(frames.search["query_id"]) == ["q", "q1"] and not (folder / "spool" / f"{WRITER}-2026112210.jsonl").exists()
    assert is_sealed(pl.read_parquet(plain)["user_query"][0]) and "in plain words" in frames.search["user_query"].to_list()
    spool_file(folder, 0, line(2, 1))
    shutil.rmtree(folder / "hourly")
    (folder / "hourly").write_text("in the way")
    with pytest.raises(Unavailable, match=r"hourly files cannot be written .* the spool is kept"):
        roller.roll(folder, "2026112211", WRITER, vault, seal=False)
    roller.close()
    with pytest.raises(Unavailable, match="the service is ending"):
        roller.roll(folder, "2026112211", WRITER, vault, seal=False)
    assert (folder / "spool" / f"{WRITER}-2026112210.jsonl").exists()


def test_a_roll_up_that_takes_long_keeps_no_event_from_the_disk(tmp_path: Path) -> None:
    go, begun = threading.Event(), threading.Event()

    def slow(hour: str) -> None:
        begun.set()
        go.wait(20)

    spool = EventSpool(tmp_path, now=lambda: T0, flush_seconds=0.02, on_roll=slow)
    spool.start()
    assert begun.wait(5)
    spool.add_search(search("meanwhile"))
    wait_until(lambda: spool.state().durable["search"] == 1, 5, "the flush")
    go.set()
    spool.close()


def test_the_background_thread_rolls_up_when_the_hour_turns(tmp_path: Path) -> None:
    moment, hours = [T0], []
    spool = EventSpool(tmp_path, now=lambda: moment[0], flush_seconds=0.02, on_roll=hours.append)
    spool.start()
    spool.add_search(SearchEvent(query_id="a", timestamp=T0, user_query="x", status=200, latency_ms=1))
    wait_until(lambda: hours == ["2026112210"], 5, "the roll-up at the start")
    moment[0] += timedelta(hours=1)
    wait_until(lambda: hours == ["2026112210", "2026112211"], 5, "the roll-up at the turn of the hour")
    spool.close()
