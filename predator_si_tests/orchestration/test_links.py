"""What a person sees on an asset's page in the Dagster UI: what it is, whose it is, and the way to everything else about the cycle."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.build import build_defs
from predator_si.orchestration.assets.cycle import Drill, LoopParam, Result, cycle_asset
from predator_si.orchestration.assets.external import SERVICE
from predator_si.orchestration.links import cycle_urls
from predator_si.orchestration.loop import Loop
from predator_si.settings import Settings, load_settings
from predator_si_tests.orchestration.asset_graph import describe

CYCLE = "si_2026_11_23_001"


@pytest.fixture(scope="module")
def assets() -> dict[str, Any]:
    found: dict[str, Any] = describe(load_settings("local", env={}))["assets"]
    return found


def test_every_asset_says_what_it_is_and_whose(assets: dict[str, Any]) -> None:
    assert len(assets) > 30
    lacks = {key: [fact for fact in ("description", "group", "kinds", "owners") if not asset[fact]] for key, asset in assets.items()}
    assert {key: facts for key, facts in lacks.items() if facts} == {}
    assert all(len(asset["description"]) >= 20 for asset in assets.values()), "a description is a sentence"


def test_the_story_runs_without_a_gap_from_the_service_to_the_rollback(assets: dict[str, Any]) -> None:
    """Read against the arrows: whoever stands at the rollback in the lineage comes back to the service, over every stage of a cycle."""
    seen, waiting = set(), ["cycle/rollback"]
    while waiting:
        key = waiting.pop()
        if key not in seen:
            seen.add(key)
            waiting += assets[key]["deps"]
    assert {key for key in assets if key.startswith("cycle/")} <= seen
    assert {"search/service", "search/judgments", "observe/search_events", "observe/metrics_snapshot"} <= seen


def test_the_service_and_the_operations_page_are_one_click_from_the_lineage(settings: Settings) -> None:
    named = settings.model_copy(
        update={"values": settings.values.model_copy(update={"notify": settings.values.notify.model_copy(update={"link": "https://ops/"})})}
    )
    for one, page in ((settings, f"http://127.0.0.1:{settings.ports.api}"), (named, "https://ops")):
        (service,) = [spec for spec in build_defs(one).resolve_all_asset_specs() if spec.key == SERVICE.key]
        assert service.metadata["service"] == dg.MetadataValue.url(f"{settings.search_url}/info")
        assert service.metadata["operations_page"] == dg.MetadataValue.url(page)
        assert service.owners == ["team:search"] and service.description == SERVICE.description


def test_a_cycle_is_linked_to_what_exists_of_it_and_to_nothing_else(settings: Settings) -> None:
    folder = settings.folders.artifacts / CYCLE
    base = f"http://127.0.0.1:{settings.ports.api}"
    assert cycle_urls(settings, CYCLE) == {"operations_page": f"{base}/operations/cycles/{CYCLE}"}
    folder.mkdir(parents=True)
    for name in ("report.html", "dataset_card.html", "ab_test_results.html"):
        (folder / name).write_text("<p>")
    (folder / "dataset_manifest.yaml").write_text("mlflow: {run_id: abc, artifact_uri: 'http://127.0.0.1:5000/#/experiments/1/runs/abc'}\n")
    (folder / "helm_patch-trial.yaml").write_text(f"commit: '{'1' * 40}'\n")
    (folder / "helm_patch.yaml").write_text(f"commit: {'a' * 40}\n")
    (folder / "rollback.json").write_text(json.dumps({"commit": None}))
    assert cycle_urls(settings, CYCLE) == {
        "operations_page": f"{base}/operations/cycles/{CYCLE}",
        "report": f"{base}/cycles/{CYCLE}",
        "training_data": f"{base}/cycles/{CYCLE}/dataset",
        "trial_page": f"{base}/cycles/{CYCLE}/trial",
        "mlflow_run": "http://127.0.0.1:5000/#/experiments/1/runs/abc",
        "trial_commit": f"{base}/operations/commits/{'1' * 40}",
        "release_commit": f"{base}/operations/commits/{'a' * 40}",
    }


@pytest.mark.parametrize("broken", [b"\xff\xfe", b"{", b"- a list", b""])
def test_a_broken_file_costs_a_link_and_nothing_more(settings: Settings, broken: bytes) -> None:
    folder = settings.folders.artifacts / CYCLE
    folder.mkdir(parents=True)
    (folder / "dataset_manifest.yaml").write_bytes(broken)
    assert list(cycle_urls(settings, CYCLE)) == ["operations_page"]


def test_links_stand_on_the_materialisation_with_what_the_step_says(settings: Settings, tmp_path: Path) -> None:
    """The decorator of every cycle asset: the step keeps its resources, config, checks and data version."""
    check = dg.AssetCheckSpec("held", asset=dg.AssetKey(["cycle", "told"]))

    @cycle_asset(key=["cycle", "told"], kinds={"python"}, check_specs=[check])
    def told(context: dg.AssetExecutionContext, config: Drill, loop: LoopParam) -> Result:
        """A step."""
        held = dg.AssetCheckResult(check_name="held", passed=loop.settings is settings)
        return Result(metadata={"drill": config.drill}, check_results=[held], data_version=dg.DataVersion("7"))

    with dg.instance_for_test() as instance:
        instance.add_dynamic_partitions("cycles", [CYCLE])
        run = dg.materialize(
            [told],
            instance=instance,
            partition_key=CYCLE,
            resources={"loop": Loop(settings)},
            run_config={"ops": {"cycle__told": {"config": {"drill": True}}}},
        )
    (event,) = run.asset_materializations_for_node("cycle__told")
    assert event.metadata["drill"].value is True
    assert event.metadata["operations_page"] == dg.MetadataValue.url(f"http://127.0.0.1:{settings.ports.api}/operations/cycles/{CYCLE}")
    assert (event.tags or {})["dagster/data_version"] == "7"
    assert [one.passed for one in run.get_asset_check_evaluations()] == [True]
    assert next(iter(told.specs)).description == "A step."
