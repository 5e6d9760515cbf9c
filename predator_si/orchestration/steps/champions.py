"""Champion history: written when a release or a rollback is in force, and derived from Git again where the table does not agree with it.

What belongs here: keeping the table. What must not: reading commits (``release.champions``), deciding who serves.
"""

from __future__ import annotations

from predator_si.orchestration.loop import Loop
from predator_si.records import ChampionSpan
from predator_si.release.champions import champions_of, same_history


def note_champion(loop: Loop, cycle_id: str | None, why: str, commit: str | None, actor: str = "loop") -> bool:
    """Write down whom Git names now; False where that is known already."""
    serving = loop.serving().model
    if not loop.control.champions(loop.contour, 1):  # an older home, or a lost table: who served before is in Git
        before = champions_of(loop.repo, loop.release_name, loop.contour)
        before = before[:-1] if len(before) > 1 and before[-1].digest == serving else before
        before = [*before[:-1], before[-1].model_copy(update={"until": None})] if before else []
        loop.control.restore_champions(loop.contour, before, actor, "the table is empty: derived from Git")
    return loop.control.champion_changed(loop.contour, serving, why, cycle_id=cycle_id, commit=commit, actor=actor)


def history(loop: Loop, actor: str = "loop") -> list[ChampionSpan]:
    """Who was champion when and why, newest first. A table that is lost, behind or ahead of Git is derived from it again first, with a ledger record."""
    loop.repo.sync()
    kept = loop.control.champions(loop.contour, limit=100_000)[::-1]
    by_git = champions_of(loop.repo, loop.release_name, loop.contour)
    if not same_history(kept, by_git):
        reason = "the table is empty" if not kept else f"the table names {len(kept)} champions, Git {len(by_git)}, or others"
        loop.control.restore_champions(loop.contour, by_git, actor, f"{reason}: derived from Git again")
        return by_git[::-1]
    return kept[::-1]
