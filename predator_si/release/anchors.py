"""The ledger's head in Git: a branch of its own, to which each release and each hour adds one commit.

Whoever rewrites the ledger and its head row cannot rewrite commits that other clones of the repository hold. What belongs here: writing and reading anchors.
What must not: the chain itself (``control.ledger``), when an anchor is due (``orchestration``).

The branch is ``ledger-<contour>``; Argo CD and the reconciler do not follow it. A commit's subject is ``ledger <contour> <seq> <hash>``, its tree has the
same as ``head.json``. Commits are signed where the access has a key, and each is verified where the contour names whose signatures count
(``gitops.allowedSigners``). Our clone remembers the newest anchor it saw: a branch that does not go on from there was rewritten, and is reported.

A ledger that came back from an older copy goes on with an anchor that says so, ``Restarted-After: N``: what was anchored after record N before that is lost,
and known to be. Until somebody writes that anchor (``predator-si audit accept``, or a restore) the ledger is not believed.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from predator_si.errors import BadInput, Unavailable
from predator_si.records import Record, utc_now
from predator_si.release import git

_SUBJECT = re.compile(r"ledger (\S+) (\d+) ([0-9a-f]{64})")
_TRIES = 5


_FORMAT = "%H%x09%ct%x09%(trailers:key=Restarted-After,valueonly,separator=%x2C)%x09%s"


class Anchor(Record):
    """The ledger's head at one moment."""

    seq: int
    hash: str
    at: datetime
    commit: str
    restarted_after: int | None = None
    """The ledger was accepted as it stands: records after this one that were anchored earlier are lost. Null: an ordinary anchor."""


class LedgerAnchors:
    """Anchors of one contour's ledger.

    Parameters
    ----------
    url
        The GitOps repository, or any other that ``git push`` understands.
    work
        A bare clone of its own; made when missing.
    signers
        File of those whose signatures count (``ALLOWED SIGNERS`` of ssh-keygen(1)); null: signatures are not asked for.
    """

    def __init__(self, url: str | Path, work: Path, contour: str, access: git.GitAccess | None = None, signers: Path | None = None) -> None:
        if re.fullmatch(r"[a-z0-9][a-z0-9-]*", contour) is None:
            raise BadInput(f"{contour!r} cannot be a part of a branch's name: small letters, digits and dashes.")
        self._url, self._work, self._contour, self._access = str(url), work, contour, access or git.GitAccess()
        self._signers = signers
        self.branch = f"ledger-{contour}"
        self._ref = f"refs/anchors/{self.branch}"

    def write(
        self, head: tuple[int, str], now: datetime | None = None, why: str = "", restarted_after: int | None = None, more: Mapping[str, str] | None = None
    ) -> Anchor | None:
        """Anchor a head; null where the newest anchor names this record already.

        Parameters
        ----------
        restarted_after
            Somebody accepts the ledger as it stands: records after this one that were anchored earlier are lost.
        more
            Further files of the anchor's tree, name to text.

        Raises
        ------
        OlderLedger
            The newest anchor names a later record, or another hash for this one, and ``restarted_after`` is null.
        Unavailable
            The repository is not reached, or does not take it; the next try anchors a later head.
        """
        self._prepare()
        at = (now or utc_now()).astimezone(UTC)
        for _ in range(_TRIES):
            newest = next(iter(self.read(1)), None)
            if restarted_after is None and newest is not None and newest.seq >= head[0]:
                if (newest.seq, newest.hash) == head:
                    return None
                raise OlderLedger(conflict(newest, head[0]))
            said = {"contour": self._contour, "seq": head[0], "hash": head[1], "at": at.isoformat(timespec="seconds")}
            if restarted_after is not None:
                said["restarted_after"] = restarted_after
            tree = self._tree({"head.json": json.dumps(said, indent=2) + "\n", **(more or {})})
            environment, sign = self._access.signing()
            stamp = {name: f"{int(at.timestamp())} +0000" for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE")}
            parents = ["-p", newest.commit] if newest is not None else []
            message = f"ledger {self._contour} {head[0]} {head[1]}\n\n{why or 'by the hour'}\n"
            if restarted_after is not None:
                message += f"\nRestarted-After: {restarted_after}\n"
            commit = self._text("commit-tree", *sign, tree, *parents, "-F", "-", data=message.encode(), more={**environment, **stamp})
            pushed = self._remote("push", "-q", "--", self._url, f"{commit}:refs/heads/{self.branch}")
            if pushed.returncode == 0:
                git.must(self._work, git.run(self._work, "update-ref", self._ref, commit))
                return Anchor(seq=head[0], hash=head[1], at=at.replace(microsecond=0), commit=commit, restarted_after=restarted_after)
        raise Unavailable(f"{git.shown(self._url)}: {self.branch} does not take the anchor ({self._why(pushed.stderr)}). Check access rights and protection.")

    def read(self, limit: int | None = None) -> list[Anchor]:
        """Anchors, newest first, after a fetch; none where the branch does not exist yet.

        Raises
        ------
        RewrittenAnchors
            The branch no longer holds the newest anchor that this clone saw: somebody rewrote it.
        Unavailable
            The repository is not reached.
        """
        self._prepare()
        self._fetch()
        return self.known(limit)

    def known(self, limit: int | None = None) -> list[Anchor]:
        """Anchors that this clone holds, newest first; nobody is asked."""
        if not (self._work / "HEAD").exists() or not self._known():
            return []
        most = [f"-{limit}"] if limit is not None else []
        found: list[Anchor] = []
        for line in self._text("log", f"--format={_FORMAT}", *most, self._ref).splitlines():
            commit, seconds, after, subject = line.split("\t", 3)
            match = _SUBJECT.fullmatch(subject)
            if match is not None and match[1] == self._contour:
                restarted = int(after) if after.isdecimal() else None
                moment = datetime.fromtimestamp(int(seconds), UTC)
                found.append(Anchor(seq=int(match[2]), hash=match[3], at=moment, commit=commit, restarted_after=restarted))
        return found

    def file(self, commit: str, name: str) -> str | None:
        """A file of an anchor's tree; null where it has none of this name."""
        found = git.run(self._work, "cat-file", "blob", f"{commit}:{name}")
        return found.stdout.decode() if found.returncode == 0 else None

    def signature_problems(self, anchors: Sequence[Anchor]) -> list[str]:
        """Anchors whose signature does not count, in words; none where the contour names no signers.

        Anchors from before the first signed one may be unsigned: the key was set later. The newest one never may.

        Parameters
        ----------
        anchors
            Newest first, as :meth:`read` gives them.
        """
        if self._signers is None or not anchors:
            return []
        settings = {"gpg.format": "ssh", "gpg.ssh.allowedSignersFile": str(self._signers)}
        checked: list[tuple[Anchor, str]] = []
        for anchor in anchors:
            done = git.run(self._work, "verify-commit", anchor.commit, more=git.as_environment(settings))
            checked.append((anchor, "" if done.returncode == 0 else git.reason(done.stderr) or "it has no signature"))
        while len(checked) > 1 and checked[-1][1]:
            checked.pop()
        return [
            f"record {anchor.seq}, anchored at {anchor.at:%Y-%m-%d %H:%M:%S} UTC in commit {anchor.commit[:12]}, "
            f"is not signed by anybody in {self._signers} ({why})"
            for anchor, why in checked
            if why
        ]

    # ------------------------------------------------------------------ git

    def _prepare(self) -> None:
        if not (self._work / "HEAD").exists():
            self._work.mkdir(parents=True, exist_ok=True)
            git.must(self._work, git.run(self._work, "init", "-q", "--bare", "."))

    def _fetch(self) -> None:
        """Bring the branch here; without a plus: only where it goes on from what is known."""
        fetched = self._remote("fetch", "-q", "--no-tags", "--", self._url, f"refs/heads/{self.branch}:{self._ref}")
        if fetched.returncode == 0:
            return
        why = self._why(fetched.stderr)
        listed = self._remote("ls-remote", "--", self._url, f"refs/heads/{self.branch}")
        if listed.returncode:
            raise Unavailable(f"{git.shown(self._url)}: the anchors of the ledger cannot be read ({why}). See that the repository answers.")
        if listed.stdout.strip() or self._known():
            raise RewrittenAnchors(
                f"{git.shown(self._url)}: branch {self.branch} does not hold the anchor {self._known()[:12]} that was seen before ({why}): it was rewritten. "
                "Compare with another clone of the repository before trusting the ledger."
            )

    def _tree(self, files: Mapping[str, str]) -> str:
        blobs = {name: self._text("hash-object", "-w", "--stdin", data=text.encode()) for name, text in files.items()}
        return self._text("mktree", data="".join(f"100644 blob {blobs[name]}\t{name}\n" for name in sorted(files)).encode())

    def _known(self) -> str:
        found = git.run(self._work, "rev-parse", "--verify", "-q", self._ref)
        return found.stdout.decode().strip() if found.returncode == 0 else ""

    def _remote(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return git.run(self._work, *arguments, more=self._access.environment(self._url))

    def _text(self, *arguments: str, data: bytes | None = None, more: dict[str, str] | None = None) -> str:
        return git.text(self._work, git.run(self._work, *arguments, data=data, more=more)).strip()

    def _why(self, stderr: bytes) -> str:
        return self._access.redacted(git.reason(stderr))


class RewrittenAnchors(BadInput):
    """The branch of anchors is not the one that was seen before."""


class OlderLedger(BadInput):
    """The ledger is not the one that was anchored: an older copy was put back, it was lost, or it was rewritten."""


def conflict(anchor: Anchor, newest: int) -> str:
    """What is wrong with a ledger whose newest record has number ``newest`` and that does not hold an anchor."""
    what = f"its newest record is {newest or 'none'}, and" if newest < anchor.seq else "the chain was rewritten:"
    return (
        f"the ledger is not the one that was anchored: {what} record {anchor.seq} ({anchor.hash[:12]}) was anchored at {anchor.at:%Y-%m-%d %H:%M} UTC. "
        "Put the newer copy back, or, where that is lost, say so: `predator-si audit accept --reason ...`"
    )


def anchor_problems(anchors: list[Anchor], hash_at: Callable[[int], str | None]) -> list[str]:
    """Where the ledger is not the one that was anchored, in words; empty when it is.

    Parameters
    ----------
    anchors
        Newest first, as ``LedgerAnchors.read`` gives them. What a later one says to be lost is not asked for.
    hash_at
        Hash of the ledger record with this number; null where it has none.
    """
    problems: list[str] = []
    for anchor in standing(anchors)[::-1]:
        found = hash_at(anchor.seq)
        when = f"record {anchor.seq}, anchored at {anchor.at:%Y-%m-%d %H:%M:%S} UTC in commit {anchor.commit[:12]},"
        if found is None:
            problems.append(f"{when} is not in the ledger: its tail was cut, or an older copy was put back")
        elif found != anchor.hash:
            problems.append(f"{when} has another hash in the ledger: the chain was rewritten")
    return problems


def standing(anchors: Sequence[Anchor]) -> list[Anchor]:
    """Those that no later one gave up, newest first."""
    found: list[Anchor] = []
    limit: int | None = None
    for anchor in anchors:
        if limit is None or anchor.seq <= limit:
            found.append(anchor)
        if anchor.restarted_after is not None:
            limit = anchor.restarted_after if limit is None else min(limit, anchor.restarted_after)
    return found
