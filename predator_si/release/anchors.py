"""The ledger's head in Git: a branch of its own, to which each release and each hour adds one commit.

Whoever rewrites the ledger and its head row cannot rewrite commits that other clones of the repository hold. What belongs here: writing and reading anchors.
What must not: the chain itself (``control.ledger``), when an anchor is due (``orchestration``).

The branch is ``ledger-<contour>``; Argo CD and the reconciler do not follow it. A commit's subject is ``ledger <contour> <seq> <hash>``, its tree has the
same as ``head.json``. Commits are signed where the access has a key. Our clone remembers the newest anchor it saw: a branch that does not go on from
there was rewritten, and is reported.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from predator_si.errors import BadInput, Unavailable
from predator_si.records import Record, utc_now
from predator_si.release import git

_SUBJECT = re.compile(r"ledger (\S+) (\d+) ([0-9a-f]{64})")
_TRIES = 5


class Anchor(Record):
    """The ledger's head at one moment."""

    seq: int
    hash: str
    at: datetime
    commit: str


class LedgerAnchors:
    """Anchors of one contour's ledger.

    Parameters
    ----------
    url
        The GitOps repository, or any other that ``git push`` understands.
    work
        A bare clone of its own; made when missing.
    """

    def __init__(self, url: str | Path, work: Path, contour: str, access: git.GitAccess | None = None) -> None:
        if re.fullmatch(r"[a-z0-9][a-z0-9-]*", contour) is None:
            raise BadInput(f"{contour!r} cannot be a part of a branch's name: small letters, digits and dashes.")
        self._url, self._work, self._contour, self._access = str(url), work, contour, access or git.GitAccess()
        self.branch = f"ledger-{contour}"
        self._ref = f"refs/anchors/{self.branch}"

    def write(self, head: tuple[int, str], now: datetime | None = None, why: str = "") -> Anchor | None:
        """Anchor a head; null where the newest anchor names this record, or a later one, already.

        Raises
        ------
        Unavailable
            The repository is not reached, or does not take it; the next try anchors a later head.
        """
        self._prepare()
        at = (now or utc_now()).astimezone(UTC)
        for _ in range(_TRIES):
            newest = next(iter(self.read(1)), None)
            if newest is not None and newest.seq >= head[0]:
                return None
            content = json.dumps({"contour": self._contour, "seq": head[0], "hash": head[1], "at": at.isoformat(timespec="seconds")}, indent=2) + "\n"
            blob = self._text("hash-object", "-w", "--stdin", data=content.encode())
            tree = self._text("mktree", data=f"100644 blob {blob}\thead.json\n".encode())
            more, sign = self._access.signing()
            stamp = {name: f"{int(at.timestamp())} +0000" for name in ("GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE")}
            parents = ["-p", newest.commit] if newest is not None else []
            message = f"ledger {self._contour} {head[0]} {head[1]}\n\n{why or 'by the hour'}\n"
            commit = self._text("commit-tree", *sign, tree, *parents, "-F", "-", data=message.encode(), more={**more, **stamp})
            pushed = self._remote("push", "-q", "--", self._url, f"{commit}:refs/heads/{self.branch}")
            if pushed.returncode == 0:
                git.must(self._work, git.run(self._work, "update-ref", self._ref, commit))
                return Anchor(seq=head[0], hash=head[1], at=at.replace(microsecond=0), commit=commit)
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
        if not self._known():
            return []
        most = [f"-{limit}"] if limit is not None else []
        found: list[Anchor] = []
        for line in self._text("log", "--format=%H%x09%ct%x09%s", *most, self._ref).splitlines():
            commit, seconds, subject = line.split("\t", 2)
            match = _SUBJECT.fullmatch(subject)
            if match is not None and match[1] == self._contour:
                found.append(Anchor(seq=int(match[2]), hash=match[3], at=datetime.fromtimestamp(int(seconds), UTC), commit=commit))
        return found

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


def anchor_problems(anchors: list[Anchor], hash_at: Callable[[int], str | None]) -> list[str]:
    """Where the ledger is not the one that was anchored, in words; empty when it is.

    Parameters
    ----------
    anchors
        Any order.
    hash_at
        Hash of the ledger record with this number; null where it has none.
    """
    problems = []
    for anchor in sorted(anchors, key=lambda one: one.seq):
        found = hash_at(anchor.seq)
        when = f"record {anchor.seq}, anchored at {anchor.at:%Y-%m-%d %H:%M:%S} UTC in commit {anchor.commit[:12]},"
        if found is None:
            problems.append(f"{when} is not in the ledger: its tail was cut, or an older copy was put back")
        elif found != anchor.hash:
            problems.append(f"{when} has another hash in the ledger: the chain was rewritten")
    return problems
