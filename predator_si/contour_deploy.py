"""What a contour's values say about Git and about who brings a commit into force: blocks ``gitops`` and ``deploy``.

What belongs here: shape and sense of these keys. What must not: opening a repository or a server.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from predator_si.contour_types import Block, Duration

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_FOLDERS = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99})*$"
_NAME = r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$"


def _is_a_name(value: str | None) -> str | None:
    if value is not None and _VARIABLE.fullmatch(value) is None:
        raise ValueError("is the name of an environment variable; a secret in a values file would be readable by everybody who reads the repository")
    return value


class GitOps(Block):
    """The GitOps repository. All null: a bare one in the home folder, that belongs to this installation."""

    url: str | None = None
    """``ssh://``, ``git@host:path``, ``https://`` or a path of a bare repository; never with a password."""
    branch: Annotated[str, Field(pattern=_FOLDERS)] = "main"
    ssh_key: str | None = None
    """File of a deploy key that may write to this one repository."""
    known_hosts: str | None = None
    """File with the server's host keys, as ``ssh-keyscan`` prints them; a server that is not in it is not talked to."""
    token_env: str | None = None
    """Name of the environment variable with a token for ``https://``."""
    signing_key: str | None = None
    """File of an SSH key that signs the commits."""
    allowed_signers: str | None = None
    """File of those whose signatures of the ledger's anchors count (``ALLOWED SIGNERS`` of ssh-keygen(1)); null: signatures are not asked for."""
    chart: Annotated[str | None, Field(pattern=_FOLDERS)] = None
    """Folder of a Helm chart in the repository: the embedded reconciler renders it with the committed values. Null: the release file alone is applied."""

    _named = field_validator("token_env")(_is_a_name)

    @field_validator("url")
    @classmethod
    def _without_secret(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if re.match(r"^[a-z+]+://[^/@]*:[^/@]*@", value) or re.match(r"^https?://[^/@]+@", value):
            raise ValueError("holds a user or a password; the token goes into tokenEnv, by the name of an environment variable")
        if value.startswith(("-", "ext::", "fd::")) or "::" in value.split("/")[0]:
            raise ValueError("is ssh://, git@host:path, https:// or a path of a bare repository")
        if value.startswith("http://") and not re.match(r"^http://(127\.0\.0\.1|localhost|\[::1\])[:/]", value):
            raise ValueError("is http:// and not loopback; what is sent to it could be read and changed on the way")
        return value

    @model_validator(mode="after")
    def _one_way_in(self) -> GitOps:
        if self.token_env is not None and not (self.url or "").startswith("http"):
            raise ValueError("tokenEnv is for an https:// url; over ssh give sshKey")
        if (self.ssh_key is None) != (self.known_hosts is None):
            raise ValueError("sshKey and knownHosts belong together: without the server's keys anybody could answer in its place")
        if self.ssh_key is not None and (self.url is None or self.url.startswith("http")):
            raise ValueError("sshKey is for an ssh:// or git@host:path url")
        return self


class Deploy(Block):
    """Who brings a commit into force."""

    kind: Literal["local", "argocd"] = "local"
    """``local`` is the embedded reconciler."""
    address: str | None = None
    """Argo CD's API server, ``https://host``."""
    application: Annotated[str | None, Field(pattern=_NAME)] = None
    project: Annotated[str | None, Field(pattern=_NAME)] = None
    namespace: Annotated[str | None, Field(pattern=_NAME)] = None
    """Of the application, where Argo CD serves several."""
    token_env: str | None = None
    """Name of the environment variable with a token of a project role."""
    ca_file: str | None = None
    """Certificates (PEM) to trust instead of the system's."""
    timeout: Duration = timedelta(minutes=2)
    """Within which a commit must be in force; what is late is taken back."""

    _named = field_validator("token_env")(_is_a_name)

    @field_validator("address")
    @classmethod
    def _is_https(cls, value: str | None) -> str | None:
        if value is not None and re.fullmatch(r"https://[^\s/@]+(/[^\s@]*)?|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?", value) is None:
            raise ValueError("is https://host[:port] without a user; a token is sent to it")
        return value.rstrip("/") if value else value

    @model_validator(mode="after")
    def _argocd_is_somewhere(self) -> Deploy:
        if self.kind == "argocd" and None in (self.address, self.application, self.token_env):
            raise ValueError("kind argocd needs address, application and tokenEnv")
        if self.timeout <= timedelta(0):
            raise ValueError("timeout is longer than nothing")
        return self
