"""A ledger of a long life, each record of a cycle and cycles with their files: a page of history takes as long as on the first day.

10^5 records here; ``LONG_LEDGER_RECORDS=1000000`` makes it a million.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from predator_si.control import Control, ledger_hash
from predator_si.control.ledger import GENESIS, canonical_json, stamp
from predator_si.home import Home
from predator_si.orchestration.loop import Loop
from predator_si.records import HelmPatch, LedgerRecord, utc_now
from predator_si.release.patch import save_patch
from predator_si.reports.costs import MeteredWork, add_work
from predator_si_tests.support.api_ground import OPTIMIZER, ApiGround

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("LONG_LEDGER_RECORDS", "100000"))
PER_CYCLE = 20
NOW = utc_now()
ACTIONS = ("cycle_opened", "step_done", "decision_trial", "patch_trial", "deployment_trial", "trial_look", "cycle_rejected")
TRIGGER = '{"type":"ndcg_at_10_down","metric":"ndcg_at_10","value":0.4,"baseline":0.6,"delta":-0.2,"actions":[],"reason":"a drop"}'


def cycle_of(seq: int) -> str:
    """Every 20 records are a cycle's; 999 of them a day at most."""
    number = (seq - 1) // PER_CYCLE
    day = datetime(2016, 1, 1, tzinfo=UTC) + timedelta(days=number // 900)
    return f"si_{day:%Y_%m_%d}_{number % 900 + 1:03d}"


def rows(count: int, began: datetime) -> Iterator[tuple[object, ...]]:
    """A whole chain."""
    previous = GENESIS
    for seq in range(1, count + 1):
        at, action, cycle = began + timedelta(seconds=seq), ACTIONS[seq % len(ACTIONS)], cycle_of(seq)
        payload = {"n": seq, "commit": f"{seq:040x}", "digest": f"sha256:{seq:064x}", "difference": {"estimate": 0.01, "low": -0.01, "high": 0.03}}
        said = {"seq": seq, "action": action, "actor": "loop", "cycle_id": cycle, "reason": "as measured", "previous_hash": previous}
        previous_of, previous = previous, ledger_hash(LedgerRecord(**said, timestamp=at, payload=payload, hash=""))  # type: ignore[arg-type]
        yield seq, stamp(at), action, "loop", cycle, "as measured", canonical_json(payload, "a payload"), previous_of, previous


def fill(loop: Loop, count: int) -> Control:
    """A long life, written past the one-by-one way."""
    control = loop.control
    began = NOW - timedelta(seconds=count)
    with sqlite3.connect(loop.home.control_db) as connection:
        connection.executemany(
            "INSERT INTO ledger (seq, timestamp, action, actor, cycle_id, reason, payload, previous_hash, hash) VALUES (?,?,?,?,?,?,?,?,?)", rows(count, began)
        )
        connection.execute("INSERT INTO ledger_head (id, seq, hash) SELECT 1, seq, hash FROM ledger ORDER BY seq DESC LIMIT 1")
        opened = [(cycle_of(seq), TRIGGER, stamp(began), stamp(began), seq) for seq in range(1, count + 1, PER_CYCLE)]
        connection.executemany("INSERT INTO cycles VALUES (?, 'local', 'rejected', ?, ?, ?, 'no better', 'loop', ?)", opened)
    return control


def leave_files(loop: Loop, cycle_id: str) -> None:
    """What a cycle leaves: both patches, and its costs of a hundred stretches of work."""
    folder = loop.artifacts(cycle_id)
    for stage in ("trial", "promote"):
        changes = {"reranker.candidate": "sha256:" + "b" * 64, "reranker.trafficSplit": 0.1}
        told = {"cycle_id": cycle_id, "stage": stage, "file": "release-local.yaml", "changes": changes, "reverse": dict.fromkeys(changes)}
        save_patch(folder, HelmPatch.model_validate({**told, "created_at": utc_now()}))
    work = [MeteredWork(at=utc_now(), what="work", cpu_seconds=1, gpu_seconds=0, seconds=1)] * 100
    loop.save(cycle_id, "costs.json", add_work(None, cycle_id, work, vcpu_hour=0.04, gpu_hour=1.2, llm_usd=0.0))


def test_a_page_of_a_long_ledger_takes_a_fifth_of_a_second_at_most(home: Home) -> None:
    ground = ApiGround(home, prepared=False)
    control = fill(ground.loop, COUNT)
    assert control.count_records() == COUNT and len(control.cycles(500)) == 500
    assert sum(control.actions_since(NOW - timedelta(hours=1)).values()) == 3601
    cursors = [COUNT + 1, *(COUNT * share // 100 + 1 for share in (95, 75, 50, 25, 5)), 501]
    pages = dict.fromkeys((20, 200), cursors)
    for cycle_id in {cycle_of(seq) for cursor in cursors for seq in range(max(1, cursor - 200), cursor)}:
        leave_files(ground.loop, cycle_id)
    took: dict[int, list[float]] = {}
    with ground.client() as client:
        for limit, asked in pages.items():
            for cursor in asked:
                began = time.perf_counter()
                found = client.get(f"{OPTIMIZER}/history", params={"limit": limit, **({"cursor": cursor} if cursor <= COUNT else {})}).json()
                took.setdefault(limit, []).append(time.perf_counter() - began)
                assert found["total"] == COUNT and found["showing"] == limit and found["history"][0]["seq"] == cursor - 1
                assert found["history"][0]["audit"]["cycle_id"] == cycle_of(cursor - 1) and found["history"][0]["audit"]["total_cost_usd"] > 0
    for limit, seconds in took.items():
        print(f"history of {COUNT} records, pages of {limit}: {', '.join(f'{one * 1000:.0f}' for one in seconds)} ms")
    assert sorted(took[20])[0] < 0.2, took  # the quickest of its pages: others may want this machine, too
    with sqlite3.connect(home.control_db) as connection:
        plan = " ".join(row[3] for row in connection.execute("EXPLAIN QUERY PLAN SELECT * FROM ledger WHERE seq < 500 ORDER BY seq DESC LIMIT 20"))
    assert "SEARCH" in plan and "SCAN" not in plan and "TEMP B-TREE" not in plan, plan
