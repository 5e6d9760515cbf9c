"""`doctor`: what is required, what is optional, and how to get it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from predator_si.cli import doctor
from predator_si.cli.doctor import Finding, as_json, examine, port_is_busy
from predator_si.search.models import SOURCES
from predator_si.settings import Settings, load_settings


def by_name(settings: Settings, environment: dict[str, str] | None = None) -> dict[str, Finding]:
    return {finding.name: finding for finding in examine(settings, environment or {})}


@pytest.fixture
def here(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", env={"PREDATOR_SI_CACHE": str(tmp_path / "cache")})


def test_everything_wrong_says_how_to_mend_it(here: Settings):
    findings = examine(here, {})
    assert findings[0].name == "python" and findings[0].state == "ok"
    assert all(finding.how for finding in findings if finding.state in ("missing", "absent"))
    assert not here.home.exists(), "looking makes nothing"


def test_exit_is_no_only_for_what_is_required():
    assert as_json([Finding("a", "ok", ""), Finding("b", "absent", "", "x")])["ok"]
    assert not as_json([Finding("a", "missing", "", "x")])["ok"]


def test_a_busy_port_is_named_with_a_way_out(here: Settings):
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = busy.getsockname()[1]
        settings = load_settings(home=here.home, env={"PREDATOR_SI_PORTS": f"search={port}"})
        found = by_name(settings)[f"port {port} (search)"]
        assert port_is_busy(port)
    assert found.state == "absent" and f"PREDATOR_SI_PORTS=search={port + 100}" in found.how
    assert not port_is_busy(port)


def test_a_home_behind_a_file_is_missing(tmp_path: Path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    found = by_name(load_settings(home=tmp_path / "file" / "home", env={}))
    assert found["home"].state == "missing" and "is a file" in found["home"].found


def test_changed_weights_are_found_by_their_hash(here: Settings):
    from predator_si.search.models import model_digest

    name = next(iter(SOURCES))
    folder = here.cache / "models" / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "source.json").write_text(json.dumps({"digest": model_digest(folder)}), encoding="utf-8")
    assert by_name(here)[f"model {name}"].state == "ok"
    (folder / "model.safetensors").write_bytes(b"w3ights")
    changed = by_name(here)[f"model {name}"]
    assert changed.state == "missing" and "changed" in changed.found and "fetch" in changed.how
    (folder / "source.json").write_text("{", encoding="utf-8")
    assert "unreadable" in by_name(here)[f"model {name}"].found


def test_another_dagster_home_is_pointed_out(here: Settings):
    assert by_name(here)["DAGSTER_HOME"].state == "ok"
    assert by_name(here, {"DAGSTER_HOME": str(here.folders.dagster)})["DAGSTER_HOME"].state == "ok"
    other = by_name(here, {"DAGSTER_HOME": "/elsewhere"})["DAGSTER_HOME"]
    assert other.state == "absent" and str(here.folders.dagster) in other.how


def test_a_missing_package_and_a_full_disk_are_missing(here: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_REQUIRED_MODULES", ("sys", "no_such_package"))
    monkeypatch.setattr(doctor, "FREE_GIGABYTES", 1e9)
    found = by_name(here)
    assert found["packages"].state == "missing" and "no_such_package" in found["packages"].found
    assert found["disk"].state == "missing" and "--home" in found["disk"].how


def test_git_is_required(here: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    assert by_name(here)["git"].state == "missing"


def test_a_repository_and_an_argo_cd_of_ones_own_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from predator_si.release.gitops import GitOpsRepo
    from predator_si_tests.support.fake_argocd import NAME, TOKEN, TOKEN_ENV, FakeArgoCD

    GitOpsRepo.init_bare(tmp_path / "gitops.git", {"release-local.yaml": "n: 0\n"})
    values = tmp_path / "site.yaml"
    with FakeArgoCD(GitOpsRepo(tmp_path / "gitops.git", tmp_path / "controller")) as server:
        values.write_text(
            f"selfImprovement:\n  gitops: {{url: {tmp_path / 'gitops.git'}}}\n"
            f"  deploy: {{kind: argocd, address: '{server.address}', application: {NAME}, tokenEnv: {TOKEN_ENV}}}\n"
        )
        settings = load_settings("local", home=tmp_path / "home", values_file=values, env={})
        found = {finding.name: finding for finding in doctor._delivery(settings)}
        assert found["gitops"].state == "ok" and found["argocd"].state == "missing" and TOKEN_ENV in found["argocd"].found
        monkeypatch.setenv(TOKEN_ENV, TOKEN)
        assert {finding.state for finding in doctor._delivery(settings)} == {"ok"}
    (tmp_path / "gitops.git").rename(tmp_path / "away.git")
    (lost,) = doctor._delivery(settings)
    assert (lost.name, lost.state) == ("gitops", "missing") and lost.how
    assert list(doctor._delivery(load_settings("local", home=tmp_path / "home", env={}))) == []
