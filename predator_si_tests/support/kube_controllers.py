"""The controllers of a fake cluster: they bind pods to nodes, make a Job's pods, count how these end, and keep deadlines and times to live.

What belongs here: reactions to changes of objects. What must not: processes (``kube_node``), HTTP and permission.

A Job follows the documented rules (kubernetes.io, "Jobs"): a failed pod is made again until ``backoffLimit`` is passed, ``activeDeadlineSeconds`` ends the
whole Job with ``DeadlineExceeded`` whatever happens, ``ttlSecondsAfterFinished`` deletes it with its pods. One completion; no parallelism.
"""

from __future__ import annotations

import copy
import threading
import uuid
from typing import Any

from predator_si_tests.support.kube_access import admit
from predator_si_tests.support.kube_node import Kubelet, place, pod_key, unfinished
from predator_si_tests.support.kube_store import ApiError, Change, Key, Object, Store, add_event, dig, now, seconds_since

_TICK_SECONDS = 0.05
JOB_NAME = "batch.kubernetes.io/job-name"


class Controllers(threading.Thread):
    """One thread that reads the log of changes."""

    def __init__(self, store: Store, kubelet: Kubelet) -> None:
        super().__init__(name="controllers", daemon=True)
        self._store, self._kubelet = store, kubelet
        self._seen = 0
        self._closing = False
        self._place_again = True
        self.errors: list[str] = []
        """What went wrong inside this fake itself; the cluster refuses to close quietly over it."""

    def close(self) -> None:
        """Stop reacting."""
        self._closing = True
        with self._store.condition:
            self._store.condition.notify_all()
        self.join(10)

    def run(self) -> None:
        """React until closed."""
        while not self._closing:
            with self._store.condition:
                self._store.condition.wait_for(lambda: len(self._store.log) > self._seen or self._closing, _TICK_SECONDS)
                batch = self._store.log[self._seen :]
                self._seen = len(self._store.log)
            for change in batch:
                self._guarded(self._react, change)
            self._guarded(self._tick)

    def _guarded(self, act: Any, *given: Any) -> None:
        try:
            act(*given)
        except ApiError:
            return  # an object went away between reading and writing
        except Exception as error:
            self.errors.append(f"{act.__name__}: {type(error).__name__}: {error}")

    def _react(self, change: Change) -> None:
        key, found = change.key, change.object
        if key.plural == "nodes":
            self._place_again = True
        elif key.plural == "jobs" and change.kind == "ADDED":
            self._make_pod(key, found)
        elif key.plural == "pods" and change.kind == "ADDED":
            self._place_again = True
        elif key.plural == "pods":
            final = dig(found, "status.phase") in ("Succeeded", "Failed")
            self._place_again = self._place_again or final or change.kind == "DELETED"
            if (final and change.kind == "MODIFIED") or (change.kind == "DELETED" and not final):
                self._count(found, "succeeded" if dig(found, "status.phase") == "Succeeded" else "failed")

    def _tick(self) -> None:
        if self._place_again:
            self._place_again = False
            self._place_pods()
        for job in self._store.list("batch/v1", "jobs"):
            finished = _condition(job)
            deadline, live = job["spec"].get("activeDeadlineSeconds"), job["spec"].get("ttlSecondsAfterFinished")
            began = dig(job, "status.startTime")
            if finished is None and deadline is not None and began and seconds_since(began) > deadline:
                self._end_late(job)
            elif finished is not None and live is not None and seconds_since(finished["lastTransitionTime"]) > live:
                self.delete_job(_job_key(job), "Background")

    # ----------------------------------------------------------------- pods

    def _place_pods(self) -> None:
        pods = unfinished(self._store.list("v1", "pods"))
        nodes = self._store.list("v1", "nodes")
        for pod in pods:
            if pod["spec"].get("nodeName") or pod["metadata"].get("deletionTimestamp"):
                continue
            node, reason = place(pod, nodes, pods)
            placed = {"type": "PodScheduled", "status": str(node is not None), "lastTransitionTime": now()}
            if node is None:
                if dig(pod, "status.conditions.0") is None and not pod["status"].get("conditions"):
                    add_event(self._store, pod, "FailedScheduling", reason, "Warning")
                self._store.update(pod_key(pod), lambda found, why=reason, one=placed: found["status"].update(  # type: ignore[misc]
                    conditions=[one | {"reason": "Unschedulable", "message": why}]))  # fmt: skip
                continue
            pod["spec"]["nodeName"] = node

            def bind(found: Object, to: str = node, one: Object = placed) -> None:
                found["spec"]["nodeName"] = to
                found["status"]["conditions"] = [one]

            self._store.update(pod_key(pod), bind)
            threading.Thread(target=self._kubelet.run, args=(pod_key(pod),), name=f"kubelet {pod['metadata']['name']}", daemon=True).start()

    def delete_pod(self, key: Key, grace: float | None = None) -> Object:
        """Delete a pod: at once where nothing runs, else after its processes ended."""
        found = self._store.get(key)
        running = found["spec"].get("nodeName") and dig(found, "status.phase") not in ("Succeeded", "Failed")
        wait = float(found["spec"].get("terminationGracePeriodSeconds", 30)) if grace is None else grace
        if not running:
            return self._store.delete(key)
        if not found["metadata"].get("deletionTimestamp"):
            found = self._store.update(key, lambda pod: pod["metadata"].update(deletionTimestamp=now(), deletionGracePeriodSeconds=int(wait)))

        def end() -> None:
            self._kubelet.stop(key, wait)
            self._guarded(self._store.delete, key)

        threading.Thread(target=end, name=f"end of {key.name}", daemon=True).start()
        return found

    # ----------------------------------------------------------------- jobs

    def _make_pod(self, key: Key, job: Object) -> None:
        template = copy.deepcopy(job["spec"]["template"])
        metadata = template.setdefault("metadata", {})
        name = f"{key.name}-{uuid.uuid4().hex[:5]}"
        metadata["name"], metadata["namespace"] = name, key.namespace
        metadata["labels"] = {**(metadata.get("labels") or {}), "job-name": key.name, JOB_NAME: key.name, "controller-uid": job["metadata"]["uid"]}
        metadata["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": key.name, "uid": job["metadata"]["uid"], "controller": True}]
        pod, place_of = {"apiVersion": "v1", "kind": "Pod", **template}, Key("v1", "pods", key.namespace, name)
        self._store.update(key, lambda found: found.setdefault("status", {}).setdefault("startTime", now()))
        try:
            admit(self._store, place_of, pod)
            self._store.create(place_of, {**pod, "status": {"phase": "Pending"}})
        except ApiError as error:
            add_event(self._store, job, "FailedCreate", f"Error creating: {error.message}", "Warning")
            return
        self._store.update(key, lambda found: found["status"].update(active=1))
        add_event(self._store, job, "SuccessfulCreate", f"Created pod: {name}")

    def _count(self, pod: Object, how: str) -> None:
        owner = next((one for one in pod["metadata"].get("ownerReferences") or [] if one["kind"] == "Job"), None)
        if owner is None:
            return
        key = Key("batch/v1", "jobs", pod["metadata"]["namespace"], owner["name"])
        counted = f"predator.test/counted-{pod['metadata']['uid']}"
        again = False

        def write(job: Object) -> None:
            nonlocal again
            marks = job["metadata"].setdefault("annotations", {})
            if counted in marks or _condition(job) is not None:
                return
            marks[counted] = how
            status = job["status"]
            status.pop("active", None)  # the API leaves zeros out
            status[how] = status.get(how, 0) + 1
            if how == "succeeded":
                status |= {"completionTime": now(), "conditions": [{"type": "Complete", "status": "True", "lastTransitionTime": now()}]}
            elif status["failed"] > job["spec"].get("backoffLimit", 6):
                status["conditions"] = [_failed("BackoffLimitExceeded", "Job has reached the specified backoff limit")]
            else:
                again = True

        job = self._store.update(key, write)
        if again:
            self._make_pod(key, job)

    def _end_late(self, job: Object) -> None:
        key = _job_key(job)

        def write(found: Object) -> None:
            status = found["status"]
            status["failed"] = status.get("failed", 0) + status.pop("active", 0)
            status["conditions"] = [_failed("DeadlineExceeded", "Job was active longer than specified deadline")]

        self._store.update(key, write)
        add_event(self._store, job, "DeadlineExceeded", "Job was active longer than specified deadline", "Warning")
        for pod in unfinished(self.pods_of(job)):
            self.delete_pod(pod_key(pod))

    def pods_of(self, job: Object) -> list[Object]:
        """The pods that a Job owns."""
        found = self._store.list("v1", "pods", job["metadata"]["namespace"])
        return [pod for pod in found if any(one["uid"] == job["metadata"]["uid"] for one in pod["metadata"].get("ownerReferences") or [])]

    def delete_job(self, key: Key, propagation: str) -> Object:
        """Delete a Job. ``Orphan``, which ``batch/v1`` does unless told otherwise, leaves its pods alone; else they go too."""
        job = self._store.get(key)
        pods = self.pods_of(job)
        found = self._store.delete(key)
        for pod in pods:
            if propagation == "Orphan":
                self._store.update(pod_key(pod), lambda one: one["metadata"].pop("ownerReferences", None))
            else:
                self._guarded(self.delete_pod, pod_key(pod))
        return found


def _job_key(job: Object) -> Key:
    return Key("batch/v1", "jobs", job["metadata"]["namespace"], job["metadata"]["name"])


def _condition(job: Object) -> Object | None:
    """How a Job ended; null while it has not."""
    return next((one for one in dig(job, "status.conditions") or [] if one["type"] in ("Complete", "Failed") and one["status"] == "True"), None)


def _failed(reason: str, message: str) -> Object:
    return {"type": "Failed", "status": "True", "reason": reason, "message": message, "lastTransitionTime": now()}
