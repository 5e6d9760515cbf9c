"""Drill (d): the Git remote, or the deployer, is cut off, slow, or lies, in the middle of a release and of a rollback.

What belongs here: the faults, and what the loop may do meanwhile and must do afterwards. What must not: a retry of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from predator_si.errors import PredatorError, Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import keep, way_back
from predator_si.proof.drill import lane
from predator_si.proof.drill.argocd import NAME, TOKEN, TOKEN_VARIABLE, ArgoCD, argocd
from predator_si.proof.drill.figures import Tally
from predator_si.proof.drill.ground import Ground
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.plan import DrillPlan
from predator_si.proof.drill.processes import wait_until
from predator_si.records import CycleState
from predator_si.release.argocd import ArgoCDDeployer
from predator_si.release.gitops import GitOpsRepo

_PATIENCE = 10.0
"""Seconds given to a deployer, and to Git, in place of the contour's minutes: those faults are there to stay."""
_SLOW = 3
_CONFIRMED_SECONDS = 60.0
Partition = Callable[[Ground, Load, int], list[str]]
Fault = Callable[[Path], AbstractContextManager[None]]


def drill_partition(ground: Ground, load: Load, plan: DrillPlan, tally: Tally, on_progress: Callable[[int, int], None]) -> None:
    """Each partition ``plan.n`` times; at the small scale a few of them."""
    names = list(PARTITIONS) if plan.scale == "full" else list(_FEW)
    total = plan.n * len(names)
    for number in range(total):
        name = names[number % len(names)]
        partition = PARTITIONS[name]
        try:
            problems = partition(ground, load, plan.seed * 100_000 + number)
            ground.wait_settled()
            problems += ground.look()
        except PredatorError as error:
            problems = [str(error)]
        if problems:
            ground.clear()
        tally.note(f"{name}, round {number // len(names) + 1}", problems)
        on_progress(number + 1, total)


# --------------------------------------------------------------------------- Git


@contextmanager
def away(bare: Path) -> Iterator[None]:
    """The repository cannot be reached."""
    hidden = bare.with_name(f"{bare.name}.away")
    bare.rename(hidden)
    try:
        yield
    finally:
        hidden.rename(bare)


@contextmanager
def _hook(bare: Path, name: str, script: str) -> Iterator[None]:
    hook = bare / "hooks" / name
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{script}\n")
    hook.chmod(0o755)
    try:
        yield
    finally:
        hook.unlink()


def rejecting(bare: Path) -> AbstractContextManager[None]:
    """The server takes no push, as a protected branch does."""
    return _hook(bare, "pre-receive", "echo 'protected branch' >&2; exit 1")


def slow(bare: Path) -> AbstractContextManager[None]:
    """Each push takes seconds."""
    return _hook(bare, "pre-receive", f"sleep {_SLOW}")


def silent(bare: Path) -> AbstractContextManager[None]:
    """The server takes the push and never says so: the writer stops waiting, asks for the branch, and finds its commit there."""
    return _hook(bare, "post-receive", f"sleep {int(6 * _PATIENCE)}")


def _git_release(fault: Fault, succeeds: bool) -> Partition:
    def partition(ground: Ground, load: Load, seed: int) -> list[str]:
        loop = ground.loop
        cycle_id = lane.open_drill(loop, ground.damaged(seed))
        before = loop.repo.sync()
        problems: list[str] = []
        with fault(loop.home.gitops_bare):
            ended = _tried(lambda: lane.release(_impatient(ground), cycle_id, ground.tracker))
        if isinstance(ended, PredatorError) is succeeds:
            problems.append(f"the release {'did not go through' if succeeds else 'went through'}: {ended}")
        elif not succeeds and loop.repo.sync() == before and loop.control.cycle(cycle_id).state not in (CycleState.EVALUATED, CycleState.DECIDED):
            problems.append(f"nothing was committed, and the cycle is {loop.control.cycle(cycle_id).state.value}")
        return problems + _goes_on(ground, load, cycle_id)

    return partition


def _git_rollback(fault: Fault, succeeds: bool) -> Partition:
    def partition(ground: Ground, load: Load, seed: int) -> list[str]:
        loop, cycle_id = ground.loop, _released_and_bad(ground, load, seed)
        problems: list[str] = []
        with fault(loop.home.gitops_bare):
            ended = _tried(lambda: keep.roll_back_degraded(_impatient(ground), cycle_id, ground.tracker))
        if isinstance(ended, PredatorError) is succeeds:
            problems.append(f"the way back {'was not gone' if succeeds else 'is said to be gone'}: {ended}")
        if not succeeds and loop.control.cycle(cycle_id).state is CycleState.ROLLED_BACK:
            problems.append("the cycle says rolled back, and Git could not be asked")
        return problems + _goes_on(ground, load, cycle_id)

    return partition


# --------------------------------------------------------------------------- the deployer


def deployer_away_at_release(ground: Ground, load: Load, seed: int) -> list[str]:
    """A deployer that does not answer before the commit: nothing is committed."""
    cycle_id = lane.open_drill(ground.loop, ground.damaged(seed))
    before = ground.loop.repo.sync()
    with argocd(ground.loop) as server:
        server.mood = "away"
        ended = _tried(lambda: lane.release(_followed_by(ground, server), cycle_id, ground.tracker))
    problems = [] if isinstance(ended, PredatorError) else [f"released although nobody deploys: {ended}"]
    if ground.loop.repo.sync() != before:
        problems.append("committed although the deployer did not answer")
    return problems + _goes_on(ground, load, cycle_id)


def deployer_lies_at_release(ground: Ground, load: Load, seed: int) -> list[str]:
    """The deployer says synced and healthy, and nothing was applied: the service's word counts, and the commit is taken back."""
    cycle_id = lane.open_drill(ground.loop, ground.damaged(seed))
    with argocd(ground.loop) as server, _stopped(ground, "reconciler"):
        server.mood = "lying"
        ended = _tried(lambda: lane.release(_followed_by(ground, server), cycle_id, ground.tracker))
    problems = [] if isinstance(ended, PredatorError) else [f"a lie was believed: {ended}"]
    return problems + _is(ground, cycle_id, CycleState.FAILED)


def deployer_stuck_at_release(ground: Ground, load: Load, seed: int) -> list[str]:
    """The deployer works on an older commit and never ends: that operation is ended, and the commit that did not come into force is taken back."""
    cycle_id = lane.open_drill(ground.loop, ground.damaged(seed))
    with argocd(ground.loop) as server:
        server.get_stuck()
        ended = _tried(lambda: lane.release(_followed_by(ground, server), cycle_id, ground.tracker))
        asked = list(server.asked)
    problems = [] if isinstance(ended, PredatorError) else [f"a commit that never came into force was called released: {ended}"]
    if "DELETE operation" not in asked:
        problems.append("the operation that hangs was not ended")
    return problems + _is(ground, cycle_id, CycleState.FAILED)


def deployer_stuck_at_rollback(ground: Ground, load: Load, seed: int) -> list[str]:
    """The deployer hangs in an operation on the bad release and applies nothing until it is ended: the way back ends it, and goes through."""
    cycle_id = _released_and_bad(ground, load, seed)
    with argocd(ground.loop) as server, _stopped(ground, "reconciler") as go_on:
        server.get_stuck(ended=go_on)
        ended = _tried(lambda: keep.roll_back_degraded(_followed_by(ground, server), cycle_id, ground.tracker))
        asked = list(server.asked)
    problems = [] if getattr(ended, "verified", False) else [f"the way back was not gone: {ended}"]
    if "DELETE operation" not in asked:
        problems.append("the operation that hangs was not ended")
    return problems + _is(ground, cycle_id, CycleState.ROLLED_BACK)


def deployer_away_at_rollback(ground: Ground, load: Load, seed: int) -> list[str]:
    """Nobody answers for the deployer: the way back is open all the same, by the service's word."""
    cycle_id = _released_and_bad(ground, load, seed)
    with argocd(ground.loop) as server:
        server.mood = "away"
        ended = _tried(lambda: keep.roll_back_degraded(_followed_by(ground, server), cycle_id, ground.tracker))
    problems = [] if not isinstance(ended, PredatorError) and getattr(ended, "verified", False) else [f"the way back was not gone: {ended}"]
    return problems + _is(ground, cycle_id, CycleState.ROLLED_BACK)


def deployer_lies_at_rollback(ground: Ground, load: Load, seed: int) -> list[str]:
    """The deployer says that the way back is in force, and the bad model serves on: the rollback is not verified; a tick asks again, and then it is."""
    cycle_id = _released_and_bad(ground, load, seed)
    with argocd(ground.loop) as server, _stopped(ground, "reconciler"):
        server.mood = "lying"
        ended = _tried(lambda: keep.roll_back_degraded(_followed_by(ground, server), cycle_id, ground.tracker))
    problems = [f"a lie was believed: {ended}"] if getattr(ended, "verified", False) else []

    def confirmed() -> bool:
        found = way_back.confirm_again(ground.loop, ground.tracker)
        return found is not None and found.verified

    again = _tried(lambda: wait_until(confirmed, _CONFIRMED_SECONDS, "the service's word", every=0.5))
    if isinstance(again, PredatorError):
        problems.append(f"asked again as a tick does, the way back is not verified: {again}")
    return problems + _is(ground, cycle_id, CycleState.ROLLED_BACK)


# --------------------------------------------------------------------------- what they share


def _tried(doing: Callable[[], object]) -> object:
    """What it gave, or the platform's own error; a defect passes."""
    try:
        return doing()
    except PredatorError as error:
        return error


def _impatient(ground: Ground) -> Loop:
    """The loop with seconds in place of minutes for a Git that does not answer."""
    found = Loop(ground.settings)
    vars(found)["repo"] = GitOpsRepo(ground.loop.home.gitops_bare, ground.loop.home.gitops, seconds=_PATIENCE)
    return found


def _followed_by(ground: Ground, server: ArgoCD) -> Loop:
    """The loop with an Argo CD in place of the embedded reconciler, and with seconds in place of minutes."""
    os.environ[TOKEN_VARIABLE] = TOKEN
    found = Loop(ground.impatient(_PATIENCE))
    repo = found.repo
    vars(found)["deployer"] = ArgoCDDeployer(
        server.address, NAME, repo.includes, repository=repo.url, branch=repo.branch, contour=found.contour, token_env=TOKEN_VARIABLE,
        interval=0.1, request_seconds=5.0, stuck=1.0, degraded=1.0,
    )  # fmt: skip
    return found


@contextmanager
def _stopped(ground: Ground, name: str) -> Iterator[Callable[[], None]]:
    """A process that is there and does nothing until the block ends, or until what is given is called."""
    pid = ground.processes.pid(name)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)


def _released_and_bad(ground: Ground, load: Load, seed: int) -> str:
    """A damaged model released, and found by the watch; its cycle.

    Raises
    ------
    Unavailable
        The watch kept it.
    """
    cycle_id = lane.open_drill(ground.loop, ground.damaged(seed))
    lane.release(ground.loop, cycle_id, ground.tracker)
    watched = lane.watch(ground.loop, cycle_id, load.wait_for, ground.tracker)
    if watched.answer != "rollback":
        raise Unavailable(f"{cycle_id}: the watch kept a damaged model: {watched.reason}")
    return cycle_id


def _goes_on(ground: Ground, load: Load, cycle_id: str) -> list[str]:
    """The fault is over: the loop finishes the cycle by itself."""
    ended = _tried(lambda: lane.resume(ground.loop, cycle_id, load.wait_for, ground.tracker))
    return _is(ground, cycle_id, CycleState.ROLLED_BACK, f" ({ended})")


def _is(ground: Ground, cycle_id: str, wanted: CycleState, more: str = "") -> list[str]:
    state = ground.loop.control.cycle(cycle_id).state
    return [] if state is wanted else [f"{cycle_id} is {state.value}, not {wanted.value}{more}"]


PARTITIONS: dict[str, Partition] = {
    "Git away at the release": _git_release(away, False),
    "Git away at the rollback": _git_rollback(away, False),
    "Git rejects the release": _git_release(rejecting, False),
    "Git rejects the rollback": _git_rollback(rejecting, False),
    "Git slow at the release": _git_release(slow, True),
    "Git slow at the rollback": _git_rollback(slow, True),
    "Git takes the release and does not say so": _git_release(silent, True),
    "Git takes the rollback and does not say so": _git_rollback(silent, True),
    "deployer away at the release": deployer_away_at_release,
    "deployer lies at the release": deployer_lies_at_release,
    "deployer stuck at the release": deployer_stuck_at_release,
    "deployer away at the rollback": deployer_away_at_rollback,
    "deployer lies at the rollback": deployer_lies_at_rollback,
    "deployer stuck at the rollback": deployer_stuck_at_rollback,
}
_FEW = ("Git away at the release", "Git rejects the rollback", "deployer stuck at the rollback")
"""Of the small scale: those that need no long wait."""
