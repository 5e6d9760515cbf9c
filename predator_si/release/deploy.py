"""Commit a patch, then believe only what the service says about itself."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from predator_si.errors import Missing, Refused
from predator_si.records import Decision, Deployment, HelmPatch, ServingConfig, utc_now
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import Mode, Stage, apply_patch, make_patch, same, step_changes
from predator_si.release.release_file import owned_values, parse_release

NO_CANDIDATE = "none"
"""``Deployment.expected_digest`` where the candidate is to be gone."""
_SAME = 1e-5
"""The release file keeps six decimals of a weight."""


def commit_patch(
    repo: GitOpsRepo, patch: HelmPatch, message: str, trailers: Mapping[str, str] | None = None, last_word: Callable[[], None] = lambda: None
) -> HelmPatch:
    """Commit and push ``patch`` and give it back with its commit.

    Safe to repeat: the commit carries the cycle and the stage as trailers, so a run that died between its push and its record finds the
    commit instead of making another one. When another writer pushes first, the patch is applied to their state, or refused there.

    Parameters
    ----------
    message
        Subject, and after a blank line the reason with its numbers.
    trailers
        As :func:`verdict_trailers` gives them.
    last_word
        Asked right before the commit is made, once the repository was read; what it raises stops it. A remote may have taken its time to answer.

    Raises
    ------
    Refused
        Somebody changed one of the keys since the patch was made; or this cycle's commit exists and its values are no longer in the file.
    Missing
        The repository has no such release file.
    Unavailable
        The repository cannot be reached or refuses the push.
    """
    applied: dict[str, bool] = {}

    def change(files: Mapping[str, str]) -> Mapping[str, str]:
        text = _release_text(repo, files, patch.file)
        new = apply_patch(text, patch)
        last_word()
        applied["already"] = new == text
        return {patch.file: new}

    base = repo.sync()
    commit = repo.change(change, message, cycle_id=patch.cycle_id, stage=patch.stage, trailers=trailers)
    if commit is None:  # the file says so already, by somebody else's commit
        return patch.model_copy(update={"commit": repo.head(), "base_commit": patch.base_commit or base})
    if not applied:  # found by its trailers
        files = repo.files()
        if apply_patch(_release_text(repo, files, patch.file), patch) != files[patch.file]:
            raise Refused(
                f"{patch.file}: cycle {patch.cycle_id} committed its {patch.stage} as {commit[:12]}, and its values are not in the file any more. "
                "It was taken back; open a new cycle."
            )
    return patch.model_copy(update={"commit": commit, "base_commit": patch.base_commit or base})


def evidence_hash(decision: Decision) -> str:
    """What a decision, and an approval of it, is about, as one sha256 (64 hex digits): the files behind the verdict, the verdict, both configurations."""
    said = {
        "evidence": decision.evidence,
        "verdict": decision.verdict.value,
        "champion": decision.champion.model_dump(mode="json"),
        "challenger": decision.challenger.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def verdict_trailers(decision: Decision) -> dict[str, str]:
    """What a commit says about the decision behind it: verdict, evidence, digests, who approved. ``git log`` alone tells the story, without our database."""
    found = {
        "Verdict": decision.verdict.value,
        "Policy": decision.policy,
        "Evidence": f"sha256:{evidence_hash(decision)}",
        "From": decision.champion.model,
        "To": decision.challenger.model,
        "Approved-By": decision.approved_by or ("" if decision.approval_required else "nobody had to"),
    }
    return {name: value for name, value in found.items() if value} | ({"Drill": "yes"} if decision.drill else {})


def commit_step(repo: GitOpsRepo, trial: HelmPatch, mode: Mode, share: float, message: str, number: int) -> HelmPatch:
    """Commit the next step of a trial that is on, and give its patch as if it had been committed so from the beginning: one reverse takes all steps back.

    Safe to repeat: the commit carries the step's number as a trailer.

    Parameters
    ----------
    trial
        The committed patch of the trial so far.
    number
        Of the step, from 2.

    Raises
    ------
    Refused
        Somebody changed one of the keys since.
    Unavailable
        The repository cannot be reached or refuses the push.
    """
    changes = step_changes(mode, share)
    first: dict[str, HelmPatch] = {}

    def change(files: Mapping[str, str]) -> Mapping[str, str]:
        text = _release_text(repo, files, trial.file)
        values = owned_values(parse_release(text, trial.file))
        moved = [key for key, value in trial.changes.items() if key in changes and not same(values[key], value) and not same(values[key], changes[key])]
        if moved:
            raise Refused(
                f"{trial.file}: {', '.join(moved)} of the trial of {trial.cycle_id} was changed by somebody else meanwhile. End the trial, or put it back."
            )
        first["patch"] = make_patch(text, changes, cycle_id=trial.cycle_id, stage="trial", file=trial.file)
        return {trial.file: apply_patch(text, first["patch"])}

    repo.sync()
    commit = repo.change(change, message, cycle_id=trial.cycle_id, stage=f"trial-{number}") or repo.head()
    before = {key: value for key, value in (first["patch"].reverse if first else changes).items() if key not in trial.reverse}
    return trial.model_copy(update={"changes": {**trial.changes, **changes}, "reverse": {**before, **trial.reverse}, "commit": commit})


def commit_changes(repo: GitOpsRepo, file: str, changes: Mapping[str, Any], message: str, cycle_id: str, stage: str) -> str:
    """Commit changes of owned keys that nothing has to take back, and give the commit; the present one where the file says so already. Safe to repeat.

    Raises
    ------
    Unavailable
        The repository cannot be reached or refuses the push.
    """

    def change(files: Mapping[str, str]) -> Mapping[str, str]:
        text = _release_text(repo, files, file)
        return {file: apply_patch(text, make_patch(text, changes, cycle_id=cycle_id, stage="trial", file=file))}

    repo.sync()
    return repo.change(change, message, cycle_id=cycle_id, stage=stage) or repo.head()


def _release_text(repo: GitOpsRepo, files: Mapping[str, str], path: str) -> str:
    if path not in files:
        raise Missing(f"{path} does not exist on branch {repo.branch} of {repo.url}. Seed the repository with it first.")
    return files[path]


def confirm(
    info_url: str,
    expected_digest: str | None,
    variant: Literal["champion", "candidate"] | None = None,
    timeout: float = 120.0,
    *,
    cycle_id: str,
    stage: Stage,
    commit: str,
    interval: float = 0.2,
    settings: ServingConfig | None = None,
) -> Deployment:
    """Ask ``GET /info`` until the service serves ``expected_digest``, or ``timeout`` seconds are over.

    The service computes its digests from the bytes it loaded. Nothing else counts here: not the commit, not the applied file.

    A release may change depth, fusion or workers and leave the model as it is; then the digest alone would be confirmed before anything happened.

    Parameters
    ----------
    info_url
        Address of ``/info``.
    expected_digest
        ``sha256:...``; ``None`` with ``variant="candidate"``: the candidate is to be gone.
    variant
        Whose digest; ``None`` asks the top-level ``model_sha``.
    settings
        Depth, fusion weight and workers that the service must report as well. A service that does not report one of them is not held to it.

    Returns
    -------
    Deployment
        ``confirmed`` false with the last answer as reason when it did not happen; ``seconds`` is the time from the call on.
    """
    import httpx

    started, served, reason = time.monotonic(), None, "the service was not asked"
    with httpx.Client(timeout=min(5.0, max(2.0, timeout))) as client:
        while True:
            try:
                response = client.get(info_url)
                response.raise_for_status()
                info = response.json()
                known, served, reason = _served(info, variant)
                differs = _differs(info, variant, settings) if known and settings is not None else None
                if differs is not None:
                    reason = differs
                elif known and served == expected_digest:
                    return _deployment(cycle_id, stage, commit, expected_digest, served, True, started, "the service reports it")
            except (httpx.HTTPError, ValueError) as error:
                served, reason = None, f"{info_url} does not answer as it should: {type(error).__name__}: {error}"
            if time.monotonic() - started + interval > timeout:
                break
            time.sleep(interval)
    late = f"not within {timeout:g} s: {reason}. Look at the service's log and at the reconciler's status.json."
    return _deployment(cycle_id, stage, commit, expected_digest, served, False, started, late)


def not_asked(expected_digest: str, *, cycle_id: str, stage: Stage, commit: str) -> Deployment:
    """What is known where the service is asked later, together with the commit that follows: nothing is confirmed."""
    return _deployment(cycle_id, stage, commit, expected_digest, None, False, time.monotonic(), "the service is asked with the commit that follows")


def _differs(info: Mapping[str, Any], variant: str | None, settings: ServingConfig) -> str | None:
    """Which reported setting is not the expected one, in words; null where none differs."""
    arm = info if variant is None else info["variants"][variant] or {}
    ingest = info.get("ingest")
    reported = {
        "depth": (arm.get("depth"), settings.depth),
        "fusion_weight": (arm.get("fusion_weight"), settings.fusion_weight),
        "early_exit": (arm.get("early_exit"), settings.early_exit),
        "replicas": (info.get("replicas"), settings.replicas),
        "ingest workers": (ingest.get("workers") if isinstance(ingest, Mapping) else None, settings.ingest_workers),
    }
    build = arm.get("index_build")
    if settings.index is not None and isinstance(build, str) and build != settings.index:
        return f"the service reports index build {build}, {settings.index} is expected"
    for name, (value, wanted) in reported.items():
        if isinstance(value, int | float) and wanted is not None and abs(value - wanted) > _SAME:
            return f"the service reports {name} {value:g}, {wanted:g} is expected"
    return None


def _served(info: Any, variant: str | None) -> tuple[bool, str | None, str]:
    """Whether the answer says what is served, the digest, and that in words."""
    if not isinstance(info, Mapping):
        return False, None, "/info is not a JSON object"
    release = info.get("release")
    complaint = f"; release file: {release['error']}" if isinstance(release, Mapping) and release.get("error") else ""
    if variant is None:
        digest = info.get("model_sha")
        return isinstance(digest, str), digest if isinstance(digest, str) else None, f"the service reports {digest}{complaint}"
    variants = info.get("variants")
    if not isinstance(variants, Mapping) or variant not in variants:
        return False, None, f"/info names no variant {variant}{complaint}"
    entry = variants[variant]
    if entry is None:
        return True, None, f"the service has no {variant}{complaint}"
    digest = entry.get("model_sha") if isinstance(entry, Mapping) else None
    return isinstance(digest, str), digest if isinstance(digest, str) else None, f"the {variant} is {digest}{complaint}"


def _deployment(cycle_id: str, stage: Stage, commit: str, expected: str | None, served: str | None, confirmed: bool, started: float, reason: str) -> Deployment:
    return Deployment(
        cycle_id=cycle_id,
        stage=stage,
        commit=commit,
        expected_digest=expected or NO_CANDIDATE,
        served_digest=served,
        confirmed=confirmed,
        seconds=time.monotonic() - started,
        reason=reason,
        created_at=utc_now(),
    )
