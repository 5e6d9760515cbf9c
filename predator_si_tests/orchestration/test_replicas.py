"""More and fewer copies of the service: by proportion, only where a cluster applies them, judged by no criterion of ranking, and a patch like any other."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from predator_si.contour_copies import Copies
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import act, decide
from predator_si.records import ServingConfig
from predator_si.release.criteria import PROMOTION_CRITERIA
from predator_si.release.decide import is_tried, judged_as
from predator_si.release.deploy import _differs, commit_changes
from predator_si.release.patch import apply_patch, make_patch, promote_changes, rollback_changes
from predator_si.release.release_file import parse_release
from predator_si.settings import Settings, load_settings
from predator_si_tests.support.charts import one, rendered
from predator_si_tests.support.platform import fake_model, open_cycle, prepare, write_snapshot

LATENCY = {"type": "p95_latency_ms_up", "metric": "p95_latency_ms", "actions": ("add_replicas",)}
COST = {"type": "cost_per_1k_requests_up", "metric": "cost_per_1k_requests", "actions": ("fewer_replicas",)}


@pytest.fixture
def loop(settings: Settings) -> Loop:
    found = Loop(settings)
    return prepare(found, fake_model(found, "first"))


@pytest.mark.parametrize(
    ("trigger", "now", "p95", "wanted", "why"),
    [
        (LATENCY, 1, 900.0, 2, "2 instead of 1 copies"),
        (LATENCY, 3, 1600.0, 6, "6 instead of 3 copies"),
        (LATENCY, 20, 1600.0, None, "20 is the most"),
        (LATENCY, 2, None, None, "P95 is unknown"),
        (COST, 4, 300.0, 3, "3 instead of 4 copies"),
        (COST, 2, 500.0, None, "above the limit of 800 ms"),
        (COST, 1, 100.0, None, "1 is the least there may be"),
    ],
)
def test_so_many_copies_as_the_load_asks_for(loop: Loop, trigger: dict[str, Any], now: int, p95: float | None, wanted: int | None, why: str) -> None:
    if now != 1:
        commit_changes(loop.repo, loop.release_name, {"replicas": now}, "a person: replicas", "si_2026_11_23_900", "settled")
    champion = loop.serving()
    write_snapshot(loop, champion.model, values={"p95_latency_ms": p95})
    cycle, not_built = open_cycle(loop.control, **trigger), dict[str, str]()
    found = act._scaled(loop, cycle, champion, not_built)
    if wanted is None:
        assert found is None and why in not_built[trigger["actions"][0]]
    else:
        assert found is not None and found.config == champion.model_copy(update={"replicas": wanted}) and why in found.note and not not_built


@pytest.mark.parametrize(
    ("trigger", "said", "p95", "wanted", "why"),
    [
        (LATENCY, 1, 900.0, 3, "3 instead of 2 copies"),  # two run although the file says one: two would change nothing
        (LATENCY, 3, 900.0, 4, "4 instead of 3 copies"),
        (LATENCY, 1, 4000.0, 4, "4 instead of 2 copies"),
        (LATENCY, 4, 900.0, None, "4 is the most there may be, and 4 run"),
        (LATENCY, 6, 900.0, None, "4 is the most there may be, and 6 run"),  # a person's number: it is not lowered where more are wanted
        (COST, 3, 300.0, 2, "2 instead of 3 copies"),
        (COST, 2, 100.0, None, "2 is the least there may be"),
        (COST, 1, 100.0, None, "2 is the least there may be"),
    ],
)
def test_copies_are_counted_from_what_the_contour_starts(loop: Loop, trigger: dict[str, Any], said: int, p95: float, wanted: int | None, why: str) -> None:
    loop = Loop(loop.settings.model_copy(update={"copies": Copies(least=2, most=4)}))
    test_so_many_copies_as_the_load_asks_for(loop, trigger, said, p95, wanted, why)


def test_what_is_asked_for_is_what_the_chart_of_a_scaled_contour_changes(loop: Loop) -> None:
    loop = Loop(loop.settings.model_copy(update={"copies": load_settings("edge-oracle", env={}).copies}))
    champion = loop.serving()
    write_snapshot(loop, champion.model, values={"p95_latency_ms": 900.0})
    cycle = open_cycle(loop.control, **LATENCY)
    found = act._scaled(loop, cycle, champion, {})
    assert found is not None
    text = loop.release_text()
    patch = make_patch(text, promote_changes(found.config), cycle_id=cycle.cycle_id, stage="promote", file=loop.release_name)
    scaled = [one(rendered("edge-oracle", yaml.safe_load(each)), "HorizontalPodAutoscaler", "search") for each in (text, apply_patch(text, patch))]
    assert [each["spec"]["minReplicas"] for each in scaled] == [2, 3]


def test_a_change_of_copies_asks_for_no_trial_and_no_ranking_and_can_be_taken_back(loop: Loop) -> None:
    champion = loop.serving()
    more = champion.model_copy(update={"replicas": 3})
    assert judged_as("p95_latency_ms_up", more) == "replicas" and judged_as("p95_latency_ms_up", champion) == "p95_latency_ms_up"
    assert not is_tried("replicas") and PROMOTION_CRITERIA["replicas"] == ()
    cycle_id = open_cycle(loop.control, **LATENCY).cycle_id
    assert decide.needs_trial(loop, cycle_id)
    loop.save(cycle_id, "challenger.json", more)
    assert not decide.needs_trial(loop, cycle_id) and decide.promotion_level_of(loop, cycle_id) is None
    text = loop.release_text()
    patch = make_patch(text, promote_changes(more), cycle_id=cycle_id, stage="promote", file=loop.release_name)
    changed = apply_patch(text, patch)
    assert parse_release(changed, "it").replicas == 3 and parse_release(changed, "it").serving == champion
    assert rollback_changes(changed, [patch]) == {"replicas": 1}
    assert "replicas" not in promote_changes(champion), "another challenger leaves the number alone"
    info = {"variants": {"champion": {"model_sha": champion.model}}, "replicas": 1}
    assert "replicas 1, 3 is expected" in str(_differs(info, "champion", more)) and _differs(info | {"replicas": 3}, "champion", more) is None
    assert ServingConfig.model_validate_json(more.model_dump_json()) == more
