"""One run at a time works on a cycle, and one that lost its lease changes nothing: not in the database, not a file."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from predator_si.control import Control
from predator_si.errors import Refused
from predator_si.orchestration.holding import hold, holder_of
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState, Trigger, utc_now
from predator_si.release.gitops import GitOpsRepo
from predator_si.reports.audit import audit_record
from predator_si.settings import Settings
from predator_si_tests.support.waiting import wait_until

TRIGGER = Trigger(type="ndcg_at_10_down", metric="ndcg_at_10", value=0.4, baseline=0.5, delta=-0.1, actions=(), reason="a drop")
NAME = "cycle-local"
OTHER = "si_2026_01_01_001"


def never(_: str) -> bool:
    return False


class Skewed:
    """The real clock, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


@pytest.fixture
def clock() -> Skewed:
    return Skewed()


@pytest.fixture
def control(tmp_path: Path, clock: Skewed) -> Control:
    return Control(tmp_path / "c.db", clock=clock)


def dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait(30)
    return process.pid


def test_a_second_run_of_the_same_cycle_is_refused_while_the_first_lives(control: Control) -> None:
    with hold(control, NAME, OTHER, never) as first:
        refused: list[str] = []

        def second() -> None:
            try:
                with hold(control, NAME, OTHER, never):
                    refused.append("it worked")
            except Refused as error:
                refused.append(str(error))

        thread = threading.Thread(target=second)
        thread.start()
        thread.join(30)
        assert len(refused) == 1 and "is held by" in refused[0] and first.holder in refused[0]
        control.append("note", "first")
    assert control.lease_of(NAME) is None, "it is given back"


def test_a_dead_run_of_this_machine_is_followed_at_once_and_cannot_come_back(control: Control) -> None:
    lost = control.acquire(NAME, f"{OTHER}@{socket.gethostname()}:{dead_process()}:aa", 200)
    with hold(control, NAME, OTHER, never) as lease:
        assert lease.token > lost.token
        with pytest.raises(Refused, match="superseded"), control.fenced(lost):
            control.append("note", "the dead")
    assert control.records() == []


def test_a_dead_run_of_another_machine_is_followed_after_its_end(control: Control) -> None:
    lost = control.acquire(NAME, f"{OTHER}@elsewhere:1:aa", 0.6)
    with hold(control, NAME, OTHER, never, ttl=5):
        assert utc_now() >= lost.expires_at


def test_a_run_of_another_machine_that_renews_is_left_alone(control: Control) -> None:
    theirs = control.acquire(NAME, f"{OTHER}@elsewhere:1:aa", 4)
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.1):
            control.renew(theirs, 4)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(Refused, match="elsewhere"), hold(control, NAME, OTHER, never, ttl=4):
            pass
        control.check(theirs)
    finally:
        over.set()
        thread.join()


def test_an_end_from_before_the_clock_went_back_holds_nobody_up(control: Control, clock: Skewed) -> None:
    clock.ahead = timedelta(days=365)
    control.acquire(NAME, f"{OTHER}@elsewhere:1:aa", 60)
    clock.ahead = timedelta(0)
    with hold(control, NAME, OTHER, never, ttl=60) as lease:
        assert lease.token == 2


def test_the_lease_is_renewed_while_the_work_goes_on(control: Control) -> None:
    with hold(control, NAME, OTHER, never, ttl=1.2) as lease:
        wait_until(lambda: utc_now() > lease.expires_at, 20, "the first end of the lease")
        control.append("note", "still mine")
    assert len(control.records()) == 1


def writes(control: Control, cycle_id: str) -> dict[str, Callable[[], object]]:
    return {
        "transition": lambda: control.transition(cycle_id, CycleState.PREPARED, "r", "loop"),
        "append": lambda: control.append("note", "loop"),
        "note": lambda: control.set_note("cursor", 1),
        "sealed": lambda: control.open_sealed(cycle_id, "docs", "loop"),
        "approval": lambda: control.ask_approval(cycle_id, "promote", "local", "e", {}, timedelta(days=1)),
        "champion": lambda: control.champion_changed("local", "sha256:" + "a" * 64, "r"),
    }


@pytest.mark.parametrize("how", ["ended", "superseded"])
def test_a_run_that_lost_its_lease_changes_nothing(control: Control, clock: Skewed, how: str) -> None:
    cycle_id = control.open_cycle("local", TRIGGER, "test", "r").cycle_id
    with hold(control, NAME, cycle_id, never) as lease:
        if how == "ended":
            clock.ahead = timedelta(seconds=121)  # it hung, and comes back
        else:
            control.release(lease)
            control.acquire(NAME, "another@elsewhere:1:aa", 60)
        before = (control.head(), control.cycle(cycle_id), control.approval(cycle_id), control.champions("local"), control.get_note("cursor"))
        for name, write in writes(control, cycle_id).items():
            with pytest.raises(Refused, match=how):
                write()
                pytest.fail(f"{name} went through")
        after = (control.head(), control.cycle(cycle_id), control.approval(cycle_id), control.champions("local"), control.get_note("cursor"))
        assert after == before
        assert control.set_kill_switch("local", True, "cli:ann", "stop"), "a person may always stop the loop"
    control.set_kill_switch("local", False, "cli:ann", "go on")
    control.append("note", "loop")  # outside of the work there is no fence


def test_a_step_says_in_the_ledger_what_it_was_given_what_it_made_and_what_it_cost(settings: Settings) -> None:
    loop = Loop(settings)
    cycle_id = loop.control.open_cycle("local", TRIGGER, "test", "r").cycle_id
    given = loop.save(cycle_id, "diagnostic_report.json", {"n": 1})
    with loop.working_on(cycle_id):
        made = loop.save(cycle_id, "evaluation.json", {"n": 2})
        sum(number * number for number in range(200_000))
    with loop.working_on(cycle_id):
        pass  # nothing was done
    (record,) = loop.control.records_of("step_done")

    def hashed(path: Path) -> str:
        return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"

    assert record.payload["inputs"] == {"diagnostic_report.json": hashed(given)}
    assert record.payload["outputs"] == {"evaluation.json": hashed(made)} and record.reason == "wrote evaluation.json"
    assert record.payload["cost_usd"] == pytest.approx(record.payload["cpu_seconds"] / 3600 * settings.prices.usd_per_vcpu_hour)
    (action,) = [one for one in audit_record(loop.control.cycle(cycle_id), loop.control.records())["actions"] if one["type"] == "step_done"]
    assert (action["inputs"], action["outputs"], action["cost_usd"]) == tuple(record.payload[key] for key in ("inputs", "outputs", "cost_usd"))


def test_a_run_that_lost_its_lease_writes_no_artifact_and_has_no_last_word(settings: Settings) -> None:
    from predator_si.orchestration.steps.decide import _last_word

    loop = Loop(settings)
    GitOpsRepo.init_bare(loop.home.gitops_bare, {"README.md": "a test"})
    loop.repo.sync()  # as the commit does whose last word this is
    cycle_id = loop.control.open_cycle("local", TRIGGER, "test", "r").cycle_id
    with loop.working_on(cycle_id):
        loop.save(cycle_id, "evaluation.json", {"n": 1})
        _last_word(loop, cycle_id)
        found = loop.control.lease_of(NAME)
        assert found is not None and found.holder.startswith(f"{cycle_id}@")
        loop.control.release(found)
        loop.control.acquire(NAME, holder_of(cycle_id), 60)
        with pytest.raises(Refused, match="superseded"):
            loop.save(cycle_id, "evaluation.json", {"n": 2})
        with pytest.raises(Refused, match="superseded"):
            _last_word(loop, cycle_id)
    assert '"n": 1' in (loop.home.artifacts / cycle_id / "evaluation.json").read_text()
