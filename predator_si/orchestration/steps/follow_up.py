"""What each tick does after its snapshot: a rollback that the service had not confirmed is asked for again, the cycle that waits for a person is judged again,
a release gets what it is owed, a promotion goes on, old models go.

What belongs here: calling these one after another, so that one that fails stops no other. What must not: any of them.
"""

from __future__ import annotations

from collections.abc import Callable

from predator_si.errors import PredatorError
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import onward, settled, store, way_back
from predator_si.orchestration.steps.approve import judge_while_waiting


def follow_up(loop: Loop) -> list[str]:
    """Do it; what was done, or why it could not be, a line each."""

    def taken_back() -> str | None:
        back = way_back.confirm_again(loop)
        word = "is confirmed now" if back is not None and back.verified else "is still not confirmed by the service"
        return None if back is None else f"the rollback of {back.cycle_id} {word}"

    def waiting() -> str | None:
        look = judge_while_waiting(loop)
        return None if look is None else f"{look.cycle_id} {look.answer}: {look.reason}"

    def owed() -> str | None:
        return settled.make_up(loop)

    def promoted() -> str | None:
        done = onward.advance_waiting(loop)
        return None if done is None else f"promotion to the next contour: {done}"

    def swept() -> str | None:
        gone = store.let_old_models_go(loop)
        return f"{len(gone)} old models deleted" if gone else None

    steps: tuple[Callable[[], str | None], ...] = (taken_back, waiting, owed, promoted, swept)
    told = []
    for step in steps:
        try:
            line = step()
        except PredatorError as error:
            line = f"unknown: {error}"
        if line is not None:
            told.append(line)
    return told
