"""A chart in the GitOps repository, rendered by real Helm: by the embedded reconciler into a folder of objects, and behind Argo CD's API."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from predator_si.records import ServingConfig
from predator_si.release.argocd import ArgoCDDeployer
from predator_si.release.chart import file_names
from predator_si.release.deny import SEED_DENY
from predator_si.release.deploy import commit_patch
from predator_si.release.git import clean_environment
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.manifests import CommittedChart
from predator_si.release.patch import make_patch, make_rollback, trial_changes
from predator_si.release.reconcile import LocalReconciler
from predator_si.release.release_file import seed_release
from predator_si.search.models import ModelStore
from predator_si.settings import CHART
from predator_si_tests.support.charts import files, helm
from predator_si_tests.support.fake_argocd import NAME, TOKEN, TOKEN_ENV, FakeArgoCD, chart_render

FILE, CYCLE = "release-local.yaml", "si_2026_11_23_001"


def add_model(home: Path, name: str) -> str:
    folder = home / "incoming" / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_text(name)
    return ModelStore(home / "models").add(folder, name=name, backend="torch-fp32", max_length=128)


class Ground:
    """A home with two models, and a repository with the chart of this checkout in it."""

    def __init__(self, path: Path) -> None:
        self.path, self.applied = path, path / "applied"
        self.old, self.new = add_model(path, "old"), add_model(path, "new")
        seed = path / "seed"
        shutil.copytree(CHART, seed / "charts" / "search")
        site = files("local")[file_names("local")[0]]
        (seed / file_names("local")[0]).write_text(site)
        (seed / FILE).write_text(seed_release(ServingConfig(model=self.old, depth=20), "local"))
        (seed / "deny.yaml").write_text(SEED_DENY)
        for words in (
            ["init", "-q", "-b", "main", "."],
            ["add", "-A"],
            ["commit", "-q", "-m", "seed"],
            ["clone", "-q", "--bare", ".", str(path / "gitops.git")],
        ):
            subprocess.run(["git", *words], cwd=seed, check=True, capture_output=True, env=clean_environment())
        self.repo = GitOpsRepo(path / "gitops.git", path / "work")
        self.repo.sync()
        self.chart = CommittedChart("charts/search", "local", helm)

    def reconciler(self) -> LocalReconciler:
        return LocalReconciler(self.repo.url, self.path / "reconcile", self.applied, "local", self.path / "models", chart=self.chart)

    def trial(self) -> Any:
        changes = trial_changes(ServingConfig(model=self.new, depth=20))
        return commit_patch(self.repo, make_patch(self.repo.show(FILE), changes, cycle_id=CYCLE, stage="trial", file=FILE), "trial")

    def objects(self) -> dict[str, Any]:
        return {path.name: yaml.safe_load(path.read_text()) for path in sorted((self.applied / "manifests").glob("*.yaml"))}


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    helm()  # skips where there is none
    return Ground(tmp_path)


def search(objects: dict[str, Any]) -> Any:
    return objects["deployment--predator-si--predator-si-search.yaml"]["spec"]["template"]["metadata"]["annotations"]


@pytest.mark.slow
def test_the_reconciler_renders_checks_prunes_and_heals(ground: Ground) -> None:
    reconciler = ground.reconciler()
    status = reconciler.tick()
    assert status.synced, status.error
    first = ground.objects()
    assert search(first)["predator.si/champion"] == ground.old and search(first)["predator.si/candidate"] == "none"
    assert not [name for name in first if "candidate" in name]

    trial = ground.trial()
    assert reconciler.tick().applied_revision == trial.commit
    tried = ground.objects()
    added = set(tried) - set(first)
    assert search(tried)["predator.si/candidate"] == ground.new and "deployment--predator-si--predator-si-search-candidate.yaml" in added

    # drift: changed, removed, put there by hand
    folder = ground.applied / "manifests"
    (folder / "deployment--predator-si--predator-si-search.yaml").write_text("replicas: 9\n")
    (folder / "service--predator-si--predator-si-search.yaml").unlink()
    (folder / "secret--predator-si--mine.yaml").write_text("kind: Secret\n")
    assert reconciler.tick().healed == 3 and ground.objects() == tried

    # values that the chart's schema refuses: seen, not applied, the last good objects stay
    site = file_names("local")[0]
    clone = ground.path / "person"
    for words in (["clone", "-q", ground.repo.url, str(clone)],):
        subprocess.run(["git", *words], check=True, capture_output=True, env=clean_environment())
    (clone / site).write_text("search: {minReplicas: many}\n")
    for words in (["commit", "-q", "-a", "-m", "by hand"], ["push", "-q", "origin", "HEAD:main"]):
        subprocess.run(["git", *words], cwd=clone, check=True, capture_output=True, env=clean_environment())
    status = reconciler.tick()
    assert not status.synced and "minReplicas" in str(status.error) and status.applied_revision == trial.commit
    assert ground.objects() == tried
    for words in (["revert", "--no-edit", "HEAD"], ["push", "-q", "origin", "HEAD:main"]):
        subprocess.run(["git", *words], cwd=clone, check=True, capture_output=True, env=clean_environment())

    # the trial ends: what it had brought is pruned
    ground.repo.sync()
    back = commit_patch(ground.repo, make_rollback(ground.repo.show(FILE), [trial]), "rollback")
    assert reconciler.tick().applied_revision == back.commit
    assert set(ground.objects()) == set(first)
    assert search(ground.objects())["predator.si/candidate"] == "none"


@pytest.mark.slow
def test_behind_argo_cd_the_same_chart_is_live(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    render = chart_render("charts/search", "local", helm)
    with FakeArgoCD(GitOpsRepo(ground.repo.url, ground.path / "controller"), render=render) as server:
        client = ArgoCDDeployer(server.address, NAME, ground.repo.includes, repository=ground.repo.url, branch="main", contour="local", token_env=TOKEN_ENV,
                                interval=0.05)  # fmt: skip
        trial = ground.trial()
        assert client.sync(trial.commit or "", timeout=300).in_force
        live = {Path(name).name: yaml.safe_load(text) for name, text in server.live.items()}
        assert search(live)["predator.si/candidate"] == ground.new


def test_without_helm_or_without_a_chart_the_last_good_state_stays(ground: Ground) -> None:
    from predator_si.errors import Missing

    assert ground.reconciler().tick().synced
    before = ground.objects()

    def away() -> Path:
        raise Missing("helm: no Helm 4 on PATH")

    ground.trial()
    for chart, said in ((CommittedChart("charts/search", "local", away), "no Helm 4"), (CommittedChart("charts/other", "local", helm), "charts/other")):
        ground.chart = chart
        (ground.applied / FILE).write_text("changed by hand\n")
        status = ground.reconciler().tick()
        assert status.healed == 1 and ground.old in (ground.applied / FILE).read_text()
        assert not status.synced and said in str(status.error)
        assert ground.objects() == before
