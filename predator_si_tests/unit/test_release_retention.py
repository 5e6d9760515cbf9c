"""Retention of models over random histories: the champion, the one before it, gold models and what they were made from are never deleted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.records import ChampionSpan, ModelCard
from predator_si.release.retention import models_to_delete, protected_models

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CONTOURS = ("local", "compute-nvidia")
NAMES = st.integers(0, 11)


def digest(name: int) -> str:
    return f"sha256:{name:064x}"


@settings(max_examples=150, deadline=None)
@given(
    served=st.lists(st.tuples(st.sampled_from(CONTOURS), NAMES), max_size=25),
    golds=st.sets(NAMES, max_size=4),
    in_use=st.sets(NAMES, max_size=2),
    sources=st.dictionaries(NAMES, NAMES, max_size=8),
    twins=st.dictionaries(NAMES, NAMES, max_size=4),
    ages=st.dictionaries(NAMES, st.integers(0, 400), max_size=12),
    days=st.integers(1, 200),
    newest=st.integers(0, 6),
)
def test_nothing_that_may_be_needed_is_ever_deleted(
    served: list[tuple[str, int]],
    golds: set[int],
    in_use: set[int],
    sources: dict[int, int],
    twins: dict[int, int],
    ages: dict[int, int],
    days: int,
    newest: int,
) -> None:
    histories: dict[str, list[ChampionSpan]] = {contour: [] for contour in CONTOURS}
    for minute, (contour, name) in enumerate(served):
        at = NOW - timedelta(days=300) + timedelta(minutes=minute)
        histories[contour].insert(0, ChampionSpan(contour=contour, digest=digest(name), cycle_id=None, since=at, why="", commit=None))
    cards = {
        digest(name): ModelCard(
            name=str(name),
            digest=digest(name),
            backend="onnx-int8",
            max_length=64,
            source_digest=digest(sources.get(name, name)),
            created_at=NOW - timedelta(days=age),
        )
        for name, age in ages.items()
    }
    kept = protected_models(
        histories, map(digest, golds), {digest(name): "on trial" for name in in_use}, cards, {digest(a): digest(b) for a, b in twins.items()}
    )
    gone = {card.digest for card in models_to_delete(cards.values(), kept, NOW, timedelta(days=days), newest)}

    needed = {digest(name) for name in golds | in_use}
    for contour in CONTOURS:
        names = list(dict.fromkeys(name for where, name in reversed(served) if where == contour))
        needed |= {digest(name) for name in names[:2]}
    while True:
        more = {cards[one].source_digest for one in needed if one in cards} | {digest(twins[int(one[7:], 16)]) for one in needed if int(one[7:], 16) in twins}
        if more <= needed:
            break
        needed |= {one for one in more if one is not None}
    assert not gone & needed
    assert all((NOW - cards[one].created_at).days >= days for one in gone if cards[one].created_at)
    youngest = sorted(cards, key=lambda one: str(cards[one].created_at), reverse=True)[:newest]
    assert not gone & set(youngest)
    for one, card in cards.items():  # and what is old, unneeded and not among the newest does go
        age = NOW - (card.created_at or NOW)
        if one not in kept and one not in youngest and age > timedelta(days=days):
            assert one in gone
