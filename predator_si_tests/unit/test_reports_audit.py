"""The audit record of a cycle has CONTRACT.md's keys, its cost comes from where it is known, and an export can be verified from the file alone."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from predator_si.control import Control, chain_problems
from predator_si.records import CycleState, HelmPatch, LedgerRecord, utc_now
from predator_si.release.patch import save_patch
from predator_si.reports.audit import audit_record, export_ledger
from predator_si.reports.costs import MeteredWork, add_work, month_costs, recorded_costs
from predator_si_tests.support.platform import open_cycle


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path / "control.db")


def a_release(control: Control) -> str:
    cycle = open_cycle(control).cycle_id
    control.append("dataset_versioned", "loop", cycle, "aug: 12 examples", {"path": "x.dvc", "hash": "md5:abc"})
    control.transition(cycle, CycleState.PREPARED, "data", "loop")
    control.transition(cycle, CycleState.TRAINED, "trained", "loop", {"challenger": "sha256:new", "mlflow_run": "run7"})
    control.transition(cycle, CycleState.EVALUATED, "better", "loop", {"difference": {"estimate": 0.0412, "low": 0.01, "high": 0.07, "n": 90}})
    control.append("decision_promote", "loop", cycle, "all gates", {"verdict": "promote", "drill": False})
    control.append("approval", "olena", cycle, "fine", {"verdict": "promote"})
    control.append("patch_promote", "loop", cycle, "committed", {"commit": "c0ffee"})
    control.transition(cycle, CycleState.RELEASED, "serves", "loop", {"commit": "c0ffee"})
    return cycle


def test_the_contracts_keys(control: Control, tmp_path: Path):
    cycle = a_release(control)
    patch = HelmPatch(cycle_id=cycle, stage="promote", file="release-local.yaml", changes={"reranker.champion": "sha256:new"},
                      reverse={"reranker.champion": "sha256:old"}, created_at=utc_now())  # fmt: skip
    save_patch(tmp_path, patch)
    found = audit_record(control.cycle(cycle), control.records(100, cycle_id=cycle), tmp_path)
    keys = {"cycle_id", "timestamp", "environment", "trigger", "actions", "approver", "total_cost_usd", "outcome", "rollback_available"}
    assert set(found) == keys and set(found["trigger"]) == {"type", "value", "baseline"}
    assert (found["approver"], found["outcome"], found["rollback_available"], found["total_cost_usd"]) == ("olena", "released", True, None)
    by_type = {action["type"]: action for action in found["actions"]}
    assert [action["sequence"] for action in found["actions"]] == list(range(1, 10))
    assert all({"sequence", "type", "status", "duration_sec", "outputs"} <= set(action) for action in found["actions"])
    assert by_type["dataset_versioned"]["dvc_hash"] == "md5:abc" and by_type["cycle_trained"]["mlflow_run"] == "run7"
    assert by_type["cycle_evaluated"]["improvement"] == "+0.0412" and by_type["decision_promote"]["passed_gate"] is True
    assert by_type["patch_promote"]["revision"] == "c0ffee"
    assert by_type["patch_promote"]["rollback_plan"] == {"file": "release-local.yaml", "reverse": {"reranker.champion": "sha256:old"}}
    assert found["actions"][-1]["duration_sec"] is None and json.dumps(found)


def test_cost_comes_from_the_file_until_the_ledger_has_it_and_outlives_the_file(control: Control, tmp_path: Path):
    cycle = a_release(control)
    folder = tmp_path / cycle
    folder.mkdir()
    work = [MeteredWork(at=utc_now(), what="training", cpu_seconds=1800.0, gpu_seconds=900.0, seconds=900.0)]
    costs = add_work(None, cycle, work, vcpu_hour=0.04, gpu_hour=1.2, llm_usd=0.03)
    assert costs.total_cost_usd == pytest.approx(0.02 + 0.3 + 0.03) and costs.basis == "estimated"
    (folder / "costs.json").write_text(costs.to_json())
    records = control.records(100, cycle_id=cycle)
    assert audit_record(control.cycle(cycle), records, folder)["total_cost_usd"] == pytest.approx(0.35)
    control.append("cycle_cost", "loop", cycle, "0.35 USD", {"total_cost_usd": 0.35})
    records = control.records(100, cycle_id=cycle)
    assert audit_record(control.cycle(cycle), records, None)["total_cost_usd"] == pytest.approx(0.35)
    month = f"{utc_now():%Y-%m}"
    for recorded, folders in (({}, tmp_path), (recorded_costs(records), tmp_path / "gone")):
        assert month_costs(month, recorded, folders) == pytest.approx({cycle: 0.35})
    assert month_costs("2001-01", recorded_costs(records), tmp_path) == {}


def test_an_export_is_verified_from_the_file_alone(control: Control, tmp_path: Path):
    a_release(control)
    assert export_ledger(control.records(100), tmp_path / "l.jsonl", "jsonl") == (9, control.records(1)[0].hash)
    lines = (tmp_path / "l.jsonl").read_text().splitlines()
    read = [LedgerRecord.model_validate_json(line) for line in lines]
    assert chain_problems(read, control.head()) == []
    assert chain_problems([*read[:3], *read[4:]], control.head()) != []
    export_ledger(control.records(100), tmp_path / "l.parquet", "parquet")
    frame = pl.read_parquet(tmp_path / "l.parquet")
    assert frame["hash"].to_list() == [record.hash for record in read] and json.loads(frame["payload"][3])["mlflow_run"] == "run7"
