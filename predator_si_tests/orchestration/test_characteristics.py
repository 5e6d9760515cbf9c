"""The asset that shows the newest simulation: what it says, and that it says nothing where there is none."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import dagster as dg
import pytest

from predator_si.api.operations.assurance import assurance
from predator_si.errors import BadInput, Missing
from predator_si.orchestration.assets.characteristics import operating_characteristics
from predator_si.orchestration.assets.observe import observe_assets
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import same
from predator_si.orchestration.steps.characteristics import changed_since, newest_simulation
from predator_si.reports.characteristics import STORED
from predator_si.settings import Settings, load_settings
from predator_si.statistics.design import DEFAULT_DESIGN
from predator_si_tests.orchestration.test_steps_trial import Trial

RATE = {"estimate": 0.0004, "lower": 0.0002, "upper": 0.0007, "events": 20, "lives": 50_000}
CURVE = [[10, 0.0], [100, 0.5], [1000, 1.0]]
SIDE = {"ndcg": [0.0, 0.01, 0.02]}
FOUND = {
    "scale": "full",
    "lives": 50_000,
    "false_rollback": RATE,
    "false_promotion_month": RATE,
    "reference_rules": {"guide": {"false_rollback": {**RATE, "estimate": 0.9}, "false_promotion_month": None}},
    "detection": [{"metric": "ndcg", "effect": -0.05, "sd_at_most": 0.15, "horizon": 3000, "curve": CURVE}],
    "loop": {"world": {"cycles": 720}, "ours": SIDE, "guide": SIDE, "untouched": -0.3},
    "goals": [{"name": "a goal", "value": None, "goal": 60.0, "met": False}],
    "broken": ["a promise"],
}


@pytest.fixture
def loop(tmp_path) -> Loop:
    loop = Loop(load_settings("local", tmp_path / "home"))
    (loop.home.path / STORED).parent.mkdir(parents=True)
    return loop


def shown(loop: Loop) -> dict[str, dg.MetadataValue]:
    result = dg.materialize([operating_characteristics], resources={"loop": loop})
    return dict(result.asset_materializations_for_node("experiment__operating_characteristics")[0].metadata)


def test_goals_bounds_and_pictures_stand_on_the_assets_page(loop: Loop):
    (loop.home.path / STORED).write_text(json.dumps(FOUND))
    found = shown(loop)
    assert found["false_rollback_upper"].value == 0.0007
    assert found["broken"].value == "a promise"
    assert found["goals"].records[0].data == {"goal": "a goal", "found": "never", "at": "60", "met": "no"}
    for name in ("errors", "detection", "loop"):
        assert "data:image/png;base64," in found[name].value and len(found[name].value) < 120_000


def test_the_page_says_of_what_and_when_it_is_and_what_was_changed_since(loop: Loop):
    design = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(DEFAULT_DESIGN).items()}
    known = FOUND | {"contour": "local", "created_at": "2026-11-01T10:00:00+00:00", "design": design}
    (loop.home.path / STORED).write_text(json.dumps(known))
    found = shown(loop)
    assert (found["contour"].value, found["created_at"].value) == ("local", known["created_at"])
    assert found["settings_in_force"].value == "as simulated" and changed_since(loop, known) == []
    (loop.home.path / STORED).write_text(json.dumps(known | {"contour": "edge-oracle", "design": design | {"harm_alpha": 0.2}}))
    assert shown(loop)["settings_in_force"].value == "contour edge-oracle, now local; harm_alpha 0.2, now 0.001"
    told = assurance(loop)
    assert told.simulated.value is not None and told.simulated.value.broken == ("a promise",) and len(told.simulated.value.changed) == 2
    assert told.replayed.value is None and "no A/A replay" in str(told.replayed.why)


def test_the_monthly_replay_is_an_asset_with_its_check(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    on_trial = Trial(settings, tmp_path, monkeypatch)
    monkeypatch.setattr(same, "_SPLITS", 3)
    on_trial.traffic(200, 0.0)
    asset = next(one for one in observe_assets(on_trial.loop.settings) if one.key == dg.AssetKey(["observe", "aa_replay"]))
    result = dg.materialize([asset], resources={"loop": on_trial.loop})
    (check,) = result.get_asset_check_evaluations()
    assert check.passed and check.check_name == "no_false_alarms" and check.metadata["promised"].value > 0
    told = assurance(on_trial.loop).replayed.value
    assert told is not None and (told.splits, told.requests) == (3, 200) and told.looks >= 3
    wolf = told.model_copy(update={"rejected": 3, "reasons": ("harm",)})
    monkeypatch.setattr(same, "replay_month", lambda loop, on_progress: wolf)
    (check,) = dg.materialize([asset], resources={"loop": on_trial.loop}).get_asset_check_evaluations()
    assert not check.passed and check.metadata["reasons"].value == "harm"


def test_a_home_without_a_simulation_says_how_to_make_one(loop: Loop):
    found = shown(loop)
    assert set(found) == {"unknown"} and "Run `predator-si simulate`" in found["unknown"].value
    with pytest.raises(Missing, match="no simulation was run"):
        newest_simulation(loop)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_another_file_in_its_place_is_refused(loop: Loop, text: str):
    (loop.home.path / STORED).write_text(text)
    with pytest.raises(BadInput, match="not the figures of a simulation"):
        shown(loop)
