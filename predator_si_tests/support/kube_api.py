"""The HTTP side of a fake cluster: create, read, list, watch, patch and delete objects, read and follow logs, as the official client and kubectl ask.

What belongs here: requests and answers. What must not: who may ask (``kube_access``), what objects do (``kube_controllers``, ``kube_node``).
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from predator_si_tests.support.kube_access import Permission, admit
from predator_si_tests.support.kube_store import RESOURCES, ApiError, Key, Object, dig, merge, selected

if TYPE_CHECKING:
    from predator_si_tests.support.fake_cluster import FakeCluster

_PATH = re.compile(
    r"^/(?:api/(?P<core>v1)|apis/(?P<version>[^/]+/[^/]+))(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]+))?/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?$"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_DISCOVERY = re.compile(r"^/(?:api|apis)/((?:[^/]+/)?v[^/]+)$")


class Handler(BaseHTTPRequestHandler):
    """One connection; the cluster hangs on the server."""

    protocol_version = "HTTP/1.1"
    cluster: FakeCluster

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer, whatever the method: the name is the standard library's."""
        self.cluster = self.server.cluster  # type: ignore[attr-defined]
        address = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(address.query).items()}
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            self.cluster.note(self.command, address.path)
            self._route(address.path, query, self._decode(raw) if raw else {})
        except ApiError as error:
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
            self._send(error.code, status | {"reason": error.reason, "message": error.message, "code": error.code})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    # ----------------------------------------------------------------- answers

    def _send(self, code: int, body: Any, kind: str = "application/json") -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _begin_chunks(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def _decode(self, raw: bytes) -> Any:
        kind = self.headers.get("Content-Type") or ""
        if "protobuf" in kind:
            raise ApiError(415, "UnsupportedMediaType", "this fake speaks JSON and YAML only")
        if "yaml" in kind:
            import yaml

            return yaml.safe_load(raw)
        return json.loads(raw)

    # ----------------------------------------------------------------- where a request goes

    def _route(self, path: str, query: dict[str, str], body: Any) -> None:
        if path in ("/healthz", "/readyz", "/livez"):
            return self._send(200, b"ok", "text/plain")
        user = self.cluster.access.user(self.headers.get("Authorization"))
        if path == "/version":
            return self._send(200, {"major": "1", "minor": "35", "gitVersion": "v1.35.0-fake"})
        if (found := self._discovery(path)) is not None:
            return self._send(200, found)
        match = _PATH.match(path)
        version = (match["core"] or match["version"]) if match else ""
        if match is None or (version, match["plural"]) not in RESOURCES:
            raise ApiError(404, "NotFound", "the server could not find the requested resource")
        name, watching = match["name"], query.get("watch", "").lower() in ("true", "1")
        verb = _VERBS.get(self.command) or ("get" if name else "watch" if watching else "list")
        resource = match["plural"] + (f"/{match['sub']}" if match["sub"] else "")
        self.cluster.access.check(user, Permission(version.rpartition("/")[0], resource, verb), match["namespace"], name)
        key = Key(version, match["plural"], match["namespace"] or "", name or "")
        if match["sub"] == "log":
            return self._logs(key, query)
        if verb in ("list", "watch"):
            return (self._watch if watching else self._list)(key, query)
        if "dryRun" in query and verb not in ("create", "patch"):
            raise ApiError(501, "NotImplemented", f"this fake does not simulate a dry run of {verb}")
        act: Callable[[Key, Any, dict[str, str], str | None], tuple[int, Object]] = getattr(self, f"_{verb}")
        return self._send(*act(key, body, query, match["sub"]))

    def _discovery(self, path: str) -> Object | None:
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            versions = [{"groupVersion": version, "version": version.split("/")[1]} for version in sorted({one for one, _ in RESOURCES if "/" in one})]
            groups = [{"name": one["groupVersion"].split("/")[0], "versions": [one], "preferredVersion": one} for one in versions]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}
        if match := _DISCOVERY.match(path):
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            resources = [
                {"name": plural, "kind": kind, "namespaced": inside, "singularName": kind.lower(), "verbs": verbs}
                for (version, plural), (kind, inside) in RESOURCES.items()
                if version == match[1]
            ]
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": match[1], "resources": resources}
        return None

    def _get(self, key: Key, body: Any, query: dict[str, str], sub: str | None) -> tuple[int, Object]:
        return 200, self.cluster.store.get(key)

    def _create(self, key: Key, body: Any, query: dict[str, str], sub: str | None) -> tuple[int, Object]:
        kind, namespaced = RESOURCES[key[:2]]
        metadata = body.setdefault("metadata", {})
        name = metadata.get("name") or f"{metadata.get('generateName') or 'x-'}{uuid.uuid4().hex[:5]}"
        if namespaced and metadata.get("namespace") not in (None, key.namespace):
            raise ApiError(400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request")
        body = {"apiVersion": key.version, "kind": kind, **body}
        if (body["apiVersion"], body["kind"]) != (key.version, kind):
            raise ApiError(400, "BadRequest", f"{body['apiVersion']} {body['kind']} in the data does not match the expected {key.version} {kind}")
        key = key._replace(name=name)
        admit(self.cluster.store, key, body)
        if kind == "Pod":
            body["status"] = {"phase": "Pending"}
        if "dryRun" in query:
            return 201, {**body, "metadata": {**metadata, "name": name, "namespace": key.namespace}}
        return 201, self.cluster.store.create(key, body)

    def _update(self, key: Key, body: Any, query: dict[str, str], sub: str | None) -> tuple[int, Object]:
        if sub == "status":
            return 200, self.cluster.store.update(key, lambda found: found.update(status=body.get("status")))
        old = self.cluster.store.get(key)
        admit(self.cluster.store, key, body)
        return 200, self.cluster.store.replace(key, {**body, "status": old.get("status", {})}, dig(body, "metadata.resourceVersion"))

    def _patch(self, key: Key, body: Any, query: dict[str, str], sub: str | None) -> tuple[int, Object]:
        kind = self.headers.get("Content-Type", "")
        if "json-patch" in kind:
            import jsonpatch

            return 200, self.cluster.store.update(key, lambda found: jsonpatch.apply_patch(found, body, in_place=True))
        if "apply" in kind and not self.cluster.store.has(key):
            return self._create(key, body, query, sub)
        patched = merge(self.cluster.store.get(key), body)  # a strategic merge of lists is not simulated
        admit(self.cluster.store, key, patched)
        return 200, patched if "dryRun" in query else self.cluster.store.replace(key, patched)

    def _delete(self, key: Key, body: Any, query: dict[str, str], sub: str | None) -> tuple[int, Object]:
        if not key.name:
            raise ApiError(405, "MethodNotAllowed", "this fake deletes one object at a time")
        options = body if isinstance(body, dict) else {}
        grace = query.get("gracePeriodSeconds", options.get("gracePeriodSeconds"))
        if key.plural == "pods":
            return 200, self.cluster.controllers.delete_pod(key, None if grace is None else float(grace))
        if key.plural == "jobs":
            how = query.get("propagationPolicy") or options.get("propagationPolicy") or "Orphan"
            return 200, self.cluster.controllers.delete_job(key, how)
        return 200, self.cluster.store.delete(key)

    def _list(self, key: Key, query: dict[str, str]) -> None:
        store = self.cluster.store
        with store.condition:
            found = store.list(key.version, key.plural, key.namespace or None, query.get("labelSelector"), query.get("fieldSelector"))
            about = {"kind": f"{RESOURCES[key[:2]][0]}List", "apiVersion": key.version, "metadata": {"resourceVersion": str(store.version)}}
        self._send(200, about | {"items": found})

    def _watch(self, key: Key, query: dict[str, str]) -> None:
        if query.get("sendInitialEvents") == "true":  # kubectl then falls back to list and watch
            raise ApiError(422, "Invalid", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled")
        store, since = self.cluster.store, int(query.get("resourceVersion") or 0)
        ends, seen = time.monotonic() + float(query.get("timeoutSeconds") or 30), 0
        self._begin_chunks("application/json")
        while time.monotonic() < ends and not self.cluster.closing:
            with store.condition:
                store.condition.wait_for(lambda at=seen: len(store.log) > at, 0.2)  # type: ignore[misc]
                batch, seen = store.log[seen:], len(store.log)
            for change in batch:
                mine = change.key[:2] == key[:2] and key.namespace in ("", change.key.namespace) and change.number > since
                if mine and selected(change.object, query.get("labelSelector"), query.get("fieldSelector")):
                    self._chunk(json.dumps({"type": change.kind, "object": change.object}).encode() + b"\n")
        self._chunk(b"")

    def _logs(self, key: Key, query: dict[str, str]) -> None:
        store = self.cluster.store
        pod = store.get(key)
        name = query.get("container") or pod["spec"]["containers"][0]["name"]
        state = next((one["state"] for one in dig(pod, "status.containerStatuses") or [] if one["name"] == name), None)
        if state is None or "waiting" in state:
            why = (state or {}).get("waiting", {}).get("reason", "ContainerCreating")
            raise ApiError(400, "BadRequest", f'container "{name}" in pod "{key.name}" is waiting to start: {why}')
        path, stamped = self.cluster.kubelet.log_file(pod, name), query.get("timestamps", "").lower() == "true"

        def shown(text: str) -> bytes:
            return (text if stamped else "".join(line.partition(" ")[2] for line in text.splitlines(True))).encode()

        if query.get("follow", "").lower() != "true":
            lines = path.read_text(encoding="utf-8").splitlines(True)
            return self._send(200, shown("".join(lines[-int(query.get("tailLines", len(lines) or 1)) :])), "text/plain")
        self._begin_chunks("text/plain")
        with path.open(encoding="utf-8") as source:
            while True:
                over = not store.has(key) or dig(store.get(key), "status.phase") in ("Succeeded", "Failed")
                if text := source.read():
                    self._chunk(shown(text))
                if over or self.cluster.closing:
                    break
                with store.condition:
                    store.condition.wait(0.05)
        self._chunk(b"")
        return None
