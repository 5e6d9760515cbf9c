import errno
import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from predator_si.errors import Unavailable
from predator_si.records import ActionEvent, ScoredDocument, SearchEvent
from predator_si.search.events import read_events
from predator_si.search.losses import read_writers
from predator_si.search.spool import EventSpool, writer_name, writer_start
from predator_si_tests.support.waiting import wait_until

NOW = datetime.now(UTC)
WINDOW = (NOW - timedelta(hours=1), NOW + timedelta(hours=1))


def event(number: int) -> SearchEvent:
    return SearchEvent(
        query_id=f"q{number}",
        timestamp=datetime.now(UTC),
        user_query="wie öffne ich “eine Datei”",
        status=200,
        latency_ms=1.5,
        results=(ScoredDocument(object_id="d", score=1),),
    )


def click(number: int) -> ActionEvent:
    return ActionEvent(query_id=f"q{number}", timestamp=datetime.now(UTC), action_name="click", object_id="d", position=1)


class FullDisk:
    """Refuses writes to spool files, after letting through ``allowed`` bytes of the first; the counter file stays writable."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int = 0) -> None:
        self.full, self.allowed, self.refused, self.real = True, allowed, 0, os.pwrite
        monkeypatch.setattr(os, "pwrite", self)

    def __call__(self, descriptor: int, data: bytes, offset: int) -> int:
        if self.full and Path(f"/proc/self/fd/{descriptor}").readlink().suffix == ".jsonl":
            if self.allowed:
                part, self.allowed = data[: self.allowed], 0
                return self.real(descriptor, part, offset)
            self.refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return self.real(descriptor, data, offset)


NOTHING = {"search": 0, "action": 0, "exposure": 0, "shadow": 0}


def test_numbers_are_consecutive_by_kind_and_everything_comes_back(tmp_path: Path) -> None:
    spool = EventSpool(tmp_path)
    searches = [spool.add_search(event(i)) for i in range(5)]
    actions = [spool.add_action(click(i)) for i in range(3)]
    state = spool.flush()
    assert [e.seq for e in searches] == [1, 2, 3, 4, 5] and [a.seq for a in actions] == [1, 2, 3]
    assert state.durable == state.issued == {**NOTHING, "search": 5, "action": 3} and state.pending == 0
    frames = read_events(tmp_path, *WINDOW)
    assert frames.search["query_id"].to_list() == [f"q{i}" for i in range(5)]
    assert SearchEvent.model_validate(frames.search.row(2, named=True)) == searches[2]
    assert ActionEvent.model_validate(frames.actions.row(1, named=True)) == actions[1]
    assert (frames.lost, frames.unknown, len(frames.quarantine)) == (0, (), 0)
    spool.close()


def test_the_background_thread_flushes_in_time_and_by_count(tmp_path: Path) -> None:
    spool = EventSpool(tmp_path, flush_seconds=0.05, flush_events=10_000)
    spool.start()
    spool.add_search(event(0))
    wait_until(lambda: spool.state().durable["search"] == 1, 5, "the timed flush")
    spool.close()
    spool = EventSpool(tmp_path, flush_seconds=60, flush_events=20)
    spool.start()
    for number in range(20):
        spool.add_search(event(number))
    wait_until(lambda: spool.state().durable["search"] == 20, 5, "the flush by count")
    spool.close()


def test_a_clean_end_flushes_and_leaves_a_closing_marker(tmp_path: Path) -> None:
    spool = EventSpool(tmp_path, flush_seconds=60)
    spool.start()
    spool.add_search(event(0))
    spool.close()
    spool.close()
    last = json.loads(next((tmp_path / "spool").glob("*.jsonl")).read_text().splitlines()[-1])
    assert (last["kind"], last["closing"], last["last_search"], last["last_action"]) == ("marker", True, 1, 0)
    record = read_writers(tmp_path)[spool.writer]
    assert record.closed and not record.alive and record.issued == {**NOTHING, "search": 1}
    with pytest.raises(Unavailable, match="closed"):
        spool.add_search(event(1))


def test_events_not_flushed_yet_are_pending_while_the_writer_lives_and_lost_once_it_is_dead(tmp_path: Path) -> None:
    spool = EventSpool(tmp_path)
    for number in range(4):
        spool.add_search(event(number))
    spool.flush()
    for number in range(4, 7):
        spool.add_search(event(number))
    spool.add_action(click(1))
    alive = read_events(tmp_path, *WINDOW)
    assert (len(alive.search), alive.lost) == (4, 0)
    os.close(spool._counter)  # what the system does when the process is killed: the lock goes, the counter file stays
    dead = read_events(tmp_path, *WINDOW)
    assert dead.lost == 4
    assert dict(zip(dead.losses["kind"], dead.losses["lost"], strict=True)) == {"search": 3, "action": 1}


def test_a_full_disk_is_seen_costs_no_event_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = EventSpool(tmp_path)
    spool.add_search(event(0))
    spool.flush()
    disk = FullDisk(monkeypatch, allowed=100)  # the first batch gets half onto the disk
    spool.add_search(event(1))
    state = spool.flush()
    assert "No space left" in str(state.error) and state.write_errors == 1 and state.pending == 1
    assert len(read_events(tmp_path, *WINDOW).quarantine) == 0  # the half batch was cut off again
    spool.add_search(event(2))
    disk.full = False
    state = spool.flush()
    assert state.error is None and state.pending == 0 and state.dropped["search"] == 0
    frames = read_events(tmp_path, *WINDOW)
    assert frames.search["query_id"].to_list() == ["q0", "q1", "q2"] and frames.lost == 0
    spool.close()


def test_a_disk_that_stays_full_drops_the_oldest_and_counts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = EventSpool(tmp_path, max_buffered=10)
    disk = FullDisk(monkeypatch)
    for number in range(25):
        spool.add_search(event(number))
    assert spool.flush().dropped == {**NOTHING, "search": 15}
    disk.full = False
    spool.flush()
    frames = read_events(tmp_path, *WINDOW)
    assert frames.search["seq"].to_list() == list(range(16, 26))
    assert frames.lost == 15
    spool.close()


def test_a_failing_disk_is_not_hammered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(monkeypatch)
    spool = EventSpool(tmp_path, flush_seconds=0.05, flush_events=5)
    spool.start()
    for number in range(500):
        spool.add_search(event(number))
    wait_until(lambda: disk.refused >= 2, 5, "a second attempt")
    assert disk.refused < 50
    disk.full = False
    wait_until(lambda: spool.state().pending == 0, 5, "the recovery")
    spool.close()
    assert len(read_events(tmp_path, *WINDOW).search) == 500


def test_a_spool_file_that_somebody_deletes_is_begun_again_and_its_events_count_as_lost(tmp_path: Path) -> None:
    spool = EventSpool(tmp_path)
    spool.add_search(event(0))
    spool.flush()
    next((tmp_path / "spool").glob("*.jsonl")).unlink()
    spool.add_search(event(1))
    spool.flush()
    frames = read_events(tmp_path, *WINDOW)
    assert frames.search["query_id"].to_list() == ["q1"] and frames.lost == 1
    spool.close()


def test_a_folder_that_cannot_be_made_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file")
    with pytest.raises(Unavailable, match="events cannot be written"):
        EventSpool(tmp_path / "events")


def test_writer_ids_hold_their_start() -> None:
    assert writer_start(writer_name(17, NOW)) == NOW
    assert writer_start("somebody-else") is None
