"""A branch changed through Git: races redone, nothing outside the allowlist, no commit twice, leftovers of the dead cleared away."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.release.git import AUTHOR, clean_environment
from predator_si.release.gitops import GitOpsRepo

NAME = "release-local.yaml"
CYCLE = "si_2026_11_22_001"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, env=clean_environment()).stdout.strip()


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    GitOpsRepo.init_bare(tmp_path / "gitops.git", {NAME: "n: 0\n", "deny.yaml": "denied: []\n", "values.yaml": "policy: ours to keep\n"})
    return tmp_path / "gitops.git"


@pytest.fixture
def repo(bare: Path, tmp_path: Path) -> GitOpsRepo:
    return GitOpsRepo(bare, tmp_path / "work")


def put(**texts: str):
    names = {"release": NAME, "deny": "deny.yaml"}
    return lambda files: {names[name]: text for name, text in texts.items()}


def test_a_change_is_one_commit_by_the_bot_that_keeps_all_else(repo: GitOpsRepo, bare: Path) -> None:
    before = repo.sync()
    commit = repo.change(put(release="n: 1\n", deny="denied: [1]\n"), "trial: x at 20%\n\nNDCG +0.04 [0.02, 0.06]")
    assert commit == repo.head() == git(bare, "rev-parse", "main") != before
    told = git(bare, "log", "--format=%an <%ae>|%cn|%P|%B", "-1", "main")
    assert told.startswith(f"{AUTHOR[0]} <{AUTHOR[1]}>|{AUTHOR[0]}|{before}|trial: x at 20%\n\nNDCG +0.04 [0.02, 0.06]\n\nPredator-Change: ")
    assert git(bare, "diff", "--name-only", before, "main").split() == ["deny.yaml", NAME]
    assert (repo.show(NAME), repo.show(NAME, before), repo.show("values.yaml")) == ("n: 1\n", "n: 0\n", "policy: ours to keep\n")
    assert repo.files() == {NAME: "n: 1\n", "deny.yaml": "denied: [1]\n"}
    assert git(bare, "fsck", "--strict") == ""


def test_no_change_is_no_commit(repo: GitOpsRepo) -> None:
    before = repo.sync()
    assert repo.change(put(release="n: 0\n"), "same") is None
    assert repo.change(lambda files: {}, "nothing") is None
    assert repo.sync() == before


@pytest.mark.parametrize(
    "path", ["values.yaml", "release-local.yml", "charts/release-local.yaml", ".gitmodules", "release-../x.yaml", "Release-local.yaml", "deny.yaml/x", ""]
)
def test_a_path_outside_the_allowlist_is_refused_and_nothing_is_committed(repo: GitOpsRepo, path: str) -> None:
    before = repo.sync()
    with pytest.raises(Refused, match="may change"):
        repo.change(lambda files: {NAME: "n: 1\n", path: "x"}, "sneaky")
    assert repo.sync() == before


def test_a_refusal_inside_the_change_commits_nothing(repo: GitOpsRepo) -> None:
    def refuse(files: Mapping[str, str]) -> Mapping[str, str]:
        raise Refused("conflict")

    before = repo.sync()
    with pytest.raises(Refused, match="conflict"):
        repo.change(refuse, "x")
    assert repo.sync() == before


def test_a_lost_push_race_is_redone_on_the_new_head(repo: GitOpsRepo, bare: Path, tmp_path: Path) -> None:
    other, seen = GitOpsRepo(bare, tmp_path / "other"), []

    def change(files: Mapping[str, str]) -> Mapping[str, str]:
        seen.append(files["deny.yaml"])
        if len(seen) <= 2:  # another writer pushes between our fetch and our push, twice
            other.change(put(deny=f"denied: [{len(seen)}]\n"), "other")
        return {NAME: "n: 1\n"}

    commit = repo.change(change, "ours")
    assert seen == ["denied: []\n", "denied: [1]\n", "denied: [2]\n"]
    assert repo.files(commit) == {NAME: "n: 1\n", "deny.yaml": "denied: [2]\n"}
    assert git(bare, "log", "--format=%s", "main").split() == ["ours", "other", "other", "seed:", "the", "machine-owned", "files"]


def test_a_race_that_never_ends_gives_up_with_a_reason(repo: GitOpsRepo, bare: Path, tmp_path: Path) -> None:
    other, count = GitOpsRepo(bare, tmp_path / "other"), iter(range(99))

    def change(files: Mapping[str, str]) -> Mapping[str, str]:
        other.change(put(deny=f"denied: [{next(count)}]\n"), "other")
        return {NAME: "n: 1\n"}

    with pytest.raises(Unavailable, match=r"rejected 3 times.*fetch first"):
        repo.change(change, "ours", tries=3)


def test_writers_at_once_all_get_in_exactly_once(bare: Path, tmp_path: Path) -> None:
    failures: list[Exception] = []

    def write(writer: int) -> None:
        try:
            mine = GitOpsRepo(bare, tmp_path / ("shared" if writer < 2 else f"own-{writer}"))  # two share a clone, two have their own
            for _ in range(3):
                mine.change(lambda files: {NAME: f"n: {int(files[NAME].split()[1]) + 1}\n"}, "the same words in the same second", tries=40)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert git(bare, "show", f"main:{NAME}") == "n: 12"
    assert git(bare, "rev-list", "--count", "main") == "13"


def test_a_stage_of_a_cycle_is_committed_once(repo: GitOpsRepo, bare: Path, tmp_path: Path) -> None:
    commit = repo.change(put(release="n: 1\n"), "trial", cycle_id=CYCLE, stage="trial")
    again = GitOpsRepo(bare, tmp_path / "after-the-crash").change(put(release="n: 2\n"), "trial", cycle_id=CYCLE, stage="trial")
    assert again == commit
    assert repo.sync() == commit
    promote = repo.change(put(release="n: 3\n"), "promote", cycle_id=CYCLE, stage="promote")
    assert promote not in (None, commit)
    assert repo.find_commit(CYCLE, "trial") == commit
    assert repo.find_commit(CYCLE, "promote") == promote
    assert repo.find_commit(CYCLE, "rollback") is None
    assert repo.find_commit("si_2026_11_22_01", "trial") is None  # a prefix is another id
    assert git(bare, "log", "-1", "--format=%B", "main").startswith(f"promote\n\nPredator-Cycle: {CYCLE}\nPredator-Stage: promote\n")


def test_words_in_a_reason_are_no_trailers(repo: GitOpsRepo) -> None:
    repo.sync()
    repo.change(put(release="n: 1\n"), f"trial\n\nPredator-Cycle: {CYCLE}\nPredator-Stage: promote", cycle_id="si_2026_11_22_002", stage="trial")
    assert repo.find_commit(CYCLE, "promote") is None
    with pytest.raises(BadInput):
        repo.change(put(release="n: 2\n"), "x", cycle_id=CYCLE)


def test_seeding_twice_keeps_what_is_there(repo: GitOpsRepo, bare: Path) -> None:
    commit = repo.change(put(release="n: 1\n"), "x")
    assert GitOpsRepo.init_bare(bare, {NAME: "n: 99\n"}) == commit
    assert repo.show(NAME) == "n: 1\n"


def test_settings_hooks_and_variables_of_the_machine_have_no_say(bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".gitconfig").write_text(
        "[user]\n name = mallory\n[core]\n autocrlf = true\n[commit]\n gpgsign = true\n[init]\n defaultBranch = other\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "mallory")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    repo = GitOpsRepo(bare, tmp_path / "work")
    hook = tmp_path / "work" / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    assert repo.change(put(release="n: 1\r\n# кінець рядка\r\n"), "x")
    assert git(bare, "log", "-1", "--format=%an %cn", "main") == "predator-si predator-si"
    assert repo.show(NAME) == "n: 1\r\n# кінець рядка\r\n"


def test_a_branch_that_was_rewritten_is_followed(repo: GitOpsRepo, bare: Path) -> None:
    first = repo.sync()
    repo.change(put(release="n: 1\n"), "x")
    git(bare, "update-ref", "refs/heads/main", first)
    assert repo.sync() == first


def test_locks_left_by_the_dead_are_cleared(repo: GitOpsRepo, bare: Path) -> None:
    repo.sync()
    for left in ("refs/predator/main.lock", "HEAD.lock", "config.lock"):
        (repo.work / left).parent.mkdir(parents=True, exist_ok=True)
        (repo.work / left).write_text("")
    assert repo.change(put(release="n: 1\n"), "x")
    for number, left in enumerate(("refs/heads/main.lock", "HEAD.lock"), start=2):  # git takes both for a push
        lock = bare / left
        lock.write_text("")
        with pytest.raises(Unavailable, match=r"\.lock|cannot lock ref"):  # may be alive: not ours to remove
            repo.change(put(release=f"n: {number}\n"), "x", tries=2)
        os.utime(lock, (time.time() - 3600, time.time() - 3600))
        assert repo.change(put(release=f"n: {number}\n"), "x")


def test_a_push_that_a_server_rule_refuses_is_not_tried_again(repo: GitOpsRepo, bare: Path) -> None:
    hook = bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho protected branch >&2\nexit 1\n")
    hook.chmod(0o755)
    calls = []
    with pytest.raises(Unavailable, match=r"refuses the push.*protected branch"):
        repo.change(lambda files: calls.append(1) or {NAME: "n: 1\n"}, "x")
    assert calls == [1]


def test_what_cannot_be_reached_or_used_is_named(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"nowhere\.git"):
        GitOpsRepo(tmp_path / "nowhere.git", tmp_path / "w1").sync()
    with pytest.raises(Unavailable, match="no branch other"):
        GitOpsRepo(bare, tmp_path / "w2", branch="other").sync()
    with pytest.raises(Missing, match="never fetched"):
        GitOpsRepo(bare, tmp_path / "w3").head()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot be used as a clone"):
        GitOpsRepo(bare, tmp_path / "file" / "w4")
    (tmp_path / "w5" / ".git").mkdir(parents=True)
    with pytest.raises(BadInput, match="somebody's checkout"):
        GitOpsRepo(bare, tmp_path / "w5")
    repo = GitOpsRepo(bare, tmp_path / "w6")
    repo.sync()
    with pytest.raises(Missing, match=r"release-edge\.yaml does not exist"):
        repo.show("release-edge.yaml")
    with pytest.raises(BadInput, match="not a commit id"):
        repo.files("main; rm -rf")


def test_a_file_that_is_not_text_or_not_a_file_is_not_read_as_one(repo: GitOpsRepo, bare: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(bare), "clone")
    clone = tmp_path / "clone"
    (clone / "release-latin.yaml").write_bytes("n: caf\xe9\n".encode("latin-1"))
    (clone / "deny.yaml").unlink()
    (clone / "deny.yaml").symlink_to("/etc/passwd")
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "odd")
    git(clone, "push", "-q", "origin", "HEAD:main")
    repo.sync()
    with pytest.raises(BadInput, match=r"release-latin\.yaml.*not UTF-8"):
        repo.files()
    with pytest.raises(Missing):
        repo.show("deny.yaml")
