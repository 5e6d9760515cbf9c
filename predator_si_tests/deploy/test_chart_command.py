"""``predator-si chart``: what a person is told, and that nothing is applied that does not hold or was made up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from predator_si.cli.chart import _cluster
from predator_si.errors import Refused, Unavailable
from predator_si.release.chart import (
    apply_to_cluster,
    changes_in_cluster,
    committed_chart,
    current_context,
    difference,
    render_contour,
    running_chart,
    warnings_of,
)
from predator_si.release.gitops import GitOpsRepo
from predator_si.settings import CHART, Settings
from predator_si_tests.support.charts import files, helm
from predator_si_tests.support.command_line import CommandLine

CLUSTER = """#!/bin/sh
echo "$@" >> "$0.log"
case "$1 $2" in
  "config current-context") echo kind-shop ;;
  "diff --server-side") cat > /dev/null; echo "+ a line"; exit 1 ;;
  "apply --server-side") cat > "$0.applied"; echo "deployment.apps/predator-si-search serverside-applied" ;;
  *) exit 9 ;;
esac
"""


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path / "home", capsys)


@pytest.fixture
def kubectl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kubectl that points at a cluster and remembers what it was told; real Helm stays in reach."""
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(CLUSTER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join((str(program.parent), str(helm().parent), os.environ["PATH"])))
    return program


def test_what_is_made_up_is_said(cli: CommandLine, kubectl: Path):
    shown = cli("chart", "check", "--contour", "edge-oracle")
    assert shown.code == 0, shown.err
    assert "made up, since the GitOps repository does not hold it: site-edge-oracle.yaml, release-edge-oracle.yaml" in shown.out
    assert "compared with the last commit" in shown.out or "compared with v" in shown.out
    assert "policies: all hold" in shown.out and "would be applied to kind-shop" in shown.out and "+ a line" in shown.out
    assert not Path(f"{kubectl}.applied").exists(), "without --apply nothing is written"


def test_what_the_repository_holds_is_rendered_and_applied_when_asked(cli: CommandLine, kubectl: Path):
    GitOpsRepo.init_bare(cli.home / "gitops.git", files("edge-oracle"))
    told = cli("chart", "check", "--contour", "edge-oracle", "--apply", "--json")
    found = json.loads(told.out)
    assert told.code == 0 and found["made_up"] == [] and found["problems"] == []
    applied = "deployment.apps/predator-si-search serverside-applied\n"
    assert found["cluster"] == {"context": "kind-shop", "changes": "+ a line\n", "applied": applied}
    assert "kind: NetworkPolicy" in Path(f"{kubectl}.applied").read_text()
    assert "apply --server-side --field-manager predator-si --filename -" in Path(f"{kubectl}.log").read_text()


BACKUP, DEPLOY = "selfImprovement.backup.destination is null, so no backup is made", "selfImprovement.deploy.kind is local, and the chart renders no reconciler"


@pytest.mark.parametrize("contour", ["edge-oracle", "compute-nvidia"])
def test_a_contour_that_would_never_back_up_or_release_is_told(cli: CommandLine, contour: str):
    GitOpsRepo.init_bare(cli.home / "gitops.git", files(contour))
    shown = cli("chart", "check", "--contour", contour)
    said = [line for line in shown.out.splitlines() if line.startswith("warning: ")]
    assert shown.code == 0 and [DEPLOY in said[0], BACKUP in said[1], f"in site-{contour}.yaml" in said[0], len(said)] == [True, True, True, 2]


def test_no_warning_where_both_are_said_or_nothing_is_clustered():
    argocd = {"kind": "argocd", "address": "https://argocd.argocd.svc", "application": "a", "tokenEnv": "ARGOCD_TOKEN"}
    for backup in ({"destination": "s3://backups/si"}, {"enabled": False}):
        site = {"selfImprovement": {"deploy": argocd, "backup": backup}}
        assert warnings_of(render_contour(helm(), CHART, "edge-oracle", files("edge-oracle", site=site)), "edge-oracle") == []
    assert warnings_of(render_contour(helm(), CHART, "dev-mac", files("dev-mac")), "dev-mac") == []


def test_nothing_is_applied_that_does_not_hold_or_was_made_up(settings: Settings, kubectl: Path):
    with pytest.raises(Refused, match="nothing is applied to kind-shop"):
        _cluster(settings, [], apply=True, may=False)
    assert not Path(f"{kubectl}.applied").exists()


def test_without_a_cluster_nothing_would_be_applied(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KUBECONFIG", os.devnull)
    assert _cluster(settings, [], apply=False, may=True) == {"context": None, "changes": None, "applied": None}
    with pytest.raises(Refused, match="kubectl points at no cluster"):
        _cluster(settings, [], apply=True, may=True)


def test_the_objects_are_printed(cli: CommandLine):
    shown = cli("chart", "render", "--contour", "dev-mac", "--release", "shop")
    assert shown.code == 0 and "name: shop-search" in shown.out and "made up" in shown.err


def test_helm_is_found(cli: CommandLine):
    found = json.loads(cli("chart", "fetch-helm", "--json").out)
    assert found["helm"] == str(helm()) and found["version"].startswith("v4.")


def test_a_cluster_that_does_not_answer_is_told(tmp_path: Path):
    away = tmp_path / "kubectl"
    away.write_text("#!/bin/sh\necho 'Unable to connect to the server' >&2; exit 2\n")
    away.chmod(0o755)
    assert current_context(away) is None
    with pytest.raises(Unavailable, match="Unable to connect"):
        changes_in_cluster(away, [])
    with pytest.raises(Exception, match="Unable to connect"):
        apply_to_cluster(away, [])


def git(folder: Path, *words: str) -> bytes:
    names = ["-c", "user.name=a test", "-c", "user.email=test@example.org"]
    return subprocess.run(["git", "-C", str(folder), *names, *words], capture_output=True, check=True).stdout


def test_a_change_is_shown_against_the_chart_in_force(tmp_path: Path):
    """What the Application names, where the checkout has it; else the last commit, and that is said."""
    with committed_chart(CHART) as chart:
        assert chart is not None and (chart / "Chart.yaml").read_bytes() == git(CHART, "show", "HEAD:./Chart.yaml")
        assert (chart / "files" / "dagster.yaml").is_file()
        own = tmp_path / "checkout" / "deploy"
        shutil.copytree(chart.parents[1], own)
    git(tmp_path, "init", "-q", "checkout")
    here, lines = own / "helm" / CHART.name, "NOTES of {}\n"

    def commit(version: str) -> None:
        (here / "templates" / "NOTES.txt").write_text(lines.format(version))
        git(own, "add", "-A")
        git(own, "commit", "-qm", version)

    commit("v0.1.0")
    with running_chart(here, "edge-oracle") as (found, what):
        assert found is not None and what == "the last commit; v0.1.0, which Argo CD's Application runs, is no tag of this checkout"
    git(own, "tag", "v0.1.0")
    commit("v0.2.0")
    with running_chart(here, "edge-oracle") as (found, what):
        assert what == "v0.1.0, which Argo CD's Application runs"
        assert found is not None and (found / "templates" / "NOTES.txt").read_text() == lines.format("v0.1.0")
    with running_chart(here, "local") as (found, what):
        assert what == "the last commit" and found is not None and (found / "templates" / "NOTES.txt").read_text() == lines.format("v0.2.0")
    with running_chart(tmp_path / "a" / "b" / "c", "local") as (found, what):
        assert found is None and what == "nothing: this is no checkout"


def test_a_chart_that_the_gitops_repository_holds_is_the_one_in_force(tmp_path: Path):
    GitOpsRepo.init_bare(tmp_path / "gitops.git", files("edge-oracle"))
    git(tmp_path, "clone", "-q", "gitops.git", "person")
    shutil.copytree(CHART, tmp_path / "person" / "charts" / "shop")  # a person commits the chart; the loop writes its two files only
    (tmp_path / "person" / "charts" / "shop" / "templates" / "NOTES.txt").write_text("the repository's own")
    for words in (("add", "-A"), ("commit", "-qm", "The chart"), ("push", "-q", "origin", "HEAD:main")):
        git(tmp_path / "person", *words)
    with running_chart(CHART, "edge-oracle", GitOpsRepo(tmp_path / "gitops.git", tmp_path / "work"), "charts/shop") as (found, what):
        assert what == "the chart charts/shop of the GitOps repository"
        assert found is not None and (found / "templates" / "NOTES.txt").read_text() == "the repository's own"
        before = render_contour(helm(), found, "edge-oracle", files("edge-oracle"))
        assert difference(before, render_contour(helm(), CHART, "edge-oracle", files("edge-oracle"))) == ""


def test_a_difference_shows_the_line():
    before = {"kind": "ConfigMap", "metadata": {"name": "x", "namespace": "n"}, "data": {"a": "one\ntwo\n"}}
    after = {**before, "data": {"a": "one\nthree\n"}}
    lines = difference([before], [after]).splitlines()
    assert "-    two" in lines and "+    three" in lines and "+    one" not in lines
    assert difference([before], []).splitlines()[0] == "--- held/ConfigMap n/x"
