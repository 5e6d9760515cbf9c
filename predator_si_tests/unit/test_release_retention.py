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
    denied=st.sets(NAMES, max_size=4),
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
    denied: set[int],
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
    forbidden = {CONTOURS[0]: {digest(name) for name in denied}}
    kept = protected_models(
        histories, map(digest, golds), {digest(name): "on trial" for name in in_use}, cards, {digest(a): digest(b) for a, b in twins.items()}, forbidden
    )
    gone = {card.digest for card in models_to_delete(cards.values(), kept, NOW, timedelta(days=days), newest)}

    needed = {digest(name) for name in golds | in_use}
    for contour in CONTOURS:
        names = list(dict.fromkeys(name for where, name in reversed(served) if where == contour))
        before = [name for name in names[1:] if contour != CONTOURS[0] or name not in denied]
        needed |= {digest(name) for name in [*names[:1], *before[:1]]}
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


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.one_of(NAMES, st.sampled_from(["denied", "kept"])), min_size=1, max_size=20))
def test_after_any_ways_back_the_model_that_the_next_one_leads_to_is_there(steps: list[int | str]) -> None:
    """Releases and ways back, with and without a denial: where the newest release leads back to is kept, unless it may not serve again anyway."""
    served: list[int] = [100]  # every champion in turn
    stack: list[int] = [100]  # what the ways back lead to, one after another
    denied: set[int] = set()
    for step in steps:
        if isinstance(step, int):
            if step not in denied and step != stack[-1]:
                stack.append(step)
                served.append(step)
        elif len(stack) > 1 and stack[-2] not in denied:
            gone = stack.pop()
            served.append(stack[-1])
            denied |= {gone} if step == "denied" and gone != stack[-1] else set()
    spans = [ChampionSpan(contour="local", digest=digest(name), cycle_id=None, since=NOW, why="", commit=None) for name in reversed(served)]
    back = {digest(stack[-2]): "the way back"} if len(stack) > 1 else {}
    kept = protected_models({"local": spans}, (), back, {}, {}, {"local": {digest(name) for name in denied}})
    assert digest(stack[-1]) in kept
    if len(stack) > 1 and stack[-2] not in denied:
        assert digest(stack[-2]) in kept
    may_serve = [name for name in dict.fromkeys(reversed(served)) if name not in denied and name != stack[-1]]
    assert all(digest(name) in kept for name in may_serve[:1]), "the newest that served before and may serve again"
