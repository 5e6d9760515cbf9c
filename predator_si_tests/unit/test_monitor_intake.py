"""The raw layer: every valid event once, every bad one named, whatever is read again and wherever the process dies."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.monitor.intake import Intake, RawLayer, read_window, window_name, window_of, window_start
from predator_si.monitor.sources import EventFiles, Spool
from predator_si.privacy import Vault, is_sealed, open_text
from predator_si.records import ActionEvent, SearchEvent
from predator_si.search.events import read_events
from predator_si.search.rollup import roll_up
from predator_si_tests.support.windows import START, action, search

NOW = START + timedelta(minutes=50)
SPOOL = "spool/w-2026112212.jsonl"


def line(kind: str, row: dict[str, Any]) -> bytes:
    """A spool line as the service writes it."""
    record = SearchEvent(**row) if kind == "search" else ActionEvent(**row)
    return (f'{{"kind":"{kind}",' + record.model_dump_json()[1:] + "\n").encode()


def searches(numbers: Iterable[int], **changes: Any) -> bytes:
    return b"".join(line("search", search(i, seq=i + 1, **changes)) for i in numbers)


def spooled(tmp_path: Path, content: bytes, name: str = SPOOL) -> Path:
    path = tmp_path / "events" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def intake(tmp_path: Path, now: datetime = NOW, **more: Any):
    return Intake(tmp_path / "telemetry", None, **more).run([Spool(tmp_path / "events")], now)


def listing(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "telemetry"
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def stored(tmp_path: Path, hours: int = 48) -> tuple[list[str], int]:
    """All query ids of the layer, and how many actions it has."""
    frames = read_window(tmp_path / "telemetry", START - timedelta(hours=hours), START + timedelta(hours=hours))
    return sorted(frames.search["query_id"]), frames.actions.height


def reasons(tmp_path: Path) -> list[str]:
    return RawLayer(tmp_path / "telemetry").quarantine()["reason"].to_list()


# --------------------------------------------------------------------------- windows


@given(st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2099, 1, 1)))  # noqa: DTZ001
def test_a_window_holds_its_moment_and_its_name_says_where_it_begins(naive: datetime):
    moment = naive.replace(tzinfo=UTC)
    start = window_of(moment)
    assert start <= moment < start + timedelta(minutes=15) and start.minute % 15 == 0
    assert window_start(window_name(start)) == start


def test_events_lie_in_the_windows_of_their_time_and_actions_in_that_of_their_request(tmp_path: Path):
    late_click = action("r0", writer="w", seq=1, timestamp=START + timedelta(minutes=40))
    spooled(
        tmp_path, searches([0, 899, 900]) + line("action", late_click) + line("action", action("nobody", writer="w", seq=2, timestamp=late_click["timestamp"]))
    )
    report = intake(tmp_path)
    assert report.good == {"search": 3, "action": 2} and report.quarantined == {}
    assert [name for name in listing(tmp_path) if name.endswith("parquet")] == [
        "actions/window=20261122T1200/b00000001.parquet",
        "actions/window=20261122T1230/b00000001.parquet",
        "search/window=20261122T1200/b00000001.parquet",
        "search/window=20261122T1215/b00000001.parquet",
    ]
    frames = read_window(tmp_path / "telemetry", START, START + timedelta(minutes=15))
    assert frames.search["query_id"].to_list() == ["r0", "r899"] and frames.actions["query_id"].to_list() == ["r0"]
    assert set(frames.search["source"]) == {"spool"} and set(frames.search["origin"]) == {SPOOL}


def test_the_raw_layer_holds_what_read_events_gives(tmp_path: Path):
    spooled(tmp_path, searches(range(40)) + b"".join(line("action", action(f"r{i}", writer="w", seq=i + 1)) for i in range(7)) + b"{broken\n")
    intake(tmp_path)
    window = (START, START + timedelta(hours=1))
    ours, theirs = read_window(tmp_path / "telemetry", *window, events=tmp_path / "events"), read_events(tmp_path / "events", *window)
    assert ours.search.select(theirs.search.columns).equals(theirs.search)
    assert ours.actions.select(theirs.actions.columns).sort("seq").equals(theirs.actions.sort("seq"))
    assert (ours.lost, ours.quarantine.height) == (theirs.lost, theirs.quarantine.height) and ours.quarantine["line"].to_list() == [48]


@pytest.mark.parametrize("gone", [[5], [0], [3, 4, 9], []])
def test_lost_events_are_counted_from_the_raw_layer_as_from_the_files(tmp_path: Path, gone: list[int]):
    writer = "7-20261122T120000000000"
    numbers = [i for i in range(12) if i not in gone]
    spooled(tmp_path, b"".join(line("search", search(60 * i, seq=i + 1, writer=writer)) for i in numbers), f"spool/{writer}-2026112212.jsonl")
    counter = tmp_path / "events" / "writers" / f"{writer}.seq"
    counter.parent.mkdir()
    counter.write_text(json.dumps({"issued": {"search": 12, "action": 0}, "durable": {"search": 12, "action": 0}, "dropped": {}, "closed": False}))
    intake(tmp_path)
    for window in ((START, START + timedelta(minutes=15)), (START, START + timedelta(minutes=4)), (START + timedelta(minutes=8), NOW)):
        ours, theirs = read_window(tmp_path / "telemetry", *window, events=tmp_path / "events"), read_events(tmp_path / "events", *window)
        assert ours.lost == theirs.lost and set(ours.unknown) <= set(theirs.unknown), window  # the layer knows the hours before, too
    whole, account = (read_window(tmp_path / "telemetry", START, NOW, events=tmp_path / "events", results=wanted) for wanted in (True, False))
    assert whole.lost == account.lost == len(gone)
    assert account.search.drop("results").equals(whole.search.drop("results")) and account.search["results"].is_null().all()


# --------------------------------------------------------------------------- rules


def document(i: int, **changes: Any) -> dict[str, Any]:
    row = {
        "query_id": f"q{i}",
        "timestamp": (START + timedelta(seconds=i)).isoformat(),
        "user_query": "even numbers",
        "client_id": "olena",
        "query_response_hit_ids": ["d1", "d2"],
        "query_attributes": {"latency_ms": 12.5, "status": 200},
    }
    return row | changes


def click(i: int, **changes: Any) -> dict[str, Any]:
    where = {"object": {"object_id": "d2"}, "position": {"ordinal": 2}}
    row = {"query_id": f"q{i}", "timestamp": (START + timedelta(seconds=i + 5)).isoformat(), "action_name": "click", "event_attributes": where}
    return row | changes


def folder(tmp_path: Path, rows: Iterable[bytes | dict[str, Any]], name: str = "a.jsonl", at: datetime = NOW) -> Path:
    path = tmp_path / "foreign" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows))
    os.utime(path, (at.timestamp(), at.timestamp()))
    return path


def take_folder(tmp_path: Path, now: datetime = NOW, vault: Vault | None = None):
    return Intake(tmp_path / "telemetry", vault).run([EventFiles(tmp_path / "foreign")], now)


AN_HOUR_AHEAD = (NOW + timedelta(hours=1)).isoformat()
BAD: dict[str, tuple[bytes | dict[str, Any], str]] = {
    "wrong type": (document(1, query_attributes={"latency_ms": "fast", "status": 200}), "wrong type: latency_ms"),
    "wrong type of the query": (document(1, user_query=17), "wrong type: user_query"),
    "text for the time": (document(1, timestamp="yesterday"), "wrong type: timestamp"),
    "a time without a zone": (document(1, timestamp="2026-11-22T12:00:00"), "wrong type: timestamp"),
    "future time": (document(1, timestamp=AN_HOUR_AHEAD), "future time"),
    "too late": (document(1, timestamp=(NOW - timedelta(hours=24, seconds=1)).isoformat()), "too late"),
    "unknown variant": (document(1, variant="gold"), "unknown variant: gold"),
    "negative latency": (document(1, query_attributes={"latency_ms": -1, "status": 200}), "negative latency"),
    "latency that is no number": (b'{"query_id":"q","timestamp":"2026-11-22T12:00:00Z","user_query":"x","status":200,"latency_ms":NaN}\n', "negative latency"),
    "over-long query": (document(1, user_query="x" * 1001), "over-long query: 1001"),
    "no query": (document(1, user_query=None), "wrong type or missing: user_query"),
    "no id": (document(1, query_id=None), "wrong type or missing: query_id"),
    "over-long id": (document(1, query_id="x" * 600), "over-long query_id"),
    "status that is none": (document(1, status=7), "wrong value: status"),
    "neither status nor results": (document(1, query_attributes={}, query_response_hit_ids=None), "wrong type or missing: status"),
    "broken UTF-8": (b'{"query_id":"q","user_query":"\xff\xfe"}\n', "broken UTF-8"),
    "half a character": (b'{"query_id":"q1","timestamp":"2026-11-22T12:00:00Z","user_query":"\\ud800","status":200}\n', "wrong type: user_query"),
    "not JSON": (b"{{{\n", "not JSON"),
    "no object": (b"[1, 2]\n", "not an event"),
    "deeply nested": (b"[" * 100_000 + b"\n", "not JSON"),
    "a result without id": (document(1, query_response_hit_ids=[7]), "wrong type: results"),
    "unknown action": (click(1, action_name="purchase"), "unknown action: purchase"),
    "position 0": (click(1, event_attributes={"position": {"ordinal": 0}}), "wrong value: position"),
    "a rating of 9": (click(1, action_name="rating", value=9), "wrong value: a rating"),
    "a dwell without seconds": (click(1, action_name="dwell"), "wrong value: a dwell"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_set_aside_with_its_reason_and_its_place_and_the_good_ones_are_kept(tmp_path: Path, name: str):
    bad, reason = BAD[name]
    folder(tmp_path, [document(50), bad, click(50)])
    report = take_folder(tmp_path)
    assert report.good == {"search": 1, "action": 1}, name
    aside = RawLayer(tmp_path / "telemetry").quarantine()
    assert aside.height == 1 and aside["reason"][0].startswith(reason), aside["reason"].to_list()
    assert (aside["source"][0], aside["origin"][0], aside["line"][0]) == ("events", "a.jsonl", 2)
    assert sum(report.quarantined.values()) == 1 and report.sources[0].rows_quarantined == 1
    assert stored(tmp_path) == (["q50"], 1)


def test_a_torn_last_line_waits_for_its_end_and_is_set_aside_when_none_comes(tmp_path: Path):
    whole = json.dumps(document(2)).encode()
    path = folder(tmp_path, [document(1), whole[:40]])
    assert take_folder(tmp_path, NOW + timedelta(minutes=1)).good == {"search": 1} and reasons(tmp_path) == []
    path.write_bytes(path.read_bytes() + whole[40:] + b"\n" + whole[:30])
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    assert take_folder(tmp_path, NOW + timedelta(minutes=2)).good == {"search": 1} and reasons(tmp_path) == []
    assert take_folder(tmp_path, NOW + timedelta(minutes=9)).quarantined == {"torn line": 1}
    assert RawLayer(tmp_path / "telemetry").quarantine()["line"].to_list() == [3] and stored(tmp_path)[0] == ["q1", "q2"]


def test_the_same_id_twice_in_a_file_and_the_id_of_another_event_are_duplicates(tmp_path: Path):
    folder(tmp_path, [document(1), document(1), document(2)])
    folder(tmp_path, [document(2, query_attributes={"latency_ms": 99.0, "status": 200})], "b.jsonl")
    report = take_folder(tmp_path)
    assert report.good == {"search": 2} and report.quarantined == {"duplicate id": 2} and report.repeated == 0
    aside = RawLayer(tmp_path / "telemetry").quarantine()
    assert aside.select("origin", "line").rows() == [("a.jsonl", 2), ("b.jsonl", 1)]
    kept = read_window(tmp_path / "telemetry", START, NOW).search
    assert kept.filter(pl.col("query_id") == "q2")["latency_ms"].to_list() == [12.5], "the first one counts"


def test_an_id_that_comes_back_a_while_later_is_a_duplicate_across_windows_too(tmp_path: Path):
    folder(tmp_path, [document(1)])
    take_folder(tmp_path)
    folder(tmp_path, [document(1, timestamp=(NOW + timedelta(hours=5)).isoformat())], "b.jsonl", at=NOW + timedelta(hours=5))
    assert take_folder(tmp_path, NOW + timedelta(hours=5)).quarantined == {"duplicate id": 1}
    assert stored(tmp_path)[0] == ["q1"]


def test_a_corrected_file_is_judged_anew(tmp_path: Path):
    table = pl.DataFrame({"query_id": ["a"], "timestamp": [START], "user_query": ["x"], "status": [200], "latency_ms": [-5.0]})
    path = tmp_path / "foreign" / "x.parquet"
    path.parent.mkdir()
    for latency, after in ((-5.0, 0), (5.0, 1)):
        table.with_columns(latency_ms=pl.lit(latency)).write_parquet(path)
        os.utime(path, (NOW.timestamp() + after, NOW.timestamp() + after))
        take_folder(tmp_path, NOW + timedelta(minutes=after + 1))
    assert stored(tmp_path)[0] == ["a"] and len(reasons(tmp_path)) == 1


def test_a_file_delivered_under_two_names_counts_once(tmp_path: Path):
    folder(tmp_path, [document(i) for i in range(5)] + [click(i) for i in range(3)])
    folder(tmp_path, [document(i) for i in range(5)] + [click(i) for i in range(3)], "copy.jsonl")
    report = take_folder(tmp_path)
    assert report.good == {"search": 5, "action": 3} and report.repeated == 8 and report.quarantined == {}


def test_what_is_set_aside_keeps_ids_and_never_the_query_or_the_client(tmp_path: Path):
    folder(tmp_path, [document(1, user_query="call olena@example.org " * 100), b'{"user_query": "my card 4111 1111 1111 1111", "client_id": "olena", oops\n'])
    take_folder(tmp_path)
    text = " ".join(RawLayer(tmp_path / "telemetry").quarantine()["text"])
    assert "q1" in text and "olena" not in text and "4111" not in text and "card" not in text


def test_a_refused_event_stays_refused_when_its_time_has_come(tmp_path: Path):
    """The clock of its writer was ahead: that its hour is rolled up later, and read again, makes it no better."""
    ahead = search(0, seq=1, writer="w", timestamp=START + timedelta(hours=3))
    path = spooled(tmp_path, line("search", ahead) + searches([1]))
    assert intake(tmp_path).quarantined == {"future time": 1}
    roll_up(tmp_path / "events", "2026112213")
    assert not path.exists() and intake(tmp_path, NOW + timedelta(hours=3)).repeated == 1
    assert stored(tmp_path) == (["r1"], 0) and len(reasons(tmp_path)) == 1


def test_text_is_sealed_and_clients_are_hashed_before_they_are_stored(tmp_path: Path):
    vault = Vault(tmp_path / "vault.db")
    folder(tmp_path, [document(1, user_query="my mail is olena@example.org"), click(1, client_id="olena")])
    take_folder(tmp_path, vault=vault)
    assert b"olena" not in b"".join(listing(tmp_path).values())
    frames = read_window(tmp_path / "telemetry", START, NOW)
    assert is_sealed(frames.search["user_query"][0]) and open_text(frames.search, vault)["user_query"][0] == "my mail is [email]"
    assert frames.search["client_id"][0] == vault.client_hash("olena") == frames.actions["client_id"][0]
    assert frames.search["query_words"].to_list() == [4]


def test_nobody_can_pass_for_our_own_writer_from_outside(tmp_path: Path):
    vault = Vault(tmp_path / "vault.db")
    token = "v1.AAAAAAAAAAA." + "A" * 60
    folder(tmp_path, [document(1, writer="w", seq=1, user_query=token, query_bucket=5)])
    take_folder(tmp_path, vault=vault)
    row = read_window(tmp_path / "telemetry", START, NOW).search
    assert row["writer"].to_list() == [None] and row["seq"].to_list() == [None]
    assert row["user_query"][0] != token and open_text(row, vault)["user_query"][0] == token, "a token that a client made up is text like any other"


# --------------------------------------------------------------------------- exactly once


def test_processing_the_same_files_again_changes_nothing(tmp_path: Path):
    spooled(tmp_path, searches(range(30)) + b"{broken\n" + line("action", action("r3", writer="w", seq=1)))
    folder(tmp_path, [document(1), document(1), click(1), b"{{{\n"])
    sources = [Spool(tmp_path / "events"), EventFiles(tmp_path / "foreign")]
    first = Intake(tmp_path / "telemetry", None).run(sources, NOW)
    before = listing(tmp_path)
    assert first.good == {"search": 31, "action": 2} and sum(first.quarantined.values()) == 3
    again = Intake(tmp_path / "telemetry", None).run(sources, NOW)
    assert listing(tmp_path) == before and (again.good, again.quarantined, again.repeated, again.dirty) == ({}, {}, 0, ())


def test_without_its_ledger_the_layer_reads_everything_again_and_stays_the_same(tmp_path: Path):
    spooled(tmp_path, searches(range(30)) + b"{broken\n" + searches([3]))
    folder(tmp_path, [document(1), document(1), click(1), b"{{{\n", document(4, variant="gold")])
    sources = [Spool(tmp_path / "events"), EventFiles(tmp_path / "foreign")]
    Intake(tmp_path / "telemetry", None).run(sources, NOW)
    before = {name: body for name, body in listing(tmp_path).items() if name.endswith("parquet")}
    (tmp_path / "telemetry" / "ledger.json").unlink()
    again = Intake(tmp_path / "telemetry", None).run(sources, NOW)
    assert {name: body for name, body in listing(tmp_path).items() if name.endswith("parquet")} == before
    assert (again.good, again.quarantined) == ({}, {}) and again.repeated == 33


def test_a_damaged_ledger_is_an_error_that_says_what_to_do(tmp_path: Path):
    spooled(tmp_path, searches([1]))
    intake(tmp_path)
    (tmp_path / "telemetry" / "ledger.json").write_text("{")
    with pytest.raises(BadInput, match="remove it: all files are read again"):
        intake(tmp_path)


def test_a_spool_is_followed_by_the_line_and_its_roll_up_adds_nothing(tmp_path: Path):
    path = spooled(tmp_path, searches(range(3)) + b"{bro")
    counter = tmp_path / "events" / "writers" / "w.seq"
    assert intake(tmp_path).good == {"search": 3} and len(reasons(tmp_path)) == 1, "its writer is dead: the line stays torn"
    path.write_bytes(path.read_bytes() + b"\n" + searches(range(3, 6)))
    assert not counter.exists() and intake(tmp_path, NOW + timedelta(minutes=1)).good == {"search": 3}
    roll_up(tmp_path / "events", "2026112213")
    report = intake(tmp_path, NOW + timedelta(hours=1))
    assert report.good == {} and report.repeated == 6 and not path.exists()
    assert stored(tmp_path)[0] == [f"r{i}" for i in range(6)] and len(reasons(tmp_path)) == 1


def test_many_files_are_taken_in_several_steps(tmp_path: Path):
    for hour in range(10, 13):
        rows = [search(i, seq=i + 1, query_id=f"h{hour}-{i}", writer=f"w{hour}", timestamp=START.replace(hour=hour) + timedelta(seconds=i)) for i in range(20)]
        spooled(tmp_path, b"".join(line("search", row) for row in rows), f"spool/w{hour}-20261122{hour}.jsonl")
    report = Intake(tmp_path / "telemetry", None).run([Spool(tmp_path / "events", rows=25)], NOW)
    assert report.good == {"search": 60} and len(report.sources) == 2 and RawLayer(tmp_path / "telemetry").ledger().batch == 2


def test_several_intakes_at_once_store_each_event_once(tmp_path: Path):
    spooled(tmp_path, searches(range(200)) + b"{broken\n")
    folder(tmp_path, [document(i) for i in range(50)])
    sources = [Spool(tmp_path / "events", rows=60), EventFiles(tmp_path / "foreign")]
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(lambda _: Intake(tmp_path / "telemetry", None).run(sources, NOW), range(4)))
    assert sum(report.good.get("search", 0) for report in reports) == len(stored(tmp_path)[0]) == 250
    assert sum(sum(report.quarantined.values()) for report in reports) == len(reasons(tmp_path)) == 1
    assert RawLayer(tmp_path / "telemetry").ledger().good == {"search": 250}


# --------------------------------------------------------------------------- crashes


class Crash(BaseException):
    """What a kill -9 looks like from inside: nothing after it runs but what the system does."""


def crash_at(step: int) -> Callable[[str], None]:
    left = [step]

    def on_step(_: str) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Crash

    return on_step


def steps(tmp_path: Path, sources: list[Any]) -> list[str]:
    """Names of all steps of one intake, on a layer of its own."""
    seen: list[str] = []
    Intake(tmp_path / "rehearsal", None, on_step=seen.append).run(sources, NOW)
    return seen


def test_a_crash_before_any_step_neither_loses_nor_doubles(tmp_path: Path):
    spooled(tmp_path, searches([0, 1, 900, 901]) + b"{broken\n" + line("action", action("r1", writer="w", seq=1)))
    folder(tmp_path, [document(1), click(1), document(1)])
    sources = [Spool(tmp_path / "events"), EventFiles(tmp_path / "foreign")]
    names = steps(tmp_path, sources)
    assert len(names) >= 30 and {"begin", "part written", "manifest written", "decided", "moved", "all moved", "manifest gone", "end"} <= set(names)
    for step in range(len(names)):
        home = tmp_path / f"crash{step}"
        with pytest.raises(Crash):
            Intake(home / "telemetry", None, on_step=crash_at(step)).run(sources, NOW)
        seen = sorted(read_window(home / "telemetry", START, NOW).search["query_id"])
        assert len(seen) == len(set(seen)), f"doubled before {names[step]}"
        Intake(home / "telemetry", None).run(sources, NOW)
        assert stored(home) == (["q1", "r0", "r1", "r900", "r901"], 2), f"step {step}: {names[step]}"
        assert len(reasons(home)) == 2 and not (home / "telemetry" / ".batch").exists()


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_order_lines_come_in_and_wherever_it_dies_each_event_counts_once(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    tmp_path = tmp_path_factory.mktemp("any")
    good = [line("search", search(i, seq=i + 1)) for i in range(8)] + [line("action", action(f"r{i}", writer="w", seq=i + 1)) for i in range(3)]
    lines = data.draw(st.permutations([*good, b"{broken\n", good[2], good[9]]))  # a batch that was written again has its events twice
    cuts = sorted(data.draw(st.lists(st.integers(0, sum(map(len, lines))), max_size=3)))
    content = b"".join(lines)
    for number, cut in enumerate([*cuts, len(content)]):
        whole = content[: content.rfind(b"\n", 0, cut) + 1]  # a torn line of a dead writer is another test's business
        spooled(tmp_path, whole)
        step = data.draw(st.integers(0, 40))
        try:
            Intake(tmp_path / "telemetry", None, on_step=crash_at(step)).run([Spool(tmp_path / "events")], NOW + timedelta(minutes=number))
        except Crash:
            continue
        if data.draw(st.booleans()) and number == len(cuts):
            roll_up(tmp_path / "events", "2026112213")
    for _ in range(2):
        Intake(tmp_path / "telemetry", None).run([Spool(tmp_path / "events")], NOW + timedelta(hours=1))
        assert stored(tmp_path) == ([f"r{i}" for i in range(8)], 3)
        assert len(reasons(tmp_path)) == 1


# --------------------------------------------------------------------------- late events


def test_a_late_event_goes_to_its_own_closed_window_which_is_measured_again(tmp_path: Path):
    path = spooled(tmp_path, searches([0, 1000]))
    assert intake(tmp_path, START + timedelta(minutes=16)).dirty == ()
    path.write_bytes(path.read_bytes() + searches([5, 1001]))
    report = intake(tmp_path, START + timedelta(minutes=31))
    assert report.late == 1 and report.dirty == (START,), "12:15 was still open when it was read before"
    layer = RawLayer(tmp_path / "telemetry")
    assert layer.dirty_windows() == (START,)
    assert read_window(tmp_path / "telemetry", START, START + timedelta(minutes=15)).search["query_id"].to_list() == ["r0", "r5"]
    layer.mark_clean([START])
    assert layer.dirty_windows() == () and intake(tmp_path, START + timedelta(minutes=46)).dirty == ()


def test_a_late_click_makes_the_window_of_its_request_dirty(tmp_path: Path):
    path = spooled(tmp_path, searches([0]))
    intake(tmp_path, START + timedelta(minutes=16))
    path.write_bytes(path.read_bytes() + line("action", action("r0", writer="w", seq=1, timestamp=START + timedelta(minutes=17))))
    assert intake(tmp_path, START + timedelta(minutes=18)).dirty == (START,)


@pytest.mark.parametrize(("hours", "kept"), [(23.9, True), (24.1, False)])
def test_an_event_later_than_a_day_goes_to_the_quarantine(tmp_path: Path, hours: float, kept: bool):
    folder(tmp_path, [document(1, timestamp=(NOW - timedelta(hours=hours)).isoformat())])
    report = take_folder(tmp_path)
    assert (report.good, report.quarantined) == (({"search": 1}, {}) if kept else ({}, {"too late, by more than 24 h": 1}))


def test_it_is_the_arrival_that_counts_not_the_reading(tmp_path: Path):
    """A platform that was down for two days finds the spool of a service that was not: none of its events is late."""
    spooled(tmp_path, searches([1, 2]))
    report = intake(tmp_path, NOW + timedelta(days=2))
    assert report.good == {"search": 2} and report.quarantined == {}


# --------------------------------------------------------------------------- files of others


def test_parquet_of_others_is_judged_a_column_at_a_time(tmp_path: Path):
    table = pl.DataFrame(
        {
            "query_id": [f"p{i}" for i in range(6)],
            "timestamp": [START + timedelta(seconds=i) for i in range(6)],
            "user_query": ["a", "b", "x" * 1200, "d", "e", None],
            "query_response_hit_ids": [["d1"], [], ["d1"], None, ["d2", "d3"], ["d1"]],
            "latency_ms": [1.0, -2.0, 3.0, 4.0, float("nan"), 6.0],
            "query_words": [9] * 6,
        }
    )
    path = tmp_path / "foreign" / "x.parquet"
    path.parent.mkdir()
    table.write_parquet(path)
    os.utime(path, (NOW.timestamp(), NOW.timestamp()))
    report = take_folder(tmp_path)
    assert report.good == {"search": 1} and report.quarantined == {"negative latency": 2, "over-long query": 1, "wrong type or missing": 2}
    row = read_window(tmp_path / "telemetry", START, NOW).search.row(0, named=True)
    assert (row["query_id"], row["status"], row["query_words"], [one["object_id"] for one in row["results"]]) == ("p0", 200, None, ["d1"])
    table.with_columns(timestamp=pl.col("timestamp").dt.replace_time_zone(None), query_id=pl.concat_str("query_id", pl.lit("z"))).write_parquet(path)
    assert take_folder(tmp_path, NOW + timedelta(minutes=1)).quarantined == {"wrong type": 6}, "local times are nobody's moments"


def test_a_folder_that_is_not_there_and_a_file_that_is_no_parquet_are_said(tmp_path: Path):
    assert take_folder(tmp_path).sources[0].unknown == (f"{tmp_path / 'foreign'}: there is no such folder",)
    folder(tmp_path, [b"PAR1 or so"], "broken.parquet")
    assert take_folder(tmp_path).quarantined == {"unreadable Parquet": 1}
    assert take_folder(tmp_path, NOW + timedelta(minutes=1)).quarantined == {}


def test_a_time_without_a_zone_is_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="needs a zone"):
        intake(tmp_path, datetime(2026, 11, 22))  # noqa: DTZ001
    with pytest.raises(BadInput, match="time zones"):
        read_window(tmp_path / "telemetry", NOW, START)
