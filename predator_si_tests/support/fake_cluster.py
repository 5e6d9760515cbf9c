"""A Kubernetes cluster on loopback: an API server for the official client, nodes with a scheduler, a kubelet that really runs each container's command,
Jobs with their deadlines, roles, strict schemas and injected faults.

    with FakeCluster(folder) as cluster:
        cluster.add_node("gpu-1", gpus=1)
        account = cluster.add_service_account("search", "dagster", role)
        os.environ["KUBECONFIG"] = str(account)

It is the contract that a real cluster keeps towards dagster-k8s, as far as the documentation of Kubernetes and its client say it. What it does not simulate it
refuses (``kube_access``) or names (``kube_node``): no network, no image, no user, no real GPU.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

from predator_si_tests.support.kube_access import Access, User, check_schema
from predator_si_tests.support.kube_api import Handler
from predator_si_tests.support.kube_controllers import Controllers
from predator_si_tests.support.kube_node import Kubelet, pod_key
from predator_si_tests.support.kube_store import RESOURCES, ApiError, Key, Object, Store, add_event, now
from predator_si_tests.support.waiting import wait_until

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_PLURALS = {kind: (plural, namespaced) for (_, plural), (kind, namespaced) in RESOURCES.items()}


@dataclass
class _Fault:
    method: str
    path: re.Pattern[str]
    code: int
    times: int


class FakeCluster:
    """The cluster, running from ``__enter__`` to ``__exit__``.

    Parameters
    ----------
    root
        Its files: certificate, client configurations, logs of pods. Mounted ConfigMaps and Secrets may appear only below it.
    images
        Environment of each image that can be pulled, by its full name. May be added to later.
    """

    def __init__(self, root: Path, images: Mapping[str, Mapping[str, str]] | None = None) -> None:
        self.root = root
        self.root.mkdir(parents=True, exist_ok=True)
        self.images: dict[str, Mapping[str, str]] = dict(images or {})
        self.store = Store()
        self.access = Access(self.store)
        self.kubelet = Kubelet(self.store, root, self.images)
        self.controllers = Controllers(self.store, self.kubelet)
        self.requests: list[tuple[str, str]] = []
        """Method and path of each request so far."""
        self.closing = False
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        certificate, key = _make_certificate(self.root)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._server.cluster = self  # type: ignore[attr-defined]
        self.url = f"https://127.0.0.1:{self._server.server_port}"
        self._authority = base64.b64encode(certificate.read_bytes()).decode()
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="api server", daemon=True).start()
        self.controllers.start()
        self.add_namespace("default")
        return self

    def __exit__(self, *_: object) -> None:
        self.closing = True
        self.controllers.close()
        self.kubelet.close()
        self._server.shutdown()
        self._server.server_close()
        if self.controllers.errors:
            raise AssertionError(f"the fake cluster itself failed: {self.controllers.errors}")

    # ----------------------------------------------------------------- what there is

    def add(self, *objects: Mapping[str, Any]) -> None:
        """Create objects as an administrator; a schema that refuses one says so."""
        for made in map(dict, objects):
            plural, namespaced = _PLURALS[made["kind"]]
            check_schema(made)
            namespace = made["metadata"].get("namespace", "default") if namespaced else ""
            self.store.create(Key(made["apiVersion"], plural, namespace, made["metadata"]["name"]), made)

    def add_namespace(self, name: str, labels: Mapping[str, str] | None = None) -> None:
        """A namespace with its default service account."""
        self.add({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}})
        self.add({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}})

    def add_node(self, name: str, *, gpus: int = 0, cpu: str = "8", memory: str = "32Gi") -> None:
        """A node; one with GPUs has the label of NVIDIA's feature discovery and is tainted, as GPU pools are."""
        resources = {"cpu": cpu, "memory": memory, "pods": "110"} | ({"nvidia.com/gpu": str(gpus)} if gpus else {})
        taints = [{"key": "nvidia.com/gpu", "value": "present", "effect": "NoSchedule"}] if gpus else []
        labels = {"kubernetes.io/hostname": name} | ({"nvidia.com/gpu.present": "true"} if gpus else {})
        metadata = {"name": name, "labels": labels}
        self.add(
            {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {"taints": taints}, "status": {"allocatable": resources, "capacity": resources}}
        )

    def remove_node(self, name: str) -> None:
        """Take a node away; nothing that runs on it is touched, nothing new is placed there."""
        self.store.delete(Key("v1", "nodes", "", name))

    def add_service_account(self, namespace: str, name: str, rules: Sequence[Mapping[str, Any]] = ()) -> Path:
        """A service account with a role of these rules; a client configuration that speaks as it."""
        self.add({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}})
        if rules:
            api = "rbac.authorization.k8s.io"
            metadata = {"name": name, "namespace": namespace}
            self.add(
                {"apiVersion": f"{api}/v1", "kind": "Role", "metadata": metadata, "rules": [dict(rule) for rule in rules]},
                {
                    "apiVersion": f"{api}/v1", "kind": "RoleBinding", "metadata": metadata, "roleRef": {"apiGroup": api, "kind": "Role", "name": name},
                    "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
                },
            )  # fmt: skip
        return self.kubeconfig(namespace, name)

    def kubeconfig(self, namespace: str = "default", account: str | None = None) -> Path:
        """A client configuration: of a service account, or of the administrator."""
        user = User(account, namespace) if account else User("admin")
        token = secrets.token_urlsafe(24)
        self.access.tokens[token] = user
        path = self.root / f"kubeconfig-{user.full_name.replace(':', '-')}"
        path.write_text(
            json.dumps({
                "apiVersion": "v1", "kind": "Config", "current-context": "fake",
                "clusters": [{"name": "fake", "cluster": {"server": self.url, "certificate-authority-data": self._authority}}],
                "users": [{"name": "fake", "user": {"token": token}}],
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": namespace}}],
            })
        )  # fmt: skip
        path.chmod(0o600)
        return path

    def jobs(self, namespace: str, labels: str | None = None) -> list[Object]:
        """Jobs of a namespace."""
        return self.store.list("batch/v1", "jobs", namespace, labels)

    def pods(self, namespace: str, labels: str | None = None) -> list[Object]:
        """Pods of a namespace."""
        return self.store.list("v1", "pods", namespace, labels)

    def events(self, namespace: str, reason: str) -> list[str]:
        """Messages of the events of a reason."""
        return [event["message"] for event in self.store.list("v1", "events", namespace) if event["reason"] == reason]

    def log(self, pod: Object) -> str:
        """All that a pod's first container wrote."""
        return self.kubelet.log_file(pod, pod["spec"]["containers"][0]["name"]).read_text()

    def wait_for_pod(self, namespace: str, true: Callable[[Object], bool], seconds: float, what: str) -> Object:
        """The first pod of which something holds, once it does."""
        found: list[Object] = []

        def look() -> bool:
            found[:] = [pod for pod in self.pods(namespace) if true(pod)]
            return bool(found)

        wait_until(look, seconds, what)
        return found[0]

    # ----------------------------------------------------------------- faults

    def fail(self, method: str, path: str, code: int, times: int = 1) -> None:
        """Answer the next ``times`` requests of a method whose path matches with this status."""
        self._faults.append(_Fault(method, re.compile(path), code, times))

    def note(self, method: str, path: str) -> None:
        """Remember a request, and raise the fault that waits for it.

        Raises
        ------
        ApiError
            There is one.
        """
        with self._lock:
            self.requests.append((method, path))
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    raise ApiError(fault.code, "InternalError", f"injected: {method} {path}")

    def kill(self, pod: Object) -> None:
        """Kill a pod's process as the kernel does when memory runs out."""
        self.kubelet.kill(pod_key(pod))

    def evict(self, pod: Object) -> None:
        """What a node under pressure does: the process ends, the pod stays as ``Failed`` with reason ``Evicted``."""
        self.kubelet.stop(pod_key(pod), 0)
        message = "The node was low on resource: memory."
        self.store.update(pod_key(pod), lambda found: found["status"].update(phase="Failed", reason="Evicted", message=message, startTime=now()))
        add_event(self.store, pod, "Evicted", message, "Warning")


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is its own business."""


def _make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "fake cluster")])
    at = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(at - timedelta(hours=1))
        .not_valid_after(at + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_path, key_path = folder / "tls.crt", folder / "tls.key"
    certificate_path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return certificate_path, key_path
