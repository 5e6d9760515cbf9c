"""A patch of the release file and its reverse, on keys that the loop owns.

A patch is data (``records.HelmPatch``): what each key becomes and what it was. It is applied only where a key still has the value it was
made for, so that nobody's edit is overwritten unseen, neither on the way there nor on the way back.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from predator_si.errors import BadInput, Refused
from predator_si.records import HelmPatch, ServingConfig, utc_now
from predator_si.release.release_file import OWNED_KEYS, ReleaseFile, dump, load, owned_values, parse_release, set_value, validated

Stage = Literal["trial", "promote", "rollback"]
Mode = Literal["ab", "shadow", "interleave"]
_CANDIDATES_OWN = ("reranker.candidateDepth", "reranker.candidateFirstStage", "reranker.candidateEarlyExit", "index.candidateBuild")
_SAME_WEIGHT = 1e-6
"""The release file keeps six decimals."""


def trial_changes(challenger: ServingConfig, weight: float = 0.2, champion: ServingConfig | None = None, mode: Mode = "ab") -> dict[str, Any]:
    """Put a challenger on trial beside the champion with a ``weight`` share of the clients (mode ``shadow``: of the requests).

    Depth and fusion stay, unless they are what is tried: where the challenger was evaluated with others than ``champion``'s, its arm gets its own.
    The next mode, or the next step of a ramp, is ``step_changes``.
    """
    changes: dict[str, Any] = {"reranker.candidate": challenger.model, "reranker.candidateWeight": weight}
    if champion is not None and challenger.depth != champion.depth:
        changes["reranker.candidateDepth"] = challenger.depth
    if champion is not None and abs(challenger.fusion_weight - champion.fusion_weight) > _SAME_WEIGHT:
        changes["reranker.candidateFirstStage"] = round(challenger.fusion_weight, 6)
    if champion is not None and challenger.early_exit != champion.early_exit:
        changes["reranker.candidateEarlyExit"] = challenger.early_exit
    if champion is not None and challenger.index not in (None, champion.index):
        changes["index.candidateBuild"] = challenger.index
    if mode != "ab":
        changes["reranker.candidateMode"] = mode
    return changes


def step_changes(mode: Mode, weight: float) -> dict[str, Any]:
    """The next step of a trial that is on: another share of the clients, another mode, or both.

    A higher share in mode ``ab`` moves clients from champion to candidate only, never back.
    """
    return {"reranker.candidateMode": mode, "reranker.candidateWeight": weight}


def shadow_changes(previous: ServingConfig, champion: ServingConfig, share: float = 0.1) -> dict[str, Any]:
    """Keep the ``previous`` champion warm in shadow beside the one that took its place, with the settings that it served with.

    Part of the promotion's patch, so that a rollback takes it off as well.
    """
    weight = round(previous.fusion_weight, 6)
    return {
        "reranker.shadow": previous.model,
        "reranker.shadowShare": share,
        "reranker.shadowDepth": previous.depth if previous.depth != champion.depth else None,
        "reranker.shadowFirstStage": weight if abs(previous.fusion_weight - champion.fusion_weight) > _SAME_WEIGHT else None,
        "reranker.shadowEarlyExit": previous.early_exit if previous.early_exit != champion.early_exit else None,
    }


def end_shadow_changes() -> dict[str, Any]:
    """Let the previous champion go: the watch is over."""
    return dict.fromkeys(("reranker.shadow", "reranker.shadowDepth", "reranker.shadowFirstStage", "reranker.shadowEarlyExit"))


def promote_changes(challenger: ServingConfig, trial: HelmPatch | None = None) -> dict[str, Any]:
    """Make the challenger the champion, with the depth and fusion it was evaluated with, and end its trial.

    Parameters
    ----------
    trial
        The cycle's committed trial: settings that it gave the candidate alone are taken off.
    """
    own = [key for key in _CANDIDATES_OWN if trial is not None and key in trial.changes]
    mode = {"reranker.candidateMode": "ab"} if trial is not None else {}  # a later step may have changed it
    workers = {} if challenger.ingest_workers is None else {"ingest.workers": challenger.ingest_workers}
    index = {} if challenger.index is None else {"index.build": challenger.index}
    return {
        "reranker.champion": challenger.model,
        "reranker.candidate": None,
        "reranker.candidateWeight": 0.0,
        "reranker.depth": challenger.depth,
        "reranker.earlyExit": challenger.early_exit,
        "reranker.backend": "auto",
        "fusion.weights.rerank": round(1.0 - challenger.fusion_weight, 6),
        "fusion.weights.firstStage": round(challenger.fusion_weight, 6),
        **workers,
        **({} if challenger.replicas is None else {"replicas": challenger.replicas}),
        **index,
        **mode,
        **dict.fromkeys(own),
    }


def make_patch(
    text: str,
    changes: Mapping[str, Any],
    *,
    cycle_id: str,
    stage: Stage,
    file: str,
    base_commit: str | None = None,
    now: datetime | None = None,
) -> HelmPatch:
    """The patch that turns the release file ``text`` into one with ``changes``, with its reverse.

    Parameters
    ----------
    text
        The file as it stands.
    changes
        Dotted key -> new value; ``None`` is "no candidate". A key that has its value already stays in the patch: it was part of what was
        judged, and must not have moved when the patch is applied. The reverse holds the value in force, also where it was a default.

    Raises
    ------
    Refused
        A key that the loop does not own.
    BadInput
        The file is malformed, or a value is out of its bounds.
    """
    strange = sorted(set(changes) - OWNED_KEYS)
    if strange:
        raise Refused(f"{file}: the loop does not own {', '.join(strange)}. It owns {', '.join(sorted(OWNED_KEYS))}.")
    current = owned_values(parse_release(text, file))
    reverse = {key: current[key] for key in changes}
    patch = HelmPatch(cycle_id=cycle_id, stage=stage, file=file, changes=dict(changes), reverse=reverse, base_commit=base_commit, created_at=now or utc_now())
    apply_patch(text, patch)
    return patch


def apply_patch(text: str, patch: HelmPatch) -> str:
    """``text`` with the patch applied, comments kept; the same text when it is applied already.

    Raises
    ------
    Refused
        A key has neither the value that the patch was made for nor the one it sets: somebody changed it meanwhile. Both are named.
    BadInput
        The file is malformed before or after.
    """
    document, moved = load(text, patch.file), False
    values = owned_values(validated(ReleaseFile, document, patch.file))
    for key, target in patch.changes.items():
        if key not in values:
            raise Refused(f"{patch.file}: the loop does not own {key}. It owns {', '.join(sorted(OWNED_KEYS))}.")
        current = values[key]
        if same(current, target):
            continue
        if not same(current, patch.reverse.get(key)):
            raise Refused(
                f"{patch.file}: {key} is {_show(current)}, the patch of {patch.cycle_id} was made for {_show(patch.reverse.get(key))}: "
                "somebody changed it meanwhile. Evaluate again on the new state."
            )
        set_value(document, key, target)
        moved = True
    if not moved:
        return text
    result = dump(document)
    parse_release(result, f"{patch.file} after the patch of {patch.cycle_id}")
    return result


def rollback_changes(text: str, patches: Sequence[HelmPatch]) -> dict[str, Any]:
    """What brings the release file back to before ``patches``: dotted key -> value, only keys that differ.

    Parameters
    ----------
    text
        The file as it stands.
    patches
        Those of one cycle that were committed, oldest first: a trial and its promotion are undone together, or the way back of the
        promotion alone would lead into the trial.

    Raises
    ------
    Refused
        A key that a patch had changed has meanwhile got a value that is neither ours nor the one to restore. Both are named.
    BadInput
        No patches, or patches of different files or cycles.
    """
    if not patches or len({(patch.file, patch.cycle_id) for patch in patches}) != 1:
        raise BadInput("a rollback needs the committed patches of one cycle and one file.")
    file = patches[0].file
    values = owned_values(parse_release(text, file))
    changes: dict[str, Any] = {}
    for key, (target, ours) in _moved(patches).items():
        current = values.get(key)
        if same(current, target):
            continue
        if not any(same(current, value) for value in ours):
            raise Refused(
                f"{file}: {key} is {_show(current)}, cycle {patches[0].cycle_id} had set {_show(ours[-1])} and the way back is {_show(target)}: "
                "somebody changed it meanwhile. Set it by hand, or restore our value and roll back again."
            )
        changes[key] = target
    return changes


def back_again(text: str, patches: Sequence[HelmPatch]) -> list[str]:
    """Keys that hold a value of ``patches`` again after they were rolled back, and the champion where it is not the one to restore.

    Anything else belongs to whoever set it since: the next cycle's trial, a person.
    """
    values, moved = owned_values(parse_release(text, patches[0].file)), _moved(patches)
    if "reranker.candidate" in moved and values["reranker.candidate"] not in moved["reranker.candidate"][1]:
        moved = {key: known for key, known in moved.items() if "candidate" not in key}  # another's trial, which may have the same share
    return [
        key
        for key, (target, ours) in moved.items()
        if not same(values.get(key), target) and (key == "reranker.champion" or any(same(values.get(key), value) for value in ours))
    ]


def _moved(patches: Sequence[HelmPatch]) -> dict[str, tuple[Any, list[Any]]]:
    """Each key that the patches moved, with its value before the first of them and theirs. What they name without moving it is somebody else's business."""
    before: dict[str, tuple[Any, list[Any]]] = {}
    for patch in patches:
        for key, value in patch.changes.items():
            before.setdefault(key, (patch.reverse.get(key), []))[1].append(value)
    return {key: (target, ours) for key, (target, ours) in before.items() if not all(same(value, target) for value in ours)}


def make_rollback(text: str, patches: Sequence[HelmPatch], *, base_commit: str | None = None, now: datetime | None = None) -> HelmPatch:
    """``rollback_changes`` as a patch of stage ``rollback``; without changes when the file is back already."""
    changes = rollback_changes(text, patches)
    return make_patch(text, changes, cycle_id=patches[0].cycle_id, stage="rollback", file=patches[0].file, base_commit=base_commit, now=now)


def same(left: Any, right: Any) -> bool:
    """Whether two plain values mean the same; 1 and 1.0 do, 1 and true do not."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _show(value: Any) -> str:
    return "null" if value is None else str(value)


# --------------------------------------------------------------------------- as an artifact


def patch_name(stage: Stage) -> str:
    """File name of a stage's patch in the artifacts of its cycle: ``helm_patch.yaml`` is the promotion's."""
    return "helm_patch.yaml" if stage == "promote" else f"helm_patch-{stage}.yaml"


def save_patch(folder: Path, patch: HelmPatch) -> Path:
    """Write the patch with its reverse as YAML, atomically, also where two runs write it at once, and give the path."""
    stream = StringIO()
    yaml = YAML(typ="safe")
    yaml.default_flow_style = False
    yaml.dump(patch.model_dump(mode="json"), stream)
    path = Path(folder) / patch_name(patch.stage)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    partial.write_text(stream.getvalue(), encoding="utf-8")
    partial.replace(path)
    return path


def load_patch(folder: Path, stage: Stage) -> HelmPatch:
    """The patch that ``save_patch`` wrote.

    Raises
    ------
    BadInput
        There is none, or it cannot be read.
    """
    path = Path(folder) / patch_name(stage)
    try:
        return HelmPatch.model_validate(YAML(typ="safe").load(path.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; the {stage} patch of the cycle was expected here. Run its asset first.") from error
    except (YAMLError, ValidationError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not a patch ({str(error).splitlines()[0]}). Restore the file or run its asset again.") from error
