"""Told once in a while, until it is taken, in order of urgency, over restarts; one dead channel holds nothing up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import Refused, Unavailable
from predator_si.notify import Event, Outbox
from predator_si.notify.channels import TooFast

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Ear:
    """A channel that remembers, and fails as told."""

    def __init__(self, name: str, fault: Exception | None = None) -> None:
        self.name, self.fault, self.heard, self.asked = name, fault, list[str](), 0

    def send(self, event: Event) -> None:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        self.heard.append(event.title)


def event(title: str, severity: str = "warning", key: str | None = None) -> Event:
    return Event.model_validate({"kind": "degrade", "severity": severity, "title": title, "text": "x", "next_step": "look", "key": key or title})


def test_the_same_matter_is_told_once_in_a_while(tmp_path: Path):
    box, ear = Outbox(tmp_path / "notify.db", repeat_after=timedelta(hours=4)), Ear("slack")
    assert box.put(event("one", key="k"), ["slack"], NOON)
    assert not box.put(event("again", key="k"), ["slack"], NOON + timedelta(hours=3))
    box.deliver([ear], NOON + timedelta(hours=3))
    assert ear.heard == ["one"] and box.history()[0]["again"] == 1
    assert box.put(event("later", key="k"), ["slack"], NOON + timedelta(hours=5))
    box.deliver([ear], NOON + timedelta(hours=5))
    assert ear.heard == ["one", "later"]


def test_a_dead_channel_is_tried_with_longer_and_longer_pauses_and_the_other_one_is_told(tmp_path: Path):
    box, dead, ear = Outbox(tmp_path / "notify.db"), Ear("slack", Unavailable("no")), Ear("apprise-1")
    box.put(event("one"), ["slack", "apprise-1"], NOON)
    box.put(event("two"), ["slack", "apprise-1"], NOON)
    first = box.deliver([dead, ear], NOON)
    assert ear.heard == ["one", "two"] and dead.asked == 1, "once a channel is down, its other messages wait"
    assert (first.sent, first.failed, first.waiting) == (2, 1, 2)
    tries = [NOON + timedelta(seconds=second) for second in range(1, 4 * 3600, 30) if box.deliver([dead], NOON + timedelta(seconds=second)).failed]
    assert 5 <= len(tries) <= 25, "back-off doubles up to an hour: four hours of ticks are 480"
    dead.fault = None
    again = Outbox(tmp_path / "notify.db")  # as after a restart
    for hour in range(4, 8):
        again.deliver([dead], NOON + timedelta(hours=hour))
    assert sorted(dead.heard) == ["one", "two"]


def test_the_other_sides_pause_is_kept(tmp_path: Path):
    box, ear = Outbox(tmp_path / "notify.db"), Ear("slack", TooFast("slow down", 600.0))
    box.put(event("one"), ["slack"], NOON)
    box.deliver([ear], NOON)
    ear.fault = None
    box.deliver([ear], NOON + timedelta(seconds=590))
    assert ear.heard == []
    box.deliver([ear], NOON + timedelta(seconds=610))
    assert ear.heard == ["one"]


def test_what_is_refused_is_not_tried_again(tmp_path: Path):
    box, ear = Outbox(tmp_path / "notify.db"), Ear("slack", Refused("no such webhook"))
    box.put(event("one"), ["slack"], NOON)
    assert box.deliver([ear], NOON).dropped == 1
    assert box.deliver([ear], NOON + timedelta(days=1)).waiting == 0 and ear.asked == 1
    assert box.history()[0]["channels"]["slack"]["error"] == "no such webhook"


def test_an_hour_has_its_limit_and_critical_ones_go_first_and_beyond(tmp_path: Path):
    box, ear = Outbox(tmp_path / "notify.db", most_per_hour=3), Ear("slack")
    for number in range(5):
        box.put(event(f"warning {number}"), ["slack"], NOON)
    box.put(event("fire", "critical"), ["slack"], NOON)
    box.deliver([ear], NOON)
    assert ear.heard == ["fire", "warning 0", "warning 1"]
    box.put(event("fire again", "critical"), ["slack"], NOON)
    box.deliver([ear], NOON + timedelta(minutes=5))
    assert ear.heard[3:] == ["fire again"]
    box.deliver([ear], NOON + timedelta(minutes=61))
    assert set(ear.heard) >= {"warning 2", "warning 3"}


def test_after_a_day_it_is_dropped(tmp_path: Path):
    box, ear = Outbox(tmp_path / "notify.db"), Ear("slack")
    box.put(event("old"), ["slack"], NOON)
    box.put(event("new"), ["slack"], NOON + timedelta(hours=25))
    box.deliver([ear], NOON + timedelta(hours=25))
    assert ear.heard == ["new"]


def test_two_processes_at_once_tell_it_once(tmp_path: Path):
    box, ear = Outbox(tmp_path / "notify.db"), Ear("slack")

    class Slow(Ear):
        def send(self, event: Event) -> None:
            Outbox(tmp_path / "notify.db").deliver([ear], NOON)  # the other one, while this message is on its way
            super().send(event)

    slow = Slow("slack")
    box.put(event("one"), ["slack"], NOON)
    box.deliver([slow], NOON)
    assert slow.heard == ["one"] and ear.heard == []


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 20 * 60)), max_size=12))
def test_no_matter_is_told_twice_within_the_pause(tmp_path_factory: object, puts: list[tuple[str, int]]):
    folder = Path(str(tmp_path_factory.mktemp("box")))  # type: ignore[attr-defined]
    box = Outbox(folder / "notify.db", repeat_after=timedelta(hours=4))
    taken: dict[str, list[int]] = {}
    for key, minute in sorted(puts, key=lambda put: put[1]):
        if box.put(event("t", key=key), ["slack"], NOON + timedelta(minutes=minute)):
            taken.setdefault(key, []).append(minute)
    assert all(later - earlier >= 240 for minutes in taken.values() for earlier, later in pairwise(minutes))
    assert set(taken) == {key for key, _ in puts}
