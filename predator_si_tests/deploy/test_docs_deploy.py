"""Every command of docs/deploy.md is executed, in order, up to the cluster's door; those that talk to a cluster meet the fake one."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kubernetes", reason="could not import 'dagster_k8s")

from predator_si.api.tokens import Role, TokenFile
from predator_si.orchestration.loop import Loop
from predator_si.release.chart import find_kubectl, render_contour
from predator_si.release.chart_objects import complaints
from predator_si.settings import CHART, load_settings
from predator_si_tests.support.charts import helm
from predator_si_tests.support.fake_cluster import FakeCluster
from predator_si_tests.support.kube_store import Key, dig
from predator_si_tests.support.platform import prepare, word_model, write_toy_corpus

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash ?(\w*)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
NOT_HERE = {
    "settings": "addresses of an installation; the test has its own",
    "docker": "there is no Docker; the Dockerfiles' rules are tested in test_images.py",
    "up": "runs until Ctrl-C: live/test_up_edge.py starts and ends it; here the home is prepared as it leaves one",
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


def seed(folder: Path, contour: str) -> None:
    """What ``predator-si up`` leaves behind, as far as the commands look at it."""
    loop = Loop(load_settings(contour, home=folder, env={}))
    loop.home.ensure()
    prepare(loop, word_model(loop, "first", 1.0), corpus=write_toy_corpus(loop.home.corpus / "toy"))


PLATFORM = "registry.example.org/predator-si/platform@sha256:" + "1" * 64
RUNS = {"edge-oracle": "predator-si", "compute-nvidia": "predator-si-runs"}


@pytest.mark.slow
@pytest.mark.parametrize("contour", RUNS)
def test_the_page_from_its_first_command_to_its_last(tmp_path: Path, contour: str) -> None:
    fetched = helm().with_name("kubectl")  # comes with it, and is newer than what a distribution has
    kubectl = fetched if fetched.is_file() else find_kubectl()
    if kubectl is None:
        pytest.skip("helm: the package that carries it is for Linux on x86_64, and kubectl comes with it")
    seed(tmp_path / "seed", contour)
    subprocess.run(["git", "init", "-q", "--bare", str(tmp_path / "remote.git")], check=True)
    for name in ("pg-password", "argocd-token", "client-secret", "git-key", "known-hosts"):
        (tmp_path / name).write_text(f"{name} of a test")
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    with FakeCluster(tmp_path / "cluster", {PLATFORM: {}}) as cluster:
        cluster.add_namespace("argocd")
        cluster.add_node("one")
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
            "CONTOUR": contour, "NAMESPACE": "predator-si", "RUNS": RUNS[contour],
            "GITOPS": str(tmp_path / "remote.git"), "SEED": str(tmp_path / "seed"), "HOME": str(tmp_path),
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
        names = {space: {one["metadata"]["name"] for one in cluster.store.list("v1", "secrets", space)} for space in ("predator-si", RUNS[contour])}
        (application,) = cluster.store.list("argoproj.io/v1alpha1", "applications", "argocd")
        labels = [dig(one, "metadata.labels") or {} for one in cluster.store.list("v1", "namespaces") if one["metadata"]["name"] in names]
        claims = {space: cluster.store.list("v1", "persistentvolumeclaims", space) for space in names}
        verdict = cluster.store.get(Key("v1", "secrets", "predator-si", "predator-si-verdict-token"))
    of_runs = {"predator-si-postgresql", "predator-si-files", "predator-si-environment"}
    assert names[RUNS[contour]] >= of_runs and names["predator-si"] == of_runs | {"predator-si-auth-proxy", "predator-si-verdict-token"}
    assert contour == "edge-oracle" or names[RUNS[contour]] == of_runs, "the login's secret is nothing for runs"
    assert application["metadata"]["name"] == f"predator-si-{contour}" and application["spec"]["destination"]["namespace"] == "predator-si"
    assert len(labels) == len(names) and all(one["pod-security.kubernetes.io/enforce"] == "restricted" for one in labels)
    held = {
        name: subprocess.run(["git", "-C", str(tmp_path / "remote.git"), "show", f"main:{name}"], capture_output=True, text=True, check=True).stdout
        for name in ("deny.yaml", f"release-{contour}.yaml", f"site-{contour}.yaml")
    }
    objects = render_contour(helm(), CHART, contour, held)
    assert not list(complaints(objects, contour))
    assert not [one for one in objects if one["kind"] == "PersistentVolumeClaim"], "the page made it, and the chart leaves it alone"
    assert {space: [claim["metadata"]["name"] for claim in found] for space, found in claims.items()} == {key: ["predator-si-home"] for key in names}
    mounted = re.findall(r"claimName': '([^']+)|claim_name: ([^}\s]+)", str(objects))
    assert len(mounted) > 5 and {one or other for one, other in mounted} == {"predator-si-home"}
    tokens = TokenFile(tmp_path / "seed" / "api" / "tokens.json")
    found = tokens.verify(base64.b64decode(verdict["data"]["token"]).decode())
    assert found is not None and found.role is Role.VIEWER, "the very text, without a line's end"
    admin = tokens.verify((tmp_path / "admin-token").read_text().strip())
    assert admin is not None and admin.role is Role.ADMIN


def test_the_secrets_of_the_page_are_those_that_the_chart_names() -> None:
    values = (ROOT / "deploy" / "helm" / "predator-umbrella" / "values.yaml").read_text()
    for name in re.findall(r"^ *given \S+ (\S+)", TEXT, re.MULTILINE):
        assert name in values, name
    instance = (ROOT / "deploy" / "k8s" / "dagster.yaml").read_text()
    for name in re.findall(r"from-literal=(DAGSTER_PG_\w+)", TEXT):
        assert f"{{env: {name}}}" in instance
