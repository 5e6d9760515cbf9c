"""Several ways back in a row, and a person's edit in between: nothing of anybody's is lost, and the model of the day is the right one."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predator_si.errors import Refused
from predator_si.records import Deployment, HelmPatch, ServingConfig
from predator_si.release.deny import SEED_DENY, DenyEntry, parse_deny
from predator_si.release.deploy import commit_patch
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import make_patch, promote_changes, trial_changes
from predator_si.release.release_file import parse_release, seed_release
from predator_si.release.rollback import rollback

FILE = "release-local.yaml"
MODELS = [f"sha256:{letter * 64}" for letter in "abcdef"]
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def _repo(path: Path) -> GitOpsRepo:
    GitOpsRepo.init_bare(path / "gitops.git", {FILE: seed_release(ServingConfig(model=MODELS[0], depth=20), "local"), "deny.yaml": SEED_DENY})
    repo = GitOpsRepo(path / "gitops.git", path / "work")
    repo.sync()
    return repo


def cycle(number: int) -> str:
    return f"si_2026_11_23_{number:03d}"


def release(repo: GitOpsRepo, number: int, *, trial: bool = True, **config: Any) -> list[HelmPatch]:
    challenger = ServingConfig(**{"model": MODELS[number], "depth": 20} | config)
    patches: list[HelmPatch] = []
    if trial:
        patches.append(commit_patch(repo, make_patch(repo.show(FILE), trial_changes(challenger), cycle_id=cycle(number), stage="trial", file=FILE), "trial"))
    changes = promote_changes(challenger, patches[0] if patches else None)
    return [*patches, commit_patch(repo, make_patch(repo.show(FILE), changes, cycle_id=cycle(number), stage="promote", file=FILE), "deploy")]


def take_back(repo: GitOpsRepo, number: int, patches: list[HelmPatch]) -> Any:
    def served(digest: str, commit: str) -> Deployment:
        champion = parse_release(repo.show(FILE, commit), FILE).reranker.champion
        return Deployment(cycle_id=cycle(number), stage="rollback", commit=commit, expected_digest=digest, served_digest=champion,
                          confirmed=champion == digest, seconds=0.0, reason="as committed", created_at=NOW)  # fmt: skip

    entry = DenyEntry(digest=MODELS[number], cycle=cycle(number), reason=f"cycle {number} was worse", at=NOW)
    return rollback(repo, patches, [entry], f"cycle {number} was worse", served)


def edit(repo: GitOpsRepo, old: str, new: str) -> None:
    assert repo.change(lambda files: {FILE: files[FILE].replace(old, new)}, "by hand")


def release_file(repo: GitOpsRepo) -> Any:
    return parse_release(repo.show(FILE), FILE)


def denied(repo: GitOpsRepo) -> list[str]:
    return [entry.digest for entry in parse_deny(repo.show("deny.yaml"))]


def test_two_rollbacks_in_a_row_with_a_persons_edit_in_between(tmp_path: Path) -> None:
    repo = _repo(tmp_path)
    start = repo.show(FILE)
    first, second = release(repo, 1), release(repo, 2)
    assert release_file(repo).reranker.champion == MODELS[2]
    assert take_back(repo, 2, second).to_digest == MODELS[1]
    edit(repo, "replicas: 1", "replicas: 4  # Black Friday, Olena")
    done = take_back(repo, 1, first)
    assert (done.verified, done.to_digest) == (True, MODELS[0])
    assert repo.show(FILE) == start.replace("replicas: 1", "replicas: 4  # Black Friday, Olena")
    assert denied(repo) == [MODELS[2], MODELS[1]]


def test_the_older_release_cannot_be_taken_back_under_the_newer_one(tmp_path: Path) -> None:
    repo = _repo(tmp_path)
    first, second = release(repo, 1), release(repo, 2)
    head = repo.head()
    with pytest.raises(Refused, match=r"reranker\.champion is sha256:c"):
        take_back(repo, 1, first)
    assert repo.sync() == head and denied(repo) == []
    assert take_back(repo, 2, second).verified and take_back(repo, 1, first).verified
    assert release_file(repo).reranker.champion == MODELS[0]


def test_the_same_rollback_twice_is_one_and_an_edit_after_it_stays(tmp_path: Path) -> None:
    repo = _repo(tmp_path)
    patches = release(repo, 1)
    first = take_back(repo, 1, patches)
    edit(repo, "workers: 1", "workers: 3")
    again = take_back(repo, 1, patches)
    assert (again.commit, again.verified) == (first.commit, True)
    assert release_file(repo).ingest.workers == 3 and denied(repo) == [MODELS[1]]


def test_a_persons_key_that_the_release_had_changed_is_theirs(tmp_path: Path) -> None:
    """They set the depth anew after the release did: the way back would overwrite it, so it is refused with both values, and nothing happens."""
    repo = _repo(tmp_path)
    patches = release(repo, 1, depth=30)
    edit(repo, "depth: 30", "depth: 12")
    head = repo.head()
    with pytest.raises(Refused, match=r"reranker\.depth is 12, cycle .* had set 30 and the way back is 20"):
        take_back(repo, 1, patches)
    assert repo.sync() == head
    edit(repo, "depth: 12", "depth: 20")  # theirs, taken back by them
    assert take_back(repo, 1, patches).verified


def test_a_persons_entry_on_the_deny_list_stays_with_its_comment(tmp_path: Path) -> None:
    repo = _repo(tmp_path)
    patches = release(repo, 1)
    theirs = f"denied:\n  # ask Olena before removing\n  - digest: {MODELS[5]}\n    reason: licence\n    at: 2026-11-01T00:00:00Z\n"
    assert repo.change(lambda files: {"deny.yaml": theirs}, "by hand")
    take_back(repo, 1, patches)
    assert denied(repo) == [MODELS[5], MODELS[1]]
    assert "# ask Olena before removing" in repo.show("deny.yaml")


def test_the_commits_tell_the_story_without_our_database(tmp_path: Path) -> None:
    repo = _repo(tmp_path)
    patches = release(repo, 1)
    done = take_back(repo, 1, patches)
    told = repo._git("log", "-1", "--format=%B", done.commit)
    assert told.startswith("rollback: sha256:bbbbbbbbbbbb is taken back\n\ncycle 1 was worse\n")
    for line in (f"Reverses {patches[0].commit}", f"Reverses {patches[1].commit}", f"Predator-Cycle: {cycle(1)}", "Predator-Stage: rollback",
                 "Predator-Verdict: rollback", f"Predator-From: {MODELS[1]}", f"Predator-Denied: {MODELS[1]}"):  # fmt: skip
        assert f"\n{line}\n" in told, line


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    depths=st.lists(st.integers(0, 200), min_size=1, max_size=3),
    trials=st.lists(st.booleans(), min_size=3, max_size=3),
    replicas=st.lists(st.integers(1, 20), min_size=3, max_size=3),
)
def test_any_stack_of_releases_is_undone_to_where_it_began(
    tmp_path_factory: pytest.TempPathFactory, depths: list[int], trials: list[bool], replicas: list[int]
) -> None:
    """Releases one over the other, each with its own depth, a person's replicas in between: the way back ends at the first text, with their last word."""
    repo = _repo(tmp_path_factory.mktemp("stack"))
    start, stack = repo.show(FILE), []

    def person(count: int) -> None:
        current = release_file(repo).replicas
        if current != count:
            edit(repo, f"replicas: {current}", f"replicas: {count}")

    for place, depth in enumerate(depths):
        stack.append((place + 1, release(repo, place + 1, trial=trials[place], depth=depth)))
        person(replicas[place])
    for number, patches in reversed(stack):
        assert take_back(repo, number, patches).to_digest == MODELS[number - 1]
    assert repo.show(FILE) == start.replace("replicas: 1", f"replicas: {release_file(repo).replicas}")
    assert denied(repo) == [MODELS[number] for number, _ in reversed(stack)]


def test_a_rollback_that_is_repeated_under_the_next_trial_is_the_same_one(tmp_path: Path) -> None:
    """The next trial has the same share; and what was released since, or put back by hand, is not called rolled back."""
    repo = _repo(tmp_path)
    first = release(repo, 1)
    commit = take_back(repo, 1, first).commit
    trial = make_patch(repo.show(FILE), trial_changes(ServingConfig(model=MODELS[2], depth=20)), cycle_id=cycle(2), stage="trial", file=FILE)
    commit_patch(repo, trial, "trial")
    again = take_back(repo, 1, first)
    assert (again.commit, again.to_digest, again.verified) == (commit, MODELS[0], True)
    assert release_file(repo).reranker.candidate == MODELS[2]
    edit(repo, MODELS[0], MODELS[3])
    with pytest.raises(Refused, match=r"reranker\.champion moved away"):
        take_back(repo, 1, first)
    edit(repo, MODELS[3], MODELS[1])
    with pytest.raises(Refused, match=r"reranker\.champion moved away"):
        take_back(repo, 1, first)
