"""The asset that shows the newest simulation: what it says, and that it says nothing where there is none."""

from __future__ import annotations

import json

import dagster as dg
import pytest

from predator_si.errors import BadInput, Missing
from predator_si.orchestration.assets.characteristics import operating_characteristics
from predator_si.orchestration.loop import Loop
from predator_si.reports.characteristics import STORED
from predator_si.settings import load_settings

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


def test_a_home_without_a_simulation_says_how_to_make_one(loop: Loop):
    with pytest.raises(Missing, match="predator-si simulate"):
        shown(loop)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_another_file_in_its_place_is_refused(loop: Loop, text: str):
    (loop.home.path / STORED).write_text(text)
    with pytest.raises(BadInput, match="not the figures of a simulation"):
        shown(loop)
