"""The way back: reverse patch and deny list in one commit, then the service's own word for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from predator_si.errors import BadInput, Missing, PredatorError, Refused
from predator_si.records import Deployment, HelmPatch, Rollback, utc_now
from predator_si.release.deny import DenyEntry, add_denied, find_denied, parse_deny
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import apply_patch, back_again, make_rollback
from predator_si.release.release_file import DENY_FILE, contour_of, parse_release

STAGE = "rollback"


def rollback(
    repo: GitOpsRepo,
    patches: HelmPatch | Sequence[HelmPatch],
    deny: Sequence[DenyEntry],
    reason: str,
    confirm: Callable[[str, str], Deployment],
    move_alias: Callable[[str], None] | None = None,
) -> Rollback:
    """Take back what ``patches`` brought.

    One commit holds the reverse of the patches, on the keys that are still ours, and the deny entries; so there is no moment in which the
    old model is back and the bad one may return. No lease, approval or kill switch is asked: this lane is always open. Repeating it makes
    no second commit.

    Parameters
    ----------
    repo
        The GitOps repository.
    patches
        The committed patches of one cycle, oldest first (its trial, its promotion).
    deny
        What must not come back; empty where a trial merely ended without a winner.
    reason
        Goes into the commit message: the check that failed, with its numbers.
    confirm
        ``confirm(digest, commit)`` asks the service whether ``digest`` is its champion again (``deploy.confirm``).
    move_alias
        Moves the registry's alias to the digest, once the service confirmed it. Git is the truth: a registry that does not answer is told
        in the record's reason and does not undo the rollback.

    Raises
    ------
    Refused
        A key was changed by somebody else meanwhile (both values are named), or a deny entry would forbid the model to return to.
    Unavailable
        The repository cannot be reached or refuses the push.
    """
    started = time.monotonic()
    several = [patches] if isinstance(patches, HelmPatch) else list(patches)
    if not several:
        raise BadInput("a rollback needs the committed patches of its cycle; there are none. If nothing was committed, nothing is to be taken back.")
    file, cycle_id = several[0].file, several[0].cycle_id

    def change(files: Mapping[str, str]) -> Mapping[str, str]:
        for path in (file, DENY_FILE):
            if path not in files:
                raise Missing(f"{path} does not exist on branch {repo.branch} of {repo.url}. Restore it from Git's history.")
        back = apply_patch(files[file], make_rollback(files[file], several))
        forbidden = add_denied(files[DENY_FILE], deny)
        target = parse_release(back, file).reranker.champion
        entry = find_denied(parse_deny(forbidden, contour=contour_of(file)), [target])
        if entry is not None:
            raise Refused(f"{file}: the model to return to, {target}, is on the deny list ({entry.reason}). Choose an older model by hand.")
        return {file: back, DENY_FILE: forbidden}

    message = f"rollback: {_short(_from(several))} is taken back\n\n{reason}\n\n" + "\n".join(
        f"Reverses {patch.commit or 'an unrecorded commit'}" for patch in several
    )
    made = repo.change(
        change,
        message,
        cycle_id=cycle_id,
        stage=STAGE,
        trailers={"Verdict": "rollback", "From": _from(several), "Denied": ", ".join(entry.digest for entry in deny) or "nothing"},
    )
    commit = made or repo.head()
    release = parse_release(repo.show(file), file)
    pending = back_again(repo.show(file), several)
    if pending:
        raise Refused(
            f"{file}: cycle {cycle_id} was rolled back by {commit[:12]}, and {', '.join(sorted(pending))} moved away from what it restored since. "
            "Somebody released it again; take that commit back by hand."
        )
    deployment = confirm(release.reranker.champion, commit)
    told = reason
    verified = deployment.confirmed and deployment.served_digest == release.reranker.champion
    if not verified:
        told += f"; NOT verified: {deployment.reason}"
    elif move_alias is not None:
        try:
            move_alias(release.reranker.champion)
        except PredatorError as error:
            told += f"; the alias was not moved: {error}"
    return Rollback(
        cycle_id=cycle_id,
        reason=told,
        from_digest=_from(several),
        to_digest=release.reranker.champion,
        commit=commit,
        verified=verified,
        seconds=time.monotonic() - started,
        denied=[digest for entry in deny for digest in (entry.digest, entry.source_digest) if digest is not None],
        created_at=utc_now(),
    )


def _from(patches: Sequence[HelmPatch]) -> str:
    """The model that the patches brought: the promoted one, or the one on trial."""
    for key in ("reranker.champion", "reranker.candidate"):
        for patch in reversed(patches):
            if patch.changes.get(key) is not None:
                return str(patch.changes[key])
    return str(next((patch.reverse["reranker.champion"] for patch in patches if "reranker.champion" in patch.reverse), "unchanged"))


def _short(digest: str) -> str:
    return digest[: len("sha256:") + 12]
