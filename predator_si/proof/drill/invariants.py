"""What must hold once a drill's dust has settled, whatever was killed, cut off or raced.

What belongs here: reading the state from Git, control database, registry and service (``observe``), and judging it, purely (``violations``). What must not:
mending anything.

The rules, each of which has a test that shows it fire: one champion, the same by Git, applied file, service and registry; every model that Git ever made the
champion was decided before, for that cycle; a cycle's state and Git agree; what is denied is neither released nor served; the ledger is whole; no lease is left
that the next cycle could not take over; artifacts and models are whole; the sealed queries were opened once for a cycle; no training is called running that
nobody runs; the repository is whole.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from predator_si.errors import BadInput, PredatorError, Refused, Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.records import CycleState, Decision, ServingConfig
from predator_si.release.deny import parse_deny
from predator_si.release.git import clean_environment
from predator_si.release.patch import load_patch, patch_name
from predator_si.release.release_file import DENY_FILE, parse_release
from predator_si.train.tracking import ExperimentTracker

_IN_PRODUCTION = frozenset({CycleState.RELEASED, CycleState.WATCHING, CycleState.STABLE})
_MAY_BE_ON_TRIAL = frozenset({CycleState.ON_TRIAL, CycleState.DECIDED, CycleState.AWAITING_APPROVAL})
_UNWATCHED = frozenset({CycleState.RELEASED, CycleState.WATCHING})
_CYCLES = 2_000
_GIT_SECONDS = 60.0


@dataclass(frozen=True)
class Commit:
    """One commit of the branch: whose it is by its trailers, and what it makes of the release file and the deny list."""

    sha: str
    cycle_id: str | None
    stage: str | None
    champion: str
    candidate: str | None
    denied: frozenset[str]


@dataclass(frozen=True)
class CycleFacts:
    """What is known of a cycle beside its state: its challenger, and whether the ledger says that it was decided."""

    cycle_id: str
    state: CycleState
    challenger: str | None
    decided: bool
    """The ledger has a decision for the promotion that says promote, or says that it is a drill."""
    way_back: str | None = None
    """Where the stored reverse of its release leads to; null where nothing is stored."""
    openings: int = 0
    """How often the sealed queries were opened for it."""


@dataclass(frozen=True)
class Observed:
    """One look at everything. ``commits`` are oldest first; where the history was not asked for it is the head alone."""

    commits: tuple[Commit, ...]
    cycles: tuple[CycleFacts, ...]
    applied: str | None
    served: tuple[str | None, str | None]
    """Champion and candidate by the service's own word."""
    alias: str | None
    """What the registry calls champion; null where no registry was asked."""
    registry_asked: bool = False
    reigning: tuple[str, ...] = ()
    """Champions whose time has no end by the control database's history."""
    sources: Mapping[str, str | None] = field(default_factory=dict)
    """Digest -> digest of the weights that it was made from."""
    ledger: tuple[str, ...] = ()
    lease: str | None = None
    """Why the next cycle could not work; null when it could."""
    broken_files: tuple[str, ...] = ()
    """Artifacts, and models of the cycles, that are cut short."""
    trainings: tuple[str, ...] = ()
    """MLflow runs that are called running."""
    repository: str | None = None
    """What ``git fsck`` complains about."""
    by_hand: frozenset[str] = frozenset()
    """Commits that the drill itself made as a person."""
    whole_history: bool = True


def observe(loop: Loop, *, tracker: ExperimentTracker | None = None, history: bool = True, by_hand: Collection[str] = ()) -> Observed:
    """Look at a home whose service and reconciler run.

    Parameters
    ----------
    history
        Whether every commit and every cycle is looked at, or only the newest of each.

    Raises
    ------
    Unavailable
        The service does not answer.
    """
    variants = loop.info()["variants"]
    commits = _commits(loop.home.gitops_bare, loop.release_name, None if history else 1)
    cycles = loop.control.cycles(_CYCLES if history else 2, loop.contour)
    digests = {digest for commit in commits for digest in (commit.champion, commit.candidate) if digest is not None}
    applied = loop.home.release_file(loop.contour)
    return Observed(
        commits=commits,
        cycles=tuple(_facts(loop, cycle.cycle_id, cycle.state) for cycle in cycles),
        applied=parse_release(applied.read_text(), str(applied)).reranker.champion if applied.is_file() else None,
        served=(variants["champion"]["model_sha"], variants["candidate"]["model_sha"] if variants["candidate"] else None),
        alias=tracker.aliases().get("champion") if tracker is not None else None,
        registry_asked=tracker is not None,
        reigning=tuple(span.digest for span in loop.control.champions(loop.contour, 1_000) if span.until is None),
        sources={digest: loop.models.card(digest).source_digest for digest in digests if digest in loop.models},
        ledger=tuple(loop.control.verify()),
        lease=_lease_refusal(loop, cycles[0].cycle_id if cycles else None),
        broken_files=tuple(filter(None, (one for cycle in cycles for one in (_broken(loop.home.artifacts / cycle.cycle_id), _half(loop, cycle.cycle_id))))),
        trainings=_trainings(loop) if tracker is not None else (),
        repository=_fsck(loop.home.gitops_bare) if history else None,
        by_hand=frozenset(by_hand),
        whole_history=history,
    )


def violations(seen: Observed) -> list[str]:
    """What does not hold, one sentence each; none for a healthy state."""
    return [*_one_champion(seen), *_decided(seen), *_states_agree(seen), *_denied(seen), *_kept(seen)]


def look(loop: Loop, *, tracker: ExperimentTracker | None = None, history: bool = True, by_hand: Collection[str] = ()) -> list[str]:
    """Observe and judge; what could not even be seen is a violation too."""
    try:
        return violations(observe(loop, tracker=tracker, history=history, by_hand=by_hand))
    except PredatorError as error:
        return [f"what holds cannot be seen: {error}"]


def head_of(bare: Path) -> str:
    """The newest commit of a repository's branch, asked without a clone."""
    return _git(bare, "rev-parse", "main").strip()


# --------------------------------------------------------------------------- the rules


def _one_champion(seen: Observed) -> list[str]:
    head = seen.commits[-1]
    found = []
    if seen.applied != head.champion:
        found.append(f"Git's champion is {head.champion}, the applied file's is {seen.applied}")
    if seen.served[0] != head.champion:
        found.append(f"Git's champion is {head.champion}, the service serves {seen.served[0]}")
    if seen.served[1] != head.candidate:
        found.append(f"Git's candidate is {head.candidate}, the service's is {seen.served[1]}")
    if seen.registry_asked and seen.alias != head.champion:
        found.append(f"Git's champion is {head.champion}, the registry's is {seen.alias}")
    if len(seen.reigning) > 1:
        found.append(f"the champion history has {len(seen.reigning)} champions at once: {', '.join(seen.reigning)}")
    unwatched = [cycle.cycle_id for cycle in seen.cycles if cycle.state in _UNWATCHED]
    if len(unwatched) > 1:
        found.append(f"two releases are watched at once: {', '.join(unwatched)}")
    return found


def _decided(seen: Observed) -> list[str]:
    """Who changed the champion, commit by commit."""
    if not seen.whole_history:
        return []
    cycles = {cycle.cycle_id: cycle for cycle in seen.cycles}
    found: list[str] = []
    stages: set[tuple[str, str]] = set()
    before_release: dict[str, str] = {}
    for previous, commit in zip(seen.commits, seen.commits[1:], strict=False):
        if commit.cycle_id is not None and commit.stage is not None:
            if (commit.cycle_id, commit.stage) in stages:
                found.append(f"{commit.cycle_id} committed its stage {commit.stage} twice, last as {commit.sha[:12]}")
            stages.add((commit.cycle_id, commit.stage))
        if commit.champion == previous.champion or commit.sha in seen.by_hand:
            continue
        cycle = cycles.get(commit.cycle_id or "")
        if cycle is None:
            found.append(f"{commit.sha[:12]} made {commit.champion} the champion, and no cycle knows of it")
        elif commit.stage == "promote":
            before_release[cycle.cycle_id] = previous.champion
            if not cycle.decided:
                found.append(f"{commit.sha[:12]} released {commit.champion} for {cycle.cycle_id}, which had not been decided")
            if cycle.challenger != commit.champion:
                found.append(f"{commit.sha[:12]} released {commit.champion}, the challenger of {cycle.cycle_id} is {cycle.challenger}")
        elif commit.stage == "rollback":
            if before_release.get(cycle.cycle_id) != commit.champion:
                found.append(f"{commit.sha[:12]} rolled {cycle.cycle_id} back to {commit.champion}, not to {before_release.get(cycle.cycle_id)}")
        else:
            found.append(f"{commit.sha[:12]} made {commit.champion} the champion in stage {commit.stage} of {cycle.cycle_id}")
    return found


def _states_agree(seen: Observed) -> list[str]:
    head = seen.commits[-1]
    promoted = {commit.cycle_id for commit in seen.commits if commit.stage == "promote"}
    taken_back = {commit.cycle_id for commit in seen.commits if commit.stage == "rollback"}
    found = []
    for cycle in seen.cycles if seen.whole_history else ():
        if cycle.state in _IN_PRODUCTION and cycle.cycle_id not in promoted:
            found.append(f"{cycle.cycle_id} is {cycle.state.value}, and Git has no commit of its release")
        if cycle.state in _IN_PRODUCTION and cycle.cycle_id in taken_back:
            found.append(f"{cycle.cycle_id} is {cycle.state.value}, and Git has taken it back")
        if cycle.state not in _IN_PRODUCTION and cycle.cycle_id in promoted - taken_back:
            found.append(f"{cycle.cycle_id} is {cycle.state.value}, and Git still has its release")
    newest = next((cycle for cycle in seen.cycles if cycle.state in _UNWATCHED), None)
    if newest is not None and newest.challenger != head.champion:
        found.append(f"{newest.cycle_id} is {newest.state.value} with {newest.challenger}, Git's champion is {head.champion}")
    for cycle in seen.cycles:
        if cycle.state in _UNWATCHED and cycle.way_back is not None and cycle.way_back == cycle.challenger:  # a drill always brings another model
            found.append(f"{cycle.cycle_id} is {cycle.state.value}, and its stored reverse leads back to {cycle.way_back}: there is no way back")
    if head.candidate is not None and not any(cycle.state in _MAY_BE_ON_TRIAL for cycle in seen.cycles):
        found.append(f"{head.candidate} is on trial by Git, and no cycle is")
    return found


def _denied(seen: Observed) -> list[str]:
    head = seen.commits[-1]
    found = []
    for role, digest in (("released", head.champion), ("on trial", head.candidate), ("served", seen.served[0])):
        if digest is not None and {digest, seen.sources.get(digest)} & head.denied:
            found.append(f"{digest} is on the deny list and {role}")
    return found


def _kept(seen: Observed) -> list[str]:
    found = [f"ledger: {problem}" for problem in seen.ledger]
    found += [f"file: {problem}" for problem in seen.broken_files]
    found += [f"training: MLflow run {run} is called running, and nobody runs it" for run in seen.trainings]
    found += [f"{cycle.cycle_id} opened the sealed queries {cycle.openings} times" for cycle in seen.cycles if cycle.openings > 1]
    if seen.lease is not None:
        found.append(f"lease: {seen.lease}")
    if seen.repository is not None:
        found.append(f"repository: {seen.repository}")
    return found


# --------------------------------------------------------------------------- looking


def _commits(bare: Path, name: str, newest: int | None) -> tuple[Commit, ...]:
    trailers = "%(trailers:key=Predator-Cycle,valueonly,separator=%x2c)%x09%(trailers:key=Predator-Stage,valueonly,separator=%x2c)"
    words = ["log", f"--format=%H%x09{trailers}", *([f"-{newest}"] if newest is not None else []), "main"]
    rows = [line.split("\t") for line in _git(bare, *words).splitlines()][::-1]
    files = _blobs(bare, [f"{sha}:{path}" for sha, _, _ in rows for path in (name, DENY_FILE)])
    found = []
    for (sha, cycle_id, stage), release_text, deny_text in zip(rows, files[::2], files[1::2], strict=True):
        release = parse_release(release_text, f"{name} in {sha[:12]}").reranker
        entries = parse_deny(deny_text, f"{DENY_FILE} in {sha[:12]}")
        denied = frozenset(digest for entry in entries for digest in (entry.digest, entry.source_digest) if digest is not None)
        found.append(Commit(sha, cycle_id or None, stage or None, release.champion, release.candidate, denied))
    return tuple(found)


def _blobs(bare: Path, names: Sequence[str]) -> list[str]:
    """The texts of ``<commit>:<path>``, by one Git process."""
    data = _git(bare, "cat-file", "--batch", data="".join(f"{name}\n" for name in names)).encode()
    found, place = [], 0
    for name in names:
        end = data.index(b"\n", place)
        words = data[place:end].split()
        if len(words) != 3:
            raise BadInput(f"{name} is not in {bare}: {data[place:end].decode()}. The drill's repository was changed from outside.")
        size = int(words[2])
        found.append(data[end + 1 : end + 1 + size].decode())
        place = end + 1 + size + 1
    return found


def _git(bare: Path, *words: str, data: str | None = None) -> str:
    done = subprocess.run(
        ["git", *words],
        cwd=bare,
        input=None if data is None else data.encode(),
        capture_output=True,
        env=clean_environment(),
        timeout=_GIT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"{bare}: git {words[0]} failed ({done.stderr.decode(errors='replace').strip()}). Is the repository there?")
    return done.stdout.decode()


def _fsck(bare: Path) -> str | None:
    try:
        _git(bare, "fsck", "--strict", "--no-dangling", "--no-progress")
    except Unavailable as error:
        return str(error)
    return None


def _facts(loop: Loop, cycle_id: str, state: CycleState) -> CycleFacts:
    folder = loop.home.artifacts / cycle_id
    challenger = ServingConfig.read(folder / "challenger.json").model if (folder / "challenger.json").is_file() else None
    records = loop.control.records(500, cycle_id=cycle_id)
    said = [record.payload for record in records if record.action == "decision_promote"]
    decided = any(one.get("verdict") == "promote" or one.get("drill") is True for one in said)
    path = folder / "decision-promote.json"
    if decided and path.is_file():
        decided = Decision.read(path).challenger.model == challenger
    stored = folder / patch_name("promote")
    way_back = load_patch(folder, "promote").reverse.get("reranker.champion") if stored.is_file() else None
    openings = sum(record.action == "sealed_test_opened" for record in records)
    return CycleFacts(cycle_id, state, challenger, decided, way_back, openings)


def _lease_refusal(loop: Loop, cycle_id: str | None) -> str | None:
    """Whether the contour's one lease can be had for the newest cycle: the way every job of it begins."""
    if cycle_id is None:
        return None
    try:
        with loop.working_on(cycle_id):
            return None
    except Refused as error:
        return str(error)


def _broken(folder: Path) -> str | None:
    """The first artifact that is cut short; null when all are whole."""
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            return f"{path}: {error}"
    return None


def _half(loop: Loop, cycle_id: str) -> str | None:
    """What is wrong with the bytes of a cycle's challenger; null where they are those that its digest names, or where it has none."""
    from predator_si.search.models import model_digest

    path = loop.home.artifacts / cycle_id / "challenger.json"
    if not path.is_file():
        return None
    try:
        digest = ServingConfig.read(path).model
        found = model_digest(loop.models.path(digest))
    except PredatorError as error:
        return str(error)
    return None if found == digest else f"{loop.models.path(digest)}: holds {found}"


def _trainings(loop: Loop) -> tuple[str, ...]:
    """MLflow runs that nobody ended."""
    if not (loop.home.mlflow / "mlflow.db").is_file():
        return ()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=loop.home.mlflow_uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return tuple(run.info.run_id for run in client.search_runs(experiments, filter_string="attributes.status = 'RUNNING'"))


__all__ = ["Commit", "CycleFacts", "Observed", "head_of", "look", "observe", "violations"]
