"""An older control database opens after an upgrade, a new one is what an upgraded one is, and an older program refuses today's."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
import sqlalchemy as sa

from predator_si.control import Control, schema
from predator_si.errors import BadInput
from predator_si.records import CycleState

OLD = Path(__file__).parents[1] / "support" / "control_v1.sql"
"""Written by the program of schema version 1."""
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def old_database(folder: Path) -> Path:
    path = folder / "control.db"
    with sqlite3.connect(path) as raw:
        raw.executescript(OLD.read_text())
    raw.close()
    return path


def shape(path: Path) -> dict[str, object]:
    """Tables, columns, types, keys and indexes, whoever made them."""
    engine = sa.create_engine(f"sqlite:///{path}")
    found: dict[str, object] = {}
    inspector = sa.inspect(engine)
    for name in inspector.get_table_names():
        columns = sorted((column["name"], str(column["type"]), column["nullable"], column["primary_key"]) for column in inspector.get_columns(name))
        indexes = sorted((str(index["name"]), tuple(index["column_names"]), index["unique"]) for index in inspector.get_indexes(name))
        found[name] = (columns, indexes)
    engine.dispose()
    return found


def test_a_home_of_version_1_opens_after_an_upgrade_with_all_it_held(tmp_path: Path) -> None:
    control = Control(old_database(tmp_path), clock=lambda: NOON)
    assert control.verify() == []
    assert [(cycle.cycle_id, cycle.state) for cycle in control.cycles()] == [
        ("si_2026_11_22_002", CycleState.WATCHING),
        ("si_2026_11_22_001", CycleState.REJECTED),
    ]
    assert control.kill_switch("local") and control.get_note("retention:day") == "2026-11-22" and control.sealed_openings("toy") == 1
    assert control.champion_changed("local", "sha256:" + "a" * 64, "a test") and control.champions("local")[0].since == NOON
    assert Control(tmp_path / "control.db").champions("local"), "the second opening finds it upgraded"


def test_an_upgraded_database_has_the_shape_of_a_new_one(tmp_path: Path) -> None:
    Control(old_database(tmp_path))
    Control(tmp_path / "new.db")
    assert shape(tmp_path / "control.db") == shape(tmp_path / "new.db")
    for path in (tmp_path / "control.db", tmp_path / "new.db"):
        with sqlite3.connect(path) as raw:
            assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("0003",)]
            assert raw.execute("SELECT version FROM schema_version").fetchall() == [(schema.SCHEMA_VERSION,)]


def test_all_steps_from_nothing_give_the_same_shape_again(tmp_path: Path) -> None:
    from predator_si.control import migrate

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'steps.db'}")
    with engine.begin() as connection:
        migrate.upgrade(connection)
    engine.dispose()
    Control(tmp_path / "new.db")
    assert shape(tmp_path / "steps.db") == shape(tmp_path / "new.db")


def test_an_upgrade_that_fails_leaves_the_old_database_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = old_database(tmp_path)
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE feature_flags (somebody TEXT)")  # the last table of the step cannot be made
    before = shape(path)
    with pytest.raises(Exception, match="feature_flags"):
        Control(path)
    after = shape(path)
    assert after == before
    with sqlite3.connect(path) as raw:
        assert raw.execute("SELECT version FROM schema_version").fetchall() == [(1,)]


def test_processes_that_open_an_old_home_at_once_upgrade_it_once(tmp_path: Path) -> None:
    path = old_database(tmp_path)
    code = f"from predator_si.control import Control; print(len(Control({str(path)!r}).cycles()))"
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False), range(3)))
    assert [one.stdout.strip() for one in done] == ["2", "2", "2"], [one.stderr for one in done]


def test_a_database_of_a_later_program_is_refused(tmp_path: Path) -> None:
    Control(tmp_path / "control.db")
    with sqlite3.connect(tmp_path / "control.db") as raw:
        raw.execute("UPDATE schema_version SET version = 99")
    with pytest.raises(BadInput, match="schema version 99"):
        Control(tmp_path / "control.db")


def test_opening_a_database_that_is_up_to_date_needs_no_alembic(tmp_path: Path) -> None:
    code = f"from predator_si.control import Control; Control({str(tmp_path / 'c.db')!r}); import sys; print('alembic' in sys.modules)"
    for _ in range(2):
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
