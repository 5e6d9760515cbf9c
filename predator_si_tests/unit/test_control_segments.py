"""The ledger's sealed beginning: nothing is lost, whoever asks; a changed, swapped or missing file is found; a kill at any step loses nothing."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from predator_si.control import Control
from predator_si.control.pages import RecordQuery
from predator_si.control.segments import Segments
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.anchor import anchor_if_due
from predator_si.orchestration.steps.seal import seal_old_records
from predator_si.records import CycleState, LedgerRecord, Trigger
from predator_si.release.anchors import LedgerAnchors
from predator_si.release.gitops import GitOpsRepo
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=500)
TRIGGER = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.1, actions=(), reason="a drop")


class Aged(Loop):
    """A loop whose control database believes to live at another time."""

    when = NOW

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.control = Control(self.home.ensure().control_db, clock=lambda: self.when)


@pytest.fixture
def loop(settings: Settings) -> Aged:
    """Ten old records of a cycle that ended and of nobody, an old opening of the sealed set, then five of today; all anchored."""
    found = Aged(settings)
    GitOpsRepo.init_bare(found.home.gitops_bare, {"release-local.yaml": "a: 1\n"})
    found.when = LONG_AGO
    cycle = found.control.open_cycle("local", TRIGGER, "sensor", "an old drop").cycle_id
    found.control.open_sealed(cycle, "docs", "loop")
    for number in range(6):
        found.control.append("watch_check", "loop", cycle if number % 2 else None, f"old {number}", {"n": number})
    found.control.append("gold_set", "loop", cycle, "gold-1", {"alias": "gold-1"})
    found.control.transition(cycle, CycleState.REJECTED, "no gain", "loop")
    found.when = NOW
    for number in range(5):
        found.control.append("watch_check", "loop", None, f"new {number}", {"n": number})
    assert anchor_if_due(found, NOW) is not None
    return found


def everything(control: Control) -> dict[str, Any]:
    """All that anybody reads from the ledger."""
    cycle = control.cycles()[0].cycle_id
    return {
        "all": list(control.every_record()),
        "cycle": control.records(100, cycle_id=cycle),
        "last three": control.records(3),
        "after four": control.records(5, after_seq=4),
        "page": [control.page(4, before) for before in (None, 13, 9, 5, 2)],
        "gold": control.records_of("gold_set"),
        "search": control.search(RecordQuery(text="OLD", actor="lo"), 4, 8),
        "by time": control.search(RecordQuery(until=NOW, action="check"), 50),
        "hashes": [control.hash_at(seq) for seq in (0, 1, 7, 10, 11)],
        "openings": (control.sealed_openings("docs"), control.sealed_opening(cycle, "docs")),
    }


def without_sealing(found: dict[str, Any]) -> dict[str, Any]:
    return {name: [one for one in value if not isinstance(one, LedgerRecord) or one.action != "ledger_sealed"] if isinstance(value, list) else value
            for name, value in found.items() if name not in ("last three", "page")}  # fmt: skip


def test_whoever_asks_gets_the_same_before_and_after(loop: Aged) -> None:
    before, total = everything(loop.control), loop.control.count_records()
    segment = seal_old_records(loop, NOW, least=1)
    assert segment is not None and (segment.first_seq, segment.last_seq) == (1, 10)
    assert loop.control.base() == (10, segment.last_hash) and loop.control.count_records() == total + 1
    after = everything(loop.control)
    assert without_sealing(after) == without_sealing(before)
    assert after["page"][1:] == before["page"][1:] and [record.seq for record in after["last three"]] == [14, 15, 16]
    assert loop.control.verify() == loop.control.verify(full=True) == []
    assert seal_old_records(loop, NOW, least=1) is None, "there is nothing more that old"
    assert [line["seq"] for line in lines(loop.home.path / "ledger" / "1-10.jsonl.gz")] == list(range(1, 11))


def test_only_what_is_old_anchored_and_over_is_sealed(loop: Aged) -> None:
    assert loop.control.sealable(NOW - timedelta(days=400), up_to=15) == (1, 10)
    assert loop.control.sealable(NOW - timedelta(days=400), up_to=7) == (1, 7), "not what no anchor holds"
    assert loop.control.sealable(NOW - timedelta(days=600), up_to=15) is None
    assert seal_old_records(loop, NOW) is None, "too few for a file"
    loop.when = LONG_AGO + timedelta(days=1)
    other = Control(loop.home.path / "other.db", clock=lambda: LONG_AGO)
    other.append("x", "y")
    other.open_cycle("local", TRIGGER, "sensor", "still active")
    other.append("x", "y")
    assert other.sealable(NOW, up_to=3) == (1, 1), "not a record of a cycle that is active"


@pytest.mark.parametrize("step", ["write_segment", "append", "write", "drop_sealed"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_at_any_step_loses_nothing(loop: Aged, step: str, when: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = without_sealing(everything(loop.control))
    owner: Any = {"write_segment": Segments, "append": Control, "write": LedgerAnchors, "drop_sealed": Segments}[step]
    real = getattr(owner, step)

    def killed(*arguments: Any, **more: Any) -> Any:
        if when == "after":
            real(*arguments, **more)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(owner, step, killed)
        with pytest.raises(KeyboardInterrupt):
            seal_old_records(loop, NOW, least=1)
    again = Loop(loop.settings).control
    assert again.verify(full=True) == [] and without_sealing(everything(again)) == expected
    seal_old_records(loop, NOW, least=1)
    assert again.base()[0] == 10 and again.verify(full=True) == [] and without_sealing(everything(again)) == expected


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


def packed(records: list[dict[str, Any]]) -> bytes:
    return gzip.compress("".join(json.dumps(one, sort_keys=True) + "\n" for one in records).encode(), mtime=0)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "was changed"),
        (lambda path: path.write_bytes(packed([line | {"reason": "nothing"} for line in lines(path)])), "was changed"),
    ],
)
def test_a_file_that_is_gone_or_was_changed_is_found(loop: Aged, damage: Any, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    seal_old_records(loop, NOW, least=1)
    cli = CommandLine(loop.home.path, capsys)
    assert cli("audit", "verify", "--full", "--json").code == 0
    damage(loop.home.path / "ledger" / "1-10.jsonl.gz")
    found = cli("audit", "verify", "--json")
    assert found.code == 1 and any(said in problem for problem in found.json["problems"]), found.json


def test_a_file_and_its_row_that_were_rewritten_together_are_found_by_the_anchor(loop: Aged, capsys: pytest.CaptureFixture[str]) -> None:
    import sqlite3

    from predator_si.control import ledger_hash
    from predator_si.control.segments import read_segment, sha256_of

    seal_old_records(loop, NOW, least=1)
    path = loop.home.path / "ledger" / "1-10.jsonl.gz"
    records = list(read_segment(path))
    records[3] = records[3].model_copy(update={"reason": "nothing happened"})
    records[3] = records[3].model_copy(update={"hash": ledger_hash(records[3])})
    path.write_bytes(packed([record.model_dump(mode="json") for record in records]))
    with sqlite3.connect(loop.home.control_db) as raw:
        raw.execute("DROP TRIGGER segments_never_change")
        raw.execute("UPDATE ledger_segments SET sha256 = ?", (sha256_of(path),))
    raw.close()
    cli = CommandLine(loop.home.path, capsys)
    assert any("is not the one that was anchored" in problem for problem in cli("audit", "verify", "--json").json["problems"])
    full = cli("audit", "verify", "--full", "--json").json["problems"]
    assert any("does not follow record 4" in problem for problem in full)


def test_two_segments_in_each_others_place_are_found(loop: Aged) -> None:
    seal_old_records(loop, NOW, least=1)
    later = NOW + timedelta(days=500)
    loop.when = later
    loop.control.append("rollback", "loop", None, "x", {})
    anchor_if_due(loop, later)
    second = seal_old_records(loop, later, least=1)
    assert second is not None and second.first_seq == 11 and loop.control.verify(full=True) == []
    folder = loop.home.path / "ledger"
    one, two = (folder / segment.file for segment in loop.control.segments())
    swapped = one.read_bytes(), two.read_bytes()
    one.write_bytes(swapped[1])
    two.write_bytes(swapped[0])
    assert len([problem for problem in loop.control.verify() if "was changed" in problem]) == 2


def test_a_backup_brings_the_files_along(loop: Aged, tmp_path: Path) -> None:
    from predator_si.backup import create_backup, restore_backup
    from predator_si.home import Home

    seal_old_records(loop, NOW, least=1)
    url, _ = create_backup(loop.home, str(tmp_path / "store"), "local")
    target = Home(tmp_path / "again")
    restore_backup(url, target, actor="test")
    again = Control(target.control_db)
    assert again.verify(full=True) == [] and [record.seq for record in again.every_record()] == list(range(1, 18))
