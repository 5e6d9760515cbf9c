"""``GitOpsRepo``: change machine-owned files of a Git branch, and nothing else.

The clone has no work tree and no index: a commit is built from objects and pushed by its id. So a process killed at any moment leaves
nothing half-done that a later one could trip over, and a path outside the allowlist cannot slip into a commit.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from predator_si.errors import BadInput, Missing, Refused, Unavailable

AUTHOR = ("predator-si", "bot@predator-si.invalid")
OWNED = re.compile(r"^(release-[a-z0-9][a-z0-9-]*|deny)\.yaml$")
"""The only files that the loop may change; the values that hold its own policy are not among them."""
_SHA = re.compile(r"^[0-9a-f]{40,64}$")
_RACE = re.compile(r"\[rejected\]|non-fast-forward|fetch first|cannot lock ref|failed to update ref|incorrect old value|reference already exists", re.I)
_STALE_LOCK_SECONDS = 60.0
_GIT_SECONDS = 60.0

Change = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Given the owned files at HEAD (path -> text), the files that shall have another text."""


def clean_environment() -> dict[str, str]:
    """The environment without what could bend Git: no user or system configuration, no hooks, no prompts, one author."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    name, email = AUTHOR
    return kept | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": email,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": email,
        "LC_ALL": "C",
    }


def _run(folder: Path, *arguments: str, data: bytes | None = None, held: int | None = None) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-c", "gc.auto=0", *arguments]
    # a child that outlives a killed parent keeps the lock file descriptor, and with it the lock
    descriptors = () if held is None else (held,)
    try:
        return subprocess.run(
            command, cwd=folder, input=data, capture_output=True, env=clean_environment(), timeout=_GIT_SECONDS, pass_fds=descriptors, check=False
        )
    except FileNotFoundError as error:
        raise Unavailable(f"git cannot be run in {folder} ({error}). Install git 2.34 or newer, and check that the folder exists.") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(
            f"git {arguments[0]} did not end within {_GIT_SECONDS:g} s in {folder}. Check that the repository's disk or server answers."
        ) from error


class GitOpsRepo:
    """A branch of a Git repository, read and changed through a private clone.

    Parameters
    ----------
    url
        What ``git push`` understands: a path of a bare repository, or an ssh or https URL.
    work
        Folder of the clone; made when missing. It belongs to this class: processes that share it take turns by a lock file in it.
    branch
        The branch that the reconciler, or Argo CD, follows.

    Raises
    ------
    BadInput
        ``work`` is something else than such a clone, or cannot be written.
    """

    def __init__(self, url: str | Path, work: Path, branch: str = "main") -> None:
        self.url, self.work, self.branch = str(url), Path(work), branch
        if (self.work / ".git").exists():
            raise BadInput(f"{self.work}: is somebody's checkout, not a clone made by this program. Give another folder.")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            with self._lock() as held:
                if not (self.work / "HEAD").exists():
                    self._git("init", "-q", "--bare", ".", held=held)
        except OSError as error:
            raise BadInput(f"{self.work}: cannot be used as a clone of {self.url} ({error.strerror}). Give a folder you may write to.") from error

    # ------------------------------------------------------------------ reading

    def sync(self) -> str:
        """Fetch the branch and give its newest commit.

        Raises
        ------
        Unavailable
            The repository or the branch cannot be reached.
        """
        with self._lock() as held:
            return self._fetch(held)

    def head(self) -> str:
        """The newest commit of the branch as last fetched.

        Raises
        ------
        Missing
            Nothing was fetched yet.
        """
        found = self._known()
        if found is None:
            raise Missing(f"{self.work}: branch {self.branch} of {self.url} was never fetched. Call sync() first.")
        return found

    def show(self, path: str, rev: str | None = None) -> str:
        """Text of ``path`` at ``rev`` (default: the fetched head).

        Raises
        ------
        Missing
            No such file in that commit.
        """
        files = self.files(rev, only=path)
        if path not in files:
            raise Missing(f"{path} does not exist in commit {rev or self.head()} of {self.url}. Add it to the repository first.")
        return files[path]

    def files(self, rev: str | None = None, only: str | None = None) -> dict[str, str]:
        """The owned files (or the one named) at ``rev``: path -> text. Links and folders of these names are not files."""
        rev = rev or self.head()
        if not _SHA.match(rev):
            raise BadInput(f"{rev!r} is not a commit id.")
        found: dict[str, str] = {}
        for line in filter(None, self._git("ls-tree", "-z", rev, *(["--", only] if only else [])).split("\0")):
            entry, _, path = line.partition("\t")
            mode, _, blob = entry.split(" ")
            if mode in ("100644", "100755") and (only or OWNED.match(path)):
                raw = _must(self.work, _run(self.work, "cat-file", "blob", blob))
                try:
                    found[path] = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise BadInput(f"{path} in commit {rev[:12]} of {self.url} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
        return found

    def find_commit(self, cycle_id: str, stage: str, rev: str | None = None) -> str | None:
        """The newest commit of this cycle and stage, found by its trailers: how a resumed run learns that it had already committed."""
        form = "--format=%H%x09%(trailers:key=Predator-Cycle,valueonly,separator=%x2c)%x09%(trailers:key=Predator-Stage,valueonly,separator=%x2c)"
        log = self._git("log", form, "--fixed-strings", f"--grep=Predator-Cycle: {cycle_id}", rev or self.head())
        for line in log.splitlines():
            sha, cycle, of_stage = line.split("\t")
            if (cycle, of_stage) == (cycle_id, stage):
                return sha
        return None

    # ------------------------------------------------------------------ changing

    def change(self, change: Change, message: str, *, cycle_id: str | None = None, stage: str | None = None, tries: int = 12) -> str | None:
        """Commit what ``change`` makes of the owned files, and push it.

        When somebody else pushed first, everything is done again on their commit: ``change`` sees the new files and may refuse.

        Parameters
        ----------
        change
            Pure: it may be called several times.
        message
            Subject and, after a blank line, body.
        cycle_id, stage
            Become the trailers ``Predator-Cycle`` and ``Predator-Stage``. When a commit with both exists already, nothing is done and its
            id is returned: a run that died after its push does not commit twice.

        Returns
        -------
        str or None
            The commit; ``None`` when ``change`` changes nothing.

        Raises
        ------
        Refused
            ``change`` touches a file outside the allowlist, or raises it itself. Nothing is committed.
        Unavailable
            The push is refused for another reason than a race, or lost the race ``tries`` times.
        """
        if (cycle_id is None) != (stage is None):
            raise BadInput("a cycle's commit needs both its cycle_id and its stage.")
        rejection: str | None = None
        for attempt in range(tries):
            if attempt:
                time.sleep(random.uniform(0.0, 0.02) * 2 ** min(attempt, 6))  # two writers in step would meet again and again
            with self._lock() as held:
                base = self._fetch(held)
                if cycle_id is not None and stage is not None:
                    done = self.find_commit(cycle_id, stage, base)
                    if done is not None:
                        return done
                before = self.files(base)
                after = {path: text for path, text in change(before).items() if before.get(path) != text}
                for path in after:
                    if not OWNED.match(path):
                        raise Refused(f"{path}: the loop may change release-<contour>.yaml and deny.yaml only. Change it by hand, with a review.")
                if not after:
                    return None
                commit = self._commit(base, after, _with_trailers(message, cycle_id, stage), held)
                rejection = self._push(commit, held)
                if rejection is None:
                    self._git("update-ref", self._ref, commit, held=held)
                    return commit
        raise Unavailable(
            f"{self.url}: the push was rejected {tries} times, other writers were first ({rejection}). Find who writes to {self.branch} so often."
        )

    # ------------------------------------------------------------------ making a repository

    @staticmethod
    def init_bare(path: Path, seed_files: Mapping[str, str], branch: str = "main") -> str:
        """Make a bare repository with one commit of ``seed_files`` (top-level name -> text); leave an existing branch as it is.

        Safe to repeat and safe to be killed: the branch appears at once with its commit.

        Returns
        -------
        str
            The branch's newest commit.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadInput(f"{path}: cannot be made ({error.strerror}). Choose a folder you may write to.") from error
        ref = f"refs/heads/{branch}"
        _must(path, _run(path, "init", "-q", "--bare", "-b", branch, "."))
        known = _run(path, "rev-parse", "--verify", "-q", ref)
        if known.returncode == 0:
            return known.stdout.decode().strip()
        tree = _tree(path, seed_files, {}, None)
        commit = _text(path, _run(path, "commit-tree", tree, "-m", "seed: the machine-owned files")).strip()
        created = _run(path, "update-ref", ref, commit, "0" * len(commit))
        if created.returncode:  # somebody seeded it at the same moment
            return _text(path, _run(path, "rev-parse", "--verify", "-q", ref)).strip()
        return commit

    # ------------------------------------------------------------------ git

    @property
    def _ref(self) -> str:
        return f"refs/predator/{self.branch}"

    @contextmanager
    def _lock(self) -> Iterator[int]:
        """One process at a time in this clone; the kernel lets go when the holder dies."""
        descriptor = os.open(self.work / "predator.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + 2 * _GIT_SECONDS
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise Unavailable(f"{self.work}: another process keeps this clone locked. Find and end it, then try again.") from error
                    time.sleep(0.01)
            # whoever made a lock file that is still here is dead: we hold the only right to work in this clone
            for stale in (self.work / f"{self._ref}.lock", self.work / "config.lock", self.work / "HEAD.lock"):
                stale.unlink(missing_ok=True)
            yield descriptor
        finally:
            os.close(descriptor)

    def _git(self, *arguments: str, text: str | None = None, held: int | None = None) -> str:
        return _text(self.work, _run(self.work, *arguments, data=None if text is None else text.encode("utf-8"), held=held))

    def _known(self) -> str | None:
        result = _run(self.work, "rev-parse", "--verify", "-q", self._ref)
        return result.stdout.decode().strip() if result.returncode == 0 else None

    def _fetch(self, held: int) -> str:
        listed = _run(self.work, "ls-remote", "--", self.url, f"refs/heads/{self.branch}", held=held)
        if listed.returncode or not listed.stdout.strip():
            why = _reason(listed.stderr) if listed.returncode else f"it has no branch {self.branch}"
            raise Unavailable(f"{self.url}: cannot be read ({why}). Check the address, the access and the branch.")
        if self._known() != listed.stdout.split()[0].decode():
            # the commit that ls-remote named may already be followed by another one; what was fetched is what counts
            self._git("fetch", "-q", "--no-tags", "--no-write-fetch-head", "--", self.url, f"+refs/heads/{self.branch}:{self._ref}", held=held)
        return self.head()

    def _commit(self, base: str, files: Mapping[str, str], message: str, held: int) -> str:
        listed = self._git("ls-tree", "-z", base)
        kept = {line.partition("\t")[2]: line for line in filter(None, listed.split("\0"))}
        tree = _tree(self.work, files, kept, held)
        return self._git("commit-tree", tree, "-p", base, "-F", "-", text=message, held=held).strip()

    def _push(self, commit: str, held: int) -> str | None:
        """``None`` when the branch took ``commit``; Git's words when somebody else was first."""
        result = _run(self.work, "push", "-q", "--", self.url, f"{commit}:refs/heads/{self.branch}", held=held)
        if result.returncode == 0:
            return None
        reason = _reason(result.stderr)
        if _RACE.search(result.stderr.decode("utf-8", "replace")):
            self._clear_stale_remote_lock()
            return reason
        raise Unavailable(f"{self.url}: refuses the push ({reason}). Check the access rights and the branch protection; nothing was changed.")

    def _clear_stale_remote_lock(self) -> None:
        """A ref lock of a killed receiver would block every push to a local repository; a live one lasts milliseconds, so a minute is dead."""
        lock = Path(self.url) / "refs" / "heads" / f"{self.branch}.lock"
        try:
            if "://" not in self.url and time.time() - lock.stat().st_mtime > _STALE_LOCK_SECONDS:
                lock.unlink(missing_ok=True)
        except FileNotFoundError:
            return


def _tree(folder: Path, files: Mapping[str, str], kept: Mapping[str, str], held: int | None) -> str:
    """A tree object: the ``kept`` entries (path -> ls-tree line) with ``files`` put over them."""
    entries = dict(kept)
    for path, text in files.items():
        if not path or "/" in path or path.startswith("."):
            raise BadInput(f"{path!r}: only plain top-level file names are written.")
        blob = _text(folder, _run(folder, "hash-object", "-w", "--stdin", data=text.encode("utf-8"), held=held)).strip()
        entries[path] = f"100644 blob {blob}\t{path}"
    lines = "".join(f"{line}\0" for line in entries.values())
    return _text(folder, _run(folder, "mktree", "-z", data=lines.encode("utf-8", "surrogateescape"), held=held)).strip()


def _with_trailers(message: str, cycle_id: str | None, stage: str | None) -> str:
    subject, _, body = message.strip().partition("\n")
    parts = [subject, body.strip()] if body.strip() else [subject]
    trailers = [] if cycle_id is None else [f"Predator-Cycle: {cycle_id}", f"Predator-Stage: {stage}"]
    # Two processes that make the same change in the same second would make the same commit, and both would believe that their push brought it.
    parts.append("\n".join([*trailers, f"Predator-Change: {secrets.token_hex(6)}"]))
    return "\n\n".join(parts) + "\n"


def _must(folder: Path, result: subprocess.CompletedProcess[bytes]) -> bytes:
    if result.returncode:
        verb = result.args[5]
        raise Unavailable(f"git {verb} failed in {folder}: {_reason(result.stderr)}. If the clone is damaged, delete it: it is made again from the repository.")
    return result.stdout


def _text(folder: Path, result: subprocess.CompletedProcess[bytes]) -> str:
    return _must(folder, result).decode("utf-8", "surrogateescape")


def _reason(stderr: bytes) -> str:
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip() and not line.startswith("hint:")]
    return "; ".join(lines[:3])[:300] or "no reason given"
