"""Code locations that pods of the fake cluster load: the platform itself, and a light one whose training waits, for faults that need no real training.

Imports Dagster alone at the top: each pod pays for it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import dagster as dg

TRAINER_IMAGE = "registry.test/predator-si-trainer@sha256:" + "2" * 64
CYCLES = dg.DynamicPartitionsDefinition(name="cycles")


def platform() -> dg.Definitions:
    """The real one, from the settings in the environment."""
    from predator_si.build import build_defs

    return build_defs()


def _reranker_model(context: Any) -> None:
    print("training is up", flush=True)
    for _ in range(600):
        time.sleep(0.1)


def _trained_elsewhere(context: Any) -> Any:
    from dagster_k8s import PipesK8sClient

    from predator_si.orchestration.op_tags import gpu_k8s_config

    config = gpu_k8s_config()
    client = PipesK8sClient(kubeconfig_file=os.environ["RUN_KUBECONFIG"], load_incluster_config=False, poll_interval=0.2)
    careful = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    done = client.run(
        context=context,
        image=TRAINER_IMAGE,
        command=["python", str(Path(__file__).with_name("kube_trainer.py"))],
        extras={"epochs": 3},
        base_pod_spec={
            "containers": [{"name": "train", "securityContext": careful, **config["container_config"]}],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "automountServiceAccountToken": False,
            **config["pod_spec_config"],
        },
    )
    return done.get_materialize_result()


def light() -> dg.Definitions:
    """A training that waits a minute, and one that is done in a pod of another image."""
    in_cycle = {"partitions_def": CYCLES}
    waits = dg.asset(key=["cycle", "reranker_model"], **in_cycle)(_with_context(_reranker_model))
    elsewhere = dg.asset(key=["lab", "trained_elsewhere"])(_with_context(_trained_elsewhere))
    jobs = [
        dg.define_asset_job("cycle_train_job", selection=[waits.key], **in_cycle),  # type: ignore[arg-type]
        dg.define_asset_job("elsewhere_job", selection=[elsewhere.key]),
    ]
    return dg.Definitions(assets=[waits, elsewhere], jobs=jobs, executor=dg.in_process_executor)


def _with_context(body: Any) -> Any:
    """Dagster reads the annotation of ``context``, which postponed annotations hide from it."""
    body.__annotations__ = {"context": dg.AssetExecutionContext}
    return body
