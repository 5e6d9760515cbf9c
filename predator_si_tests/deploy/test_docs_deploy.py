"""Every command of docs/deploy.md is executed, in order, up to the cluster's door; those that talk to a cluster meet the fake one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kubernetes", reason="could not import 'dagster_k8s")

from predator_si.orchestration.loop import Loop
from predator_si.release.chart import find_kubectl
from predator_si.settings import load_settings
from predator_si_tests.support.charts import helm
from predator_si_tests.support.fake_cluster import FakeCluster
from predator_si_tests.support.kube_store import dig
from predator_si_tests.support.platform import prepare, word_model, write_toy_corpus

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash ?(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
NOT_HERE = {
    "settings": "addresses of an installation; the test has its own",
    "docker": "there is no Docker; the Dockerfiles' rules are tested in test_images.py",
    "up": "runs until Ctrl-C: live/test_up.py starts and ends it; here the home is prepared as it leaves one",
    "copy": "needs exec in a pod that really runs",
}


def test_every_block_is_executed_or_says_why_not() -> None:
    kinds = [kind for kind, _ in BLOCKS]
    assert set(kinds) == {"", "cluster", *NOT_HERE}
    for kind in NOT_HERE:
        assert kinds.count(kind) == 1, "the list of what is not executed stays short"
    assert kinds.count("") >= 2 and kinds.count("cluster") >= 4
    assert all("kubectl" not in body for kind, body in BLOCKS if kind == "")
    assert all(line.startswith(("docker ", "export ")) for kind, body in BLOCKS if kind == "docker" for line in body.splitlines())


def seed(folder: Path) -> None:
    """What ``predator-si up`` leaves behind, as far as the commands look at it."""
    loop = Loop(load_settings("edge-oracle", home=folder, env={}))
    loop.home.ensure()
    prepare(loop, word_model(loop, "first", 1.0), corpus=write_toy_corpus(loop.home.corpus / "toy"))


@pytest.mark.slow
def test_the_page_from_its_first_command_to_its_last(tmp_path: Path) -> None:
    fetched = helm().with_name("kubectl")  # comes with it, and is newer than what a distribution has
    kubectl = fetched if fetched.is_file() else find_kubectl()
    if kubectl is None:
        pytest.skip("helm: the package that carries it is for Linux on x86_64, and kubectl comes with it")
    seed(tmp_path / "seed")
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "remote.git")], check=True)
    for name in ("pg-password", "argocd-token", "client-secret", "git-key", "known-hosts"):
        (tmp_path / name).write_text(f"{name} of a test")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    with FakeCluster(tmp_path / "cluster") as cluster:
        cluster.add_namespace("argocd")
        admin = str(cluster.kubeconfig())
        programs = tmp_path / "programs"
        programs.mkdir()
        # the fake serves no OpenAPI document, by which kubectl would check fields before it sends them; the fake itself checks them, strictly
        (programs / "kubectl").write_text(
            f'#!/bin/bash\nfor word in "$@"; do [ "$word" != apply ] || exec {kubectl} "$@" --validate=false; done\nexec {kubectl} "$@"\n'
        )
        (programs / "kubectl").chmod(0o755)
        environment = {
            **os.environ, "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "CONTOUR": "edge-oracle", "NAMESPACE": "predator-si", "GITOPS": str(tmp_path / "remote.git"), "SEED": str(tmp_path / "seed"), "HOME": str(tmp_path),
        }  # fmt: skip
        if fetched.is_file():
            environment["PREDATOR_SI_CACHE"] = str(fetched.parent.parent)  # nothing is fetched twice
        for kind, body in BLOCKS:
            if kind in NOT_HERE:
                continue
            reach = {"KUBECONFIG": admin if kind == "cluster" else str(tmp_path / "none")}
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", body], cwd=tmp_path, env=environment | reach, capture_output=True, text=True, timeout=500, check=False
            )
            assert done.returncode == 0, f"{body}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        names = {one["metadata"]["name"] for one in cluster.store.list("v1", "secrets", "predator-si")}
        (application,) = cluster.store.list("argoproj.io/v1alpha1", "applications", "argocd")
        labels = dig(cluster.store.list("v1", "namespaces", fields="metadata.name=predator-si")[0], "metadata.labels") or {}
    assert names == {"predator-si-postgresql", "predator-si-files", "predator-si-environment", "predator-si-auth-proxy"}
    assert application["spec"]["destination"]["namespace"] == "predator-si"
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    held = subprocess.run(["git", "-C", str(tmp_path / "remote.git"), "ls-tree", "--name-only", "main"], capture_output=True, text=True, check=True)
    assert {"deny.yaml", "release-edge-oracle.yaml", "site-edge-oracle.yaml"} <= set(held.stdout.split())


def test_the_secrets_of_the_page_are_those_that_the_chart_names() -> None:
    values = (ROOT / "deploy" / "helm" / "predator-umbrella" / "values.yaml").read_text()
    for name in re.findall(r"^given (\S+)", TEXT, re.MULTILINE):
        assert name in values, name
    instance = (ROOT / "deploy" / "k8s" / "dagster.yaml").read_text()
    for name in re.findall(r"from-literal=(DAGSTER_PG_\w+)", TEXT):
        assert f"{{env: {name}}}" in instance
