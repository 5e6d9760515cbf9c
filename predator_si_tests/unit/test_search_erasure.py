"""Stores of older versions, erasing on the command line, retention: with the real spool, ledger and vault."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from predator_si.augment import Dataset, read_examples, write_dataset
from predator_si.control import Control
from predator_si.errors import BadInput
from predator_si.privacy import is_sealed
from predator_si.records import ActionEvent, SearchEvent, utc_now
from predator_si.search.erasure import erase_client, expire, find_client
from predator_si.search.events import hour_name, read_events
from predator_si.search.personal import existing_vault, open_vault
from predator_si.search.rollup import roll_up, seal_hours
from predator_si.search.spool import EventSpool
from predator_si_tests.support.command_line import CommandLine

NOW = utc_now()
LATER = hour_name(NOW + timedelta(hours=2))


def write(home: Path, *, sealed: bool, at: datetime = NOW, rows: int = 2) -> Path:
    """Events of the clients ann (with an e-mail address) and bob, as this version writes them or as one before the vault did."""
    folder = home / "service" / "events"
    spool = EventSpool(folder, vault=open_vault(home) if sealed else None, now=lambda: at)
    for number in range(rows):
        client = ("ann", "bob")[number % 2]
        query_id = f"{at:%d%H}-{number}-{sealed}"
        text = f"mail {client}@example.org about {number}"
        spool.add_search(SearchEvent(query_id=query_id, timestamp=at, user_query=text, client_id=client, session_id=f"{client}-1", status=200, latency_ms=1))
        spool.add_action(ActionEvent(query_id=query_id, timestamp=at, action_name="click", object_id="d", client_id=client))
    spool.close()
    return folder


def stored(folder: Path) -> str:
    """Everything in the folder as text, Parquet unpacked."""
    return "\n".join(
        json.dumps(pl.read_parquet(path, hive_partitioning=False).rows(), default=str) if path.suffix == ".parquet" else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    )


def texts(folder: Path, at: datetime = NOW) -> list[str | None]:
    return read_events(folder, at - timedelta(hours=1), at + timedelta(hours=1)).search.sort("query_id")["user_query"].to_list()


def test_a_plain_spool_is_readable_and_sealed_when_it_is_rolled_up(tmp_path: Path) -> None:
    folder = write(tmp_path, sealed=False)
    assert texts(folder) == ["mail ann@example.org about 0", "mail bob@example.org about 1"]
    (folder / "spool" / f"x-{hour_name(NOW)}.jsonl").write_text('{"kind": "search", "user_query": "call 0501234567"}\n')
    roll_up(folder, LATER, vault=open_vault(tmp_path))
    assert texts(folder) == ["mail [email] about 0", "mail [email] about 1"]
    body = stored(folder)
    assert not [word for word in ("example", "about", '"ann', "0501234567", "call") if word in body]
    aside = read_events(folder, NOW - timedelta(hours=1), NOW).quarantine["text"].to_list()
    assert aside == ['{"kind": "search", "user_query": "call [phone]"}']


def test_plain_hourly_files_of_an_older_version_are_sealed_once(tmp_path: Path) -> None:
    folder = write(tmp_path, sealed=False)
    roll_up(folder, LATER)
    assert "ann@example.org" in stored(folder)
    before = read_events(folder, NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    vault = open_vault(tmp_path)
    assert seal_hours(folder, vault) == 2 and seal_hours(folder, vault) == 0  # one file of searches, one of actions
    assert not [word for word in ("example", "about", '"ann') if word in stored(folder)]
    after = read_events(folder, NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    same = ["query_id", "timestamp", "status", "seq", "writer"]
    assert after.search.select(same).equals(before.search.select(same)) and after.lost == before.lost == 0
    assert texts(folder) == ["mail [email] about 0", "mail [email] about 1"]


def test_an_interrupted_roll_up_keeps_each_quarantined_line_once(tmp_path: Path) -> None:
    folder, vault = tmp_path / "service" / "events", open_vault(tmp_path)
    path = folder / "spool" / f"9-20261122T100000000000-{hour_name(NOW)}.jsonl"
    for _ in range(2):  # the second time as after a kill between writing the quarantine and deleting the spool file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("torn by a@b.com\n")
        roll_up(folder, LATER, vault=vault)
    assert read_events(folder, NOW - timedelta(hours=1), NOW).quarantine["text"].to_list() == ["torn by [email]"]


def test_old_events_go_with_their_keys_and_young_ones_stay(tmp_path: Path) -> None:
    old = NOW - timedelta(days=40)
    folder = write(tmp_path, sealed=True, at=old)
    roll_up(folder, hour_name(NOW - timedelta(days=1)), vault=open_vault(tmp_path))
    write(tmp_path, sealed=True)
    windows = tmp_path / "telemetry" / "search"
    for when in (old, NOW):
        part = windows / f"window={when:%Y%m%dT%H%M}" / "b1.parquet"
        part.parent.mkdir(parents=True)
        pl.DataFrame({"user_query": ["x"]}).write_parquet(part)
        for beside in (f"judgments/{part.parent.name}/probes.parquet", f"windows/{when:%Y%m%dT%H%M}/r0001/aggregate.json"):
            (tmp_path / "telemetry" / beside).parent.mkdir(parents=True)
            (tmp_path / "telemetry" / beside).write_text("x")
    aside = tmp_path / "telemetry" / "quarantine" / "b1.parquet"
    aside.parent.mkdir()
    pl.DataFrame({"text": ["x"]}).write_parquet(aside)
    os.utime(aside, (old.timestamp(), old.timestamp()))
    for path in folder.glob("writers/*.seq"):
        if not any(path.stem in spool.name for spool in folder.glob("spool/*")):
            os.utime(path, (old.timestamp(), old.timestamp()))
    assert texts(folder, old)[0] == "mail [email] about 0"
    done = expire(tmp_path, NOW, 30)
    # two hourly files, the writer's counter, one window, its labels and what was measured of it, one quarantine file; keys of ann and bob of that week
    assert (done.files, done.keys) == (7, 2)
    assert texts(folder, old) == [] and texts(folder) == ["mail [email] about 0", "mail [email] about 1"]
    for kind in ("search", "judgments", "windows"):
        assert [path.name.removeprefix("window=") for path in (tmp_path / "telemetry" / kind).iterdir()] == [f"{NOW:%Y%m%dT%H%M}"]
    frames = read_events(folder, NOW - timedelta(hours=1), NOW + timedelta(hours=1))
    assert (frames.lost, frames.unknown) == (0, ())
    assert expire(tmp_path, NOW, 30).files == 0
    records = Control(tmp_path / "control.db").records()
    assert [record.action for record in records] == ["personal_data_expired"]
    assert records[0].payload == {"before": (NOW - timedelta(days=30)).date().isoformat(), "days": 30, "files": 7, "keys": 2}
    with pytest.raises(BadInput, match="at least 1"):
        expire(tmp_path, NOW, 0)


def test_erasing_refuses_while_plain_events_of_an_older_version_stand(tmp_path: Path) -> None:
    folder = write(tmp_path, sealed=False)
    write(tmp_path, sealed=True)
    assert find_client(tmp_path, "ann").plain
    with pytest.raises(BadInput, match="Start the search service once"):
        erase_client(tmp_path, "ann", "test")
    roll_up(folder, LATER, vault=open_vault(tmp_path))
    done = erase_client(tmp_path, "ann", "test")
    assert done.keys == 1 and done.still_readable == 0
    assert sorted(texts(folder), key=str) == [None, None, "mail [email] about 1", "mail [email] about 1"]


def test_a_killed_erasing_is_finished_by_the_next_opening(tmp_path: Path) -> None:
    """The ledger's record is written first; without the destroying it is applied when a process opens the vault."""
    folder = write(tmp_path, sealed=True)
    client = open_vault(tmp_path).client_hash("ann")
    Control(tmp_path / "control.db").append("client_erased", "test", None, "", {"client": client})
    assert texts(folder)[0] is not None  # this process had it open before
    copy = tmp_path.with_name(tmp_path.name + "-next")
    tmp_path.rename(copy)  # the next process, as far as what is open is concerned
    assert texts(copy / "service" / "events") == [None, "mail [email] about 1"]


def test_reading_makes_no_vault(tmp_path: Path) -> None:
    folder = write(tmp_path, sealed=False)
    assert texts(folder)[0] == "mail ann@example.org about 0" and existing_vault(tmp_path) is None and not (tmp_path / "privacy").exists()


def test_a_data_set_holds_tokens_and_gives_texts_back_until_the_client_is_erased(tmp_path: Path) -> None:
    folder, vault = write(tmp_path, sealed=True), open_vault(tmp_path)
    token = read_events(folder, NOW - timedelta(hours=1), NOW + timedelta(hours=1), open_text=False).search.sort("query_id")["user_query"][0]
    assert is_sealed(token)
    rows = [(0, "mail [email] about 0", "clicks", 1.0), (0, "mail [email] about 0", "clicks", 0.0), (1, "a title", "title", 1.0)]
    examples = pl.DataFrame(rows, schema=["group_id", "query", "source", "label"], orient="row")
    paths = write_dataset(tmp_path / "artifacts", Dataset("aug_2026_11_22_001", examples, {}, {}, {"mail [email] about 0": token}))
    assert "about" not in stored(tmp_path / "artifacts") and pl.read_csv(paths["csv"])["query"].to_list() == [token, token, "a title"]
    again, dropped = read_examples(paths["parquet"], vault)
    assert again.equals(examples) and dropped == 0
    assert find_client(tmp_path, "ann").texts["artifacts/augmented_dataset.csv"] == 2
    erase_client(tmp_path, "ann", "test")
    again, dropped = read_examples(paths["parquet"], vault)
    assert again["query"].to_list() == ["a title"] and dropped == 2
    assert read_examples(paths["parquet"], None)[1] == 2


# ------------------------------------------------------------------ the command


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    write(tmp_path / "home", sealed=True)
    return CommandLine(tmp_path / "home", capsys)


def test_the_command_says_first_and_destroys_only_when_told(cli: CommandLine) -> None:
    said = cli("erase", "--client", "ann")
    assert said.code == 0 and "nothing was changed" in said.out and "1 keys, 2 events" in said.out and "ann" not in said.out.replace("cannot", "")
    assert texts(cli.home / "service" / "events")[0] is not None
    assert cli("erase", "--client", "ann", "--json").json["done"] is False
    done = cli("erase", "--client", "ann", "--yes", "--json")
    assert (done.code, done.json["keys"], done.json["texts"], done.json["still_readable"], done.json["done"]) == (0, 1, 1, 0, True)
    assert texts(cli.home / "service" / "events")[0] is None
    ledger = Control(cli.home / "control.db").records()
    assert [record.action for record in ledger] == ["client_erased"] and ledger[0].actor.startswith("cli:")
    assert "ann" not in json.dumps(ledger[0].payload)
    again = cli("erase", "--client", "ann", "--yes", "--json")
    assert (again.code, again.json["keys"], again.json["erased_before"]) == (0, 0, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--client", "nobody"), 1, "unknown here"), (("--client", "nobody", "--yes"), 1, "unknown here"), (("--client", ""), 2, "1 to 200 characters"),
        (("--client", "x" * 201), 2, "1 to 200 characters"), ((), 2, "one of them"), (("--client", "a", "--older-than", "3"), 2, "one of them"),
        (("--older-than", "0"), 2, "older-than"), (("--older-than", "5"), 0, "add --yes"), (("--older-than", "5", "--yes"), 0, "0 files and 0 keys"),
    ],
)  # fmt: skip
def test_wrong_use_and_unknown_clients(cli: CommandLine, words: tuple[str, ...], code: int, said: str) -> None:
    answer = cli("erase", *words)
    assert answer.code == code and said in answer.out + answer.err
    assert texts(cli.home / "service" / "events") == ["mail [email] about 0", "mail [email] about 1"]


def test_a_home_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = CommandLine(tmp_path / "none", capsys)("erase", "--client", "ann")
    assert answer.code == 2 and "no such home" in answer.err and not (tmp_path / "none").exists()


def test_utc_days_are_the_border(tmp_path: Path) -> None:
    """The hour in which the cutoff lies stays whole."""
    at = datetime(2026, 10, 1, 12, 30, tzinfo=UTC)
    folder = write(tmp_path, sealed=True, at=at)
    roll_up(folder, LATER, vault=open_vault(tmp_path))
    assert expire(tmp_path, at + timedelta(days=10, minutes=20), 10).files == 0
    assert expire(tmp_path, at + timedelta(days=10, minutes=31), 10).files >= 2
