"""Every number of a cycle's records comes out again from its files: recall, slices, power, the seal, each step of the trial, each check of the watch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.errors import Refused
from predator_si.evaluate import seal_of, slice_differences
from predator_si.records import Decision, Evaluation, SealedOpening, Verdict
from predator_si.release.decide import decide_promote, decide_trial
from predator_si.release.recompute import collect_evidence, decision_name, evidence_metrics, read_steps
from predator_si.release.replay import replay_cycle
from predator_si.release.watch import WatchCheck, WatchPlan, judge_watch
from predator_si.release.watch_evidence import count_again, write_check
from predator_si.statistics import paired_interval, power_sentence, resolvable_effect
from predator_si_tests.support.trials import CYCLE, stored_trial
from predator_si_tests.unit.test_release_decide import EQUAL, NEW, NOW, _again, _evaluation

LEVEL, MARGIN = 0.0012, 0.015


def _evaluated(folder: Path) -> Evaluation:
    rng = np.random.default_rng(0)
    champion = rng.uniform(0, 0.9, 120)
    challenger = np.clip(champion + 0.05 + rng.normal(0, 0.05, 120), 0, 1)
    recall = rng.uniform(0.4, 1.0, 120)
    frame = pl.DataFrame(
        {
            "query_id": [f"q{i}" for i in range(120)], "ndcg_champion": champion, "ndcg_challenger": challenger, "ndcg_difference": challenger - champion,
            "recall_champion": recall, "recall_challenger": recall, "recall_difference": np.zeros(120),
            "slices": [["asyncio"] if i % 3 else ["asyncio", "sqlite3"] for i in range(120)],
        }
    )  # fmt: skip
    frame.write_parquet(folder / "evaluation_per_query.parquet")
    found = paired_interval(challenger - champion)
    members = {name: set(frame.filter(pl.col("slices").list.contains(name))["query_id"]) for name in ("asyncio", "sqlite3")}
    evaluation = _evaluation(found.low, found.high, n=120, latency=EQUAL).model_copy(
        update={
            "ndcg_difference": found, "ndcg_champion": float(champion.mean()), "ndcg_challenger": float(challenger.mean()),
            "recall_champion": float(recall.mean()), "recall_challenger": float(recall.mean()),
            "resolvable": resolvable_effect(120, found.sd or 0.0), "power": power_sentence(120, found.sd), "slices": slice_differences(frame, members),
        }
    )  # fmt: skip
    opening = SealedOpening(opening=3, period="2026-11", candidate=2, rotation=0)
    holdout, _ = seal_of(evaluation, frame, opening, (0, 2), 240, None)
    evaluation = evaluation.model_copy(update={"holdout": holdout})
    (folder / "evaluation.json").write_text(evaluation.to_json())
    return evaluation


def _watched(folder: Path) -> None:
    plan = WatchPlan(cycle_id=CYCLE, released_digest=NEW.model, planned_checks=2, min_requests=50, shadow_expected=True)
    rng, checks = np.random.default_rng(1), []
    for number in (1, 2):
        frames = {
            "requests": pl.DataFrame({"status": [200] * 59 + [503], "latency_ms": rng.lognormal(4.0, 0.4, 60)}),
            "pairs": pl.DataFrame({"served_ms": rng.lognormal(4.0, 0.3, 20), "shadow_ms": rng.lognormal(4.1, 0.3, 20)}),
            "probes": pl.DataFrame({"query_id": [f"q{number}-{i}" for i in range(20)], "new": rng.uniform(0.4, 1, 20), "old": rng.uniform(0.3, 0.9, 20)}),
        }
        empty = WatchCheck(at=NOW + timedelta(minutes=number), requests=0, failures=0, served_digest=NEW.model, evidence=write_check(folder, number, frames))
        checks.append(count_again(folder, plan, empty))
    (folder / "watch.json").write_text(judge_watch(plan, checks, NOW).to_json())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cycle whose trial had two steps."""
    folder = tmp_path_factory.mktemp("cycle")
    evaluation = _evaluated(folder)
    common: dict[str, Any] = {
        "trigger": "ndcg_at_10_down", "policy": "full", "latency_target_ms": 250.0, "level": LEVEL, "margin": MARGIN,
        "extra": evidence_metrics(folder, evaluation, MARGIN),
    }  # fmt: skip
    tried = decide_trial(evaluation, evidence=collect_evidence(folder, "trial"), **common)
    (folder / decision_name("trial")).write_text(tried.to_json())
    stored_trial(folder, "trial/1-ab")
    last = stored_trial(folder, "trial/2-ab")
    evidence = collect_evidence(folder, "promote")
    released = decide_promote(evaluation, last, earlier=read_steps(folder, evidence), evidence=evidence, **common)
    (folder / decision_name("promote")).write_text(released.to_json())
    _watched(folder)
    return folder


@pytest.fixture
def cycle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / CYCLE))


def differences(folder: Path, **more: Any) -> dict[str, str]:
    return {one.name: one.difference for one in replay_cycle(folder, **more) if one.difference is not None}


def test_it_comes_out_the_same_whatever_the_contour_says_today(cycle: Path) -> None:
    assert differences(cycle) == {}
    decision = Decision.read(cycle / "decision-promote.json")
    assert decision.verdict is Verdict.PROMOTE and decision.given["latency_target_ms"] == 250.0 and "trial/1-ab/result.json" in decision.evidence
    assert differences(cycle, noted={"promote": decision.given}) == {}
    now = {"latency_target_ms": 250.0, "level": LEVEL, "margin": MARGIN}
    assert _again(cycle, "promote", **now).verdict is Verdict.PROMOTE
    with pytest.raises(Refused, match="its evidence gives inconclusive"):
        _again(cycle, "promote", **now | {"level": 1e-30})  # a commit believes today's ledger, not the record


def edit(name: str, *keys: Any, value: Any) -> Callable[[Path], None]:
    def done(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        target = content
        for key in keys[:-1]:
            target = target[key]
        assert target[keys[-1]] != value
        target[keys[-1]] = value
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")

    return done


def parquet(name: str, **columns: pl.Expr) -> Callable[[Path], None]:
    return lambda folder: pl.read_parquet(folder / name).with_columns(**columns).write_parquet(folder / name)


@pytest.mark.parametrize(
    ("touch", "name", "word"),
    [
        (edit("evaluation.json", "recall_challenger", value=0.5), "evaluation.json", "recall_challenger: stored 0.5"),
        (edit("evaluation.json", "slices", 1, "low", value=0.2), "evaluation.json", "slices[1].low: stored 0.2"),
        (edit("evaluation.json", "power", value="all"), "evaluation.json", 'power: stored "all"'),
        (edit("evaluation.json", "resolvable", value=0.0), "evaluation.json", "resolvable: stored 0.0"),
        (edit("evaluation.json", "holdout", "told", value=0.9), "evaluation.json", "holdout.told: stored 0.9"),
        (edit("evaluation.json", "holdout", "level", value=0.05), "evaluation.json", "holdout.level: stored 0.05"),
        (edit("evaluation.json", "ndcg_difference", "low", value=0.0400000001), "evaluation.json", "Evaluate again"),
        (edit("evaluation.json", "power", value="all"), "decision-promote.json", "is not the file that cycle"),
        (edit("decision-promote.json", "given", "level", value=0.05), "decision-promote.json", "level"),
        (edit("decision-promote.json", "given", "margin", value=0.02), "decision-promote.json", "given (stored: by the ledger).margin: stored 0.015"),
        (edit("trial/1-ab/result.json", "reason", value="because"), "decision-promote.json", "trial/1-ab/result.json is not the file"),
        (edit("watch.json", "checks", 0, "slow", value=1), "watch.json", "checks[0].slow: stored 1, recomputed 0"),
        (edit("watch.json", "checks", 1, "probes", "q2-3", value=0.0), "watch.json", "checks[1].probes.q2-3: stored 0.0"),
        (edit("watch.json", "checks", 0, "log_ratio_sum", value=0.0), "watch.json", "checks[0].log_ratio_sum: stored 0.0"),
        (parquet("watch/002-requests.parquet", latency_ms=pl.col("latency_ms") / 2), "watch.json", "is not the file that the watch counted"),
        (lambda folder: (folder / "watch/001-pairs.parquet").unlink(), "watch.json", "evidence of a verdict"),
        (edit("watch.json", "checks", 0, "evidence", value={"../x-requests.parquet": "0"}), "watch.json", "which is none"),
    ],
)
def test_one_touched_field_is_named(cycle: Path, touch: Callable[[Path], None], name: str, word: str) -> None:
    noted = {"promote": Decision.read(cycle / "decision-promote.json").given}
    touch(cycle)
    found = differences(cycle, noted=noted)
    assert name in found and word in found[name], found


def test_a_release_is_not_committed_on_an_earlier_step_that_says_something_else(cycle: Path) -> None:
    """Even where somebody rewrote the decision with the new sha256."""
    edit("trial/1-ab/result.json", "success", value=[])(cycle)
    edit("decision-promote.json", "evidence", value=collect_evidence(cycle, "promote"))(cycle)
    with pytest.raises(Refused, match=r"trial/1-ab/result.json: the trial judged again from its events says something else"):
        _again(cycle, "promote", latency_target_ms=250.0, level=LEVEL, margin=MARGIN)
