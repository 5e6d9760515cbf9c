"""What another contour's loop committed to our release file: a promotion to us, or its way back.

What belongs here: reading it from Git. What must not: watching it (``orchestration.steps.arrive``).
"""

from __future__ import annotations

from typing import Any

from predator_si.records import HelmPatch, Record, ServingConfig
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import make_patch
from predator_si.release.release_file import owned_values, parse_release
from predator_si.release.trailers import trailer

_LOOKED_AT = 50
_FIELDS = ["%H", "%P", *(trailer(name) for name in ("Contour", "Cycle", "Stage", "Source", "Policy", "Approved-By")), "%s"]


class ChampionChange(Record):
    """The commit that made the present champion of a release file the champion."""

    commit: str
    parent: str
    contour: str | None
    """Whose loop committed it; null: a person, or a loop of before this was said."""
    cycle_id: str | None
    """In that loop's own counting."""
    stage: str | None
    source: str | None
    """The cycle that the promotion rests on, in that loop's own counting."""
    policy: str
    approved_by: str | None
    subject: str
    before: ServingConfig
    after: ServingConfig


def champion_change(repo: GitOpsRepo, file: str) -> ChampionChange | None:
    """The newest commit that changed the champion of ``file``; null where none of the newest fifty did (the first of a repository changes nothing).

    Parameters
    ----------
    repo
        Fetched.
    """
    for commit, parents, contour, cycle_id, stage, source, policy, approved, subject in repo.log(file, _FIELDS, _LOOKED_AT, touching="champion:"):
        parent = parents.split(" ")[0]
        if not parent or not repo.files(parent, only=file):
            return None
        before, after = (parse_release(repo.show(file, rev), f"{file} in {rev[:12]}").serving for rev in (parent, commit))
        if before.model != after.model:
            words = {"contour": contour, "cycle_id": cycle_id, "stage": stage, "source": source, "approved_by": approved}
            facts: dict[str, Any] = {name: value or None for name, value in words.items()}
            return ChampionChange(commit=commit, parent=parent, policy=policy, subject=subject, before=before, after=after, **facts)
    return None


def patch_of(repo: GitOpsRepo, change: ChampionChange, file: str, cycle_id: str) -> HelmPatch:
    """The commit as a patch of our own cycle, with its reverse: what takes it back like any release of ours."""
    text = repo.show(file, change.parent)
    before, after = (owned_values(parse_release(repo.show(file, rev), file)) for rev in (change.parent, change.commit))
    changes = {key: value for key, value in after.items() if before[key] != value}
    patch = make_patch(text, changes, cycle_id=cycle_id, stage="promote", file=file, base_commit=change.parent)
    return patch.model_copy(update={"commit": change.commit})
