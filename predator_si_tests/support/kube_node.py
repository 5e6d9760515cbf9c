"""The nodes of a fake cluster: which node a pod fits on, and a kubelet that runs its containers as processes of this machine.

What belongs here: placing and running pods. What must not: making pods (``kube_controllers``), HTTP.

Real: commands, environment (literals, fields, ConfigMaps, Secrets), files of mounted ConfigMaps and Secrets, exit codes, logs, signals with their grace
period, node labels, taints, allocatable resources. Not simulated: images (a known name stands for this machine's interpreter with the image's environment),
networks, users, limits on what a process uses, probes.
"""

from __future__ import annotations

import base64
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from predator_si_tests.support.kube_store import ApiError, Key, Object, Store, add_event, dig, now

_COUNTED = ("cpu", "memory")
_FINAL = ("Succeeded", "Failed")


class CannotRun(Exception):
    """A container cannot start now; the message begins with the reason that its state shows."""


def pod_key(pod: Object) -> Key:
    """Where a pod is kept."""
    return Key("v1", "pods", pod["metadata"]["namespace"], pod["metadata"]["name"])


def requests_of(pod: Object) -> dict[str, float]:
    """What a pod asks of a node: requests, or limits where there is no request, which for a device is always so."""
    from kubernetes.utils.quantity import parse_quantity

    wanted: dict[str, float] = {}
    for container in pod["spec"]["containers"]:
        resources = container.get("resources") or {}
        for name, amount in ((resources.get("limits") or {}) | (resources.get("requests") or {})).items():
            wanted[name] = wanted.get(name, 0.0) + float(parse_quantity(amount))
    return wanted


def place(pod: Object, nodes: Sequence[Object], others: Sequence[Object]) -> tuple[str | None, str]:
    """The first node that a pod fits on, or why it fits on none, as the scheduler says it.

    Parameters
    ----------
    others
        Pods that are bound to nodes already and not finished.
    """
    from kubernetes.utils.quantity import parse_quantity

    wanted, reasons = requests_of(pod), []
    for node in nodes:
        labels, taints = node["metadata"].get("labels") or {}, dig(node, "spec.taints") or []
        missing = {name: value for name, value in (pod["spec"].get("nodeSelector") or {}).items() if labels.get(name) != value}
        if missing:
            reasons.append("didn't match Pod's node affinity/selector")
            continue
        refused = [taint for taint in taints if taint["effect"] != "PreferNoSchedule" and not _tolerated(taint, pod["spec"].get("tolerations") or [])]
        if refused:
            reasons.append(f"had untolerated taint {{{refused[0]['key']}: {refused[0].get('value', '')}}}")
            continue
        free = {name: float(parse_quantity(amount)) for name, amount in node["status"]["allocatable"].items()}
        for other in others:
            if other["spec"].get("nodeName") == node["metadata"]["name"]:
                for name, amount in requests_of(other).items():
                    free[name] = free.get(name, 0.0) - amount
        short = [name for name, amount in wanted.items() if amount > free.get(name, 0.0) and (name in _COUNTED or "/" in name)]
        if not short:
            return node["metadata"]["name"], ""
        reasons.append(f"Insufficient {short[0]}")
    counted = ", ".join(f"{reasons.count(reason)} {'node(s) ' if not reason.startswith('Insuff') else ''}{reason}" for reason in sorted(set(reasons)))
    return None, f"0/{len(nodes)} nodes are available: {counted or 'there is no node'}."


def _tolerated(taint: Mapping[str, str], tolerations: Sequence[Mapping[str, str]]) -> bool:
    for one in tolerations:
        any_value = one.get("operator") == "Exists"
        same_key = one.get("key") == taint["key"] or (any_value and not one.get("key"))
        same_value = any_value or one.get("value", "") == taint.get("value", "")
        if same_key and same_value and one.get("effect") in (None, "", taint["effect"]):
            return True
    return False


class Kubelet:
    """Runs the pods that are bound to a node.

    Parameters
    ----------
    root
        Logs and working folders lie here, and only below it may a volume be mounted.
    images
        Environment of each image that can be pulled; any other is ``ErrImagePull``.
    """

    def __init__(self, store: Store, root: Path, images: Mapping[str, Mapping[str, str]]) -> None:
        self._store, self._root, self._images = store, root, images
        self._running: dict[Key, list[subprocess.Popen[str]]] = {}
        self._ended: set[Key] = set()
        self._lock = threading.Lock()

    def log_file(self, pod: Object, container: str) -> Path:
        """Where a container's output goes, each line with its time in front."""
        return self._root / "pods" / pod["metadata"]["uid"] / f"{container}.log"

    def run(self, key: Key) -> None:
        """Start a bound pod's containers, wait for them, and write down how they ended."""
        try:
            pod = self._store.get(key)
            started, states = self._start(key, pod)
            if len(started) < len(pod["spec"]["containers"]):
                return
            for name, (process, pump) in started.items():
                process.wait()
                pump.join(10)
                code = process.returncode if process.returncode >= 0 else 128 - process.returncode
                states[name] = {"terminated": {"exitCode": code, "reason": "Completed" if code == 0 else "Error", "startedAt": now(), "finishedAt": now()}}
            with self._lock:
                self._running.pop(key, None)
            ok = all(state["terminated"]["exitCode"] == 0 for state in states.values())
            self._report(key, pod, "Succeeded" if ok else "Failed", states)
        except ApiError:
            return  # the pod was deleted meanwhile

    def _start(self, key: Key, pod: Object) -> tuple[dict[str, tuple[subprocess.Popen[str], threading.Thread]], dict[str, Any]]:
        started: dict[str, tuple[subprocess.Popen[str], threading.Thread]] = {}
        states: dict[str, Any] = {}
        for container in pod["spec"]["containers"]:
            name, log = container["name"], self.log_file(pod, container["name"])
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
            try:
                command, environment = self._command(container), self._environment(pod, container)
                self._mount(pod, container)
                own = container.get("workingDir")
                folder = own if own and Path(own).is_dir() else str(log.parent)
                with self._lock:  # nobody may delete the pod between the start of its process and the note of it
                    if key in self._ended:
                        return {}, {}
                    process = subprocess.Popen(
                        command, env=environment, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
                    )
                    self._running.setdefault(key, []).append(process)
                pump = threading.Thread(target=_pump, args=(process, log), daemon=True)
                pump.start()
                started[name], states[name] = (process, pump), {"running": {"startedAt": now()}}
            except (CannotRun, OSError) as error:
                reason = str(error).partition(":")[0] if isinstance(error, CannotRun) else "StartError"
                states[name] = {"waiting": {"reason": reason, "message": str(error)}}
                add_event(self._store, pod, "Failed", f"Error: {error}", "Warning")
        self._report(key, pod, "Running" if len(started) == len(pod["spec"]["containers"]) else "Pending", states)
        return started, states

    def _report(self, key: Key, pod: Object, phase: str, states: Mapping[str, Any]) -> None:
        images = {container["name"]: container.get("image", "") for container in pod["spec"]["containers"]}

        def write(found: Object) -> None:
            status = found.setdefault("status", {})
            status |= {"phase": phase, "podIP": "127.0.0.1", "startTime": status.get("startTime") or now()}
            ready = {"type": "Ready", "status": str(phase == "Running"), "lastTransitionTime": now()}
            status["conditions"] = [one for one in status.get("conditions") or [] if one["type"] != "Ready"] + [ready]
            status["containerStatuses"] = [
                {
                    "name": name, "image": images[name], "imageID": images[name], "restartCount": 0, "started": "running" in state, "ready": "running" in state,
                    "state": state,
                }
                for name, state in states.items()
            ]  # fmt: skip

        self._store.update(key, write)

    def _command(self, container: Object) -> list[str]:
        image = container.get("image", "")
        if image not in self._images:
            raise CannotRun(f"ErrImagePull: failed to pull image {image!r}: not found")
        command = [*(container.get("command") or []), *(container.get("args") or [])]
        if not command:
            raise CannotRun(f"RunContainerError: no command, and this fake knows no entry point of {image}")
        beside = Path(sys.executable).parent / command[0]
        if command[0] in ("python", "python3"):
            command[0] = sys.executable
        elif beside.exists():  # the programs of this environment stand for those of the image
            command[0] = str(beside)
        return command

    def _environment(self, pod: Object, container: Object) -> dict[str, str]:
        namespace = pod["metadata"]["namespace"]
        found = {"PATH": os.environ["PATH"], "HOME": str(self._root), "HOSTNAME": pod["metadata"]["name"], **self._images[container["image"]]}
        for source in container.get("envFrom") or []:
            for reference, plural in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
                if reference in source:
                    found |= self._data(namespace, plural, source[reference]["name"], bool(source[reference].get("optional")))
        for entry in container.get("env") or []:
            origin = entry.get("valueFrom") or {}
            if not origin:
                found[entry["name"]] = str(entry.get("value") or "")
            elif "fieldRef" in origin:
                found[entry["name"]] = str(dig(pod, origin["fieldRef"]["fieldPath"]) or "")
            else:
                plural, reference = ("secrets", "secretKeyRef") if "secretKeyRef" in origin else ("configmaps", "configMapKeyRef")
                wanted = origin[reference]
                data = self._data(namespace, plural, wanted["name"], bool(wanted.get("optional")))
                if wanted["key"] in data:
                    found[entry["name"]] = data[wanted["key"]]
                elif not wanted.get("optional"):
                    raise CannotRun(f"CreateContainerConfigError: couldn't find key {wanted['key']} in {plural[:-1]} {namespace}/{wanted['name']}")
        return found

    def _data(self, namespace: str, plural: str, name: str, optional: bool) -> dict[str, str]:
        try:
            found = self._store.get(Key("v1", plural, namespace, name))
        except ApiError:
            if optional:
                return {}
            raise CannotRun(f'CreateContainerConfigError: {plural[:-1]} "{name}" not found') from None
        data = dict(found.get("data") or {})
        if plural == "secrets":
            data = {key: base64.b64decode(value).decode() for key, value in data.items()} | dict(found.get("stringData") or {})
        return data

    def _mount(self, pod: Object, container: Object) -> None:
        volumes = {volume["name"]: volume for volume in pod["spec"].get("volumes") or []}
        for mount in container.get("volumeMounts") or []:
            volume, at = volumes[mount["name"]], Path(mount["mountPath"])
            if "configMap" in volume:
                data = self._data(pod["metadata"]["namespace"], "configmaps", volume["configMap"]["name"], bool(volume["configMap"].get("optional")))
            elif "secret" in volume:
                data = self._data(pod["metadata"]["namespace"], "secrets", volume["secret"]["secretName"], bool(volume["secret"].get("optional")))
            else:
                data = {}
            if not at.is_relative_to(self._root):
                if not data:
                    continue  # an empty folder of the pod's own or a claim: this machine's file system stands for it
                raise CannotRun(f"CreateContainerError: this fake mounts files below {self._root} only, not at {at}")
            if "subPath" in mount and data:
                if mount["subPath"] not in data:
                    raise CannotRun(f"CreateContainerConfigError: no key {mount['subPath']} in the volume {mount['name']}")
                data, at = {at.name: data[mount["subPath"]]}, at.parent
            at.mkdir(parents=True, exist_ok=True)
            for name, text in data.items():
                (at / name).write_text(text)

    def stop(self, key: Key, grace: float) -> None:
        """End a pod's processes: SIGTERM, and SIGKILL after the grace period."""
        with self._lock:
            self._ended.add(key)
            processes = list(self._running.get(key, ()))
        for process in processes:
            _signal(process, signal.SIGTERM if grace > 0 else signal.SIGKILL)
        for process in processes:
            try:
                process.wait(grace or 5)
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait(10)

    def kill(self, key: Key) -> None:
        """What the kernel does to a process that took too much memory: SIGKILL, with the pod left behind."""
        with self._lock:
            processes = list(self._running.get(key, ()))
        if not processes:
            raise AssertionError(f"{key.name} has no process to kill")
        for process in processes:
            _signal(process, signal.SIGKILL)

    def close(self) -> None:
        """End everything that still runs."""
        for key in list(self._running):
            self.stop(key, 2.0)
        shutil.rmtree(self._root / "pods", ignore_errors=True)


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    if process.poll() is None:
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return


def _pump(process: subprocess.Popen[str], path: Path) -> None:
    assert process.stdout is not None
    with path.open("a", encoding="utf-8") as out:
        for line in process.stdout:
            stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
            out.write(f"{stamp} {line}" if line.endswith("\n") else f"{stamp} {line}\n")
            out.flush()


def unfinished(pods: Sequence[Object]) -> list[Object]:
    """Those that still hold what they asked for."""
    return [pod for pod in pods if dig(pod, "status.phase") not in _FINAL]
