"""Commit, confirm, roll back: with a real Git repository and a real HTTP answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.records import Deployment, HelmPatch, ServingConfig
from predator_si.release.deny import SEED_DENY, DenyEntry, parse_deny
from predator_si.release.deploy import commit_patch, confirm
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.patch import make_patch, promote_changes, trial_changes
from predator_si.release.release_file import parse_release, seed_release
from predator_si.release.rollback import rollback

NAME = "release-local.yaml"
OLD, NEW, OTHER = (f"sha256:{letter * 64}" for letter in "abc")
CYCLE = "si_2026_11_22_001"
CHALLENGER = ServingConfig(model=NEW, depth=20)
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def repo(tmp_path: Path) -> GitOpsRepo:
    GitOpsRepo.init_bare(tmp_path / "gitops.git", {NAME: seed_release(ServingConfig(model=OLD, depth=20), "local"), "deny.yaml": SEED_DENY})
    repo = GitOpsRepo(tmp_path / "gitops.git", tmp_path / "work")
    repo.sync()
    return repo


@pytest.fixture
def other(repo: GitOpsRepo, tmp_path: Path) -> GitOpsRepo:
    return GitOpsRepo(repo.url, tmp_path / "other")


def _patch(repo: GitOpsRepo, changes: dict[str, Any], stage: Any, cycle_id: str = CYCLE) -> HelmPatch:
    return make_patch(repo.show(NAME), changes, cycle_id=cycle_id, stage=stage, file=NAME, base_commit=repo.head())


def _edit(repo: GitOpsRepo, old: str, new: str) -> None:
    assert repo.change(lambda files: {NAME: files[NAME].replace(old, new)}, "by hand")


def _released(repo: GitOpsRepo) -> list[HelmPatch]:
    trial = commit_patch(repo, _patch(repo, trial_changes(CHALLENGER), "trial"), "trial: new at 20%")
    return [trial, commit_patch(repo, _patch(repo, promote_changes(CHALLENGER), "promote"), "promote: new")]


# --------------------------------------------------------------------------- commit


def test_a_patch_is_committed_once_however_often_it_is_run(repo: GitOpsRepo) -> None:
    patch = _patch(repo, promote_changes(CHALLENGER), "promote")
    first = commit_patch(repo, patch, "promote: new\n\nNDCG +0.05")
    assert first.commit == repo.head()
    assert first.base_commit == patch.base_commit
    assert commit_patch(repo, patch, "promote: new") == first  # the process died before it could record the commit
    assert repo.sync() == first.commit
    assert parse_release(repo.show(NAME), NAME).reranker.champion == NEW


def test_a_patch_that_somebody_made_already_is_no_commit(repo: GitOpsRepo, other: GitOpsRepo) -> None:
    patch = _patch(repo, {"replicas": 2}, "promote")
    _edit(other, "replicas: 1", "replicas: 2")
    assert commit_patch(repo, patch, "x").commit == other.head()


def test_a_patch_is_not_applied_over_somebodys_edit(repo: GitOpsRepo, other: GitOpsRepo) -> None:
    patch = _patch(repo, promote_changes(CHALLENGER), "promote")
    _edit(other, "depth: 20", "depth: 10")
    with pytest.raises(Refused, match=r"reranker\.depth is 10"):
        commit_patch(repo, patch, "x")


def test_a_stage_that_was_taken_back_is_not_taken_for_done(repo: GitOpsRepo, other: GitOpsRepo) -> None:
    patch = _patch(repo, promote_changes(CHALLENGER), "promote")
    commit_patch(repo, patch, "x")
    _edit(other, NEW, OLD)
    with pytest.raises(Refused, match="taken back"):
        commit_patch(repo, patch, "x")


def test_a_repository_without_the_file_is_named(tmp_path: Path) -> None:
    GitOpsRepo.init_bare(tmp_path / "g.git", {"deny.yaml": SEED_DENY})
    repo = GitOpsRepo(tmp_path / "g.git", tmp_path / "w")
    patch = make_patch(seed_release(ServingConfig(model=OLD, depth=20), "local"), {"replicas": 2}, cycle_id=CYCLE, stage="promote", file=NAME)
    with pytest.raises(Missing, match=NAME):
        commit_patch(repo, patch, "x")


# --------------------------------------------------------------------------- confirm


@pytest.fixture
def service() -> Iterator[tuple[str, Callable[..., None]]]:
    """A service whose answers are told one by one; the last one stays."""
    answers: list[tuple[int, bytes]] = [(200, b"{}")]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    def say(*told: Any) -> None:
        answers[:] = [(200, json.dumps(one).encode()) if isinstance(one, dict | list) else one for one in told]

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/info", say
    server.shutdown()
    thread.join()
    server.server_close()


def _info(champion: str | None, candidate: str | None = None, error: str | None = None) -> dict[str, Any]:
    def model(digest: str | None) -> Any:
        return None if digest is None else {"model_id": "m", "model_sha": digest, "backend": "torch-fp32", "max_length": 256}

    return {"model_sha": champion, "variants": {"champion": model(champion), "candidate": model(candidate)}, "release": {"sha256": "x", "error": error}}


def _ask(url: str, digest: str | None, variant: Any = "champion", timeout: float = 0.15) -> Deployment:
    return confirm(url, digest, variant, timeout, cycle_id=CYCLE, stage="promote", commit="c0ffee", interval=0.01)


def test_it_waits_until_the_service_serves_the_digest(service: tuple[str, Callable[..., None]]) -> None:
    url, say = service
    say(_info(OLD), (503, b"loading"), (200, b"<html>"), _info(OLD), _info(NEW))
    found = _ask(url, NEW, timeout=10.0)
    assert (found.confirmed, found.served_digest, found.expected_digest, found.commit) == (True, NEW, NEW, "c0ffee")
    assert 0.04 <= found.seconds < 10


@pytest.mark.parametrize(
    ("variant", "expected", "info", "confirmed", "said"),
    [
        ("champion", NEW, _info(NEW), True, "reports it"),
        (None, NEW, _info(NEW), True, "reports it"),
        ("candidate", NEW, _info(OLD, NEW), True, "reports it"),
        ("candidate", None, _info(OLD), True, "reports it"),
        ("candidate", None, _info(OLD, NEW), False, NEW),
        ("candidate", None, {"model_sha": OLD}, False, "names no variant candidate"),  # silence is not "gone"
        ("champion", NEW, _info(OLD, error="sha256:bbb is on the deny list"), False, "deny list"),
        ("champion", NEW, _info(None, NEW), False, "no champion"),
        (None, NEW, {}, False, "reports None"),
        ("champion", NEW, {"expected": NEW, "variants": {"champion": {"model_id": NEW}}}, False, "champion is None"),
        ("champion", NEW, [NEW], False, "not a JSON object"),
    ],
)
def test_only_the_services_own_digest_counts(
    service: tuple[str, Callable[..., None]], variant: Any, expected: str | None, info: Any, confirmed: bool, said: str
) -> None:
    url, say = service
    say(info)
    found = _ask(url, expected, variant)
    assert found.confirmed is confirmed
    assert said in found.reason


def test_settings_count_as_well_where_the_model_stays(service: tuple[str, Callable[..., None]]) -> None:
    url, say = service

    def info(depth: int, weight: float = 0.0, workers: int = 1, **more: Any) -> dict[str, Any]:
        told = _info(NEW)
        told["variants"]["champion"] |= {"depth": depth, "fusion_weight": weight, "early_exit": False, **more}
        return told | {"ingest": {"workers": workers}}

    def ask(timeout: float = 0.15, **changes: Any) -> Deployment:
        wanted = ServingConfig(model=NEW, depth=8, **changes)
        return confirm(url, NEW, "champion", timeout, cycle_id=CYCLE, stage="promote", commit="c0ffee", interval=0.01, settings=wanted)

    say(info(20), info(20), info(8))
    assert ask(10.0).confirmed
    for told, changes, said in (
        (info(20), {}, "depth 20, 8 is expected"),
        (info(8, 0.3), {"fusion_weight": 0.2}, "fusion_weight 0.3, 0.2"),
        (info(8), {"ingest_workers": 2}, "ingest workers 1, 2"),
        (info(8), {"early_exit": True}, "early_exit 0, 1"),
    ):
        say(told)
        found = ask(**changes)
        assert not found.confirmed and said in found.reason
    say(_info(NEW))
    assert ask(ingest_workers=2).confirmed, "a service that does not report its settings is not held to them"


def test_a_service_that_is_down_confirms_nothing() -> None:
    found = _ask("http://127.0.0.1:9/info", NEW)
    assert (found.confirmed, found.served_digest) == (False, None)
    assert "does not answer" in found.reason


# --------------------------------------------------------------------------- roll back


def _entry(digest: str = NEW) -> DenyEntry:
    return DenyEntry(digest=digest, cycle=CYCLE, reason="NDCG -0.2", at=NOW)


def _serving(digest: str | None = None) -> Callable[[str, str], Deployment]:
    """A service that serves what it is asked about, or always ``digest``."""

    def ask(expected: str, commit: str) -> Deployment:
        served = digest or expected
        return Deployment(
            cycle_id=CYCLE, stage="rollback", commit=commit, expected_digest=expected, served_digest=served,
            confirmed=served == expected, seconds=0.1, reason=f"the champion is {served}", created_at=NOW,
        )  # fmt: skip

    return ask


def test_the_way_back_is_one_commit_with_the_deny_entry(repo: GitOpsRepo) -> None:
    start, patches, moved = repo.head(), _released(repo), []
    before = repo.head()
    done = rollback(repo, patches, [_entry()], "NDCG -0.2 on 60 probes", _serving(), moved.append)
    assert (done.verified, done.from_digest, done.to_digest, done.denied, moved) == (True, NEW, OLD, [NEW], [OLD])
    assert done.commit == repo.sync()
    assert parse_release(repo.show(NAME), NAME) == parse_release(repo.show(NAME, start), NAME)  # not back into the trial
    assert [entry.digest for entry in parse_deny(repo.show("deny.yaml"))] == [NEW]
    assert repo.files(before)["deny.yaml"] == SEED_DENY
    assert repo.find_commit(CYCLE, "rollback") == done.commit


def test_rolling_back_again_makes_no_second_commit(repo: GitOpsRepo) -> None:
    patches = _released(repo)
    first = rollback(repo, patches, [_entry()], "r", _serving())
    again = rollback(repo, patches, [_entry()], "r", _serving())
    assert again.commit == first.commit == repo.sync()
    assert (again.verified, again.to_digest) == (True, OLD)


def test_success_is_what_the_service_says(repo: GitOpsRepo) -> None:
    moved: list[str] = []
    done = rollback(repo, _released(repo), [_entry()], "r", _serving(NEW), moved.append)
    assert (done.verified, moved) == (False, [])
    assert "NOT verified" in done.reason


def test_a_registry_that_is_down_does_not_undo_the_rollback(repo: GitOpsRepo) -> None:
    def down(digest: str) -> None:
        raise Unavailable("mlflow does not answer")

    done = rollback(repo, _released(repo), [_entry()], "r", _serving(), down)
    assert done.verified
    assert "alias was not moved: mlflow" in done.reason


def test_a_trial_that_ended_without_a_winner_is_cleared_and_denies_nobody(repo: GitOpsRepo) -> None:
    trial = commit_patch(repo, _patch(repo, trial_changes(CHALLENGER), "trial"), "trial")
    done = rollback(repo, trial, [], "inconclusive", _serving())
    release = parse_release(repo.show(NAME), NAME)
    assert (release.reranker.champion, release.reranker.candidate, release.reranker.candidate_weight) == (OLD, None, 0.0)
    assert (done.from_digest, done.to_digest, done.denied) == (NEW, OLD, [])


def test_somebodys_newer_model_is_not_overwritten(repo: GitOpsRepo, other: GitOpsRepo) -> None:
    patches = _released(repo)
    _edit(other, NEW, OTHER)
    head = repo.sync()
    with pytest.raises(Refused, match=f"is {OTHER}.*had set {NEW}.*way back is {OLD}"):
        rollback(repo, patches, [_entry()], "r", _serving())
    assert repo.sync() == head


def test_other_edits_stay(repo: GitOpsRepo, other: GitOpsRepo) -> None:
    patches = _released(repo)
    _edit(other, "replicas: 1", "replicas: 3  # Black Friday")
    rollback(repo, patches, [_entry()], "r", _serving())
    assert "replicas: 3  # Black Friday" in repo.show(NAME)


def test_the_model_to_return_to_cannot_be_denied(repo: GitOpsRepo) -> None:
    patches, head = _released(repo), repo.sync()
    with pytest.raises(Refused, match="the model to return to"):
        rollback(repo, patches, [_entry(OLD)], "r", _serving())
    assert repo.sync() == head


def test_a_release_repeated_after_its_rollback_is_noticed(repo: GitOpsRepo, other: GitOpsRepo) -> None:
    patches = _released(repo)
    rollback(repo, patches, [_entry()], "r", _serving())
    _edit(other, OLD, NEW)
    with pytest.raises(Refused, match="released it again"):
        rollback(repo, patches, [_entry()], "r", _serving())


def test_nothing_committed_is_nothing_to_take_back(repo: GitOpsRepo) -> None:
    with pytest.raises(BadInput, match="committed patches"):
        rollback(repo, [], [], "r", _serving())
