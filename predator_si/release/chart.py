"""The chart of a contour with what its GitOps repository holds: rendered, checked, compared, applied when asked to.

What belongs here: which files are laid over which, and the checks that need the whole rendering. What must not: Helm itself (``helm``), policies
(``chart_policies``), the shape of values (``chart_values``), committing anything.

Argo CD lays the same files over each other in the same order: ``values.yaml`` and ``values-<contour>.yaml`` of the chart, then ``site-<contour>.yaml``,
``release-<contour>.yaml`` and ``deny.yaml`` of the GitOps repository.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from predator_si.errors import Missing, Refused, Unavailable
from predator_si.release import helm as program
from predator_si.release.chart_objects import title
from predator_si.release.chart_values import LOCAL_CONTOURS
from predator_si.release.release_file import DENY_FILE, release_name
from predator_si.values import BLOCK

if TYPE_CHECKING:
    from predator_si.release.gitops import GitOpsRepo

KUBERNETES = "1.37"
"""Whose schemas the objects must fit."""
INSTALLATION = "predator-si"
"""Name of the release, and its namespace."""
_SECONDS = 300.0


def site_name(contour: str) -> str:
    """A person's values file in the GitOps repository: digests of images, addresses, what only this installation has."""
    return release_name(contour).replace("release-", "site-", 1)


def file_names(contour: str) -> tuple[str, str, str]:
    """The GitOps repository's values files, later ones over earlier ones."""
    return site_name(contour), release_name(contour), DENY_FILE


def held_files(repo: GitOpsRepo, contour: str) -> dict[str, str]:
    """The contour's values files at the head of its GitOps repository, as far as they are there.

    Raises
    ------
    Unavailable
        The repository cannot be reached.
    """
    repo.sync()
    found = {}
    for name in file_names(contour):
        try:
            found[name] = repo.show(name)
        except Missing:
            continue
    return found


def example_files(contour: str) -> dict[str, str]:
    """Files to render with where a GitOps repository does not hold them yet; no such model and no such image exists."""
    digests = {
        name: f"sha256:{hashlib.sha256(f'example of {name}'.encode()).hexdigest()}" for name in ("platform", "serving", "training", "authProxy", "champion")
    }
    images = {name: {"digest": digest} for name, digest in digests.items() if name != "champion"}
    site: dict[str, Any] = {} if contour in LOCAL_CONTOURS else {"images": images}
    contents: tuple[dict[str, Any], ...] = (site, {"reranker": {"champion": digests["champion"]}}, {"denied": []})
    return {name: yaml.safe_dump(content, sort_keys=False) for name, content in zip(file_names(contour), contents, strict=True)}


@contextmanager
def values_of(chart: Path, contour: str, files: Mapping[str, str]) -> Iterator[list[Path]]:
    """The values files of a contour in their order; those of the repository lie in a folder that goes with the context.

    Raises
    ------
    Missing
        The chart knows no such contour.
    """
    own = chart / f"values-{contour}.yaml"
    if not own.is_file():
        known = ", ".join(sorted(path.stem.removeprefix("values-") for path in chart.glob("values-*.yaml")))
        raise Missing(f"{own}: no such values file; the chart's contours are {known or 'none'}.")
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for name in file_names(contour):
            if name in files:
                paths.append(Path(folder) / name)
                paths[-1].write_text(files[name], encoding="utf-8")
        yield [own, *paths]


def render_contour(
    helm: Path, chart: Path, contour: str, files: Mapping[str, str], *, release: str = INSTALLATION, namespace: str = INSTALLATION
) -> list[dict[str, Any]]:
    """The objects of a contour.

    Parameters
    ----------
    helm
        Of ``helm.find_helm``.
    chart
        Folder of the chart.
    files
        Of the GitOps repository: name -> text.

    Raises
    ------
    BadInput
        The values do not fit, or a template refuses them.
    Missing
        The chart knows no such contour.
    """
    with values_of(chart, contour, files) as values:
        return program.render(helm, chart, values, release=release, namespace=namespace)


def lint_contour(helm: Path, chart: Path, contour: str, files: Mapping[str, str]) -> None:
    """Raise what ``helm lint --strict`` finds.

    Raises
    ------
    BadInput
        Its words.
    """
    with values_of(chart, contour, files) as values:
        program.lint(helm, chart, values)


def misfits(objects: Sequence[Mapping[str, Any]], version: str = KUBERNETES) -> tuple[list[str], list[str]]:
    """What does not fit Kubernetes' own schemas, unknown fields included; and the kinds that these schemas do not know.

    Returns
    -------
    (list of str, list of str)
        One line for each object with a fault (the first that is found in it); ``apiVersion/kind`` of each kind that was not checked.

    Raises
    ------
    Missing
        kubernetes-validate is not installed.
    """
    try:
        import kubernetes_validate as schemas
    except ImportError as error:
        raise Missing("kubernetes-validate is not installed; it is part of the development extra: pip install -e '.[dev]'.") from error
    faults, unknown = [], set()
    for one in objects:
        try:
            schemas.validate(dict(one), version, strict=True)
        except schemas.SchemaNotFoundError:
            unknown.add(f"{one.get('apiVersion')}/{one.get('kind')}")
        except schemas.ValidationError as error:
            faults.append(f"{title(one)}: {'.'.join(map(str, error.path)) or '(object)'}: {error.message[:300]}")
    return faults, sorted(unknown)


def settings_differ(objects: Sequence[Mapping[str, Any]], chart: Path, contour: str, files: Mapping[str, str]) -> str | None:
    """Whether a process in the cluster would load other settings than one beside the values files; ``None`` where they are the same.

    Raises
    ------
    BadInput
        The values files cannot be loaded as settings at all.
    """
    from predator_si.settings import load_settings

    mounted = next((one["data"] for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"].endswith("-settings")), None)
    if mounted is None:
        return "no ConfigMap with settings is rendered"
    with tempfile.TemporaryDirectory() as scratch:
        folder, site = Path(scratch) / "mounted", Path(scratch) / site_name(contour)
        folder.mkdir()
        for name, text in mounted.items():
            (folder / name).write_text(text, encoding="utf-8")
        site.write_text(files.get(site.name, ""), encoding="utf-8")
        has_block = BLOCK in (yaml.safe_load(site.read_text(encoding="utf-8")) or {})
        beside = load_settings(contour, values_file=site if has_block else None, env={}, chart=chart).values
        inside = load_settings(contour, env={}, chart=folder).values
    if inside == beside:
        return None
    one, other = beside.model_dump(by_alias=True, mode="json"), inside.model_dump(by_alias=True, mode="json")
    return "; ".join(f"{BLOCK}.{key} is {one[key]} beside the files and {other[key]} in the cluster" for key in one if one[key] != other[key])


def warnings_of(objects: Sequence[Mapping[str, Any]], contour: str) -> list[str]:
    """What may be meant so and most often is not, each with its key; nothing is refused for it. None in contours of one machine."""
    mounted = next((one["data"] for one in objects if one["kind"] == "ConfigMap" and one["metadata"]["name"].endswith("-settings")), None)
    if contour in LOCAL_CONTOURS or mounted is None:
        return []
    block = yaml.safe_load(mounted["values.yaml"])[BLOCK]
    found = []
    if block["deploy"]["kind"] == "local":
        found.append(
            f"{BLOCK}.deploy.kind is local, and the chart renders no reconciler: no release ever comes into force. Say argocd, with address and application"
        )
    if block["backup"]["enabled"] and block["backup"].get("destination") is None:
        found.append(
            f"{BLOCK}.backup.destination is null, so no backup is made: name an fsspec URL (and network.destinations.objectStore), or say backup.enabled false"
        )
    return [f"{line}, in {site_name(contour)}." for line in found]


def difference(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> str:
    """What changes between two renderings, as a unified diff object by object; empty where nothing does."""
    old, new = ({title(one): _readable(one).splitlines() for one in objects} for objects in (before, after))
    lines: list[str] = []
    for name in sorted({*old, *new}):
        lines += difflib.unified_diff(old.get(name, []), new.get(name, []), f"held/{name}", f"here/{name}", lineterm="")
    return "\n".join(lines)


class _Readable(yaml.SafeDumper):
    """Text of several lines is written as such, so that a diff shows the line that differs."""


_Readable.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))


def _readable(one: Mapping[str, Any]) -> str:
    return yaml.dump(one, Dumper=_Readable, width=4096)


@contextmanager
def running_chart(chart: Path, contour: str, repo: GitOpsRepo | None = None, folder: str | None = None) -> Iterator[tuple[Path | None, str]]:
    """The chart that is in force for a contour, as far as this machine has it, and what it is: what a changed chart is to be compared with.

    Parameters
    ----------
    chart
        Of this checkout.
    repo, folder
        The GitOps repository and ``gitops.chart``, where the embedded reconciler renders a chart from there.

    Yields
    ------
    (Path or None, str)
        The GitOps repository's own; else the ``targetRevision`` of Argo CD's Application (``deploy/argocd``), where this checkout has that tag; else the last
        commit; ``None`` outside a checkout.
    """
    if repo is not None and folder is not None:
        with tempfile.TemporaryDirectory() as scratch:
            repo.sync()
            repo.export(repo.head(), folder, Path(scratch))
            yield Path(scratch) / folder, f"the chart {folder} of the GitOps repository"
        return
    wanted = _target_revision(chart.parents[1] / "argocd" / f"application-{contour}.yaml")
    if wanted is not None:
        with committed_chart(chart, wanted) as found:
            if found is not None:
                yield found, f"{wanted}, which Argo CD's Application runs"
                return
    with committed_chart(chart) as found:
        lacking = f"; {wanted}, which Argo CD's Application runs, is no tag of this checkout" if wanted is not None else ""
        yield (None, "nothing: this is no checkout") if found is None else (found, f"the last commit{lacking}")


def _target_revision(application: Path) -> str | None:
    """Which revision of the chart an Application runs; ``None`` where there is no such file."""
    if not application.is_file():
        return None
    sources = yaml.safe_load(application.read_text(encoding="utf-8"))["spec"]["sources"]
    return next((str(one["targetRevision"]) for one in sources if "helm" in one), None)


@contextmanager
def committed_chart(chart: Path, revision: str = "HEAD") -> Iterator[Path | None]:
    """The chart as a commit of its checkout has it; ``None`` outside a checkout, or where it has no such revision."""
    top = subprocess.run(["git", "-C", str(chart), "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=False)
    if top.returncode:
        yield None
        return
    root = Path(top.stdout.strip())
    kept = subprocess.run(["git", "-C", str(root), "archive", revision, "deploy"], capture_output=True, check=False)
    if kept.returncode:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(kept.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder) / chart.resolve().relative_to(root.resolve())


# --------------------------------------------------------------------------- a cluster, where there is one


def find_kubectl(cache: Path | None = None) -> Path | None:
    """The kubectl of this machine, on PATH or beside the fetched Helm."""
    found = shutil.which("kubectl")
    fetched = program.tools_folder(cache) / "kubectl"
    return Path(found) if found else fetched if fetched.is_file() else None


def current_context(kubectl: Path) -> str | None:
    """Name of the cluster that this shell points at; ``None`` where it points at none."""
    answer = _kubectl(kubectl, "config", "current-context")
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def changes_in_cluster(kubectl: Path, objects: Sequence[Mapping[str, Any]]) -> str:
    """What the cluster's own server says would change (``kubectl diff``, nothing is written); empty where nothing would.

    Raises
    ------
    Unavailable
        The cluster does not answer, or does not let us ask.
    """
    answer = _kubectl(kubectl, "diff", "--server-side", "--filename", "-", text=_as_yaml(objects))
    if answer.returncode > 1:
        raise Unavailable(f"kubectl diff: {answer.stderr.strip()[:500]}. Check the context and your rights in it.")
    return answer.stdout


def apply_to_cluster(kubectl: Path, objects: Sequence[Mapping[str, Any]]) -> str:
    """Apply on the server's side, as one owner of the fields; what kubectl said.

    Raises
    ------
    Refused
        The server refuses an object, or another owner has a field.
    """
    answer = _kubectl(kubectl, "apply", "--server-side", "--field-manager", INSTALLATION, "--filename", "-", text=_as_yaml(objects))
    if answer.returncode:
        raise Refused(f"kubectl apply: {answer.stderr.strip()[:500]}. What was applied before that stays; correct it and apply again.")
    return answer.stdout


def _kubectl(kubectl: Path, *words: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run([str(kubectl), *words], input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"{kubectl}: cannot be run, or did not end ({error}).") from error


def _as_yaml(objects: Sequence[Mapping[str, Any]]) -> str:
    return yaml.safe_dump_all([dict(one) for one in objects], sort_keys=False, width=4096)
