"""What is loaded, and when: windows by their parts, snapshots and quarantine by their files; no dbt here."""

from __future__ import annotations

import json
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.cli import main
from predator_si.errors import BadInput, Unavailable
from predator_si.home import Home
from predator_si.warehouse import open_warehouse, raw
from predator_si.warehouse.agreement import Comparison, agreement, fast_path_agreement
from predator_si.warehouse.build import load, read_results
from predator_si.warehouse.engines import PROJECT, environment, text
from predator_si_tests.support.raw_layer import WINDOW, snapshot, store_rows
from predator_si_tests.support.windows import START, search

NAIVE = START.replace(tzinfo=None)


def loaded(home: Home) -> tuple[datetime, ...]:
    """One load that is followed by a good build."""
    with load(home) as batch:
        batch.settle()
    return batch.windows


def count(home: Home, what: str) -> int:
    with open_warehouse(home, read_only=True) as warehouse:
        return int(warehouse.rows(f"select count(*) from {what}")[0][0])


def test_a_window_is_loaded_when_its_parts_change_and_only_then(home: Home) -> None:
    store_rows(home, [search(0), search(1, timestamp=START + WINDOW)])
    assert loaded(home) == (NAIVE, NAIVE + WINDOW)
    assert loaded(home) == ()
    store_rows(home, [search(2)])
    assert loaded(home) == (NAIVE,)
    assert count(home, "raw.search_events") == 2  # both parts of the window at hand, nothing of the other


def test_a_build_that_did_not_end_well_leaves_its_windows_to_the_next(home: Home) -> None:
    store_rows(home, [search(0)])
    for _ in range(2):
        with load(home) as batch:
            pass  # nobody settles
        assert batch.windows == (NAIVE,)
    assert count(home, "raw.windows") == 1


def test_a_removed_window_is_gone_once(home: Home) -> None:
    store_rows(home, [search(0), search(1, timestamp=START + WINDOW)])
    loaded(home)
    for part in home.telemetry_search.glob(f"window={START:%Y%m%dT%H%M}/*"):
        part.unlink()
    with load(home) as batch:
        assert batch.windows == () and count(home, "raw.windows where gone") == 1
        batch.settle()
    assert count(home, "raw.windows") == 1


def test_an_empty_raw_layer_loads(home: Home) -> None:
    assert loaded(home) == ()
    assert count(home, "raw.search_events") == count(home, "raw.actions") == count(home, "raw.snapshots") == 0


def test_a_part_without_the_newer_columns_loads_with_nulls(home: Home) -> None:
    store_rows(home, [search(0, script="latin"), search(1)])
    (part,) = home.telemetry_search.glob("window=*/*.parquet")
    pl.read_parquet(part).drop("script", "query_words", "query_bucket").write_parquet(part)
    assert loaded(home) == (NAIVE,)
    assert count(home, "raw.search_events where script is null") == 2


def test_neither_text_nor_client_is_read(home: Home) -> None:
    assert not {"user_query", "client_id", "session_id"} & {*raw.SEARCH, *raw.ACTIONS, *raw.PROBES, *raw.QUARANTINE}
    store_rows(home, [search(0)])
    loaded(home)
    with open_warehouse(home, read_only=True) as warehouse:
        columns, _ = warehouse.answer("select * from raw.search_events limit 0")
    assert not {"user_query", "client_id", "session_id"} & set(columns)


def test_a_snapshot_is_loaded_again_when_it_was_measured_again(home: Home) -> None:
    store_rows(home, [search(i) for i in range(5)])
    first = snapshot(home, START, START + WINDOW)
    with load(home) as batch:
        batch.settle()
    assert batch.snapshots == 1 and count(home, "raw.snapshots where dirty") == 0
    metrics = count(home, "raw.snapshots")
    assert metrics == len(first.metrics)
    store_rows(home, [search(i) for i in range(5, 9)])
    snapshot(home, START, START + WINDOW, at=START + timedelta(hours=1))
    with load(home) as batch:
        assert batch.snapshots == 1 and count(home, "raw.snapshots where dirty") == metrics == count(home, "raw.snapshots")


def test_an_unaligned_snapshot_stands_in_the_window_in_which_it_ends(home: Home) -> None:
    store_rows(home, [search(0)])
    snapshot(home, START + timedelta(minutes=3), START + WINDOW)
    snapshot(home, START + timedelta(minutes=3), START + WINDOW + timedelta(seconds=2))
    loaded(home)
    with open_warehouse(home, read_only=True) as warehouse:
        found = warehouse.rows("select distinct window_start from raw.snapshots order by 1")
    assert found == [(NAIVE,), (NAIVE + WINDOW,)]


def test_a_folder_that_is_no_window_and_a_part_that_is_no_parquet_are_named(home: Home) -> None:
    strange = home.telemetry_search / "window=yesterday"
    strange.mkdir(parents=True)
    with pytest.raises(BadInput, match="window=yesterday"), load(home):
        pass
    strange.rmdir()
    folder = home.telemetry_search / f"window={START:%Y%m%dT%H%M}"
    folder.mkdir()
    (folder / "b1.parquet").write_bytes(b"not parquet")
    with pytest.raises(BadInput, match=r"b1\.parquet"), load(home):
        pass


def test_a_warehouse_in_use_is_unavailable_and_a_missing_one_is_named(home: Home) -> None:
    with pytest.raises(BadInput, match="no warehouse yet"), open_warehouse(home, read_only=True):
        pass
    with pytest.raises(BadInput, match="PGDATABASE"), open_warehouse(home, "postgres"):
        pass
    loaded(home)
    with pytest.raises(BadInput, match="refuses this"), open_warehouse(home, read_only=True) as warehouse:
        warehouse.answer("select nonsense")


def test_what_a_block_did_is_undone_when_it_fails(home: Home) -> None:
    loaded(home)
    with pytest.raises(RuntimeError), open_warehouse(home) as warehouse:
        warehouse.execute("delete from raw.windows")
        warehouse.execute("create table raw.left_behind (x int)")
        raise RuntimeError
    assert count(home, "information_schema.tables where table_name = 'left_behind'") == 0


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=30))
@settings(max_examples=50, deadline=None)
def test_any_string_survives_as_a_literal(value: str) -> None:
    import duckdb

    assert duckdb.connect().execute(f"select {text(value)}").fetchone() == (value,)


# --------------------------------------------------------------------------- the answer of the comparison


def compared(metric: str, answer: Any) -> Comparison:
    return Comparison(metric=metric, fast_value=1.0, warehouse_value=1.0, difference=0.0, tolerance=0.0, answer=answer, reason=f"because {metric}")


@pytest.mark.parametrize(
    ("answers", "together"),
    [((), "unknown"), (("agrees", "agrees"), "agrees"), (("agrees", "unknown"), "unknown"), (("unknown", "differs", "agrees"), "differs")],
)
def test_one_doubt_is_enough_not_to_pass(answers: tuple[str, ...], together: str) -> None:
    found = agreement("s", [compared(f"m{number}", answer) for number, answer in enumerate(answers)])
    assert found.answer == together
    wrong = [f"because m{number}" for number, answer in enumerate(answers) if answer == together != "agrees"]
    assert all(reason in found.reason for reason in wrong)


def test_without_a_snapshot_there_is_nothing_to_agree_with(home: Home) -> None:
    with open_warehouse(home) as warehouse:
        warehouse.execute("create schema warehouse")
        warehouse.execute("create table warehouse.mart_fast_path (snapshot_id varchar, measured_to timestamp, created_at timestamp)")
    assert fast_path_agreement(home).answer == "unknown"


# --------------------------------------------------------------------------- the project


def test_every_file_of_the_project_is_shipped() -> None:
    """An installed wheel has the same project: each of its files matches a pattern of the package data."""
    root = Path(__file__).resolve().parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["package-data"]["predator_si"]
    shipped = {path for pattern in patterns for path in (root / "predator_si").glob(pattern)}
    files = {path for path in PROJECT.rglob("*") if path.is_file()}
    assert len(files) > 30 and files <= shipped
    assert PROJECT.parent / "assets.json" in shipped


def test_the_profile_holds_no_secret() -> None:
    """Whatever says where and who comes from the environment."""
    lines = [line.strip() for line in (PROJECT / "profiles.yml").read_text(encoding="utf-8").splitlines()]
    for name in ("path", "host", "port", "user", "password", "dbname", "sslmode"):
        (line,) = [line for line in lines if line.startswith(f"{name}:")]
        assert "env_var(" in line, line


def test_dbt_reports_nothing_home_and_writes_into_the_home_folder_only(home: Home) -> None:
    found = environment(home, "postgres")
    assert found["DBT_SEND_ANONYMOUS_USAGE_STATS"] == "false" and found["DO_NOT_TRACK"] == "1"
    for name in ("DBT_TARGET_PATH", "DBT_LOG_PATH", "PREDATOR_SI_WAREHOUSE_FILE"):
        assert home.warehouse in Path(found[name]).parents
    assert not [name for name in found if name.startswith("PG")]  # whoever runs it has set them, or not


def test_results_of_dbt_are_read_by_name(tmp_path: Path) -> None:
    path = tmp_path / "run_results.json"
    path.write_text(
        '{"results": ['
        '{"unique_id": "model.predator_si.stg_x", "status": "success", "message": "OK", "failures": null, "execution_time": 0.1},'
        '{"unique_id": "test.predator_si.never_null_x.abc123", "status": "fail", "message": "Got 2", "failures": 2, "execution_time": 0.2},'
        '{"unique_id": "test.predator_si.rows_are_conserved", "status": "warn", "message": null, "failures": 1, "execution_time": 0.3}]}'
    )
    found = {(node.name, node.kind): (node.good, node.failures) for node in read_results(path)}
    assert found == {("stg_x", "model"): (True, None), ("never_null_x", "test"): (False, 2), ("rows_are_conserved", "test"): (True, 1)}


def test_a_second_build_waits_and_then_gives_up(home: Home) -> None:
    with load(home), pytest.raises(Unavailable, match="another build"), load(home, wait_seconds=0.1):
        pass


def test_the_marts_answer_on_the_command_line(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Times are UTC in JSON, a wrong question is bad input."""
    store_rows(home, [search(0)])
    loaded(home)
    asked = ["--home", str(home.path), "warehouse", "query"]
    assert exit_code([*asked, "select window_start, dirty from raw.windows", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"window_start": START.isoformat(), "dirty": False}]
    assert exit_code([*asked, "delete from raw.windows"]) == 2
    assert exit_code([*asked, "select 1", "--target", "oracle"]) == 2
    assert "there are duckdb and postgres" in capsys.readouterr().err


def exit_code(words: list[str]) -> int:
    with pytest.raises(SystemExit) as ended:
        main(words)
    return int(ended.value.code or 0)
