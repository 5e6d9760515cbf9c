"""The chain that every contour but ``local`` runs (shadow, then interleaving, then an A/B), on a service that serves, judged from what that service recorded.

Nothing is written into the events by the test, and no step is replaced: people ask and click over HTTP, the steps are commits that the reconciler applies.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from predator_si.experiment.evidence import read_evidence
from predator_si.experiment.plan import Experiment
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import improve, keep
from predator_si.records import CycleState, ExperimentResult, Verdict
from predator_si.release.release_file import parse_release
from predator_si.release.replay import trial_again
from predator_si.search.traffic import replay
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import load_word_reranker, machines, on_free_port, write_toy_corpus
from predator_si_tests.support.stage import GOOD, Stage, failure

pytestmark = [pytest.mark.live, pytest.mark.slow]
VALUES = """selfImprovement:
  features: {abSplitRatio: 0.4}
  experiment: {modes: [shadow, interleave, ab], minSamples: 100, shadowShare: 0.5, interleaveShare: 0.6}
"""
STEPS = ("trial/1-shadow", "trial/2-interleave", "trial/3-ab")


@pytest.fixture
def stage(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    values = tmp_path / "chain.yaml"
    values.write_text(VALUES)
    chained = load_settings("local", home=settings.home, values_file=values, env={})
    monkeypatch.setattr(improve, "load_reranker", load_word_reranker)
    monkeypatch.setattr(Loop, "confirm_seconds", 30.0)
    with dg.instance_for_test() as instance:
        made = Stage(on_free_port(chained), instance, write_toy_corpus(tmp_path / "toy"), seconds=0.03)
        with machines(made.loop, embedder=made.loop.plan.embedder, load_reranker=load_word_reranker):
            yield made


def ask(stage: Stage, n: int) -> None:
    stage.seed += 1
    assert replay(stage.loop.search_url, stage.loop.corpus, "shift", n=n, seed=stage.seed, concurrency=2).failed == 0


def look(stage: Stage, cycle_id: str) -> Experiment:
    result = stage.run("cycle_judge_job", cycle_id)
    assert result.success, failure(result)
    return Experiment.read(stage.folder(cycle_id) / "experiment.json")


def test_a_chain_is_run_by_commits_and_judged_from_the_services_own_events(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    loop = stage.loop
    before = loop.release_text()
    cycle_id = stage.on_trial(GOOD)
    new = loop.artifacts(cycle_id) / "challenger.json"
    served, expected = [], (("shadow", 0.5, 90), ("interleave", 0.6, 90), ("ab", 0.4, 120))
    for number, (mode, share, requests) in enumerate(expected):
        release = parse_release(loop.release_text(), loop.release_name).reranker
        assert (release.candidate_mode, release.candidate_weight) == (mode, share) and release.candidate in new.read_text()  # type: ignore[operator]
        served.append(stage.served())
        ask(stage, requests)
        trial = look(stage, cycle_id)
        assert len(trial.looks) == number + 1 and trial.looks[-1].verdict is Verdict.PROMOTE, trial.looks[-1].reason
    assert trial.verdict is Verdict.PROMOTE and stage.state(cycle_id) is CycleState.DECIDED
    assert len({champion for champion, _ in served}) == 1 and all(candidate == release.candidate for _, candidate in served)

    results = [ExperimentResult.read(loop.artifacts(cycle_id) / place / "result.json") for place in STEPS]
    assert [one.mode for one in results] == ["shadow", "interleave", "ab"] and all(one.verdict is Verdict.PROMOTE and one.simulated for one in results)
    for one in results:  # what each judged is the service's own record of its step, and says the same again
        kept = read_evidence(loop.artifacts(cycle_id), one.evidence)
        assert kept.search.height and trial_again(loop.artifacts(cycle_id), one) is None
        assert set(kept.search["model_digest"].drop_nulls()) <= {stage.old, release.candidate}
    shadow, merged, arms = (one.requests for one in results)
    assert shadow["scored"] >= 30 and shadow["failed"] == 0
    assert merged["merged"] >= 25 and merged["challenger_wins"] > merged["clients"] / 2
    assert arms["champion"] + arms["challenger"] == 120 and 30 < arms["challenger"] < 66

    assert stage.actions(cycle_id).count("trial_step") == 2 and stage.commits(cycle_id).count("trial") == 1
    result = stage.run("cycle_release_job", cycle_id)
    assert result.success, failure(result)
    assert stage.state(cycle_id) is CycleState.RELEASED and stage.served() == (release.candidate, None), loop.control.cycle(cycle_id).reason
    assert CommandLine(loop.home.path, capsys)("eval", "replay", cycle_id).code == 0

    head = stage.head()
    back = keep.take_back(loop, cycle_id, "a person wants it", deny=False)
    assert back.verified and back.to_digest == stage.old and stage.served() == (stage.old, None)
    assert loop.repo._git("rev-list", "--count", f"{head}..{stage.head()}").strip() == "1", "one reverse takes every step back"
    now, then = (parse_release(text, loop.release_name) for text in (loop.release_text(), before))
    assert now == then
