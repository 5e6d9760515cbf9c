"""Names that runs and assets carry: tag keys, lanes, the training pool, and the Kubernetes settings of a training pod.

What belongs here: constants with the reason for each. What must not: deciding which run gets which (``coordinator``), the queue limits
themselves (``dagster.yaml``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

import dagster as dg

ACTOR = "predator/actor"
"""Who asked for the run. The coordinator stamps it, since Dagster does not know users."""
CYCLE = "predator/cycle"
"""Id of the cycle that the run works for."""
LANE = "predator/lane"
"""What the run queue counts: the tag limits of ``dagster.yaml`` bound every lane, and together leave a place for a rollback."""
REASON = "predator/reason"
TRIGGER = "predator/trigger"
REFUSED = "predator/refused"
"""Why the coordinator cancelled the run before it began."""

GPU_POOL = "gpu_training"
"""Concurrency pool of the training asset. A pool that has never been used lets two runs through, so the lane limit holds beside it."""

K8S_CONFIG = "dagster-k8s/config"
"""The run tag from which ``K8sRunLauncher`` builds the pod of a run; on an asset it is read by ``k8s_job_executor`` only."""


class Lane(StrEnum):
    """Which queue limit a run falls under, from the costliest to the freest."""

    TRAIN = "train"
    """Trains: one at a time, on the GPU where there is one."""
    CYCLE = "cycle"
    """Every other step of a cycle: one at a time."""
    ROLLBACK = "rollback"
    """Takes a release back: one at a time, and the kill switch does not stop it."""
    WATCH = "watch"
    """Judges a release: never queued behind a cycle, and the kill switch does not stop it."""
    UPKEEP = "upkeep"
    """Takes up to an hour and yields: marts, A/A, reports, backups, old history. One at a time; the kill switch stops nothing that has assets here."""
    OBSERVE = "observe"
    """The tick: changes nothing, so nothing stops it, and nothing that takes long stands before it."""

    @property
    def tags(self) -> dict[str, str]:
        """The tag of a job in this lane."""
        return {LANE: self.value}


TRAINING_ASSETS = frozenset({dg.AssetKey(["cycle", "reranker_model"])})
"""What needs the GPU. Exports and their measurement run on the processor that serves."""
TICK_ASSETS = frozenset(dg.AssetKey(["observe", name]) for name in ("metrics_snapshot", "quality_report", "judgments"))
"""What ``observe_job`` makes. Whatever else stands outside cycles may take long."""


def lane_of(assets: Iterable[dg.AssetKey]) -> Lane:
    """The lane of a run that makes ``assets``: the costliest one among theirs; ``upkeep`` when it makes none."""
    found = {_lane(asset) for asset in assets}
    return next((lane for lane in Lane if lane in found), Lane.UPKEEP)


def _lane(asset: dg.AssetKey) -> Lane:
    if asset in TRAINING_ASSETS:
        return Lane.TRAIN
    if asset.path[0] != "cycle":
        return Lane.OBSERVE if asset in TICK_ASSETS else Lane.UPKEEP
    return {"rollback": Lane.ROLLBACK, "watch": Lane.WATCH}.get(asset.path[-1], Lane.CYCLE)


TRAINING_SECONDS = 4 * 3600
"""Longest life of a training pod. Kubernetes enforces it, so it holds even when the Dagster daemon, which knows a limit of its own, is dead."""


def gpu_k8s_config(count: int = 1, vendor: str = "nvidia") -> dict[str, Any]:
    """Kubernetes settings of a training run, in the shape of the ``dagster-k8s/config`` tag.

    Parameters
    ----------
    count
        GPUs of the pod, at least 1.
    vendor
        Prefix of the device plugin's names: ``nvidia`` or ``amd``.
    """
    device = f"{vendor}.com/gpu"
    return {
        # for extended resources the limit is the request: the scheduler finds a node that has one free
        "container_config": {"resources": {"limits": {device: str(count)}}},
        "pod_spec_config": {
            # the label of NVIDIA's GPU feature discovery; a cluster without it must label its GPU nodes so
            **({"node_selector": {f"{device}.present": "true"}} if vendor == "nvidia" else {}),
            # GPU pools are tainted with the device's name so that nothing else settles on expensive nodes
            "tolerations": [{"key": device, "operator": "Exists", "effect": "NoSchedule"}],
        },
        "job_spec_config": {
            "active_deadline_seconds": TRAINING_SECONDS,
            "ttl_seconds_after_finished": 86_400,  # a day to read the pod's log, then Kubernetes removes it
            "backoff_limit": 0,  # a second pod would train the same cycle behind Dagster's back
        },
        "merge_behavior": "DEEP",  # keeps the launcher's own processor and memory limits; SHALLOW would drop them
    }


GPU_K8S_CONFIG: dict[str, Any] = gpu_k8s_config()
"""One NVIDIA GPU. It belongs on the training job as ``tags`` and on the training asset as ``op_tags``; launches that lose job tags (the
UI's Materialize, backfills, conditions) get it from the coordinator."""


def with_gpu(own: str | None, config: Mapping[str, Any]) -> str:
    """The value of the ``dagster-k8s/config`` tag: what the run says itself (JSON in ``own``), with ``config`` laid over it.

    A launcher may ask for more (memory, a toleration, a label), never for less than training needs: no device, another deadline, and no merging with the
    launcher's own bounds (``merge_behavior``) all came from one tag. A null of its own is left out, since it would take a bound of ``dagster.yaml`` away.

    Raises
    ------
    ValueError
        ``own`` is not a JSON object.
    """
    mine = json.loads(own) if own else {}
    if not isinstance(mine, dict):
        raise ValueError(f"the tag {K8S_CONFIG} holds {own!r}, a JSON object is needed")
    fields = {key: {_snake(field): inner for field, inner in value.items()} if isinstance(value, Mapping) else value for key, value in mine.items()}
    return json.dumps(_laid_over(_without_nulls(fields), config), sort_keys=True)


def _snake(field: str) -> str:
    """dagster-k8s takes both spellings; two of one field in a tag would leave it to chance which holds."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", field).lower()


def _without_nulls(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _without_nulls(value) if isinstance(value, Mapping) else value for key, value in node.items() if value is not None}


def _laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _laid_over(below, value)
        elif isinstance(below, list) and isinstance(value, list):
            merged[key] = below + [entry for entry in value if entry not in below]
        else:
            merged[key] = value
    return merged
