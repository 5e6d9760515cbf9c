"""Which requests are remembered, and for how long."""

from __future__ import annotations

from predator_si.search.recent_ids import RecentIds


def test_the_last_ids_are_known_and_older_ones_are_forgotten() -> None:
    ids = RecentIds(100)
    assert "" not in ids and "q0" not in ids
    for number in range(250):
        ids.add(f"q{number}")
    assert [number for number in range(250) if f"q{number}" in ids] == list(range(150, 250))
    assert "" not in ids and "q250" not in ids


def test_memory_is_taken_at_the_start() -> None:
    ids = RecentIds(100_000)
    before = ids._hashes.nbytes
    for number in range(1000):
        ids.add(f"q{number}")
    assert ids._hashes.nbytes == before == 800_000
