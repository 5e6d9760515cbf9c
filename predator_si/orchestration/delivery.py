"""The way a release takes in one installation: its repository, its deployer, and the service's own word.

What belongs here: opening these from the settings, and asking both. What must not: what is committed (steps), Dagster.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from predator_si.records import Deployment, ServingConfig
from predator_si.release.deploy import confirm
from predator_si.settings import Settings

if TYPE_CHECKING:
    from predator_si.orchestration.loop import Loop
    from predator_si.release.deployer import Deployer
    from predator_si.release.git import GitAccess
    from predator_si.release.gitops import GitOpsRepo


def repository(settings: Settings) -> str:
    """Where releases are committed: the contour's ``gitops.url``, or the bare repository in the home folder."""
    return settings.values.gitops.url or str(settings.folders.gitops_bare)


def access(settings: Settings) -> GitAccess:
    """The way in, and who signs."""
    from predator_si.release.git import GitAccess

    said = settings.values.gitops

    def file(name: str | None) -> Path | None:
        return None if name is None else Path(name).expanduser()

    return GitAccess(file(said.ssh_key), file(said.known_hosts), said.token_env, file(said.signing_key))


def allowed_signers(settings: Settings) -> Path | None:
    """The file of those whose signatures of the ledger's anchors count."""
    named = settings.values.gitops.allowed_signers
    return None if named is None else Path(named).expanduser()


def open_repo(settings: Settings, work: Path) -> GitOpsRepo:
    """The GitOps repository through a clone in ``work``."""
    from predator_si.release.gitops import GitOpsRepo

    return GitOpsRepo(repository(settings), work, settings.values.gitops.branch, access(settings), contour=settings.contour)


def open_deployer(settings: Settings, repo: GitOpsRepo) -> Deployer:
    """Who brings this contour's commits into force."""
    said = settings.values.deploy
    if said.kind == "argocd":
        from predator_si.release.argocd import ArgoCDDeployer

        return ArgoCDDeployer(
            said.address or "",
            said.application or "",
            repo.includes,
            repository=repo.url,
            branch=repo.branch,
            contour=settings.contour,
            token_env=said.token_env or "",
            project=said.project,
            namespace=said.namespace,
            ca_file=None if said.ca_file is None else Path(said.ca_file).expanduser(),
        )
    from predator_si.release.deployer import LocalDeployer

    return LocalDeployer(settings.folders.applied, repo.includes)


def reconcile_command(settings: Settings, interval: float = 0.5) -> list[str]:
    """The embedded reconciler as a process, following this contour's repository."""
    said = settings.values.gitops
    words = [sys.executable, "-m", "predator_si.release.reconcile", "--home", str(settings.home), "--contour", settings.contour, "--interval", f"{interval:g}"]
    told = {
        "--repository": said.url,
        "--branch": None if said.branch == "main" else said.branch,
        "--ssh-key": said.ssh_key,
        "--known-hosts": said.known_hosts,
        "--token-env": said.token_env,
        "--chart": said.chart,
        "--cache": str(settings.cache) if said.chart is not None else None,
    }
    return words + [word for name, value in told.items() if value is not None for word in (name, value)]


def bring_into_force(
    loop: Loop,
    digest: str | None,
    variant: Literal["champion", "candidate"],
    *,
    cycle_id: str,
    stage: Literal["trial", "promote", "rollback"],
    commit: str,
    settings: ServingConfig | None = None,
) -> Deployment:
    """The deployer brings ``commit`` into force; then ``GET /info`` is asked whether ``digest`` is what the service loaded.

    Parameters
    ----------
    digest, variant, settings
        As ``release.deploy.confirm`` takes them.
    stage
        ``rollback``: the deployer's complaint is told and does not stand in the way.
    """
    from predator_si.release.deployer import confirm_in_force

    if stage != "rollback":
        loop.control.require_lease()

    def ask(seconds: float) -> Deployment:
        return confirm(f"{loop.search_url}/info", digest, variant, seconds, cycle_id=cycle_id, stage=stage, commit=commit, settings=settings)

    return confirm_in_force(loop.deployer, commit, ask, timeout=loop.confirm_seconds, rollback=stage == "rollback")
