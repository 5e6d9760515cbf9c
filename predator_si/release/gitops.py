"""``GitOpsRepo``: change machine-owned files of a Git branch, and nothing else.

The clone has no work tree and no index: a commit is built from objects and pushed by its id. So a process killed at any moment leaves
nothing half-done that a later one could trip over, and a path outside the allowlist cannot slip into a commit.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.release import git
from predator_si.release.trailers import check_names, trailer, with_trailers

OWNED = re.compile(r"^(release-[a-z0-9][a-z0-9-]*|deny)\.yaml$")
"""The only files that the loop may change; the values that hold its own policy are not among them."""
_SHA = re.compile(r"^[0-9a-f]{40,64}$")
_RACE = re.compile(r"\[rejected\]|non-fast-forward|fetch first|cannot lock ref|failed to update ref|incorrect old value|reference already exists", re.I)
_STALE_LOCK_SECONDS = 60.0
_LARGEST_CHART = 20 * 1024 * 1024

Change = Callable[[Mapping[str, str]], Mapping[str, str]]
"""Given the owned files at HEAD (path -> text), the files that shall have another text."""


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
    access
        The way in, and who signs; default: what needs neither key nor token.
    seconds
        For one command of Git.
    contour
        Whose loop commits through this object. Ids of cycles are drawn by each loop for itself, so several that share a branch have the same ones: each commit
        says whose it is, and another loop's is never taken for ours. Null: for who commits no cycles, or is alone.

    Raises
    ------
    BadInput
        The address holds a secret; ``work`` is something else than such a clone, or cannot be written.
    """

    def __init__(
        self,
        url: str | Path,
        work: Path,
        branch: str = "main",
        access: git.GitAccess | None = None,
        seconds: float = git.SECONDS,
        contour: str | None = None,
    ) -> None:
        git.check_address(str(url))
        self.url, self.work, self.branch = str(url), Path(work), branch
        self._access, self._seconds, self._contour = access or git.GitAccess(), seconds, contour
        if (self.work / ".git").exists():
            raise BadInput(f"{self.work}: is somebody's checkout, not a clone made by this program. Give another folder.")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            with self._lock() as held:
                if not (self.work / "HEAD").exists():
                    self._git("init", "-q", "--bare", ".", held=held)
        except OSError as error:
            raise BadInput(f"{self.work}: cannot be used as a clone of {self.url} ({error.strerror}). Give a folder you may write to.") from error

    @property
    def access(self) -> git.GitAccess:
        """The way in, and who signs."""
        return self._access

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

    def files(self, rev: str | None = None, only: str | Sequence[str] = ()) -> dict[str, str]:
        """The owned files (or those named) at ``rev``: path -> text. Links and folders of these names are not files."""
        names = [only] if isinstance(only, str) else list(only)
        rev = rev or self.head()
        if not _SHA.match(rev):
            raise BadInput(f"{rev!r} is not a commit id.")
        found: dict[str, str] = {}
        for line in filter(None, self._git("ls-tree", "-z", rev, *(["--", *names] if names else [])).split("\0")):
            entry, _, path = line.partition("\t")
            mode, _, blob = entry.split(" ")
            if mode in ("100644", "100755") and (names or OWNED.match(path)):
                raw = git.must(self.work, self._run("cat-file", "blob", blob))
                try:
                    found[path] = raw.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise BadInput(f"{path} in commit {rev[:12]} of {self.url} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
        return found

    def export(self, rev: str, path: str, into: Path) -> None:
        """Write the folder ``path`` of ``rev`` into the folder ``into``, under its own name.

        Raises
        ------
        Missing
            No such folder in that commit.
        BadInput
            It is no chart: too large, or a link leads out of it.
        """
        import io
        import tarfile

        made = self._run("archive", "--format=tar", rev, "--", path)
        if made.returncode:
            raise Missing(f"{path} does not exist in commit {rev[:12]} of {self.url} ({self._why(made)}).")
        if len(made.stdout) > _LARGEST_CHART:
            raise BadInput(f"{path} in commit {rev[:12]}: {len(made.stdout)} bytes, a chart has at most {_LARGEST_CHART}.")
        try:
            with tarfile.open(fileobj=io.BytesIO(made.stdout)) as archive:
                archive.extractall(into, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise BadInput(f"{path} in commit {rev[:12]}: cannot be unpacked ({error}). Take the link or the odd file out of it.") from error

    def includes(self, revision: str, commit: str) -> bool:
        """Whether ``revision`` is ``commit`` or has it in its history; fetches once when it knows one of them not.

        Raises
        ------
        Unavailable
            The repository had to be asked and does not answer.
        """
        if revision == commit:
            return True
        if not (_SHA.match(revision) and _SHA.match(commit)):
            return False  # a chart's version, a tag: nothing that a commit could be part of
        for known in (True, False):
            if not known:
                self.sync()
            result = self._run("merge-base", "--is-ancestor", commit, revision)
            if result.returncode in (0, 1):
                return result.returncode == 0
        return False

    def find_commit(self, cycle_id: str, stage: str, rev: str | None = None) -> str | None:
        """The newest commit of this cycle and stage by our own loop, found by its trailers: how a resumed run learns that it had already committed.

        A commit without the trailer of its loop, as they once were, is ours when it changed our release file.
        """
        form = f"--format=%x01%H%x09{trailer('Cycle')}%x09{trailer('Stage')}%x09{trailer('Contour')}"
        log = self._git("log", form, "--name-only", "--fixed-strings", f"--grep=Predator-Cycle: {cycle_id}", rev or self.head())
        for entry in log.split("\x01")[1:]:
            head, *paths = entry.split("\n")
            sha, cycle, of_stage, contour = head.split("\t")
            if (cycle, of_stage) == (cycle_id, stage) and self._is_ours(contour, paths):
                return sha
        return None

    def _is_ours(self, contour: str, paths: Sequence[str]) -> bool:
        if self._contour is None:
            return True
        return contour == self._contour if contour else f"release-{self._contour}.yaml" in paths

    # ------------------------------------------------------------------ changing

    def history(self, path: str, rev: str | None = None) -> list[tuple[str, datetime, str | None, str]]:
        """Commits that changed ``path``, oldest first: id, moment, the cycle of its trailer (null where a person or another loop committed), subject."""
        found = []
        for commit, at, cycle, contour, subject in self.log(path, ["%H", "%cI", trailer("Cycle"), trailer("Contour"), "%s"], rev=rev)[::-1]:
            ours = cycle and (not contour or self._contour in (None, contour))
            found.append((commit, datetime.fromisoformat(at).astimezone(UTC), cycle if ours else None, subject))
        return found

    def log(self, path: str, fields: Sequence[str], most: int | None = None, rev: str | None = None, touching: str | None = None) -> list[list[str]]:
        """The newest ``most`` commits that changed ``path``, newest first: what ``git log --format`` gives for each of the ``fields``.

        With ``touching`` only those that added or removed a line which this regular expression matches.
        """
        words = ["log", "--topo-order", "--format=" + "%x09".join(fields)]
        words += ([] if most is None else [f"-{most}"]) + ([] if touching is None else [f"-G{touching}"])
        lines = self._git(*words, rev or self.head(), "--", path).splitlines()
        return [line.split("\t", len(fields) - 1) for line in lines]

    def change(
        self,
        change: Change,
        message: str,
        *,
        cycle_id: str | None = None,
        stage: str | None = None,
        trailers: Mapping[str, str] | None = None,
        tries: int = 12,
    ) -> str | None:
        """Commit what ``change`` makes of the owned files, and push it.

        When somebody else pushed first, everything is done again on their commit: ``change`` sees the new files and may refuse.

        Parameters
        ----------
        change
            Pure: it may be called several times.
        message
            Subject and, after a blank line, body.
        cycle_id, stage
            Become the trailers ``Predator-Cycle`` and ``Predator-Stage``, with ``Predator-Contour`` beside them. When our loop made a commit with both
            already, nothing is done and its id is returned: a run that died after its push does not commit twice.
        trailers
            More of them, without their ``Predator-``: what was decided, on which evidence, by whom (``deploy.verdict_trailers``).

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
        check_names(trailers or {})
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
                commit = self._commit(base, after, with_trailers(message, cycle_id, stage, self._contour, trailers or {}), held)
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
        git.must(path, git.run(path, "init", "-q", "--bare", "-b", branch, "."))
        known = git.run(path, "rev-parse", "--verify", "-q", ref)
        if known.returncode == 0:
            return known.stdout.decode().strip()
        tree = _tree(path, seed_files, {}, None)
        commit = git.text(path, git.run(path, "commit-tree", tree, "-m", "seed: the machine-owned files")).strip()
        created = git.run(path, "update-ref", ref, commit, "0" * len(commit))
        if created.returncode:  # somebody seeded it at the same moment
            return git.text(path, git.run(path, "rev-parse", "--verify", "-q", ref)).strip()
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
            deadline = time.monotonic() + 2 * self._seconds
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

    def _git(self, *arguments: str, data: str | None = None, held: int | None = None) -> str:
        return git.text(self.work, self._run(*arguments, data=None if data is None else data.encode("utf-8"), held=held))

    def _run(self, *arguments: str, data: bytes | None = None, held: int | None = None) -> subprocess.CompletedProcess[bytes]:
        return git.run(self.work, *arguments, data=data, held=held, seconds=self._seconds)

    def _remote(self, *arguments: str, held: int) -> subprocess.CompletedProcess[bytes]:
        """A command that talks to the repository."""
        return git.run(self.work, *arguments, held=held, more=self._access.environment(self.url), seconds=self._seconds)

    def _why(self, result: subprocess.CompletedProcess[bytes]) -> str:
        return self._access.redacted(git.reason(result.stderr))

    def _known(self) -> str | None:
        result = self._run("rev-parse", "--verify", "-q", self._ref)
        return result.stdout.decode().strip() if result.returncode == 0 else None

    def _listed(self, held: int) -> str:
        """The branch's newest commit, as the repository says."""
        listed = self._remote("ls-remote", "--", self.url, f"refs/heads/{self.branch}", held=held)
        if listed.returncode or not listed.stdout.strip():
            why = self._why(listed) if listed.returncode else f"it has no branch {self.branch}"
            raise Unavailable(f"{self.url}: cannot be read ({why}). Check the address, the access and the branch.")
        return listed.stdout.split()[0].decode()

    def _fetch(self, held: int) -> str:
        if self._known() != self._listed(held):
            # the commit that ls-remote named may already be followed by another one; what was fetched is what counts
            refs = f"+refs/heads/{self.branch}:{self._ref}"
            fetched = self._remote("fetch", "-q", "--no-tags", "--no-write-fetch-head", "--", self.url, refs, held=held)
            if fetched.returncode:
                raise Unavailable(
                    f"{self.url}: cannot be fetched ({self._why(fetched)}). Check the address and the access; a damaged {self.work} may be deleted."
                )
        return self.head()

    def _commit(self, base: str, files: Mapping[str, str], message: str, held: int) -> str:
        listed = self._git("ls-tree", "-z", base)
        kept = {line.partition("\t")[2]: line for line in filter(None, listed.split("\0"))}
        tree = _tree(self.work, files, kept, held)
        more, sign = self._access.signing()
        made = git.run(self.work, "commit-tree", *sign, tree, "-p", base, "-F", "-", data=message.encode("utf-8"), held=held, more=more, seconds=self._seconds)
        if made.returncode and sign:
            raise Unavailable(f"{self._access.signing_key}: the commit cannot be signed ({self._why(made)}). Give a key without a passphrase that we may read.")
        return git.text(self.work, made).strip()

    def _push(self, commit: str, held: int) -> str | None:
        """``None`` when the branch took ``commit``; Git's words when somebody else was first."""
        refs = f"{commit}:refs/heads/{self.branch}"
        try:
            result = self._remote("push", "-q", "--", self.url, refs, held=held)
            why = self._why(result)
        except Unavailable as error:  # it did not end in time
            result, why = None, str(error)
        if result is not None and result.returncode == 0:
            return None
        if result is not None and _RACE.search(result.stderr.decode("utf-8", "replace")):
            self._clear_stale_remote_lock()
            return why
        try:  # the answer may have been lost on its way back
            arrived = self._listed(held) == commit
        except Unavailable as error:
            raise Unavailable(
                f"{self.url}: the push failed ({why}), and whether commit {commit[:12]} arrived cannot be seen either. "
                "Do it again once the repository answers: a cycle's commit is found and not made twice."
            ) from error
        if arrived:
            return None
        raise Unavailable(f"{self.url}: refuses the push ({why}). Check the access rights and the branch protection; nothing was changed.")

    def _clear_stale_remote_lock(self) -> None:
        """A lock of a killed receiver would block every push to a local repository; a live one lasts milliseconds, so a minute is dead."""
        if "://" in self.url:
            return
        for lock in (Path(self.url) / "refs" / "heads" / f"{self.branch}.lock", Path(self.url) / "HEAD.lock"):  # git takes both: HEAD names the branch
            with suppress(FileNotFoundError):
                if time.time() - lock.stat().st_mtime > _STALE_LOCK_SECONDS:
                    lock.unlink()


def _tree(folder: Path, files: Mapping[str, str], kept: Mapping[str, str], held: int | None) -> str:
    """A tree object: the ``kept`` entries (path -> ls-tree line) with ``files`` put over them."""
    entries = dict(kept)
    for path, content in files.items():
        if not path or "/" in path or path.startswith("."):
            raise BadInput(f"{path!r}: only plain top-level file names are written.")
        blob = git.text(folder, git.run(folder, "hash-object", "-w", "--stdin", data=content.encode("utf-8"), held=held)).strip()
        entries[path] = f"100644 blob {blob}\t{path}"
    lines = "".join(f"{line}\0" for line in entries.values())
    return git.text(folder, git.run(folder, "mktree", "-z", data=lines.encode("utf-8", "surrogateescape"), held=held)).strip()
