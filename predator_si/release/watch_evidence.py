"""What the checks of a watch counted: kept in files without names beside the verdict, and counted again from them.

What belongs here: writing and counting. What must not: judging (``watch``), reading the service's events or asking it anything.

::

    <cycle>/watch/<n>-requests.parquet    status and milliseconds of each answer of the check's window
    <cycle>/watch/<n>-pairs.parquet       milliseconds of both models on the requests that both scored
    <cycle>/watch/<n>-probes.parquet      NDCG@10 of the released model and of the old champion on each probe query
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.errors import BadInput, Refused
from predator_si.experiment.evidence import file_sha256
from predator_si.release.watch import WatchCheck, WatchPlan

_FILE = re.compile(r"watch/\d+-(requests|pairs|probes)\.parquet")
_COLUMNS = {"requests": ("status", "latency_ms"), "pairs": ("served_ms", "shadow_ms"), "probes": ("query_id", "new", "old")}


def write_check(folder: Path, number: int, frames: dict[str, pl.DataFrame]) -> dict[str, str]:
    """Keep what a check counted.

    Parameters
    ----------
    number
        Of the check, from 1.
    frames
        ``requests``, and ``pairs`` and ``probes`` where there are some, with the columns that the module names.

    Returns
    -------
    dict[str, str]
        File name below ``folder`` -> sha256, for ``WatchCheck.evidence``.
    """
    (Path(folder) / "watch").mkdir(parents=True, exist_ok=True)
    found = {}
    for kind, frame in frames.items():
        name = f"watch/{number:03d}-{kind}.parquet"
        partial = Path(folder) / f"{name}.partial"
        frame.select(_COLUMNS[kind]).write_parquet(partial)
        partial.replace(Path(folder) / name)
        found[name] = file_sha256(Path(folder) / name)
    return found


def counts(frames: dict[str, pl.DataFrame], plan: WatchPlan) -> dict[str, Any]:
    """The numbers of a check that come from counting: fields of ``WatchCheck``."""
    requests = frames["requests"]
    good = requests.filter(pl.col("status") < 500)["latency_ms"]
    found: dict[str, Any] = {
        "requests": requests.height,
        "failures": int((requests["status"] >= 500).sum()) if requests.height else 0,
        "slow": int((good > plan.p95_limit_ms).sum()) if plan.p95_limit_ms is not None else None,
        "p95_ms": float(good.quantile(0.95, "higher") or 0.0) if good.len() else None,
    }
    if "pairs" in frames:
        logs = (frames["pairs"]["served_ms"] / frames["pairs"]["shadow_ms"]).log()
        found |= {"pairs": logs.len(), "log_ratio_sum": float(logs.sum()), "log_ratio_squares": float((logs**2).sum())}
    if "probes" in frames:
        found["probes"] = {query_id: new - old for query_id, new, old in frames["probes"].iter_rows()}
    return found


def count_again(folder: Path, plan: WatchPlan, check: WatchCheck) -> WatchCheck:
    """A check with its numbers counted again from its files; itself where an earlier version kept none.

    Raises
    ------
    BadInput
        It names a file that is no evidence of a watch, or one that cannot be read.
    Refused
        A file is not the one that was counted.
    """
    if not check.evidence:
        return check
    frames = {}
    for name, sha256 in check.evidence.items():
        kind = _FILE.fullmatch(name)
        if kind is None:
            raise BadInput(f"{folder}: the watch names {name!r} as evidence, which is none. Watch again.")
        path = Path(folder) / name
        if file_sha256(path) != sha256:
            raise Refused(f"{path} is not the file that the watch counted (its sha256 differs). Restore it.")
        try:
            frames[kind[1]] = pl.read_parquet(path, columns=list(_COLUMNS[kind[1]]))
        except (pl.exceptions.PolarsError, OSError) as error:
            raise BadInput(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}). Restore it.") from error
    if "requests" not in frames:
        raise BadInput(f"{folder}: the watch's evidence is {sorted(check.evidence)}; its requests were expected. Watch again.")
    return WatchCheck.model_validate(check.model_dump() | counts(frames, plan))
