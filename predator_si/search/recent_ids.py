"""The ids of the last requests, to tell whether an action belongs to one of them.

What belongs here: remembering and forgetting. What must not: what an unknown id means (``service`` counts it).

Hashes in a ring whose memory is taken at the start: .8 MB for 100,000 ids, where an ordered dict of the ids grew to 18 MB over as many requests. Looking one up
reads the whole ring, 25 us for 100,000.
"""

from __future__ import annotations

import numpy as np


class RecentIds:
    """The last ``capacity`` ids; an older one is forgotten. Another id is taken for one of them with a probability of ``capacity`` / 2^64."""

    def __init__(self, capacity: int) -> None:
        self._hashes = np.full(capacity, hash(""), np.int64)
        self._place = 0

    def add(self, name: str) -> None:
        """Remember an id; the oldest one is forgotten."""
        self._hashes[self._place] = hash(name)
        self._place = (self._place + 1) % len(self._hashes)

    def __contains__(self, name: str) -> bool:
        return bool(name) and bool((self._hashes == hash(name)).any())
