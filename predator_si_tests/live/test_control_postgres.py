"""The control database on a real PostgreSQL server: new, upgraded from version 1, and with many writers at once."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from predator_si.control import Control, migrate, schema
from predator_si.errors import PredatorError, Refused
from predator_si.records import Trigger
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
    assert control.gate_overrides("local") == {} and control.champion_changed("local", "sha256:" + "a" * 64, "deploy")


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
