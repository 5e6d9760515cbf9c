"""Lanes, the Kubernetes settings of training, and cycles as partitions."""

from __future__ import annotations

import json

import dagster as dg
import pytest
import yaml

from predator_si.errors import BadInput
from predator_si.home import DAGSTER_INSTANCE
from predator_si.orchestration import op_tags
from predator_si.orchestration.op_tags import GPU_K8S_CONFIG, Lane, gpu_k8s_config, lane_of, with_gpu
from predator_si.orchestration.partitions import add_cycle, cycles
from predator_si.settings import CHART


def keys(*names: str) -> list[dg.AssetKey]:
    return [dg.AssetKey(name.split("/")) for name in names]


@pytest.mark.parametrize(
    ("assets", "lane"),
    [
        (["observe/metrics_snapshot"], Lane.OBSERVE),
        (["observe/metrics_snapshot", "observe/backup"], Lane.UPKEEP),
        (["observe/mart_window_cost"], Lane.UPKEEP),
        (["search/service"], Lane.UPKEEP),
        ([], Lane.UPKEEP),
        (["cycle/reranker_model", "cycle/optimized_reranker"], Lane.TRAIN),
        (["cycle/optimized_reranker"], Lane.CYCLE),
        (["cycle/watch"], Lane.WATCH),
        (["cycle/rollback"], Lane.ROLLBACK),
        (["cycle/rollback", "cycle/helm_patch"], Lane.CYCLE),
        (["cycle/watch", "cycle/rollback", "cycle/reranker_model"], Lane.TRAIN),
        (["observe/watch"], Lane.UPKEEP),
        (["cycle/something_new"], Lane.CYCLE),
    ],
)
def test_a_run_takes_the_lane_of_its_costliest_asset(assets: list[str], lane: Lane):
    assert lane_of(keys(*assets)) is lane


@pytest.mark.parametrize("instance", [DAGSTER_INSTANCE, (CHART.parents[1] / "k8s" / "dagster.yaml").read_text()], ids=["machine", "cluster"])
def test_a_rollback_has_a_place_whatever_else_runs(instance: str):
    """Priority does not end what has begun: a training, a backup and two other long runs would keep a way back waiting for an hour."""
    queue = yaml.safe_load(instance)["concurrency"]["runs"]
    assert {limit["key"] for limit in queue["tag_concurrency_limits"]} == {op_tags.LANE}
    limits = {limit["value"]: limit["limit"] for limit in queue["tag_concurrency_limits"]}
    assert set(limits) == {lane.value for lane in Lane}, "a lane without a limit could take every place"
    others = sum(limit for lane, limit in limits.items() if lane != Lane.ROLLBACK)
    assert others + limits[Lane.ROLLBACK] <= queue["max_concurrent_runs"]
    assert {limits[lane] for lane in Lane if lane is not Lane.OBSERVE} == {1}
    assert Lane.TRAIN.tags == {"predator/lane": "train"}


def kubernetes_job(config: dict[str, object]) -> dict[str, object]:
    """What the launcher's own code reads from the run tag, turned into the Kubernetes API's spelling."""
    job = pytest.importorskip("dagster_k8s.job")
    import kubernetes.client

    tags = dg.DagsterRun(job_name="x", tags={op_tags.K8S_CONFIG: json.dumps(config)}).tags
    user = job.get_user_defined_k8s_config(tags)
    defaults = job.DagsterK8sJobConfig(job_image="image", dagster_home="/home-of-dagster", instance_config_map="map")
    built = job.construct_dagster_k8s_job(defaults, ["dagster"], "name", user_defined_k8s_config=user)
    return dict(kubernetes.client.ApiClient().sanitize_for_serialization(built)["spec"])


def test_kubernetes_takes_the_gpu_settings():
    spec = kubernetes_job(GPU_K8S_CONFIG)
    pod = spec["template"]["spec"]  # type: ignore[index]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
    assert (spec["activeDeadlineSeconds"], spec["ttlSecondsAfterFinished"], spec["backoffLimit"]) == (14_400, 86_400, 0)


def test_a_wrong_key_would_be_noticed():
    with pytest.raises(dg.DagsterInvalidConfigError):
        kubernetes_job({**GPU_K8S_CONFIG, "container": {}})


def test_other_vendors_have_their_own_device_and_no_label_of_nvidia():
    config = gpu_k8s_config(2, "amd")
    assert config["container_config"]["resources"]["limits"] == {"amd.com/gpu": "2"}
    assert "node_selector" not in config["pod_spec_config"]


def test_what_a_run_says_itself_stays_beside_the_gpu_settings():
    own = {
        "container_config": {"resources": {"limits": {"memory": "32Gi"}}},
        "pod_spec_config": {"tolerations": [{"key": "spot", "operator": "Exists"}]},
    }
    merged = json.loads(with_gpu(json.dumps(own), GPU_K8S_CONFIG))
    assert merged["container_config"]["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": "1"}
    assert [toleration["key"] for toleration in merged["pod_spec_config"]["tolerations"]] == ["spot", "nvidia.com/gpu"]
    assert with_gpu(json.dumps(merged), GPU_K8S_CONFIG) == json.dumps(merged, sort_keys=True)  # a repeated run does not grow
    assert json.loads(with_gpu(None, GPU_K8S_CONFIG)) == GPU_K8S_CONFIG
    with pytest.raises(ValueError, match="JSON object"):
        with_gpu("[1]", GPU_K8S_CONFIG)


@pytest.mark.parametrize(
    "own",
    [
        {"container_config": {"resources": {"limits": {"nvidia.com/gpu": "0"}}}},
        {"container_config": {"resources": {"limits": {"nvidia.com/gpu": None, "memory": None}}}},
        {"container_config": {"resources": None}},
        {"container_config": None, "pod_spec_config": [], "job_spec_config": 0},
        {"pod_spec_config": {"node_selector": {"nvidia.com/gpu.present": "false"}, "tolerations": []}},
        {"pod_spec_config": {"nodeSelector": {"nvidia.com/gpu.present": "false"}, "tolerations": None}},
        {"job_spec_config": {"active_deadline_seconds": 10**9, "backoff_limit": 6}},
        {"job_spec_config": {"activeDeadlineSeconds": 10**9, "backoffLimit": 6, "ttlSecondsAfterFinished": None}},
        {"merge_behavior": "SHALLOW"},
    ],
)
def test_no_tag_of_a_launcher_takes_away_what_training_needs(own: dict[str, object]):
    """Through the launcher's own code: a GPU of a GPU node, an end, and the memory that ``dagster.yaml`` bounds."""
    context = pytest.importorskip("dagster_k8s.container_context").K8sContainerContext
    job = pytest.importorskip("dagster_k8s.job")
    bounds = job.UserDefinedDagsterK8sConfig(container_config={"resources": {"limits": {"memory": "8Gi"}}})
    tag = with_gpu(json.dumps(own), GPU_K8S_CONFIG)
    asked = job.get_user_defined_k8s_config(dg.DagsterRun(job_name="x", tags={op_tags.K8S_CONFIG: tag}).tags)
    found = context(run_k8s_config=bounds).merge(context(run_k8s_config=asked)).run_k8s_config
    assert found.container_config["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": "1"}
    assert found.pod_spec_config["node_selector"] == {"nvidia.com/gpu.present": "true"}
    assert GPU_K8S_CONFIG["pod_spec_config"]["tolerations"][0] in found.pod_spec_config["tolerations"]
    assert found.job_spec_config == GPU_K8S_CONFIG["job_spec_config"]


def test_only_cycle_ids_become_partitions():
    with dg.DagsterInstance.ephemeral() as instance:
        add_cycle(instance, "si_2026_01_31_001")
        add_cycle(instance, "si_2026_01_31_001")
        for wrong in ("si_2026_1_31_001", "si_2026_01_31_001\n", "x", ""):
            with pytest.raises(BadInput, match="not a cycle id"):
                add_cycle(instance, wrong)
        assert instance.get_dynamic_partitions("cycles") == ["si_2026_01_31_001"]
        assert cycles.get_partition_keys(dynamic_partitions_store=instance) == ["si_2026_01_31_001"]
