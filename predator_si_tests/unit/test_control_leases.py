"""Leases: one holder, an end, and tokens that only grow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predator_si.control import Control, Lease
from predator_si.errors import BadInput, Refused


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 11, 22, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def control(tmp_path: Path, clock: Clock) -> Control:
    return Control(tmp_path / "c.db", clock=clock)


def test_a_held_lease_is_refused_to_others_until_it_ends(control: Control, clock: Clock) -> None:
    first = control.acquire("cycle", "run-1", 60)
    with pytest.raises(Refused, match="held by run-1"):
        control.acquire("cycle", "run-2", 60)
    assert control.acquire("train", "run-2", 60).token == 1  # another name is another lease
    clock.forward(59.9)
    control.check(first)
    clock.forward(0.1)
    with pytest.raises(Refused, match="ended"):
        control.check(first)
    second = control.acquire("cycle", "run-2", 60)
    assert second.token > first.token


def test_who_comes_back_late_is_refused(control: Control, clock: Clock) -> None:
    late = control.acquire("cycle", "run-1", 10)
    clock.forward(11)
    control.acquire("cycle", "run-2", 60)
    for act in (lambda: control.check(late), lambda: control.renew(late, 60)):
        with pytest.raises(Refused, match="superseded by token 2 of run-2"):
            act()
    assert control.release(late) is False  # and run-2 keeps it
    with pytest.raises(Refused):
        control.acquire("cycle", "run-3", 60)


def test_the_same_holder_twice_supersedes_itself(control: Control) -> None:
    first = control.acquire("cycle", "run-1", 60)
    second = control.acquire("cycle", "run-1", 60)
    assert second.token == first.token + 1
    with pytest.raises(Refused, match="superseded"):
        control.check(first)
    control.check(second)


def test_a_renewed_lease_lives_longer_with_its_token(control: Control, clock: Clock) -> None:
    lease = control.acquire("cycle", "run-1", 10)
    clock.forward(9)
    renewed = control.renew(lease, 10)
    clock.forward(9)
    control.check(renewed)
    control.check(lease)  # the database's end counts
    clock.forward(1)
    with pytest.raises(Refused, match="ended"):
        control.renew(renewed, 10)


def test_a_released_lease_is_free_at_once_and_its_token_is_not_used_again(control: Control) -> None:
    lease = control.acquire("cycle", "run-1", 600)
    assert control.release(lease) is True
    with pytest.raises(Refused, match="its release"):
        control.check(lease)
    assert control.acquire("cycle", "run-2", 60).token == 2


def test_nonsense_is_refused(control: Control) -> None:
    with pytest.raises(BadInput):
        control.acquire("cycle", "run-1", 0)
    with pytest.raises(BadInput):
        control.acquire("cycle", "", 10)
    with pytest.raises(Refused, match="does not exist"):
        control.check(Lease("never", "run-1", 1, datetime.now(UTC)))


STEPS = st.lists(st.tuples(st.sampled_from(["acquire", "release", "renew", "wait"]), st.integers(0, 2)), max_size=10)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_at_most_one_lease_is_good_and_tokens_only_grow(tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    control = Control(tmp_path_factory.mktemp("lease") / "c.db", clock=clock)
    taken: list[Lease] = []
    for act, who in steps:
        mine = [lease for lease in taken if lease.holder == f"h{who}"]
        try:
            if act == "acquire":
                taken.append(control.acquire("x", f"h{who}", 10))
            elif act == "wait":
                clock.forward(6)
            elif mine and act == "renew":
                control.renew(mine[-1], 10)
            elif mine and act == "release":
                control.release(mine[-1])
        except Refused:
            pass
        tokens = [lease.token for lease in taken]
        assert tokens == sorted(set(tokens))
        good = []
        for lease in taken:
            try:
                control.check(lease)
                good.append(lease)
            except Refused:
                continue
        assert good in ([], taken[-1:])
