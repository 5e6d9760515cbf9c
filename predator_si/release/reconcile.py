"""The embedded reconciler: what Git says becomes what the service reads, or stays as it was.

It follows the branch, checks the release file against its schema, the model store and the deny list, and writes the applied files
atomically. Where the repository holds a chart (``gitops.chart``), it is rendered with real Helm, and its objects lie beside the release file under
``manifests/``. A commit that does not pass leaves the last good state in force and says so in ``status.json``. Argo CD is the other backend of
the same idea.

    python -m predator_si.release.reconcile --home DIR --contour local --interval 0.5
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from predator_si.errors import BadInput, Missing, PredatorError, Refused
from predator_si.records import utc_now
from predator_si.release.deny import find_denied, parse_deny
from predator_si.release.deployer import STATUS_FILE, SyncStatus
from predator_si.release.git import GitAccess
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.release_file import DENY_FILE, parse_release, release_name
from predator_si.search.models import ModelStore

if TYPE_CHECKING:
    from predator_si.release.manifests import CommittedChart

FOLDER = "manifests"
"""Of a chart's objects, beside the applied release file."""
_log = logging.getLogger("predator_si.reconcile")


class LocalReconciler:
    """Follow a GitOps repository for one contour.

    Parameters
    ----------
    repo_url
        The repository; a clone of it is kept in ``work``.
    work
        Folder of the reconciler's own clone.
    applied_dir
        Where ``release-<contour>.yaml``, ``deny.yaml`` and ``status.json`` are written.
    contour
        Whose release file.
    model_store_path
        The model store: a digest that is not in it is refused.
    branch, access
        As ``GitOpsRepo`` takes them.
    chart
        Renders the repository's chart; null: the release file and the deny list are all that is applied.
    """

    def __init__(
        self,
        repo_url: str | Path,
        work: Path,
        applied_dir: Path,
        contour: str,
        model_store_path: Path,
        *,
        branch: str = "main",
        access: GitAccess | None = None,
        chart: CommittedChart | None = None,
    ) -> None:
        self._release_name = release_name(contour)
        self._contour = contour
        self._applied = Path(applied_dir)
        self._store = ModelStore(model_store_path)
        try:
            self._applied.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{applied_dir}: cannot be made ({error.strerror}). Choose a folder you may write to.") from error
        self._repo = GitOpsRepo(repo_url, work, branch, access)
        self._chart = chart
        self._good: tuple[str, dict[str, str]] | None = None
        self._refused: tuple[str, str] | None = None
        self._healed = 0
        self._remember_last_good()

    def tick(self) -> SyncStatus:
        """Look once: fetch, check, write. Never raises for a bad commit or an unreachable repository; the status tells.

        Raises
        ------
        BadInput
            The applied folder cannot be written: nothing can be done here.
        """
        revision, error = None, None
        try:
            revision = self._repo.sync()
            if self._good is None or self._good[0] != revision:
                files = self._check(revision)
                self._write_all(files)
                self._good, self._refused = (revision, files), None
                _log.info("applied %s", revision[:12])
        except PredatorError as problem:
            error = str(problem)
            if self._refused != (revision or "", error):
                _log.warning("kept the last good state: %s", error)
            self._refused = (revision or "", error)
        if self._good is not None:
            self._healed += self._write_all(self._good[1])
        status = SyncStatus(
            contour=self._contour,
            revision=revision or (self._good[0] if self._good else None),
            applied_revision=self._good[0] if self._good else None,
            release_sha256=hashlib.sha256(self._good[1][self._release_name].encode()).hexdigest() if self._good else None,
            synced=error is None,
            error=error,
            healed=self._healed,
            at=utc_now(),
        )
        self._write(STATUS_FILE, status.to_json())
        return status

    def _check(self, revision: str) -> dict[str, str]:
        """The two files of ``revision`` as text, or the reason why they cannot be applied."""
        files = self._repo.files(revision)
        where = f"commit {revision[:12]}"
        for name in (self._release_name, DENY_FILE):
            if name not in files:
                raise Missing(f"{name} is missing in {where}. Restore it in the repository.")
        release = parse_release(files[self._release_name], f"{self._release_name} in {where}")
        denied = parse_deny(files[DENY_FILE], f"{DENY_FILE} in {where}", self._contour)
        for role, digest in (("champion", release.reranker.champion), ("candidate", release.reranker.candidate)):
            if digest is None:
                continue
            if digest not in self._store:
                raise Missing(
                    f"{self._release_name} in {where}: the {role} {digest} is not in the model store {self._store.root}. Add it there, or revert the commit."
                )
            entry = find_denied(denied, self._store.card(digest))
            if entry is not None:
                raise Refused(f"{self._release_name} in {where}: the {role} {digest} is on the deny list ({entry.reason}). Revert the commit.")
        return {**self._rendered(revision), **{name: files[name] for name in (self._release_name, DENY_FILE)}}

    def _rendered(self, revision: str) -> dict[str, str]:
        return self._chart.manifests(self._repo, revision) if self._chart is not None else {}

    def _rendered_or_as_they_lie(self, revision: str) -> dict[str, str]:
        """The objects of what was in force; where they cannot be rendered now (no Helm), those in the folder: the release file is healed at least."""
        try:
            return self._rendered(revision)
        except PredatorError as problem:
            _log.warning("objects of %s are taken as they lie: %s", revision[:12], problem)
            return {f"{FOLDER}/{path.name}": path.read_text(encoding="utf-8") for path in sorted(self._applied.glob(f"{FOLDER}/*.yaml"))}

    def _remember_last_good(self) -> None:
        """After a restart: what was in force, so that drift is healed also while the repository is away or its head is bad."""
        try:
            status = SyncStatus.read(self._applied / STATUS_FILE)
            if status.applied_revision is not None and status.contour == self._contour:
                files = self._repo.files(status.applied_revision)
                known = {name: files[name] for name in (self._release_name, DENY_FILE)}
                self._good = (status.applied_revision, {**self._rendered_or_as_they_lie(status.applied_revision), **known})
        except (PredatorError, KeyError) as problem:
            # a fresh folder has no status, a new clone does not know the commit yet; the first good tick decides
            _log.info("no last good state: %s", problem)

    def _write_all(self, files: dict[str, str]) -> int:
        """Write what differs, the release file last, and remove objects that are not in Git any more; how many that were."""
        last = (DENY_FILE, self._release_name)
        written = sum(self._write(name, files[name]) for name in (*(name for name in files if name not in last), *last))
        strange = [path for path in self._applied.glob(f"{FOLDER}/*") if f"{FOLDER}/{path.name}" not in files] if self._chart is not None else []
        for path in strange:
            path.unlink(missing_ok=True)
        return written + len(strange)

    def _write(self, name: str, text: str) -> bool:
        """Replace a file in one step, unless it has this text already."""
        path, data = self._applied / name, text.encode("utf-8")
        try:
            if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
                return False
            path.parent.mkdir(exist_ok=True)
            descriptor, partial = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                if name != STATUS_FILE:  # written each tick, and worth nothing after a crash
                    os.fsync(stream.fileno())
            Path(partial).chmod(0o644)
            Path(partial).replace(path)
        except OSError as error:
            raise BadInput(f"{path}: cannot be written ({error.strerror}). Give the reconciler a folder it may write to.") from error
        return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 then, 2 when it cannot work at all."""
    parser = argparse.ArgumentParser(prog="python -m predator_si.release.reconcile", description="Follow the GitOps repository of a home folder.")
    parser.add_argument("--home", type=Path, required=True, help="home folder: gitops.git, reconcile, applied and models lie in it")
    parser.add_argument("--contour", default="local", help="whose release file to follow")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds between two looks")
    parser.add_argument("--repository", default=None, help="another repository than HOME/gitops.git")
    parser.add_argument("--branch", default="main", help="the branch to follow")
    parser.add_argument("--ssh-key", type=Path, default=None, help="file of a deploy key; goes with --known-hosts")
    parser.add_argument("--known-hosts", type=Path, default=None, help="file with the server's host keys")
    parser.add_argument("--token-env", default=None, help="name of the environment variable with a token for https")
    parser.add_argument("--chart", default=None, help="folder of a Helm chart in the repository, to render")
    parser.add_argument("--cache", type=Path, default=None, help="where a fetched Helm lies, in tools/")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if options.interval <= 0:
        parser.error("--interval must be above 0 seconds")
    try:
        url = options.repository or options.home / "gitops.git"
        reconciler = LocalReconciler(
            url,
            options.home / "reconcile",
            options.home / "applied",
            options.contour,
            options.home / "models",
            branch=options.branch,
            access=GitAccess(options.ssh_key, options.known_hosts, options.token_env),
            chart=_chart(options.chart, options.contour, options.cache) if options.chart is not None else None,
        )
        while not stop.is_set():
            reconciler.tick()
            stop.wait(options.interval)
    except PredatorError as error:
        _log.error("%s", error)
        return 2
    return 0


def _chart(path: str, contour: str, cache: Path | None) -> CommittedChart:
    from predator_si.release.helm import find_helm
    from predator_si.release.manifests import CommittedChart

    return CommittedChart(path, contour, lambda: find_helm(cache))


if __name__ == "__main__":
    sys.exit(main())
