"""Training in a pod of its own, by Dagster Pipes: another image, another node, and nothing of the platform in it but the home volume.

What belongs here: the pod and the way to it. What must not: training (``train.accelerated``), what the two sides say to each other (there too).
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.errors import Missing, Unavailable
from predator_si.orchestration.op_tags import TRAINING_SECONDS, gpu_k8s_config
from predator_si.quiet import quiet_environment
from predator_si.search.models import ModelStore
from predator_si.settings import Settings
from predator_si.train.fit import Judge, Trained
from predator_si.train.recipe import TrainingRecipe

CLAIM, IMAGE, NAMESPACE = "PREDATOR_SI_HOME_CLAIM", "PREDATOR_SI_IMAGE", "PREDATOR_SI_NAMESPACE"
"""What the chart tells every process: the claim of the home volume, the image of runs, their namespace."""
_PREFIX = "order-"
_LOOK = 5.0
"""Seconds between looks whether the loop was told to stop."""
_JOIN = 40.0
"""Seconds within which a pod whose order is gone ends; less than a run's grace period."""


class PodTrainer:
    """``fit.fine_tune`` in a pod that the run starts and deletes.

    Parameters
    ----------
    settings
        Whose ``training.image``, ``training.processes`` and ``resources`` count.
    client
        A ``PipesK8sClient`` [default: of the cluster that this run is in].
    """

    name = "pod"

    def __init__(self, settings: Settings, client: Any = None, env: Mapping[str, str] = os.environ) -> None:
        self._settings, self._client, self._env = settings, client, env

    def train(
        self,
        store: ModelStore,
        start: str,
        examples: pl.DataFrame,
        recipe: TrainingRecipe,
        work: Path,
        *,
        name: str,
        earlier: pl.DataFrame | None = None,
        judge: Judge | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, int], None] | None = None,
        on_loss: Callable[[int, float], None] | None = None,
    ) -> Trained:
        """See ``train.trainer.Trainer``. Unavailable when the pod ends without a word; the checkpoint stays and the same run goes on from it.

        Raises
        ------
        Missing
            This is no run in a cluster: nobody says which claim and which image.
        """
        import dagster as dg
        from cryptography.fernet import Fernet

        from predator_si.train.accelerated import STARTER, WORKER, order_text, outcome, serve
        from predator_si.train.folder_talk import FolderTalk
        from predator_si.train.pod import PARTS, PROCESSES, SEAL

        store.path(start)
        context, spec = dg.AssetExecutionContext.get(), self.pod_spec()
        work.mkdir(parents=True, exist_ok=True)
        for left in work.glob(f"{_PREFIX}*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        folder, key = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=work)), Fernet.generate_key()
        ended: list[str] = []
        try:
            for part, frame in zip(PARTS, (examples, earlier), strict=True):
                if frame is not None:
                    _seal(frame, folder / f"{part}.sealed", key)
            (folder / "order.json").write_text(order_text(store, start, recipe, work, name, earlier=earlier is not None, judged=judge is not None))
            given = {**quiet_environment(offline=True), SEAL: key.decode(), "HOME": "/tmp", "USER": "predator-si"}
            if self._settings.values.training.processes is not None:
                given[PROCESSES] = str(self._settings.values.training.processes)
            thread = threading.Thread(target=self._run, args=(context, spec, folder, given, ended), name="training pod", daemon=True)
            looked = time.monotonic()

            def look() -> None:
                nonlocal looked
                if time.monotonic() - looked > _LOOK:
                    looked = time.monotonic()
                    if should_stop():
                        talk.stop()

            talk = FolderTalk(folder, STARTER, WORKER, meanwhile=look)
            thread.start()
            answer = serve(talk, thread.is_alive, judge, should_stop, on_progress, on_loss)
            if answer is not None:
                thread.join(_JOIN)
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # the pod ends where its order is gone
            if thread.is_alive():
                thread.join(_JOIN)
        if answer is None:
            raise Unavailable(f"the training pod ended before it was done; the checkpoint in {work.name} stays. {' '.join(ended)[:2000]}")
        return outcome(answer, self.name)

    def pod_spec(self) -> dict[str, Any]:
        """The pod: nobody's user, a read-only root, the home volume, GPUs where the contour trains on them, and an end that the cluster enforces."""
        claim, resources = self._env.get(CLAIM), self._settings.resources
        if claim is None or self.image is None:
            raise Missing(f"trainer pod is for runs in a cluster: {CLAIM} or {IMAGE} is not set. Use trainer lean or accelerate on one machine.")
        gpu = gpu_k8s_config(max(1, resources.gpu_count), resources.gpu_type or "nvidia") if resources.gpu else {}
        devices = gpu.get("container_config", {}).get("resources", {}).get("limits", {})
        container = {
            "name": "train",
            "image": self.image,
            "resources": {"requests": {"cpu": "1", "memory": "4Gi"}, "limits": {"memory": "8Gi", **devices}},
            "securityContext": {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": [{"name": "home", "mountPath": str(self._settings.home)}, {"name": "tmp", "mountPath": "/tmp"}],
        }
        return {
            "containers": [container],
            "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": claim}}, {"name": "tmp", "emptyDir": {"sizeLimit": "8Gi"}}],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "activeDeadlineSeconds": TRAINING_SECONDS,
            **gpu.get("pod_spec_config", {}),
        }

    @property
    def image(self) -> str | None:
        """Whose pod it is: ``training.image``, else the image of runs."""
        return self._settings.values.training.image or self._env.get(IMAGE)

    def _run(self, context: Any, spec: dict[str, Any], folder: Path, given: Mapping[str, str], ended: list[str]) -> None:
        """Start the pod and wait for its end; what went wrong is left in ``ended``."""
        try:
            if self._client is None:
                from dagster_k8s import PipesK8sClient

                self._client = PipesK8sClient(poll_interval=2.0)
            command = ["python", "-m", "predator_si.train.pod", str(folder)]
            self._client.run(context=context, namespace=self._env.get(NAMESPACE), command=command, env=dict(given), base_pod_spec=spec)
        except Exception as error:
            ended.append(f"{type(error).__name__}: {error}")


def _seal(frame: pl.DataFrame, path: Path, key: bytes) -> None:
    from io import BytesIO

    from cryptography.fernet import Fernet

    raw = BytesIO()
    frame.write_parquet(raw)
    path.write_bytes(Fernet(key).encrypt(raw.getvalue()))
