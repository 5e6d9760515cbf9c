"""The drill's Argo CD speaks as the real one's contract has it, whatever its mood."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest

from predator_si.orchestration.loop import Loop
from predator_si.proof.drill.argocd import NAME, TOKEN, ArgoCD, argocd
from predator_si.records import utc_now
from predator_si.release.argocd import read_application
from predator_si.release.deployer import STATUS_FILE, SyncStatus
from predator_si_tests.support.argocd_contract import faults_of, need_swagger

REPOSITORY, HEAD = "https://git.example.org/predator-si.git", "a" * 40
PATH = f"/api/v1/applications/{NAME}"


@pytest.fixture
def loop(tmp_path: Path) -> Loop:
    """As much of a loop as is asked: a repository's head, and what the reconciler applied."""
    status = SyncStatus(contour="local", revision=HEAD, applied_revision=HEAD, release_sha256=None, synced=True, error=None, at=utc_now())
    (tmp_path / STATUS_FILE).write_text(status.to_json())
    repository = SimpleNamespace(sync=lambda: HEAD, url=REPOSITORY, branch="main")
    return cast("Loop", SimpleNamespace(repo=repository, home=SimpleNamespace(applied=tmp_path)))


def ask(server: ArgoCD, method: str, path: str = PATH, token: str = TOKEN, **query: str) -> tuple[int, Any, list[str]]:
    response = httpx.request(method, f"{server.address}{path}", params=query, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    answer = response.json()
    url = urlsplit(str(response.request.url))
    return response.status_code, answer, faults_of(method, url.path, dict(parse_qsl(url.query)), None, response.status_code, answer)


@pytest.mark.parametrize("mood", ["honest", "lying", "stuck"])
def test_each_answer_keeps_the_contract(loop: Loop, mood: str) -> None:
    need_swagger()
    with argocd(loop) as server:
        if mood == "stuck":
            server.get_stuck()
        server.mood = mood  # type: ignore[assignment]
        for status, answer, faults in (ask(server, "GET"), ask(server, "GET", refresh="normal")):
            assert (status, faults) == (200, []), faults
            found = read_application(answer, REPOSITORY)
            assert found.automated and found.branches == ("main",) and found.running is (mood == "stuck")
        assert ask(server, "DELETE", f"{PATH}/operation") == (200, {}, [])
        for refused in (ask(server, "GET", token="forged"), ask(server, "GET", "/api/v1/applications/another"), ask(server, "DELETE", PATH)):
            assert refused[0] in (401, 403, 404) and refused[2] == []


def test_an_operation_ends_when_it_is_told_to_and_only_where_that_was_meant(loop: Loop) -> None:
    ended: list[str] = []
    with argocd(loop) as server:
        server.get_stuck()
        ask(server, "DELETE", f"{PATH}/operation")
        assert server.mood == "stuck", "it hangs for good"
        server.get_stuck(ended=lambda: ended.append("ended"))
        ask(server, "DELETE", PATH)
        assert (server.mood, ended) == ("stuck", [])
        ask(server, "DELETE", f"{PATH}/operation")
        assert (server.mood, ended) == ("honest", ["ended"]) and server.asked == ["DELETE operation"] * 3
        _, answer, _ = ask(server, "GET")
        assert not read_application(answer, REPOSITORY).running
