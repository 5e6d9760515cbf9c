"""Two contours' loops on one branch, as the Applications that we ship have it: each draws cycle ids for itself, so both have the same ones."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predator_si.errors import Refused
from predator_si.records import Deployment, HelmPatch, ModelCard, Rollback, ServingConfig
from predator_si.release.champions import champions_of
from predator_si.release.deny import SEED_DENY, add_denied, check_allowed, deny_entries, parse_deny
from predator_si.release.deploy import commit_patch
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import make_patch, promote_changes, trial_changes
from predator_si.release.release_file import parse_release, release_name, seed_release
from predator_si.release.rollback import rollback
from predator_si.search.release_file import parse_denied

EDGE, COMPUTE = "edge-oracle", "compute-nvidia"
CYCLE = "si_2026_11_23_001"
OLD, NEW, OTHER = (f"sha256:{letter * 64}" for letter in "abc")
NOW = datetime(2026, 11, 23, tzinfo=UTC)


class Writer:
    """One contour's loop: its own clone, its own patches, and a service that serves what Git says."""

    def __init__(self, folder: Path, contour: str, *, says_so: bool = True) -> None:
        self.contour, self.file = contour, release_name(contour)
        self.repo = GitOpsRepo(folder / "gitops.git", folder / f"work-{contour}-{says_so}", contour=contour if says_so else None)
        self.patches: list[HelmPatch] = []

    @property
    def champion(self) -> str:
        self.repo.sync()
        return parse_release(self.repo.show(self.file), self.file).reranker.champion

    def commit(self, stage: str, model: str, cycle: str = CYCLE) -> str:
        self.repo.sync()
        challenger = ServingConfig(model=model, depth=20)
        changes = trial_changes(challenger) if stage == "trial" else promote_changes(challenger, self.patches[0] if self.patches else None)
        patch = make_patch(self.repo.show(self.file), changes, cycle_id=cycle, stage=stage, file=self.file)  # type: ignore[arg-type]
        self.patches.append(commit_patch(self.repo, patch, f"{stage} in {self.contour}"))
        return self.patches[-1].commit or ""

    def take_back(self, model: str) -> Rollback:
        def served(digest: str, commit: str) -> Deployment:
            now = parse_release(self.repo.show(self.file, commit), self.file).reranker.champion
            return Deployment(cycle_id=CYCLE, stage="rollback", commit=commit, expected_digest=digest, served_digest=now, confirmed=now == digest,
                              seconds=0.0, reason="as committed", created_at=NOW)  # fmt: skip

        card, old = (ModelCard(name="m", digest=digest, backend="torch-fp32", max_length=64) for digest in (model, OLD))
        entries = deny_entries(card, cycle_id=CYCLE, reason=f"worse in {self.contour}", at=NOW, keep=[old], contour=self.contour)
        return rollback(self.repo, self.patches, entries, "it was worse", served)

    def may_release(self, model: str) -> bool:
        try:
            check_allowed(parse_deny(self.repo.show("deny.yaml"), contour=self.contour), [model])
        except Refused:
            return False
        return True


def branch(folder: Path) -> None:
    seeds = {release_name(contour): seed_release(ServingConfig(model=OLD, depth=20), contour) for contour in (EDGE, COMPUTE)}
    GitOpsRepo.init_bare(folder / "gitops.git", {**seeds, "deny.yaml": SEED_DENY})


def both(folder: Path) -> tuple[Writer, Writer]:
    branch(folder)
    return Writer(folder, EDGE), Writer(folder, COMPUTE)


def test_a_release_and_its_way_back_are_each_loops_own_whatever_the_other_committed_under_the_same_id(tmp_path: Path) -> None:
    edge, compute = both(tmp_path)
    commits = [edge.commit("trial", NEW), edge.commit("promote", NEW), edge.take_back(NEW).commit]
    assert edge.champion == OLD
    commits += [compute.commit("trial", OTHER), compute.commit("promote", OTHER)]
    assert compute.champion == OTHER, "edge's commits of the same cycle and stage are not compute's"
    back = compute.take_back(OTHER)
    assert back.verified and compute.champion == OLD and len({*commits, back.commit}) == 6
    for writer, own in ((edge, commits[:3]), (compute, [*commits[3:], back.commit])):
        writer.repo.sync()
        assert [writer.repo.find_commit(CYCLE, stage) for stage in ("trial", "promote", "rollback")] == own
    assert compute.take_back(OTHER).commit == back.commit, "twice is once"


def test_what_one_contour_denied_is_served_on_and_returned_to_in_the_other(tmp_path: Path) -> None:
    edge, compute = both(tmp_path)
    edge.commit("promote", NEW)
    compute.commit("promote", NEW)
    assert compute.take_back(NEW).verified
    assert (edge.may_release(NEW), compute.may_release(NEW)) == (True, False)
    edge.patches.clear()
    edge.commit("promote", OTHER, "si_2026_11_23_002")
    assert edge.take_back(OTHER).to_digest == NEW, "the way back at the edge leads to what compute had denied for itself"
    text = edge.repo.show("deny.yaml").encode()
    assert set(parse_denied(text, "deny.yaml", EDGE).reasons) == {OTHER} and set(parse_denied(text, "deny.yaml", COMPUTE).reasons) == {NEW}
    assert set(parse_denied(text, "deny.yaml").reasons) == {NEW, OTHER}


def test_a_persons_entry_names_no_contour_and_holds_in_all(tmp_path: Path) -> None:
    edge, compute = both(tmp_path)
    theirs = f"denied:\n  - digest: {NEW}\n    reason: licence\n    at: 2026-11-01T00:00:00Z\n"
    edge.repo.change(lambda files: {"deny.yaml": theirs}, "by hand")
    compute.repo.sync()
    assert not edge.may_release(NEW) and not compute.may_release(NEW)
    (entry,) = deny_entries(ModelCard(name="m", digest=NEW, backend="torch-fp32", max_length=64), cycle_id=CYCLE, reason="x", at=NOW, keep=(), contour=EDGE)
    assert add_denied(theirs, [entry]) == theirs, "what is denied everywhere is denied here already"
    there = add_denied(add_denied(SEED_DENY, [entry]), [entry.model_copy(update={"contour": COMPUTE})])
    assert [one.contour for one in parse_deny(there)] == [EDGE, COMPUTE]


def test_commits_from_before_the_trailer_are_told_apart_by_the_file_they_changed(tmp_path: Path) -> None:
    branch(tmp_path)
    before = Writer(tmp_path, EDGE, says_so=False)
    theirs = before.commit("promote", NEW)
    edge, compute = Writer(tmp_path, EDGE), Writer(tmp_path, COMPUTE)
    edge.repo.sync(), compute.repo.sync()
    assert edge.repo.find_commit(CYCLE, "promote") == theirs and compute.repo.find_commit(CYCLE, "promote") is None
    edge.patches = before.patches
    assert edge.take_back(NEW).verified and edge.champion == OLD


def test_a_champion_that_another_loop_committed_is_not_said_to_be_of_our_cycle(tmp_path: Path) -> None:
    edge, compute = both(tmp_path)
    edge.file = compute.file  # as a promotion does it: the edge's loop writes the next contour's file
    edge.commit("promote", NEW)
    compute.repo.sync()
    assert [span.cycle_id for span in champions_of(edge.repo, compute.file, COMPUTE)] == [None, CYCLE]
    assert [span.cycle_id for span in champions_of(compute.repo, compute.file, COMPUTE)] == [None, None]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(["edge trial", "edge promote", "edge back", "compute trial", "compute promote", "compute back"]))
def test_in_whatever_order_two_loops_go_each_comes_back_to_where_it_began(tmp_path_factory: pytest.TempPathFactory, order: list[str]) -> None:
    """Each loop goes trial, promote, back; how the two are woven is drawn."""
    writers = dict(zip(("edge", "compute"), both(tmp_path_factory.mktemp("woven")), strict=True))
    models, steps = {"edge": NEW, "compute": OTHER}, {name: ["trial", "promote", "back"] for name in writers}
    for entry in order:
        name = entry.split(" ")[0]
        step = steps[name].pop(0)
        if step == "back":
            assert writers[name].take_back(models[name]).verified
        else:
            writers[name].commit(step, models[name])
    assert [writer.champion for writer in writers.values()] == [OLD, OLD]
