"""A trial's steps in Git, and its looks over a home's own events: real repository, control database, event files and verdicts; no service."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.errors import Refused
from predator_si.experiment.plan import Experiment
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import keep, same, trial
from predator_si.records import CycleState, Decision, Deployment, ExperimentResult, ServingConfig, Verdict, utc_now
from predator_si.release.deploy import commit_changes, commit_patch, commit_step
from predator_si.release.patch import end_shadow_changes, make_patch, promote_changes, save_patch, shadow_changes, trial_changes
from predator_si.release.release_file import parse_release
from predator_si.release.replay import trial_again
from predator_si.release.rollback import rollback
from predator_si.settings import Settings, load_settings
from predator_si_tests.support import windows
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import fake_model, open_cycle, prepare
from predator_si_tests.support.trials import shadowed

VALUES = """selfImprovement:
  experiment: {modes: [shadow, ab], ramp: [0.1], minSamples: 60, maxSamples: 400, shadowShare: 0.3}
  watch: {shadowShare: 0.2}
"""


class Trial:
    """A cycle on trial in a contour that runs a chain."""

    def __init__(self, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        values = tmp_path / "chain.yaml"
        values.write_text(VALUES)
        self.loop = Loop(load_settings("local", home=settings.home, values_file=values, env={}))
        self.old, self.new = (fake_model(self.loop, name) for name in ("old", "new"))
        prepare(self.loop, self.old)
        self.cycle_id = open_cycle(self.loop.control).cycle_id
        self.folder = self.loop.artifacts(self.cycle_id)
        self.challenger = ServingConfig(model=self.new, depth=self.loop.serving().depth, fusion_weight=self.loop.serving().fusion_weight)
        self.loop.save(self.cycle_id, "challenger.json", self.challenger)
        for state in (CycleState.PREPARED, CycleState.TRAINED, CycleState.EVALUATED, CycleState.ON_TRIAL):
            self.loop.control.transition(self.cycle_id, state, "a test", "test")
        first = trial.trial_steps(self.loop)[0]
        self.loop.repo.sync()
        self.commit("trial", trial_changes(self.challenger, first.share, self.loop.serving(), first.mode))
        trial.begin_trial(self.loop, self.cycle_id, utc_now() - timedelta(minutes=5))
        monkeypatch.setattr(Loop, "flush", lambda self: None)
        monkeypatch.setattr(trial, "bring_into_force", self._confirmed)
        monkeypatch.setattr(trial, "_measured", lambda *_: {"champion": [2.0], "challenger": [1.0]})

    def commit(self, stage: Any, changes: dict[str, Any]) -> Any:
        patch = make_patch(self.loop.release_text(), changes, cycle_id=self.cycle_id, stage=stage, file=self.loop.release_name)
        found = commit_patch(self.loop.repo, patch, stage)
        save_patch(self.folder, found)
        return found

    def _confirmed(self, loop: Loop, digest: str, *_: Any, cycle_id: str, stage: Any, commit: str, **__: Any) -> Deployment:
        served = parse_release(self.loop.release_text(), self.loop.release_name).reranker.candidate
        return Deployment(cycle_id=cycle_id, stage=stage, commit=commit, expected_digest=digest, served_digest=served, confirmed=served == digest, seconds=0.1,
                          reason="asked", created_at=utc_now())  # fmt: skip

    def release(self) -> Any:
        return parse_release(self.loop.release_text(), self.loop.release_name).reranker

    def write(self, kind: str, frame: pl.DataFrame) -> None:
        folder = self.loop.home.events / "hourly" / kind
        folder.mkdir(parents=True, exist_ok=True)
        frame.write_parquet(folder / f"{utc_now():%Y%m%d%H}-w.parquet")

    def shadows(self, n: int, ratio: float) -> None:
        since = trial.open_trial(self.loop, self.cycle_id).step_started_at
        rows = shadowed(n, ratio, served_digest=self.old, shadow_digest=self.new).shadows
        self.write("shadow", rows.with_columns(timestamp=pl.lit(since) + pl.duration(microseconds=10 * pl.int_range(pl.len()))))

    def traffic(self, n: int, share: float, slow: float = 0.4) -> None:
        rng, since = np.random.default_rng(1), trial.open_trial(self.loop, self.cycle_id).step_started_at
        rows, clicks = [], []
        for i in range(n):
            theirs = bool(rng.random() < share)
            model = {"variant": "candidate", "model_digest": self.new} if theirs else {"model_digest": self.old}
            at = since + timedelta(microseconds=10 * i)
            rows.append(
                windows.search(i, timestamp=at, query_id=f"{since:%H%M%S%f}-{i}", latency_ms=float(rng.lognormal(4.6, 0.3) * (slow if theirs else 1)), **model)
            )
            if rng.random() < 0.6:
                clicks.append(windows.action(rows[-1]["query_id"], timestamp=at, seq=len(clicks), writer="w"))
        found = windows.frames(rows, clicks)
        self.write("search", found.search)
        self.write("action", found.actions)


@pytest.fixture
def on_trial(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    return Trial(settings, tmp_path, monkeypatch)


def test_a_chain_goes_from_shadow_over_its_ramp_to_the_end_by_commits(
    on_trial: Trial, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, cycle_id = on_trial.loop, on_trial.cycle_id
    assert (on_trial.release().candidate_mode, on_trial.release().candidate_weight) == ("shadow", 0.3)
    with pytest.raises(Refused, match=r"the trial has 0 of 30 requests in step 1 of 3 \(shadow at 30%\)"):
        trial.judge_trial(loop, cycle_id)
    on_trial.shadows(60, 0.4)
    looked = trial.judge_trial(loop, cycle_id)
    assert looked.result.mode == "shadow" and looked.result.verdict is Verdict.PROMOTE and looked.trial.step == 1, looked.result.reason
    assert (on_trial.release().candidate_mode, on_trial.release().candidate_weight) == ("ab", 0.1)
    with pytest.raises(Refused, match="in step 2 of 3"):
        trial.judge_trial(loop, cycle_id)
    on_trial.traffic(300, 0.1)
    assert trial.judge_trial(loop, cycle_id).trial.step == 2 and on_trial.release().candidate_weight == 0.2
    on_trial.traffic(300, 0.2)
    ended = trial.judge_trial(Loop(loop.settings), cycle_id)  # another process goes on where the file says
    assert ended.trial.verdict is Verdict.PROMOTE and ended.times and loop.control.cycle(cycle_id).state is CycleState.DECIDED
    kept = Experiment.read(on_trial.folder / "experiment.json")
    assert kept == ended.trial and [look.step for look in kept.looks] == [0, 1, 2]
    for name in ("trial/1-shadow/result.json", "trial/2-ab/result.json", "trial/3-ab/result.json", "ab_test_results.json"):
        assert trial_again(on_trial.folder, ExperimentResult.read(on_trial.folder / name)) is None, "each step's verdict comes out the same again"
    assert [record.action for record in loop.control.records(50, cycle_id=cycle_id)].count("trial_step") == 2
    told = CommandLine(loop.home.path, capsys)
    assert told("eval", "replay", cycle_id).code == 0
    answer = told("eval", "verdict", cycle_id, "--json", "-")
    assert answer.code == 1 and (answer.json["verdict"], answer.json["stage"], answer.json["reproducible"]) == ("inconclusive", "experiment", True)
    assert answer.json["reason"].startswith("the release is not decided yet")
    models = {"champion": loop.serving(), "challenger": on_trial.challenger}
    facts = {"stage": "promote", "verdict": Verdict.PROMOTE, "gates": [], "policy": "full", "approval_required": False, "reason": "better", **models}
    release = Decision(cycle_id=cycle_id, created_at=utc_now(), **facts)
    slept: list[float] = []

    def decided_meanwhile(seconds: float) -> None:
        slept.append(seconds)
        loop.save(cycle_id, "decision-promote.json", release)

    monkeypatch.setattr("time.sleep", decided_meanwhile)
    monkeypatch.setattr("predator_si.cli.verdicts._replayed", lambda *_: (on_trial.folder, []))
    waited = told("eval", "verdict", cycle_id, "--wait", "168")
    assert waited.code == 0 and slept == [60.0], "a Job asks until the release is decided"
    monkeypatch.undo()
    (on_trial.folder / "decision-promote.json").unlink()
    path = on_trial.folder / "ab_test_results.json"
    path.write_text(path.read_text().replace('"simulated": false', '"simulated": true'))
    broken = told("eval", "replay", cycle_id)
    assert broken.code == 1 and "DIFFERS ab_test_results.json: simulated: stored true, recomputed false" in broken.out
    assert told("eval", "verdict", cycle_id).code == 1 and told("eval", "replay", "si_2020_01_01_001").code == 2


def test_harm_in_shadow_ends_the_trial_and_what_shows_nothing_is_rejected_at_the_maximum(on_trial: Trial) -> None:
    on_trial.shadows(60, 1.6)
    looked = trial.judge_trial(on_trial.loop, on_trial.cycle_id)
    assert looked.trial.verdict is Verdict.REJECT and not looked.times
    assert on_trial.loop.control.cycle(on_trial.cycle_id).state is CycleState.DECIDED


def test_a_step_is_committed_once_and_one_reverse_takes_all_back(on_trial: Trial) -> None:
    repo, name = on_trial.loop.repo, on_trial.loop.release_name
    before = trial.load_patch(on_trial.folder, "trial")
    step = commit_step(repo, before, "ab", 0.2, "step 2", 2)
    assert commit_step(repo, before, "ab", 0.2, "step 2", 2).commit == step.commit
    assert step.reverse["reranker.candidate"] is None and step.reverse["reranker.candidateMode"] == "ab"
    promoted = promote_changes(on_trial.challenger, step) | shadow_changes(on_trial.loop.serving(), on_trial.challenger, 0.2)
    released = on_trial.commit("promote", promoted)
    assert (on_trial.release().champion, on_trial.release().shadow, on_trial.release().shadow_share) == (on_trial.new, on_trial.old, 0.2)

    def served(digest: str, commit: str) -> Deployment:
        return on_trial._confirmed("", digest, cycle_id=on_trial.cycle_id, stage="rollback", commit=commit).model_copy(
            update={"served_digest": on_trial.release().champion, "confirmed": True}
        )

    back = rollback(repo, [step, released], [], "a test", served)
    found = on_trial.release()
    assert back.to_digest == on_trial.old and (found.champion, found.candidate, found.shadow, found.candidate_mode) == (on_trial.old, None, None, "ab")
    assert commit_changes(repo, name, end_shadow_changes(), "nothing to do", on_trial.cycle_id, "settled") == repo.head()


def test_a_step_is_refused_where_somebody_changed_the_share(on_trial: Trial) -> None:
    repo, name = on_trial.loop.repo, on_trial.loop.release_name
    assert repo.change(lambda files: {name: files[name].replace("candidateWeight: 0.3", "candidateWeight: 0.4")}, "by hand")
    with pytest.raises(Refused, match="was changed by somebody else meanwhile"):
        commit_step(repo, trial.load_patch(on_trial.folder, "trial"), "ab", 0.1, "step 2", 2)


def test_the_watch_takes_pairs_of_the_right_models_and_what_was_accepted(on_trial: Trial) -> None:
    facts: dict[str, Any] = {"stage": "promote", "verdict": Verdict.PROMOTE, "gates": [], "policy": "full", "approval_required": False, "reason": "x"}
    models: dict[str, Any] = {"champion": on_trial.loop.serving(), "challenger": on_trial.challenger}
    decision = Decision(cycle_id=on_trial.cycle_id, evidence={"latency.json": "0"}, created_at=utc_now(), **facts, **models)
    pairs = shadowed(80, 0.5, role="previous", served_digest=on_trial.new, shadow_digest=on_trial.old).shadows
    found = keep._timed_pairs(pairs, decision)
    ratio = (found["served_ms"] / found["shadow_ms"]).log().mean()
    assert found.height == 80 and np.exp(ratio) == pytest.approx(2.0, rel=0.1), "the released model takes twice the old one's time"
    assert keep._timed_pairs(pairs.with_columns(shadow_digest=pl.lit("sha256:" + "9" * 64)), decision).is_empty()
    on_trial.loop.save(on_trial.cycle_id, "latency.json", {"champion": {"p50_ms": 100.0}, "challenger": {"p50_ms": 130.0}})
    assert keep._accepted_ratio(on_trial.folder, decision) == pytest.approx(1.3)
    assert keep._accepted_ratio(on_trial.folder, decision.model_copy(update={"evidence": {}})) == 1.0


def test_the_monthly_replay_reads_the_homes_own_traffic(on_trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same, "_SPLITS", 5)
    on_trial.traffic(200, 0.0)
    found = same.replay_month(on_trial.loop)
    assert (found.requests, found.splits, found.digest) == (200, 5, on_trial.old) and found.rejected == 0
    assert (on_trial.loop.home.path / "experiments" / "aa_replay.json").is_file()
    assert [record.action for record in on_trial.loop.control.records(5)].count("aa_replay") == 1
