"""What a committed chart becomes: real Helm over the values of one commit, every object checked, one file each.

What belongs here: rendering and checking for the embedded reconciler. What must not: talking to a cluster, deciding which commit, writing files.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from predator_si.errors import BadInput, Missing
from predator_si.release.chart import INSTALLATION, file_names, misfits, render_contour
from predator_si.release.chart_objects import complaints
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.reconcile import FOLDER

_HOOK = "helm.sh/hook"


class CommittedChart:
    """A chart in the GitOps repository, rendered as Argo CD does it: ``helm template`` with the committed values files.

    Parameters
    ----------
    path
        Folder of the chart in the repository.
    contour
        Whose values files are laid over the chart's own (``chart.file_names``).
    helm
        Gives the program; called at each rendering, so that one that was installed since is found.
    """

    def __init__(self, path: str, contour: str, helm: Callable[[], Path]) -> None:
        self._path, self._contour, self._helm = path, contour, helm

    def manifests(self, repo: GitOpsRepo, revision: str) -> dict[str, str]:
        """Relative path (``manifests/<kind>--<namespace>--<name>.yaml``) -> text of each object of ``revision``.

        Raises
        ------
        Missing
            No such chart in the commit, or no Helm on this machine.
        BadInput
            The values do not fit the chart's schema, a template fails, Kubernetes' schemas refuse an object (where kubernetes-validate is installed), or one of
            the chart's policies does.
        """
        helm, where = self._helm(), f"commit {revision[:12]}"
        with tempfile.TemporaryDirectory() as scratch:
            repo.export(revision, self._path, Path(scratch))
            chart = Path(scratch) / self._path
            if not (chart / "Chart.yaml").is_file():
                raise Missing(f"{self._path} in {where} holds no Chart.yaml. Correct gitops.chart, or commit the chart.")
            found = render_contour(helm, chart, self._contour, repo.files(revision, only=file_names(self._contour)))
        objects = [one for one in found if _HOOK not in (one.get("metadata", {}).get("annotations") or {})]
        for faults in (_misfits(objects), list(complaints(objects, self._contour))):
            if faults:
                more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
                raise BadInput(
                    f"{where}: the chart of contour {self._contour} renders what may not be applied: {faults[0]}{more}. Correct the values or revert."
                )
        return _as_files(objects, where)


def _misfits(objects: Sequence[Mapping[str, Any]]) -> list[str]:
    try:
        return misfits(objects)[0]
    except Missing:  # 20 MB of schemas, a tool of development: what serves does without, and Helm's own schema and the policies still hold
        return []


def _as_files(objects: Sequence[Mapping[str, Any]], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in objects:
        metadata = one.get("metadata") or {}
        parts = [str(part) for part in (one.get("kind"), metadata.get("namespace") or INSTALLATION, metadata.get("name"))]
        name = f"{FOLDER}/{re.sub(r'[^a-z0-9.-]', '-', '--'.join(parts).lower())}.yaml"
        if name in found:
            raise BadInput(f"{where}: two objects are {' '.join(parts)}; one would take the other's place. Rename one in the chart.")
        found[name] = yaml.safe_dump(dict(one), sort_keys=True, allow_unicode=True)
    return found
