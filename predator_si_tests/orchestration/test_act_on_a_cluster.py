"""What a recall cycle may try where a chart is rendered: its readers have one index, so nothing whose trial needs a second one beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from predator_si.errors import BadInput
from predator_si.evaluate.actions import ActionPlan, Option
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import act
from predator_si.records import Cycle, ServingConfig
from predator_si.release.patch import apply_patch, make_patch, trial_changes
from predator_si.search.index_versions import IndexVersions
from predator_si.search.tiny import HashingEmbedder
from predator_si.settings import Settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.orchestration.test_steps_recipes import home
from predator_si_tests.support.charts import rendered
from predator_si_tests.support.platform import open_cycle
from predator_si_tests.support.sensors import contour

ROW = ("diagnose", "repair_index", "widen_candidates", "tune_fusion", "choose_embedder")
ERRORS = {"type": "index_errors_up", "metric": "index_errors", "value": 5.0, "actions": ("retry", "quarantine", "reindex")}
ARGOCD = "  deploy: {kind: argocd, address: 'https://argocd.example.org', application: predator-si, tokenEnv: ARGOCD_TOKEN}\n"
OWN_CHART = "  gitops: {chart: chart}\n"
NO_TRIALS = "  features: {abTesting: false}\n"


def acted(settings: Settings, monkeypatch: pytest.MonkeyPatch, **trigger: Any) -> tuple[Loop, ActionPlan]:
    """A cycle of a home whose index lost documents that people want, with another bi-encoder at hand and a width that finds them elsewhere."""
    monkeypatch.setattr("predator_si.orchestration.steps.indexes.SOURCES", {})
    loop = home(settings)
    whole = loop.index()
    HashingEmbedder(512).save(loop.home.path / "embedders" / "hashing-512")
    lost = sorted(loop.corpus.judgments(split="dev", part="shift")["doc_id"].unique().to_list())[:5]
    IndexVersions(loop.home.index).publish(whole.updated(pl.DataFrame(schema={"doc_id": pl.String, "title": pl.String, "text": pl.String}), lost))

    def widened(loop: Loop, cycle: Cycle, champion: ServingConfig, queries: pl.DataFrame) -> list[Option]:
        return [Option("widen_candidates", champion.model_copy(update={"depth": champion.depth + 1}), "one candidate more", candidates=whole.candidates)]

    monkeypatch.setitem(act._MAKERS, "widen_candidates", widened)
    cycle = open_cycle(loop.control, **{"type": "recall_at_20_down", "metric": "recall_at_20", "actions": ROW} | trigger)
    return loop, act.act(loop, cycle.cycle_id, NullTracker())


def trial(loop: Loop, plan: ActionPlan) -> dict[str, Any]:
    """The release file with the plan's configuration on trial, as a chart takes it."""
    assert plan.config is not None
    text, changes = loop.release_text(), trial_changes(plan.config, champion=plan.champion)
    return dict(yaml.safe_load(apply_patch(text, make_patch(text, changes, cycle_id=plan.cycle_id, stage="trial", file=loop.release_name))))


@pytest.mark.parametrize("block", [ARGOCD, OWN_CHART])
def test_where_a_chart_is_rendered_the_next_action_is_tried_and_its_trial_can_be_rendered(
    block: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, plan = acted(contour(settings.home, tmp_path, block), monkeypatch)
    assert plan.action == "widen_candidates" and {one.action for one in plan.tried}.isdisjoint({"repair_index", "choose_embedder"})
    assert all("a second index" in plan.not_built[action] for action in ("repair_index", "choose_embedder"))
    assert not list(loop.home.builds.glob("*")), "nothing is built that cannot be tried"
    assert rendered("edge-oracle", trial(loop, plan))


def test_one_process_repairs_its_index_and_a_chart_would_not_render_that(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    loop, plan = acted(settings, monkeypatch)
    assert plan.action == "repair_index" and plan.not_built == {}
    with pytest.raises(BadInput, match=r"index\.candidateBuild"):
        rendered("edge-oracle", trial(loop, plan))


def test_a_cluster_without_trials_repairs_its_index(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = acted(contour(settings.home, tmp_path, ARGOCD + NO_TRIALS), monkeypatch)
    assert plan.action == "repair_index", "it is released at once, by index.build"


def test_a_cluster_brings_lost_documents_back_by_the_row_that_asks_for_no_trial(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = acted(contour(settings.home, tmp_path, ARGOCD), monkeypatch, **ERRORS)
    assert plan.action == "reindex"
