"""A service that only answers: several of them share one home with the process that owns it.

What belongs here: what takes the ingest queue's place there, and whether such a process may be given traffic. What must not: taking documents, building or
publishing an index. The owner does that; readers follow the index that it publishes, once it is of the build that their release names.
"""

from __future__ import annotations

from collections.abc import Sequence

from predator_si.errors import Unavailable
from predator_si.search.ingest import Document
from predator_si.search.variants import ReleaseFollower

_ELSEWHERE = "this process only answers searches; send documents to the one that owns the home (started without --reader; in the chart: search-ingest)"


class ReadsOnly:
    """Takes no documents and knows nothing of those that wait elsewhere."""

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def set_workers(self, count: int) -> None:
        """Workers are the owner's."""

    def put(self, documents: Sequence[Document]) -> None:
        """Refuse documents.

        Raises
        ------
        Unavailable
            Always.
        """
        raise Unavailable(f"{len(documents)} documents were not taken: {_ELSEWHERE}.")

    def delete(self, doc_id: str) -> None:
        """Refuse a removal.

        Raises
        ------
        Unavailable
            Always.
        """
        raise Unavailable(f"{doc_id} was not removed: {_ELSEWHERE}.")

    def state(self) -> None:
        """Nothing: what waits is the owner's to tell."""


def unready(follower: ReleaseFollower, build: str, champion: str | None, release: str | None) -> str | None:
    """Why a process is not what a caller expects it to serve; ``None`` where it is.

    Parameters
    ----------
    follower
        What it serves now.
    build
        Name of the index build that serves.
    champion
        Digest that the loaded champion must have; ``None`` for any.
    release
        SHA-256 of the release file that must be in force, with its index; ``None`` for any.
    """
    now = follower.current
    if champion is not None and now.champion.digest != champion:
        return f"{now.champion.digest} is loaded, {champion} is expected"
    if release is None:
        return None
    if follower.error is not None:
        return follower.error
    if now.release.sha256 != release:
        return f"release {now.release.sha256[:12]} is in force, {release[:12]} is expected"
    if build != now.release.index_build:
        return f"index build {build} serves, {now.release.index_build} is expected; the process that owns the home publishes it"
    return None
