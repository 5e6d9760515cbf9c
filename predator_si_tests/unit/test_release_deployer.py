"""Who brings a commit into force, and what its answer and the service's own word mean together."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from predator_si.errors import BadInput, Unavailable
from predator_si.orchestration import delivery
from predator_si.records import Deployment, utc_now
from predator_si.release.argocd import ArgoCDDeployer
from predator_si.release.deployer import STATUS_FILE, LocalDeployer, State, SyncResult, SyncStatus, confirm_in_force
from predator_si.release.git import GitAccess
from predator_si.release.gitops import GitOpsRepo
from predator_si.settings import Settings, load_settings

A, B, C = (letter * 40 for letter in "abc")
ORDER = {A: 0, B: 1, C: 2}


def includes(revision: str, commit: str) -> bool:
    return ORDER[revision] >= ORDER[commit]


@pytest.fixture
def say(tmp_path: Path) -> Callable[..., LocalDeployer]:
    """Writes what the reconciler says, and gives the deployer that reads it."""

    def wrote(revision: str, applied: str | None, error: str | None = None, ago: float = 0.0) -> LocalDeployer:
        at = utc_now() - timedelta(seconds=ago)
        status = SyncStatus(contour="local", revision=revision, applied_revision=applied, release_sha256=None, synced=error is None, error=error, at=at)
        (tmp_path / STATUS_FILE).write_text(status.to_json())
        return LocalDeployer(tmp_path, includes, interval=0.01)

    return wrote


@pytest.mark.parametrize(
    ("revision", "applied", "error", "state", "said"),
    [
        (B, B, None, "in_force", "applied it"),
        (C, C, None, "in_force", "applied it"),
        (C, B, "values of c are broken", "in_force", "applied it"),  # ours is in force, somebody's newer one is not
        (B, A, "release-local.yaml, line 7: reranker.depth", "refused", "line 7: reranker.depth"),
        (C, A, "the model is on the deny list", "refused", "deny list"),
        (A, A, None, "late", "did not apply"),
        (A, A, "the repository cannot be read", "late", "cannot be read"),
        (A, None, None, "late", "did not apply"),
    ],
)
def test_the_reconcilers_word(say: Callable[..., LocalDeployer], revision: str, applied: str | None, error: str | None, state: State, said: str) -> None:
    found = say(revision, applied, error).sync(B, timeout=0.1)
    assert (found.state, found.revision, found.in_force) == (state, applied, state == "in_force")
    assert said in found.reason


def test_a_reconciler_that_is_gone_is_not_one_that_is_late(say: Callable[..., LocalDeployer], tmp_path: Path) -> None:
    assert say(A, A, ago=120).sync(B, timeout=0.05).state == "unreachable"
    (tmp_path / STATUS_FILE).write_text("{")
    found = LocalDeployer(tmp_path, includes).sync(B, timeout=0.0)
    assert found.state == "unreachable" and STATUS_FILE in found.reason
    (tmp_path / STATUS_FILE).unlink()
    nobody = LocalDeployer(tmp_path, includes)
    with pytest.raises(Unavailable, match="no reconciler has looked"):
        nobody.status()
    assert nobody.sync(B, timeout=0.0).state == "unreachable"


def test_a_repository_that_cannot_be_asked_ends_as_unreachable(say: Callable[..., LocalDeployer], tmp_path: Path) -> None:
    say(B, B)

    def away(revision: str, commit: str) -> bool:
        raise Unavailable("the repository is away")

    assert LocalDeployer(tmp_path, away, interval=0.01).sync(B, timeout=0.03).state != "in_force"


# --------------------------------------------------------------------------- with the service's word


class Says:
    """A deployer with one answer."""

    def __init__(self, state: State) -> None:
        self.state = state

    def check(self) -> None:
        return

    def status(self) -> SyncStatus:
        raise Unavailable("not asked for")

    def sync(self, commit: str, *, timeout: float) -> SyncResult:
        return SyncResult(commit=commit, state=self.state, revision=None, reason=f"it is {self.state}.", seconds=1.5)


def served(confirmed: bool, asked: list[float]) -> Callable[[float], Deployment]:
    def ask(seconds: float) -> Deployment:
        asked.append(seconds)
        return Deployment(cycle_id="c", stage="promote", commit=B, expected_digest="n", served_digest="n" if confirmed else "o", confirmed=confirmed,
                          seconds=0.1, reason="the service said so", created_at=datetime(2026, 11, 23, tzinfo=UTC))  # fmt: skip

    return ask


@pytest.mark.parametrize(
    ("state", "digest", "rollback", "confirmed", "patience"),
    [
        ("in_force", True, False, True, 60.0),
        ("in_force", False, False, False, 60.0),  # applied is not served
        ("refused", True, False, False, 0.0),  # one server that has it is not all of them
        ("late", True, False, False, 0.0),
        ("unreachable", True, False, False, 0.0),
        ("in_force", True, True, True, 60.0),
        ("refused", True, True, True, 0.0),  # the way back: the service's word alone
        ("late", False, True, False, 0.0),
        ("unreachable", True, True, True, 60.0),
        ("unreachable", False, True, False, 60.0),
    ],
)
def test_a_release_needs_both_and_the_way_back_the_service_only(state: State, digest: bool, rollback: bool, confirmed: bool, patience: float) -> None:
    asked: list[float] = []
    found = confirm_in_force(Says(state), B, served(digest, asked), timeout=60.0, rollback=rollback)
    assert (found.confirmed, asked, found.sync_seconds) == (confirmed, [patience], 1.5)
    assert (state == "in_force") == ("it is" not in found.reason)
    assert "the service said so" in found.reason


# --------------------------------------------------------------------------- by the contour


def _settings(settings: Settings, tmp_path: Path, text: str) -> Settings:
    file = tmp_path / "site.yaml"
    file.write_text(f"selfImprovement:\n{text}")
    return load_settings("local", home=settings.home, values_file=file, env={})


def test_a_contour_without_keys_has_its_own_repository_and_the_embedded_reconciler(settings: Settings, tmp_path: Path) -> None:
    assert delivery.repository(settings) == str(settings.folders.gitops_bare)
    assert delivery.access(settings) == GitAccess()
    repo = delivery.open_repo(settings, tmp_path / "work")
    assert (repo.url, repo.branch) == (str(settings.folders.gitops_bare), "main")
    assert isinstance(delivery.open_deployer(settings, repo), LocalDeployer)
    assert delivery.reconcile_command(settings)[-4:] == ["--contour", "local", "--interval", "0.5"]


def test_a_contour_may_name_a_repository_and_argo_cd(settings: Settings, tmp_path: Path) -> None:
    found = _settings(settings, tmp_path, """\
  gitops: {url: "git@git.example.org:team/gitops.git", branch: live, sshKey: ~/deploy, knownHosts: ~/hosts, signingKey: ~/sign, chart: charts/search}
  deploy: {kind: argocd, address: "https://argocd.example.org/", application: search, project: edge, tokenEnv: ARGOCD_TOKEN, caFile: /ca.pem, timeout: 10m}
""")  # fmt: skip
    repo = delivery.open_repo(found, tmp_path / "work")
    assert (repo.url, repo.branch) == ("git@git.example.org:team/gitops.git", "live")
    assert delivery.access(found).signing_key == Path("~/sign").expanduser()
    assert isinstance(delivery.open_deployer(found, repo), ArgoCDDeployer)
    command = delivery.reconcile_command(found)
    assert command[command.index("--repository") :][:4] == ["--repository", "git@git.example.org:team/gitops.git", "--branch", "live"]
    assert "--signing-key" not in command, "the reconciler commits nothing"
    assert {"--ssh-key", "--known-hosts", "--chart"} <= set(command)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('  gitops: {url: "https://bot:s3cret@git.example.org/x"}', "user or a password"),
        ('  gitops: {url: "https://s3cret@git.example.org/x"}', "user or a password"),
        ('  gitops: {url: "http://git.example.org/x"}', "not loopback"),
        ('  gitops: {url: "ext::sh -c s3cret"}', "is ssh://"),
        ("  gitops: {url: --upload-pack=s3cret}", "is ssh://"),
        ('  gitops: {url: "https://git.example.org/x", tokenEnv: "ghp_s3cret-with-dashes"}', "name of an environment variable"),
        ('  gitops: {url: "git@h:x", tokenEnv: TOKEN}', "over ssh give sshKey"),
        ('  gitops: {url: "git@h:x", sshKey: /k}', "belong together"),
        ("  gitops: {sshKey: /k, knownHosts: /h}", "sshKey is for"),
        ("  gitops: {branch: --force}", "branch"),
        ("  gitops: {branch: a..b/../c}", "branch"),
        ("  gitops: {chart: ../../etc}", "chart"),
        ("  gitops: {chart: /etc}", "chart"),
        ("  deploy: {kind: argocd}", "needs address, application and tokenEnv"),
        ('  deploy: {address: "http://argocd.example.org"}', "https://host"),
        ('  deploy: {address: "https://u:s3cret@argocd.example.org"}', "https://host"),
        ("  deploy: {application: ../../other}", "application"),
        ("  deploy: {kind: flux}", "kind"),
        ("  deploy: {timeout: 0s}", "longer than nothing"),
    ],
)
def test_keys_that_cannot_work_are_refused_with_their_place(settings: Settings, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput, match=r"site\.yaml") as raised:
        _settings(settings, tmp_path, f"{text}\n")
    assert said in str(raised.value) and "s3cret" not in str(raised.value)


def test_what_came_after_a_commit_includes_it(tmp_path: Path) -> None:
    GitOpsRepo.init_bare(tmp_path / "g.git", {"release-local.yaml": "n: 0\n"})
    repo, other = GitOpsRepo(tmp_path / "g.git", tmp_path / "a"), GitOpsRepo(tmp_path / "g.git", tmp_path / "b")
    first = repo.sync()
    second = other.change(lambda files: {"release-local.yaml": "n: 1\n"}, "x") or ""
    assert repo.includes(second, first), "a revision that this clone did not know is fetched"
    assert not repo.includes(first, second) and repo.includes(first, first)
    assert not repo.includes("d" * 40, first) and not repo.includes("1.4.2", first) and not repo.includes("--all", first)
