"""The client of Argo CD against a server with a state, whose every call is checked against Argo CD's own swagger."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from predator_si.errors import BadInput, Refused, Unavailable
from predator_si.release.argocd import ArgoCDDeployer, read_application
from predator_si.release.gitops import GitOpsRepo
from predator_si_tests.support.argocd_contract import faults_of, need_swagger
from predator_si_tests.support.fake_argocd import NAME, TOKEN, TOKEN_ENV, FakeArgoCD

FILE = "release-local.yaml"


class Ground:
    """A repository, a writer, and Argo CD in front of it."""

    def __init__(self, path: Path) -> None:
        GitOpsRepo.init_bare(path / "gitops.git", {FILE: "n: 0\n", "deny.yaml": "denied: []\n"})
        self.repo = GitOpsRepo(path / "gitops.git", path / "work")
        self.repo.sync()
        self.path = path

    def commit(self, n: int) -> str:
        made = self.repo.change(lambda files: {FILE: f"n: {n}\n"}, f"release {n}")
        assert made is not None
        return made

    def argocd(self, **more: Any) -> FakeArgoCD:
        return FakeArgoCD(GitOpsRepo(self.repo.url, self.path / "controller"), **more)

    def client(self, server: FakeArgoCD, **more: Any) -> ArgoCDDeployer:
        told: dict[str, Any] = {"repository": self.repo.url, "branch": "main", "contour": "local", "token_env": TOKEN_ENV, "project": "search"}
        times = {"interval": 0.02, "request_seconds": 10.0, "stuck": 0.2, "degraded": 0.2}
        return ArgoCDDeployer(server.address, NAME, self.repo.includes, **told | times | more)


@pytest.fixture
def ground(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ground:
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    return Ground(tmp_path)


def test_a_commit_is_in_force_once_synced_and_healthy_at_it(ground: Ground) -> None:
    with ground.argocd() as server:
        client = ground.client(server)
        commit = ground.commit(1)
        found = client.sync(commit, timeout=60)
        assert (found.state, found.revision, found.commit) == ("in_force", commit, commit)
        assert server.live == {FILE: "n: 1\n", "deny.yaml": "denied: []\n"}
        assert set(server.asked) == {"GET refresh", "GET"} and server.asked[0] == "GET refresh"
        status = client.status()
        assert (status.synced, status.health, status.revision, status.applied_revision, status.error) == (True, "Healthy", commit, commit, None)


def test_a_newer_commit_has_ours_in_it(ground: Ground) -> None:
    """Somebody else's commit right after ours: their revision is what Argo CD names, and ours is in force all the same."""
    with ground.argocd() as server:
        ours, theirs = ground.commit(1), ground.commit(2)
        found = ground.client(server).sync(ours, timeout=60)
        assert (found.state, found.revision) == ("in_force", theirs)


def test_the_right_source_of_several_counts(ground: Ground) -> None:
    sources = [
        {"repoURL": "https://charts.example.org/search", "chart": "search", "targetRevision": "1.4.2"},
        {"repoURL": ground.repo.url, "path": ".", "targetRevision": "main", "ref": "values"},
    ]
    with ground.argocd(sources=sources) as server:
        commit = ground.commit(1)
        found = ground.client(server).sync(commit, timeout=60)
        assert (found.state, found.revision) == ("in_force", commit)
        assert server.status["sync"]["revisions"] == ["1.4.2", commit]


def test_flapping_health_is_not_health(ground: Ground) -> None:
    with ground.argocd() as server:
        server.faults_now.health = ["Progressing", "Healthy", "Progressing", "Healthy", "Degraded", "Healthy", "Progressing", "Healthy"]
        assert ground.client(server, degraded=60.0).sync(ground.commit(1), timeout=60).in_force
        assert server.faults_now.health == ["Healthy"], "one healthy look between two others did not end the wait"


def test_health_from_before_the_sync_does_not_count(ground: Ground) -> None:
    with ground.argocd() as server:
        client = ground.client(server)
        server.status["health"] = {"status": "Healthy"}
        server.faults_now.stale_health = True
        found = client.sync(ground.commit(1), timeout=0.6)
        assert found.state == "late" and "looked at before the operation ended" in found.reason
        server.faults_now.stale_health = False
        assert client.sync(ground.repo.head(), timeout=60).in_force


def test_a_server_that_comes_and_goes_is_waited_for(ground: Ground) -> None:
    with ground.argocd() as server:
        server.faults_now.away, server.faults_now.errors = 3, [503, 502, 429]
        assert ground.client(server).sync(ground.commit(1), timeout=60).in_force


def test_a_slow_server_is_asked_again(ground: Ground) -> None:
    with ground.argocd() as server:
        server.faults_now.seconds = 1.5
        found = ground.client(server, request_seconds=0.3).sync(ground.commit(1), timeout=1.0)
        assert found.state == "unreachable" and "does not answer" in found.reason
        server.faults_now.seconds = 0.0
        assert ground.client(server).sync(ground.repo.head(), timeout=60).in_force


def test_nobody_there_is_told_and_nothing_is_left_half_done(ground: Ground) -> None:
    with ground.argocd() as server:
        client = ground.client(server)
    found = client.sync(ground.commit(1), timeout=0.3)
    assert found.state == "unreachable" and server.address in found.reason
    with pytest.raises(Unavailable, match="does not answer"):
        client.status()
    with pytest.raises(Unavailable):
        client.check()


@pytest.mark.parametrize(
    ("prepare", "said"),
    [
        (lambda server, patch: patch.setenv(TOKEN_ENV, "forged"), "refuses the token in"),
        (lambda server, patch: patch.delenv(TOKEN_ENV), "is empty"),
        (lambda server, patch: patch.setenv(TOKEN_ENV, "two words"), "holds no token"),
        (lambda server, patch: setattr(server, "_project", "other"), "does not show application"),
        (lambda server, patch: setattr(server.faults_now, "raw", b"<html>please log in</html>"), "not as Argo CD's API"),
        (lambda server, patch: setattr(server.faults_now, "raw", b'{"items": []}'), "not an Argo CD application"),
    ],
)
def test_what_no_waiting_mends_ends_the_wait(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[FakeArgoCD, pytest.MonkeyPatch], None], said: str
) -> None:
    with ground.argocd() as server:
        prepare(server, monkeypatch)
        found = ground.client(server).sync(ground.commit(1), timeout=600)
        assert found.state == "unreachable" and said in found.reason
        assert TOKEN not in found.reason


def test_an_application_that_would_not_follow_is_refused_before_a_commit(ground: Ground) -> None:
    with ground.argocd(automated=False) as server:
        with pytest.raises(Refused, match="no automated sync"):
            ground.client(server).check()
        assert ground.client(server).sync(ground.commit(1), timeout=600).state == "refused"
        server.spec["syncPolicy"]["automated"] = {"enabled": False}
        with pytest.raises(Refused, match="no automated sync"):
            ground.client(server).check()
        server.spec["syncPolicy"]["automated"] = {"enabled": True}
        server.spec["source"]["targetRevision"] = "release-7"
        with pytest.raises(Refused, match="follows release-7, the loop pushes to main"):
            ground.client(server).check()
        server.spec["source"]["targetRevision"] = "refs/heads/main"
        ground.client(server).check()
        assert all(asked.startswith("GET") for asked in server.asked)


def test_a_chart_that_does_not_render_is_told(ground: Ground) -> None:
    def render(repo: GitOpsRepo, revision: str) -> dict[str, str]:
        files = repo.files(revision)
        if "n: 1" in files[FILE]:
            raise BadInput("values don't meet the specifications of the schema(s): replicas: got string, want integer")
        return files

    with ground.argocd(render=render) as server:
        assert ground.client(server).sync(ground.repo.head(), timeout=60).in_force
        bad = ground.commit(1)
        found = ground.client(server).sync(bad, timeout=0.6)
        assert found.state == "late" and "want integer" in found.reason
        assert server.live[FILE] == "n: 0\n", "what was live stays"
        good = ground.commit(2)
        assert ground.client(server).sync(good, timeout=60).in_force


@pytest.mark.parametrize("address", ["http://argocd.example.org", "https://user:secret@argocd.example.org", "https://", "ftp://127.0.0.1", "argocd"])
def test_a_token_goes_only_where_it_is_safe(ground: Ground, address: str) -> None:
    with pytest.raises(BadInput, match=r"deploy\.address") as raised:
        ArgoCDDeployer(address, NAME, ground.repo.includes, repository="r", branch="main", contour="local", token_env=TOKEN_ENV)
    assert "secret" not in str(raised.value)


def test_a_redirect_is_not_followed_with_the_token(ground: Ground) -> None:
    seen: list[str | None] = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_address[1]}/login")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            return

    with _serving(Elsewhere) as address:
        client = ArgoCDDeployer(address, NAME, ground.repo.includes, repository="r", branch="main", contour="local", token_env=TOKEN_ENV)
        with pytest.raises(Unavailable, match="login page"):
            client.status()
    assert seen == [f"Bearer {TOKEN}"]


class _serving:
    def __init__(self, handler: type[BaseHTTPRequestHandler], context: ssl.SSLContext | None = None) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._scheme = "http" if context is None else "https"

    def __enter__(self) -> str:
        self._thread.start()
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def certificate(tmp_path: Path) -> Iterator[Path]:
    """A certificate of our own for 127.0.0.1, with its key in one file."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "argocd")])
    moment = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
        .not_valid_before(moment - datetime.timedelta(days=1)).not_valid_after(moment + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "server.pem").write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "ca.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    yield tmp_path


def test_tls_is_checked_against_the_contours_own_authority(ground: Ground, certificate: Path) -> None:
    application = {
        "metadata": {"name": NAME}, "spec": {"source": {"repoURL": ground.repo.url, "targetRevision": "main"}, "syncPolicy": {"automated": {}}},
        "status": {"sync": {"status": "Synced", "revision": ground.repo.head()}, "health": {"status": "Healthy"}, "reconciledAt": "2026-11-23T10:00:00Z"},
    }  # fmt: skip

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(application).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "server.pem")
    with _serving(Server, context) as address:
        told: dict[str, Any] = {"repository": ground.repo.url, "branch": "main", "contour": "local", "token_env": TOKEN_ENV}
        trusting = ArgoCDDeployer(address, NAME, ground.repo.includes, ca_file=certificate / "ca.pem", interval=0.02, **told)
        assert trusting.sync(ground.repo.head(), timeout=60).in_force
        stranger = ArgoCDDeployer(address, NAME, ground.repo.includes, interval=0.02, **told)
        found = stranger.sync(ground.repo.head(), timeout=600)
        assert found.state == "unreachable" and "caFile" in found.reason
        lost = ArgoCDDeployer(address, NAME, ground.repo.includes, ca_file=certificate / "none.pem", interval=0.02, **told)
        assert "no certificates can be read" in lost.sync(ground.repo.head(), timeout=600).reason


@pytest.mark.parametrize(
    "ours", ["https://git.example.org/team/gitops.git", "ssh://git@git.example.org:2222/team/gitops", "git@git.example.org:team/gitops.git", "https://GIT.example.org/team/gitops/"]
)  # fmt: skip
def test_one_repository_has_several_addresses(ours: str) -> None:
    answer = {
        "metadata": {"name": NAME},
        "spec": {"sources": [{"repoURL": "https://git.example.org/team/other.git", "targetRevision": "x"},
                             {"repoURL": "https://git.example.org/team/gitops.git", "targetRevision": "main"}]},
        "status": {"sync": {"revisions": ["a" * 40, "b" * 40]}},
    }  # fmt: skip
    found = read_application(answer, ours)
    assert (found.branches, found.revisions) == (("main",), ("b" * 40,))


def test_the_contract_is_held_against_calls_that_break_it() -> None:
    """The checker itself could fail: a wrong path, an unknown query, a wrong type, an unknown key."""
    need_swagger()
    path = f"/api/v1/applications/{NAME}"
    good = {"metadata": {"name": NAME}, "spec": {"project": "p"}, "status": {"sync": {"status": "Synced"}}}
    assert faults_of("GET", path, {"refresh": "normal"}, None, 200, good) == []
    assert faults_of("GET", f"{path}/reverse", {}, None, 200, {}) and faults_of("PATCH", f"{path}/operation", {}, None, 200, {})
    assert faults_of("GET", path, {"refersh": "normal"}, None, 200, good)
    assert faults_of("GET", path, {}, None, 200, {**good, "spec": {"projct": "p"}})
    assert faults_of("GET", path, {}, None, 200, {**good, "status": {"sync": {"status": 1}}})
    assert faults_of("POST", f"{path}/sync", {}, {"revison": "x"}, 200, good)
    assert faults_of("DELETE", f"{path}/operation", {}, {"now": True}, 200, {})
