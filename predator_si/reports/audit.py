"""The audit record of a cycle (CONTRACT.md section 4): what was done, by whom, with which outputs, at what cost, and how it ended.

What belongs here: that one shape, for the REST API, the command line and exports alike. What must not: the ledger's chain (``control``).

The ledger says what happened; artifacts that lie beside it add the way back. A record is the same whether or not the artifacts still exist, but for these.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from predator_si.errors import BadInput, PredatorError
from predator_si.records import Cycle, CycleState, HelmPatch, LedgerRecord
from predator_si.reports.costs import RECORDED, read_costs

_GROUP = 5000
"""Rows of a Parquet file in memory at once."""
_BAD = frozenset({"step_failed", "cycle_failed", "cycle_cancelled", "cycle_expired", "run_failed", "aliases_behind", "gold_not_set"})
_REFUSED = frozenset({"cycle_rejected", "approval_refused", "approval_rejected"})
_APPROVED = frozenset({"approval", "approval_approved"})
_LIVE = frozenset({CycleState.RELEASED, CycleState.WATCHING, CycleState.STABLE})


def audit_record(cycle: Cycle, records: Sequence[LedgerRecord], folder: Path | None = None) -> dict[str, Any]:
    """The audit record of a cycle.

    Parameters
    ----------
    records
        The cycle's ledger records, oldest first.
    folder
        Its artifacts, where they still exist: patches with their reverse, the cost of a cycle that has not ended.

    Returns
    -------
    dict
        ``cycle_id, timestamp, environment, trigger{type, value, baseline}, actions[...], approver, total_cost_usd`` (null: never metered), ``outcome,
        rollback_available``.
    """
    plans = _rollback_plans(folder)
    actions = []
    for number, record in enumerate(records, 1):
        following = records[number].timestamp if number < len(records) else None
        actions.append(_action(number, record, None if following is None else round((following - record.timestamp).total_seconds(), 3), plans))
    return {
        "cycle_id": cycle.cycle_id,
        "timestamp": cycle.opened_at.isoformat(),
        "environment": cycle.contour,
        "trigger": {"type": cycle.trigger.type, "value": cycle.trigger.value, "baseline": cycle.trigger.baseline},
        "actions": actions,
        "approver": next((record.actor for record in reversed(records) if record.action in _APPROVED), None),
        "total_cost_usd": _cost(records, folder),
        "outcome": cycle.state.value,
        "rollback_available": cycle.state in _LIVE,
    }


def _action(number: int, record: LedgerRecord, seconds: float | None, plans: dict[str, dict[str, Any]]) -> dict[str, Any]:
    said = record.payload
    status = "failed" if record.action in _BAD else "refused" if record.action in _REFUSED else "done"
    found: dict[str, Any] = {
        "sequence": number,
        "type": record.action,
        "status": status,
        "duration_sec": seconds,
        "inputs": said.get("inputs"),
        "outputs": said,
        "cost_usd": said.get("cost_usd"),
        "actor": record.actor,
        "reason": record.reason,
        "ledger_seq": record.seq,
    }
    if record.action in ("step_done", "step_failed"):
        found["outputs"] = said.get("outputs")
    if record.action == "dataset_versioned":
        found["dvc_hash"] = said.get("hash")
    if record.action == "cycle_trained":
        found["mlflow_run"] = said.get("mlflow_run")
    if record.action == "cycle_evaluated" and isinstance(said.get("difference"), dict):
        found["improvement"] = f"{said['difference'].get('estimate', float('nan')):+.4f}"
    if record.action.startswith("decision_"):
        found["passed_gate"] = said.get("verdict") == "promote"
    if said.get("commit"):
        found["revision"] = said["commit"]
    stage = record.action.removeprefix("patch_")
    if record.action.startswith("patch_") and stage in plans:
        found["rollback_plan"] = plans[stage]
    return found


def _rollback_plans(folder: Path | None) -> dict[str, dict[str, Any]]:
    """Stage -> file and reverse patch of what the cycle committed."""
    import yaml

    found: dict[str, dict[str, Any]] = {}
    for stage, name in (("trial", "helm_patch-trial.yaml"), ("promote", "helm_patch.yaml")):
        path = folder / name if folder is not None else None
        if path is not None and path.is_file():
            try:
                patch = HelmPatch.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
            except (yaml.YAMLError, ValueError):
                continue  # a broken artifact is the report's to tell; the ledger's record stands without it
            found[stage] = {"file": patch.file, "reverse": patch.reverse}
    return found


def _cost(records: Iterable[LedgerRecord], folder: Path | None) -> float | None:
    known = [float(record.payload["total_cost_usd"]) for record in records if record.action == RECORDED]
    try:
        costs = read_costs(folder) if folder is not None else None
    except PredatorError:
        costs = None
    return max([*known, *([costs.total_cost_usd] if costs is not None else [])], default=None)


# --------------------------------------------------------------------------- export


def export_ledger(records: Iterable[LedgerRecord], path: Path, form: Literal["jsonl", "parquet"]) -> tuple[int, str | None]:
    """Write ledger records with their hashes; how many, and the hash of the last one. They pass through one by one, or in groups: a ledger may be long.

    A JSONL line is what the hash is of, with the hash: anybody can verify the chain from the file alone.

    Raises
    ------
    BadInput
        The file cannot be written.
    """
    count, last = 0, None

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal count, last
        for record in records:
            count, last = count + 1, record.hash
            yield record.model_dump(mode="json")

    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if form == "jsonl":
            with partial.open("w", encoding="utf-8") as stream:
                stream.writelines(json.dumps(row, sort_keys=True) + "\n" for row in rows())
        else:
            _write_parquet(rows(), partial)
        partial.replace(path)
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}). Name another file.") from error
    return count, last


def _write_parquet(rows: Iterator[dict[str, Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = ("timestamp", "action", "actor", "cycle_id", "reason", "payload", "previous_hash", "hash")
    schema = pa.schema([("seq", pa.int64()), *((name, pa.string()) for name in text)])
    with pq.ParquetWriter(path, schema) as writer:
        while group := [{**row, "payload": json.dumps(row["payload"], sort_keys=True)} for row in islice(rows, _GROUP)]:
            writer.write_table(pa.Table.from_pylist(group, schema=schema))


__all__ = ["audit_record", "export_ledger"]
