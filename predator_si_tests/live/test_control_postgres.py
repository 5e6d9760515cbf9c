"""The control database on a real PostgreSQL server: new, upgraded from version 1, and with many writers at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from predator_si.backup import create_backup, restore_backup
from predator_si.control import Control, migrate, schema
from predator_si.control.opening import open_control
from predator_si.errors import Missing, PredatorError, Refused, Unavailable
from predator_si.home import Home
from predator_si.orchestration.coordinator import kill_switch_refusal
from predator_si.records import Trigger
from predator_si_tests.support.api_ground import OPTIMIZER, ApiGround
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.postgres_server import ABSENT, PASSWORD, PostgresServer, postgres_is_here, postgres_server

pytestmark = [pytest.mark.live, pytest.mark.skipif(not postgres_is_here(), reason=ABSENT)]
TRIGGER = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.1, actions=(), reason="a drop")


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as found:
        yield found


def fresh(server: PostgresServer, name: str) -> str:
    with server.connect() as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql+psycopg://{server.user}:{quote(PASSWORD)}@127.0.0.1:{server.port}/{name}"


def test_cycles_approvals_overrides_champions_and_the_chain(server: PostgresServer) -> None:
    url = fresh(server, "whole")
    control = Control(url)
    cycle_id = control.open_cycle("local", TRIGGER, "sensor", "r").cycle_id
    control.ask_approval(cycle_id, "promote", "local", "e1", {"verdict": "promote"}, timedelta(days=3))
    control.override_gate("local", "ndcg_at_10", 0.7, "api:ann", "noise", old=None)
    with pytest.raises(Refused, match="overrode"):
        control.decide_approval(cycle_id, "approved", "cli:ann", "yes")
    control.decide_approval(cycle_id, "approved", "cli:bob", "yes")
    control.champion_changed("local", "sha256:" + "a" * 64, "deploy", cycle_id=cycle_id)
    control.set_feature_flag("local", "train", False, "cli:ann", "no GPU today")
    again = Control(url)
    assert again.approval(cycle_id).decision == "approved" and again.feature_flags("local")["train"].on is False  # type: ignore[union-attr]
    assert again.verify() == [] and len(again.records()) == 6
    with pytest.raises(sa.exc.IntegrityError), sa.create_engine(url).begin() as raw:
        raw.execute(schema.champions.insert().values(contour="local", digest="x", since="now", why="a second champion"))


def test_an_upgrade_from_version_1(server: PostgresServer) -> None:
    url = fresh(server, "older")
    with sa.create_engine(url).begin() as connection:
        migrate.upgrade(connection, migrate.BASE)
        connection.execute(sa.text("INSERT INTO schema_version VALUES (1)"))
        connection.execute(sa.text("DROP TABLE alembic_version"))
    control = Control(url)
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), sa.create_engine(url).begin() as raw:
        raw.execute(sa.text("TRUNCATE ledger"))
    assert control.gate_overrides("local") == {} and control.champion_changed("local", "sha256:" + "a" * 64, "deploy")


def test_the_server_refuses_to_change_the_ledger(server: PostgresServer) -> None:
    url = fresh(server, "appended")
    control = Control(url)
    for number in range(3):
        control.append("note", "test", payload={"n": number})
    for statement in (
        "UPDATE ledger SET reason = 'nicer' WHERE seq = 2",
        "DELETE FROM ledger WHERE seq = 3",
        "TRUNCATE ledger",
        "INSERT INTO ledger SELECT 0, timestamp, action, actor, cycle_id, reason, payload, previous_hash, hash FROM ledger WHERE seq = 1",
    ):
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), sa.create_engine(url).begin() as raw:
            raw.execute(sa.text(statement))
    with sa.create_engine(url).begin() as raw:  # its owner gave these rights away
        held = raw.execute(sa.text("SELECT privilege_type FROM information_schema.table_privileges WHERE table_name = 'ledger'")).scalars().all()
        raw.execute(sa.text("INSERT INTO ledger_segments VALUES (1, 2, 'a', 'b', 'c', 'd', 'e', 'f')"))
        assert raw.execute(sa.text("DELETE FROM ledger WHERE seq <= 2")).rowcount == 2, "a sealed prefix may go"
        assert raw.execute(sa.text("SELECT seq FROM ledger")).scalars().all() == [3]
    assert not {"UPDATE", "TRUNCATE"} & set(held) and "INSERT" in held


def test_many_writers_open_one_cycle_and_keep_the_chain_whole(server: PostgresServer) -> None:
    url = fresh(server, "crowd")
    Control(url)

    def work(number: int) -> bool:
        control = Control(url)
        control.append("note", f"writer {number}")
        try:
            control.open_cycle("local", TRIGGER, f"writer {number}", "r")
        except PredatorError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        opened = list(pool.map(work, range(16)))
    control = Control(url)
    assert sum(opened) == 1 and control.verify() == [] and len(control.records()) == 17


# --------------------------------------------------------------------------- a home whose control database it is


@pytest.fixture
def named(server: PostgresServer, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database that the environment names."""
    url = fresh(server, f"home_{abs(hash(request.node.name)) % 10**8}").replace("+psycopg", "")
    monkeypatch.setenv("PREDATOR_SI_CONTROL", url)
    return url


def test_a_home_keeps_its_ledger_there_and_another_home_may_not(named: str, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = CommandLine(home.path, capsys)
    assert cli("stop", "--reason", "freeze").code == 0
    assert not home.control_db.exists()
    with sa.create_engine(named.replace("postgresql", "postgresql+psycopg", 1)).connect() as raw:
        assert raw.execute(sa.text("SELECT action FROM ledger")).scalars().all() == ["kill_switch_on"]
    status = cli("status", "--json")
    assert status.json["kill_switch"] is True and PASSWORD not in status.out + status.err
    assert cli("audit", "verify", "--json").json["records"] == 1
    with pytest.raises(Refused, match="another home"):
        open_control(Home(tmp_path / "other").ensure())


def test_coordinator_api_and_alerts_ask_the_same_database(named: str, home: Home) -> None:
    ground = ApiGround(home)
    with ground.client() as client:
        assert client.post(f"{OPTIMIZER}/stop", json={"reason": "freeze"}).status_code == 200
        assert client.get(f"{OPTIMIZER}/status").json()["kill_switch"] is True
        assert client.get(f"{OPTIMIZER}/history").json()["history"][0]["action"]["type"] == "kill_switch_on"
    assert "kill switch" in str(kill_switch_refusal(ground.settings)) and not home.control_db.exists()
    open_control(home).set_kill_switch("local", False, "cli:ann", "go on")
    assert kill_switch_refusal(ground.settings) is None


def test_a_backup_says_where_the_ledger_is_and_a_restore_needs_it(named: str, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_control(home.ensure()).append("note", "test")
    url, manifest = create_backup(home, str(tmp_path / "store"), "local")
    assert manifest.control_outside is not None and PASSWORD not in manifest.to_json() and manifest.ledger_seq == 1
    monkeypatch.delenv("PREDATOR_SI_CONTROL")
    with pytest.raises(Missing, match="which is not in the backup"):
        restore_backup(url, Home(tmp_path / "again"), actor="test")
    monkeypatch.setenv("PREDATOR_SI_CONTROL", named)
    restore_backup(url, Home(tmp_path / "again"), actor="test")
    assert [record.action for record in open_control(Home(tmp_path / "again")).records()] == ["note", "home_restored"]


def test_old_records_are_sealed_out_of_it(named: str, home: Home) -> None:
    control = open_control(home.ensure())
    for number in range(5):
        control.append("note", "test", payload={"n": number})
    segment = control.write_segment(1, 3)
    control.drop_sealed(segment, "c" * 40)
    assert [record.seq for record in control.every_record()] == [1, 2, 3, 4, 5] and control.verify(full=True) == []


def test_a_writer_that_waits_too_long_is_told(named: str, home: Home) -> None:
    open_control(home.ensure())
    with sa.create_engine(named.replace("postgresql", "postgresql+psycopg", 1)).begin() as holder:
        holder.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": schema._ADVISORY_LOCK})
        with pytest.raises(Unavailable, match="still locked"):
            open_control(home, busy_seconds=0.2).append("note", "test")
