"""What this machine has, what it lacks, and how to get it.

What belongs here: looking, without changing anything. What must not: installing, fetching, starting.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from predator_si.errors import PredatorError
from predator_si.provenance import cores
from predator_si.settings import Settings

FREE_GIGABYTES = 4.0
"""Indexes, models of a few cycles and event files of one home; the environment itself is installed already."""
MEMORY_GIGABYTES = 6.0
_REQUIRED_MODULES = ("dagster", "dagster_webserver", "dvc", "evidently", "mlflow", "onnxruntime", "openvino", "sentence_transformers", "torch", "uvicorn")
_OPTIONAL_PROGRAMS = {
    "chromium": (("chromium", "chromium-browser", "google-chrome"), "pictures of pages in tests and in the README", "apt-get install chromium"),
    "prometheus": (("prometheus",), "the live test against a real Prometheus", "apt-get install prometheus"),
    "postgres": (("postgres", "pg_ctl"), "the live test of the control database on PostgreSQL", "apt-get install postgresql"),
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ``missing`` is required and not there; ``absent`` is optional; ``unknown`` could not be found out."""

    name: str
    state: Literal["ok", "missing", "absent", "unknown"]
    found: str
    how: str = ""
    """How to get it, where something is to be got."""


def examine(settings: Settings, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Look at everything; the order is the order of a person's worries."""
    return [
        _python(),
        _virtual_environment(),
        _packages(),
        _git(),
        _cores(),
        _memory(),
        _disk(settings.home),
        _home(settings.home),
        _dagster_home(settings, environment),
        *_models(settings.cache),
        *_ports(settings),
        *_delivery(settings),
        *_programs(),
        _helm(settings.cache),
    ]


def as_json(findings: list[Finding]) -> dict[str, Any]:
    """The findings as one JSON value."""
    return {"ok": all(finding.state != "missing" for finding in findings), "findings": [asdict(finding) for finding in findings]}


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    fits = (3, 11) <= sys.version_info[:2] < (3, 14)
    return Finding("python", "ok" if fits else "missing", version, "" if fits else "install Python 3.11, 3.12 or 3.13, then `make setup PYTHON=/path/to/it`")


def _virtual_environment() -> Finding:
    inside = sys.prefix != sys.base_prefix
    return Finding("virtual environment", "ok" if inside else "absent", sys.prefix, "" if inside else "`make setup` makes one in .venv")


def _packages() -> Finding:
    lacking = [name for name in _REQUIRED_MODULES if importlib.util.find_spec(name) is None]
    if lacking:
        return Finding("packages", "missing", f"not installed: {', '.join(lacking)}", "make setup")
    versions = {name: importlib.metadata.version(name) for name in ("dagster", "torch", "mlflow", "polars")}
    return Finding("packages", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _git() -> Finding:
    path = shutil.which("git")
    if path is None:
        return Finding("git", "missing", "not found", "apt-get install git, or https://git-scm.com")
    answer = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False)
    return Finding(
        "git", "ok" if answer.returncode == 0 else "missing", answer.stdout.strip() or answer.stderr.strip(), "" if answer.returncode == 0 else "repair git"
    )


def _cores() -> Finding:
    from predator_si.search.rerank import chip_has_bf16

    bf16 = (
        "computes in bf16: training and serving use it"
        if chip_has_bf16()
        else "no avx512_bf16 or amx_bf16: everything runs in fp32 or int8, training takes longer"
    )
    return Finding("processor", "ok", f"{cores()} cores; {bf16}")


def _memory() -> Finding:
    import psutil

    gigabytes = psutil.virtual_memory().available / 1e9
    enough = gigabytes >= MEMORY_GIGABYTES
    return Finding(
        "memory",
        "ok" if enough else "absent",
        f"{gigabytes:.1f} GB available",
        "" if enough else f"the full demo wants {MEMORY_GIGABYTES:g} GB; --scale small does with less",
    )


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _disk(home: Path) -> Finding:
    where = _existing(home)
    gigabytes = shutil.disk_usage(where).free / 1e9
    enough = gigabytes >= FREE_GIGABYTES
    return Finding(
        "disk",
        "ok" if enough else "missing",
        f"{gigabytes:.1f} GB free at {where}",
        "" if enough else f"free {FREE_GIGABYTES:g} GB, or choose another home with --home",
    )


def _home(home: Path) -> Finding:
    where = _existing(home)
    if not where.is_dir():
        return Finding("home", "missing", f"{where} is a file", "choose another folder with --home or PREDATOR_SI_HOME")
    usable = os.access(where, os.W_OK | os.X_OK)
    there = "" if home.exists() else " (will be made)"
    return Finding("home", "ok" if usable else "missing", f"{home}{there}", "" if usable else f"make {where} writable, or choose another with --home")


def _dagster_home(settings: Settings, environment: Mapping[str, str]) -> Finding:
    ours = settings.folders.dagster
    chosen = environment.get("DAGSTER_HOME")
    if chosen is None or Path(chosen) == ours:
        return Finding("DAGSTER_HOME", "ok", f"{ours}" + ("" if chosen else " (set by `up` and `demo` for what they start)"))
    return Finding(
        "DAGSTER_HOME",
        "absent",
        f"{chosen} is another instance",
        f"`up` and `demo` use {ours} all the same; for plain dagster commands: export DAGSTER_HOME={ours}",
    )


def _models(cache: Path) -> Iterator[Finding]:
    from predator_si.search.models import SOURCES, model_digest

    for name in SOURCES:
        folder = cache / "models" / name
        fetch = f"predator-si models fetch {name}"
        try:
            recorded = json.loads((folder / "source.json").read_text(encoding="utf-8"))["digest"]
            actual = model_digest(folder)
        except FileNotFoundError:
            yield Finding(f"model {name}", "absent", "not fetched yet (the demo fetches what it needs)", fetch)
        except (OSError, ValueError, KeyError, PredatorError) as error:
            yield Finding(f"model {name}", "missing", f"{folder}: unreadable ({error})", f"delete {folder}, then {fetch}")
        else:
            if recorded == actual:
                yield Finding(f"model {name}", "ok", actual)
            else:
                yield Finding(f"model {name}", "missing", f"weights changed since they were fetched: {actual}", f"delete {folder}, then {fetch}")


def _ports(settings: Settings) -> Iterator[Finding]:
    from predator_si.cli.supervisor import running

    ours = running(settings.folders) is not None
    for name, port in settings.ports.model_dump().items():
        if not port_is_busy(port):
            yield Finding(f"port {port} ({name})", "ok", "free")
        elif ours:
            yield Finding(f"port {port} ({name})", "ok", "in use by `predator-si up` of this home")
        else:
            yield Finding(f"port {port} ({name})", "absent", "in use by another program", f"end it, or move ours: PREDATOR_SI_PORTS={name}={port + 100}")


def port_is_busy(port: int) -> bool:
    """Whether somebody listens on this loopback port, or holds it so that nobody else can."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free for a server
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _delivery(settings: Settings) -> Iterator[Finding]:
    """The GitOps repository and Argo CD, where the contour names its own."""
    from predator_si.orchestration.delivery import open_deployer, open_repo

    said = settings.values
    if said.gitops.url is None and said.deploy.kind == "local":
        return
    with tempfile.TemporaryDirectory() as scratch:
        try:
            repo = open_repo(settings, Path(scratch) / "clone")
            head = repo.sync() if said.gitops.url is not None else None
        except PredatorError as error:
            yield Finding("gitops", "missing", str(error), "correct selfImprovement.gitops; docs/gitops.md says how")
            return
        if head is not None:
            yield Finding("gitops", "ok", f"{repo.url} {repo.branch} {head[:12]}")
        if said.deploy.kind == "argocd":
            try:
                open_deployer(settings, repo).check()
                yield Finding("argocd", "ok", f"{said.deploy.address} {said.deploy.application}")
            except PredatorError as error:
                yield Finding("argocd", "missing", str(error), "correct selfImprovement.deploy; docs/gitops.md says how")


def _helm(cache: Path) -> Finding:
    from predator_si.release.helm import find_helm, helm_version

    try:
        found = find_helm(cache)
        return Finding("helm", "ok", f"{found} {helm_version(found)}")
    except PredatorError as error:
        return Finding("helm", "absent", f"{error}; only for rendering the chart", "predator-si chart fetch-helm")


def _programs() -> Iterator[Finding]:
    debian_postgres = os.pathsep.join(str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin")))
    for name, (candidates, purpose, how) in _OPTIONAL_PROGRAMS.items():
        path = next((found for each in candidates if (found := shutil.which(each) or shutil.which(each, path=debian_postgres or None))), None)
        yield Finding(name, "ok" if path else "absent", path or f"not found; only for {purpose}", "" if path else how)
