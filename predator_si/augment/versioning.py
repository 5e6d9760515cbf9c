"""Versions of training data: a Git repository whose DVC files point into a remote folder, with annotated tags in GTO's format.

DVC runs as a child process: it holds a lock for the whole repository, keeps global state and may be killed without harm to its caller.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predator_si.augment.manifest import DATASET_ID
from predator_si.corpora.text import file_digest
from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.quiet import quiet_environment

ARTIFACT = "reranker-dataset"
REMOTE = "store"
_TAG = re.compile(rf"^{ARTIFACT}@v(\d+)\.(\d+)\.(\d+)$")
_TIMEOUT_SECONDS = 300
_CONFIG = f"[core]\n    remote = {REMOTE}\n    analytics = false\n    check_update = false\n"


@dataclass(frozen=True)
class Restored:
    """A data set that was brought back: where, the sha256 of each file, and DVC's hash of them, computed from the bytes that were written."""

    folder: Path
    files: Mapping[str, str]
    hash: str


class DatasetRepo:
    """A folder under Git and DVC.

    Parameters
    ----------
    folder
        The repository; made on first use.
    remote
        Where DVC keeps the contents: a folder, or any URL that DVC knows. Not committed (``.dvc/config.local``), so that the repository can move.
    """

    def __init__(self, folder: Path, remote: Path | str) -> None:
        self.folder = Path(folder).absolute()
        self.remote = str(remote) if "://" in str(remote) else str(Path(remote).absolute())

    @classmethod
    def of(cls, home: Path) -> DatasetRepo:
        """The repository of an installation's home folder."""
        return cls(Path(home) / "datasets", Path(home) / "datasets-store")

    def commit(self, files: Sequence[Path], dataset_id: str) -> dict[str, str]:
        """Store ``files`` as the data set ``dataset_id`` and tag it with the next version; the same content again gives the version it has.

        Returns
        -------
        dict[str, str]
            ``path`` (of the DVC file, inside the repository), ``hash`` (DVC's md5 of the folder), ``tag`` (GTO: ``reranker-dataset@vX.Y.Z``), ``commit``.

        Raises
        ------
        BadInput
            Not a data set id, or a file that is not there.
        Unavailable
            Git or DVC failed; the message holds what they said.
        """
        from filelock import FileLock

        if not DATASET_ID.match(dataset_id):
            raise BadInput(f"{dataset_id!r} is no data set id; it looks like aug_2026_11_22_001. Use dataset_id_of(cycle_id).")
        absent = [str(path) for path in files if not Path(path).is_file()]
        if absent or not files:
            raise BadInput(f"data set {dataset_id}: no such file: {', '.join(absent) or '(none given)'}. Run write_dataset first.")
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_name(self.folder.name + ".lock"), timeout=_TIMEOUT_SECONDS):
            self._prepare()
            target = self.folder / dataset_id
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            for path in files:
                shutil.copyfile(path, target / Path(path).name)
            self._dvc("add", "--quiet", dataset_id)
            self._dvc("push", "--quiet", f"{dataset_id}.dvc")
            self._git("add", f"{dataset_id}.dvc", ".gitignore")
            tag = self._tag_of(dataset_id)
            if tag is None or not self._succeeds("diff", "--cached", "--quiet"):
                self._git("commit", "--quiet", "--allow-empty", "-m", f"Add data set {dataset_id}")
                tag = self._next_tag()
                self._git("tag", "-a", tag, "-m", f"Registering artifact {ARTIFACT} version {tag.split('@')[1]}\n\ndataset: {dataset_id}")
            return {"path": f"{dataset_id}.dvc", "hash": self.hash_of(dataset_id), "tag": tag, "commit": self._git("rev-parse", f"{tag}^{{commit}}")}

    def restore(self, dataset_id: str, to: Path) -> Restored:
        """Bring the data set back into the folder ``to``, by a ``dvc pull`` into a fresh clone with an empty cache.

        DVC takes what its remote gives without a look at the contents, so the hash is computed here, without DVC, before anything is written to ``to`` and
        again of what then lies there; both must be the stored one. Files of other names in ``to`` stay.

        Raises
        ------
        Missing
            The repository does not know this data set, or the remote has lost its contents or holds changed ones.
        Unavailable
            The files cannot be written, or are not what was stored.
        """
        if not (self.folder / f"{dataset_id}.dvc").is_file():
            known = ", ".join(sorted(path.stem for path in self.folder.glob("aug_*.dvc"))) or "none"
            raise Missing(f"{self.folder}: no data set {dataset_id}; known: {known}. Check the id, or build the data set again.")
        to = Path(to).absolute()
        try:
            to.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=".restoring-", dir=to.parent) as scratch:
                clone = Path(scratch) / "clone"
                self._run(["git", "clone", "--quiet", str(self.folder), str(clone)], cwd=Path(scratch))
                self._local_config(clone)
                try:
                    self._dvc("pull", "--quiet", f"{dataset_id}.dvc", cwd=clone)
                except Unavailable as error:
                    advice = "Restore the remote from a backup, or build the data set again."
                    raise Missing(f"data set {dataset_id} cannot be pulled from {self.remote}: {error} {advice}") from error
                names = sorted(path.name for path in (clone / dataset_id).iterdir())
                stored, pulled = self.hash_of(dataset_id), folder_hash(clone / dataset_id, names)
                if pulled != stored:
                    advice = "Somebody changed them. Restore the remote from a backup, or build the data set again."
                    raise Missing(f"data set {dataset_id}: {self.remote} holds files of the hash {pulled}, stored was {stored}. {advice}")
                to.mkdir(exist_ok=True)
                for name in names:
                    partial = to / f"{name}.restoring"
                    shutil.copyfile(clone / dataset_id / name, partial)
                    partial.replace(to / name)
        except OSError as error:
            raise Unavailable(f"{to}: the data set {dataset_id} cannot be written there ({error}). Free some space, or choose another folder.") from error
        found = folder_hash(to, names)
        if found != stored:
            raise Unavailable(f"{to}: the restored files have the hash {found}, stored is {stored}. The disk or another process changed them: try again.")
        return Restored(to, {name: file_digest(to / name) for name in names}, found)

    def hash_of(self, dataset_id: str) -> str:
        """DVC's md5 of a committed data set."""
        return _md5((self.folder / f"{dataset_id}.dvc").read_text(encoding="utf-8"))

    def versions(self) -> dict[str, str]:
        """GTO tag -> data set id, oldest version first."""
        if not (self.folder / ".git").exists():
            return {}
        lines = self._git("for-each-ref", "--format=%(refname:short)%09%(contents:body)", f"refs/tags/{ARTIFACT}@v*").splitlines()
        pairs = [line.split("\tdataset: ") for line in lines if "\tdataset: " in line]
        return dict(sorted(((tag, body.strip()) for tag, body in pairs if _TAG.match(tag)), key=lambda item: _version(item[0])))

    def listing(self) -> list[dict[str, Any]]:
        """Each version, oldest first: ``tag, dataset_id, hash`` (of that version), ``created_at, commit, stages`` (those whose newest assignment it has)."""
        found = []
        assigned = self._stages() if self.versions() else {}
        for tag, dataset_id in self.versions().items():
            commit, created = self._git("log", "-1", "--format=%H %cI", f"{tag}^{{commit}}").split()
            dvc_file = self._git("show", f"{commit}:{dataset_id}.dvc")
            stages = sorted(stage for stage, holder in assigned.items() if holder == commit)
            found.append({"tag": tag, "dataset_id": dataset_id, "hash": _md5(dvc_file), "created_at": created, "commit": commit, "stages": stages})
        return found

    def _stages(self) -> dict[str, str]:
        """Stage -> commit of its newest assignment."""
        names = [name.rsplit("#", 2) for name in self._git("tag", "--list", f"{ARTIFACT}#*").splitlines()]
        ordered = sorted((int(number), stage) for _, stage, number in names)
        return {stage: self._git("rev-parse", f"{ARTIFACT}#{stage}#{number}^{{commit}}") for number, stage in ordered}

    def tag(self, dataset_id: str, stage: str) -> str:
        """Assign the newest version of a data set to a stage by GTO's tag ``reranker-dataset#<stage>#<n>``; the tag.

        Raises
        ------
        BadInput
            ``stage`` is not a word of small letters, digits and dashes.
        Missing
            The data set has no version.
        """
        if not re.fullmatch(r"[a-z][a-z0-9-]*", stage):
            raise BadInput(f"{stage!r} is no stage name: small letters, digits and dashes, beginning with a letter, as in 'stable'.")
        version = self._tag_of(dataset_id)
        if version is None:
            raise Missing(f"{self.folder}: data set {dataset_id} has no version. Commit it first.")
        numbers = [int(name.rsplit("#", 1)[1]) for name in self._git("tag", "--list", f"{ARTIFACT}#*").splitlines()]
        name = f"{ARTIFACT}#{stage}#{max(numbers, default=0) + 1}"
        self._git("tag", "-a", name, f"{version}^{{commit}}", "-m", f"Assigning stage {stage} to artifact {ARTIFACT} version {version.split('@')[1]}")
        return name

    def _prepare(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / ".git").exists():
            self._git("init", "--quiet", "--initial-branch=main")
        # Set each time: a killed first run may have left half of this. Who holds our lock is alone here: a lock of Git's is of one that was killed.
        (self.folder / ".git" / "index.lock").unlink(missing_ok=True)
        self._git("config", "user.name", "predator-si")
        self._git("config", "user.email", "predator-si@localhost")
        self._git("config", "commit.gpgsign", "false")
        self._git("config", "tag.gpgsign", "false")
        if not (self.folder / ".dvc" / ".gitignore").is_file():
            self._dvc("init", "--quiet", "--force")
        config = self.folder / ".dvc" / "config"
        if not config.is_file() or config.read_text(encoding="utf-8") != _CONFIG:
            config.write_text(_CONFIG, encoding="utf-8")
        self._local_config(self.folder)
        self._git("add", ".dvc/config", ".dvc/.gitignore", ".dvcignore")
        if not self._succeeds("rev-parse", "--verify", "--quiet", "HEAD"):
            self._git("commit", "--quiet", "-m", "Start the data sets")

    def _local_config(self, root: Path) -> None:
        # The cache lies inside each clone and never in the user's home.
        text = f"[core]\n    site_cache_dir = {root / '.dvc' / 'tmp' / 'site'}\n['remote \"{REMOTE}\"']\n    url = {self.remote}\n"
        (root / ".dvc" / "config.local").write_text(text, encoding="utf-8")

    def _tag_of(self, dataset_id: str) -> str | None:
        """The newest version of a data set."""
        tags = [tag for tag, name in self.versions().items() if name == dataset_id]
        return tags[-1] if tags else None

    def _next_tag(self) -> str:
        newest = max((_version(name) for name in self._git("tag", "--list", f"{ARTIFACT}@v*").splitlines() if _TAG.match(name)), default=(0, 0, 0))
        return f"{ARTIFACT}@v{newest[0]}.{newest[1]}.{newest[2] + 1}"

    def _git(self, *arguments: str) -> str:
        return self._run(["git", *arguments], cwd=self.folder)

    def _succeeds(self, *arguments: str) -> bool:
        return subprocess.run(["git", *arguments], cwd=self.folder, capture_output=True, check=False, timeout=_TIMEOUT_SECONDS).returncode == 0

    def _dvc(self, *arguments: str, cwd: Path | None = None) -> str:
        return self._run([sys.executable, "-m", "dvc", *arguments], cwd=cwd or self.folder)

    def _run(self, command: list[str], cwd: Path) -> str:
        # DVC's own folders are kept inside the repository: nothing is read from or written to the user's configuration.
        own = {name: str(self.folder.parent / f".{self.folder.name}-dvc") for name in ("DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR")}
        environment = {**os.environ, **quiet_environment(), **own, "GIT_TERMINAL_PROMPT": "0"}
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
            environment.pop(name, None)
        try:
            done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False)
        except FileNotFoundError as error:
            raise Unavailable(f"{command[0]}: not found. Install it, then try again.") from error
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"{' '.join(command[:4])}: no end after {_TIMEOUT_SECONDS} s in {cwd}. Is another process holding the repository?") from error
        if done.returncode:
            raise Unavailable(f"{' '.join(command[:4])} failed in {cwd}: {(done.stderr or done.stdout).strip()[-500:]}. Look at the repository and try again.")
        return done.stdout.strip()


def folder_hash(folder: Path, names: Sequence[str]) -> str:
    """DVC's hash of a folder with these files: the md5 of the JSON list of their md5s and names, sorted by name, with ``.dir`` after it."""
    entries = []
    for name in sorted(names):
        with (Path(folder) / name).open("rb") as stream:
            entries.append({"md5": hashlib.file_digest(stream, "md5").hexdigest(), "relpath": name})
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(dvc_file: str) -> str:
    import yaml

    content: dict[str, Any] = yaml.safe_load(dvc_file)
    return str(content["outs"][0]["md5"])


def _version(tag: str) -> tuple[int, int, int]:
    match = _TAG.match(tag)
    return (int(match[1]), int(match[2]), int(match[3])) if match else (0, 0, 0)
