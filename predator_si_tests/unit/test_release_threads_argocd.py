"""Traps that users of Argo CD, its image updater and Argo Rollouts met, each named after its thread: facts, and what we do about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from predator_si.errors import Refused
from predator_si.records import Deployment, HelmPatch, Rollback, ServingConfig
from predator_si.release.argocd import ArgoCDDeployer
from predator_si.release.deny import SEED_DENY, DenyEntry, check_allowed, parse_deny
from predator_si.release.deploy import commit_patch
from predator_si.release.deployer import confirm_in_force
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import make_patch, promote_changes
from predator_si.release.release_file import parse_release, seed_release
from predator_si.release.rollback import rollback
from predator_si_tests.support.fake_argocd import NAME, TOKEN, TOKEN_ENV, FakeArgoCD

FILE, CYCLE = "release-local.yaml", "si_2026_11_23_001"
OLD, NEW, WEIGHTS = (f"sha256:{letter * 64}" for letter in "abd")
ARGOCD = Path(__file__).resolve().parents[2] / "deploy" / "argocd"


class Ground:
    """A seeded repository, Argo CD in front of a cluster that runs what is live, and our client."""

    def __init__(self, path: Path, **argocd: Any) -> None:
        GitOpsRepo.init_bare(path / "gitops.git", {FILE: seed_release(ServingConfig(model=OLD, depth=20), "local"), "deny.yaml": SEED_DENY})
        self.repo = GitOpsRepo(path / "gitops.git", path / "work")
        self.repo.sync()
        self.server = FakeArgoCD(GitOpsRepo(self.repo.url, path / "controller"), **argocd)

    def client(self, **more: Any) -> ArgoCDDeployer:
        told: dict[str, Any] = {"repository": self.repo.url, "branch": "main", "contour": "local", "token_env": TOKEN_ENV, "project": "search"}
        times = {"interval": 0.02, "request_seconds": 20.0, "stuck": 0.2, "degraded": 0.2}
        return ArgoCDDeployer(self.server.address, NAME, self.repo.includes, **told | times | more)

    def release(self) -> HelmPatch:
        changes = promote_changes(ServingConfig(model=NEW, depth=20))
        patch = make_patch(self.repo.show(FILE), changes, cycle_id=CYCLE, stage="promote", file=FILE, base_commit=self.repo.head())
        return commit_patch(self.repo, patch, "deploy: new")

    def take_back(self, patch: HelmPatch, timeout: float = 60.0) -> Rollback:
        entry = DenyEntry(digest=NEW, source_digest=WEIGHTS, cycle=CYCLE, reason="NDCG -0.2", at=datetime(2026, 11, 23, tzinfo=UTC))
        client = self.client()

        def asked(digest: str, commit: str) -> Deployment:
            return confirm_in_force(client, commit, lambda _: self.served(digest, commit), timeout=timeout, rollback=True)

        return rollback(self.repo, patch, [entry], "NDCG -0.2", asked)

    def served(self, digest: str, commit: str) -> Deployment:
        """What the cluster's pods say: the model of what is live."""
        champion = parse_release(self.server.live[FILE], FILE).reranker.champion if self.server.live else None
        return Deployment(
            cycle_id=CYCLE, stage="rollback", commit=commit, expected_digest=digest, served_digest=champion, confirmed=champion == digest,
            seconds=0.0, reason=f"the champion is {champion}", created_at=datetime(2026, 11, 23, tzinfo=UTC),
        )  # fmt: skip

    def post(self, what: str, body: Mapping[str, Any]) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.post(f"{self.server.address}/api/v1/applications/{NAME}/{what}", json=body, headers=headers, trust_env=False, timeout=20)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ground]:
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    return lambda **argocd: Ground(tmp_path, **argocd)


def test_argo_cd_2441_9570_18072_application_go_2284_a_rollback_under_automated_sync_is_a_commit(start: Callable[..., Ground]) -> None:
    """The server refuses its own rollback under automated sync; the only way back is Git."""
    ground = start()
    with ground.server:
        patch = ground.release()
        assert ground.client().sync(patch.commit or "", timeout=60).in_force
        refused = ground.post("rollback", {"id": 0})
        assert (refused.status_code, refused.json()["code"]) == (400, 9) and "auto-sync is enabled" in refused.json()["message"]
        ours = len(ground.server.asked)
        done = ground.take_back(patch)
        assert (done.verified, done.to_digest) == (True, OLD)
        assert all(asked.startswith("GET") for asked in ground.server.asked[ours:])


def test_application_go_2254_a_sync_of_another_revision_is_never_asked(start: Callable[..., Ground]) -> None:
    """Under automated sync the server refuses a sync to any other revision than the branch's; we wait for the branch instead."""
    ground = start()
    with ground.server:
        commit = ground.release().commit or ""
        refused = ground.post("sync", {"revision": commit})
        assert refused.status_code == 400 and "auto-sync currently set to main" in refused.json()["message"]
        assert ground.client().sync(commit, timeout=60).in_force


def test_argo_cd_10367_a_sync_right_after_the_commit_does_not_race_the_controllers_own(start: Callable[..., Ground]) -> None:
    """``/sync`` beside automated sync made old and new pods flap; we only refresh, and the controller syncs once."""
    ground = start()
    with ground.server:
        ground.server.reconcile()
        before = len(ground.server.status["history"])
        assert ground.client().sync(ground.release().commit or "", timeout=60).in_force
        assert len(ground.server.status["history"]) == before + 1
        assert {asked.split()[0] for asked in ground.server.asked} == {"GET"}


@pytest.mark.parametrize("refresh", [True, False])
def test_argo_cd_11494_a_failing_sync_that_is_retried_does_not_keep_the_revert_out(start: Callable[..., Ground], refresh: bool) -> None:
    """With ``retry.refresh`` the next try takes the newest commit (PR #23038); where it is not set, we end the operation."""
    ground = start(retry_refresh=refresh)
    with ground.server:
        ground.server.reconcile()
        ground.server.faults_now.refuses = lambda files: "admission webhook denied the request" if NEW in files[FILE].split("candidate")[0] else None
        ground.server.faults_now.retried = True
        patch = ground.release()
        late = ground.client(stuck=600.0).sync(patch.commit or "", timeout=0.6)
        assert late.state == "late" and "admission webhook denied" in late.reason
        if not refresh:  # an operation that was ended does not keep anything waiting: begin one again, as a controller with retries left would
            ground.server.status["operationState"] |= {"phase": "Running", "startedAt": "again", "retryCount": 1}
        done = ground.take_back(patch)
        assert (done.verified, done.to_digest) == (True, OLD)
        assert ground.server.status["sync"] == {"status": "Synced", "revision": done.commit}
        assert ("DELETE operation" in ground.server.asked) or refresh


def test_a_hung_sync_is_ended_so_that_the_revert_passes(start: Callable[..., Ground]) -> None:
    """A hook that waits for ever runs for ever; nothing newer is looked at meanwhile."""
    ground = start()
    with ground.server:
        ground.server.reconcile()
        ground.server.faults_now.stuck = "waiting for completion of hook batch/Job/warm-up"
        patch = ground.release()
        ground.server.reconcile()
        assert ground.server.status["operationState"]["phase"] == "Running"
        ground.server.faults_now.stuck = None
        done = ground.take_back(patch)
        assert done.verified and ground.server.asked.count("DELETE operation") == 1


def test_argo_cd_11713_degraded_alone_never_rolls_back_so_we_do(start: Callable[..., Ground]) -> None:
    ground = start()
    with ground.server:
        ground.server.reconcile()
        patch = ground.release()
        ground.server.faults_now.health = ["Degraded"]
        found = ground.client().sync(patch.commit or "", timeout=60)
        assert found.state == "refused" and "Degraded" in found.reason and "exceeded its progress deadline" in found.reason
        assert [entry["revision"] for entry in ground.server.status["history"]][-1] == patch.commit, "it stays where it is"
        told = confirm_in_force(ground.client(), patch.commit or "", lambda _: ground.served(NEW, "x"), timeout=60)
        assert not told.confirmed and told.served_digest == NEW, "the right digest in a degraded application is no release"
        ground.server.faults_now.health = []
        assert ground.take_back(patch).verified


def test_healthy_about_the_old_revision_is_no_news_of_ours(start: Callable[..., Ground]) -> None:
    """Right after a commit Argo CD is still Synced and Healthy, at the commit before."""
    ground = start()
    with ground.server:
        assert ground.client().sync(ground.repo.head(), timeout=60).in_force
        ground.server.faults_now.blind = True
        patch = ground.release()
        found = ground.client().sync(patch.commit or "", timeout=0.6)
        assert found.state == "late" and "Synced, Healthy" in found.reason and (patch.commit or "") not in found.reason.split("looked at")[1]
        ground.server.faults_now.blind = False
        assert ground.client().sync(patch.commit or "", timeout=60).in_force


def test_argocd_image_updater_1249_the_loop_does_not_undo_its_own_rollback(start: Callable[..., Ground]) -> None:
    """A deny list in the rollback's own commit names the model and its weights; neither is released again by anything automatic."""
    ground = start()
    with ground.server:
        patch = ground.release()
        done = ground.take_back(patch)
        ground.repo.sync()
        denied = parse_deny(ground.repo.show("deny.yaml", done.commit))
        for digests in ([NEW], [f"sha256:{'e' * 64}", WEIGHTS]):  # the same model, and another quantisation of its weights
            with pytest.raises(Refused, match=r"deny list.*NDCG -0\.2"):
                check_allowed(denied, digests)
        assert ground.repo.change(lambda files: files, "nothing") is None
        with pytest.raises(Refused, match="taken back"):
            commit_patch(ground.repo, patch, "deploy: new")


def test_argo_rollouts_faq_an_aborted_rollout_and_git_agree_again(start: Callable[..., Ground]) -> None:
    """After an abort the cluster runs N while Git says N+1, and Argo CD shows Degraded and does nothing more: our reverse patch takes Git to N, byte by byte
    on our keys, and leaves comments and other people's keys alone."""
    ground = start()
    with ground.server:
        ground.server.reconcile()
        before = ground.repo.show(FILE)
        patch = ground.release()
        ground.server.reconcile()
        ground.server.faults_now.health = ["Degraded"]
        ground.server.live = {**ground.server.live, FILE: before}  # the controller of Rollouts went back to the stable version by itself
        ground.repo.change(lambda files: {FILE: files[FILE].replace("replicas: 1", "replicas: 3  # by hand")}, "more replicas")
        ground.server.faults_now.health = []
        done = ground.take_back(patch)
        assert done.verified
        assert ground.repo.show(FILE) == before.replace("replicas: 1", "replicas: 3  # by hand")


def test_argo_cd_23038_every_application_that_we_ship_retries_with_the_newest_commit() -> None:
    files = sorted(ARGOCD.glob("application-*.yaml"))
    assert files
    for file in files:
        policy = yaml.safe_load(file.read_text(encoding="utf-8"))["spec"]["syncPolicy"]
        assert policy["automated"] is not None and policy["automated"].get("enabled", True) is True, file.name
        assert policy["retry"]["refresh"] is True, file.name
