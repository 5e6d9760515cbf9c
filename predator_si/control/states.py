"""The state machine of a cycle (DESIGN.md section 3), as data and one pure function."""

from __future__ import annotations

from predator_si.records import CycleState

ROAD: tuple[CycleState, ...] = (
    CycleState.OPENED,
    CycleState.PREPARED,
    CycleState.TRAINED,
    CycleState.EVALUATED,
    CycleState.ON_TRIAL,
    CycleState.DECIDED,
    CycleState.AWAITING_APPROVAL,
    CycleState.RELEASED,
    CycleState.WATCHING,
    CycleState.STABLE,
)
"""The way forward; a contour may skip stages, nothing goes back."""

ENDED: frozenset[CycleState] = frozenset({CycleState.REJECTED, CycleState.ROLLED_BACK, CycleState.CANCELLED, CycleState.EXPIRED, CycleState.FAILED})
"""Nothing leaves these."""

ACTIVE: frozenset[CycleState] = frozenset(ROAD) - {CycleState.STABLE}
"""A cycle in one of these keeps its contour busy: no other may be opened."""

_IN_PRODUCTION = frozenset({CycleState.RELEASED, CycleState.WATCHING})
_COMMITTED = frozenset(ROAD[ROAD.index(CycleState.ON_TRIAL) :])


def is_legal(current: CycleState, to: CycleState) -> bool:
    """Whether a cycle may go from ``current`` to ``to``.

    Forwards along ``ROAD`` with skips, and from any active state to an end, with three limits that follow from what the words mean:

    - ``stable`` is said of a release, so it follows ``released`` or ``watching`` only;
    - ``rolled_back`` needs something committed: from ``on_trial`` on, ``stable`` included;
    - a released model is not ended by ``rejected``, ``cancelled`` or ``expired``: it is watched until ``stable``, or taken back, or ``failed``.
    """
    if current in ENDED or current == to:
        return False
    if to is CycleState.ROLLED_BACK:
        return current in _COMMITTED
    if current is CycleState.STABLE:
        return False
    if to is CycleState.FAILED:
        return True
    if to in ENDED:
        return current not in _IN_PRODUCTION
    if to is CycleState.STABLE:
        return current in _IN_PRODUCTION
    return ROAD.index(to) > ROAD.index(current)


def reachable(current: CycleState) -> list[CycleState]:
    """Where a cycle in ``current`` may go, in the order of ``CycleState``: what a refusal tells the caller."""
    return [state for state in CycleState if is_legal(current, state)]
