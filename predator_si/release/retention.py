"""Which stored models may go: never a champion, the one before it, a gold one, or what one of these was made from.

What belongs here: pure rules over histories. What must not: deleting (``search.models``), asking Git or a registry.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from predator_si.records import ChampionSpan, ModelCard


def protected_models(
    champions: Mapping[str, Sequence[ChampionSpan]],
    golds: Iterable[str],
    in_use: Mapping[str, str],
    cards: Mapping[str, ModelCard],
    twins: Mapping[str, str],
    denied: Mapping[str, Collection[str]] | None = None,
) -> dict[str, str]:
    """Models that must stay, with the reason.

    Parameters
    ----------
    champions
        History of each contour, newest first.
    golds
        Digests that ever became gold.
    in_use
        Digest -> why, for everything else that is needed: candidates, shadows, challengers of cycles that are under way, ways back.
    cards, twins
        Of the store: what a model was made from, and what stands in for it, stay with it.
    denied
        Of each contour: digests that may not serve there again. The champion before is one that may: after a way back, not the one that was taken back.
    """
    kept: dict[str, str] = {}
    for contour, spans in champions.items():
        names: list[str] = []
        for span in spans:
            if span.digest not in names:
                names.append(span.digest)
        before = [digest for digest in names[1:] if digest not in (denied or {}).get(contour, ())]
        for digest, what in zip([*names[:1], *before], ("the champion", "the champion before"), strict=False):
            kept.setdefault(digest, f"{what} of {contour}")
    for digest in golds:
        kept.setdefault(digest, "a gold model")
    for digest, why in in_use.items():
        kept.setdefault(digest, why)
    waiting = list(kept)
    while waiting:
        digest = waiting.pop()
        source = cards[digest].source_digest if digest in cards else None
        for other, what in ((source, "the weights behind"), (twins.get(digest), "the faster twin of")):
            if other is not None and other not in kept:
                kept[other] = f"{what} {digest}, {kept[digest]}"
                waiting.append(other)
    return kept


def models_to_delete(cards: Iterable[ModelCard], protected: Mapping[str, str], now: datetime, older_than: timedelta, keep_newest: int) -> list[ModelCard]:
    """Models older than ``older_than`` that nothing protects and that are not among the ``keep_newest`` newest; one without a date stays."""
    dated = sorted((card for card in cards if card.created_at is not None), key=lambda card: str(card.created_at), reverse=True)
    return [card for card in dated[keep_newest:] if card.digest not in protected and card.created_at is not None and now - card.created_at > older_than]
