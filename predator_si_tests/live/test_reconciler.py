"""The GitOps lane with real processes: a reconciler that is killed and lied to, writers that race, a writer killed in the middle of its work."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from predator_si.records import Deployment, HelmPatch, ServingConfig
from predator_si.release.deny import SEED_DENY, DenyEntry, parse_deny
from predator_si.release.deploy import commit_patch
from predator_si.release.deployer import SyncStatus
from predator_si.release.git import clean_environment
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import make_patch, promote_changes
from predator_si.release.reconcile import LocalReconciler
from predator_si.release.release_file import parse_release, seed_release
from predator_si.release.rollback import rollback
from predator_si.search.models import ModelStore
from predator_si_tests.support.waiting import wait_until

pytestmark = pytest.mark.live
NAME = "release-local.yaml"
CYCLE = "si_2026_11_22_001"


class Home:
    """A home folder with two models, a seeded repository, a writer's clone and, where wanted, a reconciler process."""

    def __init__(self, path: Path) -> None:
        self.path, self.applied = path, path / "applied"
        self.store = ModelStore(path / "models")
        self.old, self.new = self.add_model("old"), self.add_model("new", source="sha256:" + "d" * 64)
        GitOpsRepo.init_bare(path / "gitops.git", {NAME: seed_release(ServingConfig(model=self.old, depth=20), "local"), "deny.yaml": SEED_DENY})
        self.repo = GitOpsRepo(path / "gitops.git", path / "gitops")
        self.repo.sync()
        self.process: subprocess.Popen[bytes] | None = None

    def add_model(self, weights: str, source: str | None = None) -> str:
        folder = self.path / f"made-{weights}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(weights.encode())
        return self.store.add(folder, name=weights, backend="torch-fp32", max_length=32, source_digest=source)

    def start(self) -> None:
        command = [sys.executable, "-m", "predator_si.release.reconcile", "--home", str(self.path), "--contour", "local", "--interval", "0.1"]
        self.process = subprocess.Popen(command, stderr=(self.path / "reconciler.log").open("ab"))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=20)
        self.process = None
        return code

    def status(self) -> SyncStatus:
        return SyncStatus.read(self.applied / "status.json")

    def wait(self, what: str, seconds: float = 30.0, **wanted: Any) -> SyncStatus:
        def true() -> bool:
            if not (self.applied / "status.json").exists():
                return False
            status = self.status()
            return all(getattr(status, name) == value for name, value in wanted.items())

        wait_until(true, seconds, what)
        return self.status()

    def edit(self, old: str, new: str) -> str:
        commit = self.repo.change(lambda files: {NAME: files[NAME].replace(old, new)}, "by hand")
        assert commit is not None
        return commit

    def release(self) -> Any:
        return parse_release((self.applied / NAME).read_text(), "applied")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path)
    yield made
    if made.process is not None:
        made.process.kill()
        made.process.wait(timeout=20)


@pytest.mark.slow
def test_the_process_follows_git_and_keeps_the_last_good_state(home: Home) -> None:
    home.start()
    first = home.wait("the first sync", synced=True, revision=home.repo.head())
    assert home.release().reranker.champion == home.old
    assert (home.applied / "deny.yaml").read_text() == SEED_DENY

    started = time.monotonic()
    good = home.edit("candidate: null  # the challenger on trial\n  candidateWeight: 0.0", f"candidate: {home.new}  # on trial\n  candidateWeight: 0.2")
    status = home.wait("the commit is applied", applied_revision=good, synced=True)
    assert time.monotonic() - started < 15
    assert (home.release().reranker.candidate, home.release().reranker.candidate_weight) == (home.new, 0.2)
    assert status.release_sha256 != first.release_sha256

    # malformed: refused with file, line and key; the service's file does not move
    bad = home.edit("depth: 20", "depth: 2000")
    status = home.wait("the bad commit is seen", revision=bad)
    assert (status.synced, status.applied_revision) == (False, good)
    assert "release-local.yaml in commit" in str(status.error)
    assert "line 7: reranker.depth" in str(status.error)
    assert home.release().reranker.depth == 20

    # drift is healed meanwhile, also a file that was removed, to the last good state
    (home.applied / NAME).write_text("reranker: {champion: hacked}\n")
    home.wait("the edited file is healed", healed=1)
    (home.applied / "deny.yaml").unlink()
    home.wait("the removed file is healed", healed=2)
    assert home.release().reranker.candidate == home.new
    assert (home.applied / "deny.yaml").read_text() == SEED_DENY

    # killed while the head is bad: the next process knows the last good state, and heals what happened in between
    home.stop(signal.SIGKILL)
    (home.applied / NAME).write_text("changed while nobody looked\n")
    home.start()
    status = home.wait("the new process has healed the file", healed=1)
    assert (status.applied_revision, status.synced) == (good, False)
    assert home.release().reranker.candidate == home.new

    # repaired: goes on by itself
    repaired = home.edit("depth: 2000", "depth: 12")
    home.wait("the repaired commit is applied", applied_revision=repaired, synced=True)
    assert home.release().reranker.depth == 12
    assert home.stop(signal.SIGTERM) == 0
    assert not list(home.applied.glob(".*")), "no partial files are left"


@pytest.mark.slow
def test_unknown_and_denied_models_and_a_repository_that_is_away(home: Home) -> None:
    home.start()
    good = home.wait("the first sync", synced=True).applied_revision
    unknown = home.edit(f"champion: {home.old}", "champion: sha256:" + "9" * 64)
    status = home.wait("the unknown model is seen", revision=unknown)
    assert (status.synced, status.applied_revision) == (False, good)
    assert "not in the model store" in str(status.error)

    # a model whose weights' digest is denied, not its own
    denied = home.repo.change(
        lambda files: {
            NAME: files[NAME].replace("sha256:" + "9" * 64, home.new),
            "deny.yaml": SEED_DENY.replace("[]", f"\n  - digest: sha256:{'d' * 64}\n    reason: bad weights\n    at: 2026-11-22T12:00:00Z"),
        },
        "by hand",
    )
    status = home.wait("the denied model is seen", revision=denied)
    assert (status.synced, status.applied_revision) == (False, good)
    assert "bad weights" in str(status.error)
    assert home.release().reranker.champion == home.old

    (home.path / "gitops.git").rename(home.path / "away.git")
    status = home.wait("the repository is missed", applied_revision=good, synced=False, revision=good)
    assert "cannot be read" in str(status.error)
    (home.path / "away.git").rename(home.path / "gitops.git")
    back = home.edit(home.new, home.old)
    home.wait("it goes on", applied_revision=back, synced=True)
    assert len(parse_deny((home.applied / "deny.yaml").read_text())) == 1
    assert home.stop(signal.SIGINT) == 0


def test_released_and_taken_back_through_git(home: Home) -> None:
    """The reconciler in this process: release, degrade, roll back; the denied model cannot be released again by anybody."""
    reconciler = LocalReconciler(home.path / "gitops.git", home.path / "reconcile", home.applied, "local", home.path / "models")
    assert reconciler.tick().synced
    patch = make_patch(
        home.repo.show(NAME), promote_changes(ServingConfig(model=home.new, depth=20)), cycle_id=CYCLE, stage="promote", file=NAME, base_commit=home.repo.head()
    )
    committed = commit_patch(home.repo, patch, "promote: new")
    assert reconciler.tick().applied_revision == committed.commit
    assert home.release().reranker.champion == home.new

    def served(digest: str, commit: str) -> Deployment:
        assert reconciler.tick().applied_revision == commit
        now = datetime.now(UTC)
        champion = home.release().reranker.champion
        return Deployment(
            cycle_id=CYCLE, stage="rollback", commit=commit, expected_digest=digest, served_digest=champion, confirmed=champion == digest,
            seconds=0.0, reason="applied", created_at=now,
        )  # fmt: skip

    entry = DenyEntry(digest=home.new, cycle=CYCLE, reason="NDCG -0.2", at=datetime.now(UTC))
    done = rollback(home.repo, committed, [entry], "NDCG -0.2 on 60 probes", served)
    assert (done.verified, done.to_digest) == (True, home.old)
    home.edit(home.old, home.new)
    status = reconciler.tick()
    assert not status.synced
    assert "deny list (NDCG -0.2)" in str(status.error)
    assert home.release().reranker.champion == home.old


_WRITER = """
import sys
from pathlib import Path
from predator_si.release.gitops import GitOpsRepo
url, work, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
repo = GitOpsRepo(url, work)
def one_more(files):
    number = int(files["release-local.yaml"].split("replicas: ")[1].split()[0])
    return {"release-local.yaml": files["release-local.yaml"].replace(f"replicas: {number}\\n", f"replicas: {number + 1}\\n")}
print("ready", flush=True)
for _ in range(count):
    print(repo.change(one_more, "one more", tries=60), flush=True)
"""


def _writer(url: Path, work: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WRITER, str(url), str(work), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def test_processes_that_push_at_once_lose_nothing(home: Home) -> None:
    writers = [_writer(home.path / "gitops.git", home.path / f"writer-{index}", 6) for index in range(3)]
    commits = [line for writer in writers for line in writer.communicate(timeout=120)[0].split()[1:]]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert len(set(commits)) == 18
    home.repo.sync()
    assert parse_release(home.repo.show(NAME), NAME).replicas == 19


@pytest.mark.slow
def test_a_writer_killed_in_the_middle_leaves_nothing_broken(home: Home) -> None:
    bare, work = home.path / "gitops.git", home.path / "killed"
    seen = 1
    dice = random.Random(4)
    for _ in range(8):
        writer = _writer(bare, work, 1000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        deadline = time.monotonic() + dice.uniform(0.0, 0.25)  # anywhere in a change: fetch, objects, push
        while time.monotonic() < deadline:
            pass
        os.killpg(writer.pid, signal.SIGKILL)  # git's own processes die with it
        writer.wait(timeout=20)
        writer.stdout.close()
        check = subprocess.run(["git", "fsck", "--strict"], cwd=bare, capture_output=True, text=True, env=clean_environment())
        assert check.returncode == 0, check.stderr
        home.repo.sync()
        replicas = int(home.repo.show(NAME).split("replicas: ")[1].split()[0])
        assert replicas >= seen
        seen = replicas
        for lock in (bare / "refs" / "heads" / "main.lock", bare / "HEAD.lock"):
            if lock.exists():  # killed inside the receiving git: what a writer does a minute later
                os.utime(lock, (time.time() - 3600, time.time() - 3600))
    survivor = GitOpsRepo(bare, work)  # the same clone, with whatever the dead left in it
    assert survivor.change(lambda files: {NAME: files[NAME].replace("depth: 20", "depth: 10")}, "after the crashes")
    assert parse_release(survivor.show(NAME).replace(f"replicas: {seen}\n", "replicas: 1\n"), NAME).reranker.depth == 10


def test_a_run_that_died_after_its_push_finds_its_commit(home: Home) -> None:
    patch = make_patch(home.repo.show(NAME), {"reranker.depth": 10}, cycle_id=CYCLE, stage="promote", file=NAME, base_commit=home.repo.head())
    script = (
        "import json, os, sys; from pathlib import Path\n"
        "from predator_si.records import HelmPatch; from predator_si.release.deploy import commit_patch; from predator_si.release.gitops import GitOpsRepo\n"
        "done = commit_patch(GitOpsRepo(sys.argv[1], Path(sys.argv[2])), HelmPatch.model_validate_json(sys.argv[3]), 'promote')\n"
        "print(done.commit, flush=True); os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", script, str(home.path / "gitops.git"), str(home.path / "gitops"), patch.model_dump_json()]
    died = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert died.returncode == -signal.SIGKILL
    resumed = commit_patch(home.repo, patch, "promote")
    assert isinstance(resumed, HelmPatch)
    assert resumed.commit == died.stdout.strip() == home.repo.sync()


def test_a_reconciler_that_cannot_work_says_why_in_one_line(home: Home) -> None:
    (home.path / "file").write_text("")
    command = [sys.executable, "-m", "predator_si.release.reconcile", "--home", str(home.path / "file")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "applied: cannot be made" in result.stderr


def test_the_status_is_plain_json(home: Home) -> None:
    reconciler = LocalReconciler(home.path / "gitops.git", home.path / "reconcile", home.applied, "local", home.path / "models")
    reconciler.tick()
    status = json.loads((home.applied / "status.json").read_text())
    assert {"revision", "applied_revision", "synced", "error", "at"} <= status.keys()
    assert status["synced"] is True
