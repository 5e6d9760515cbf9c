"""Running ``git``: nobody's configuration but ours, no prompts, a limit of time, no secret where it could be read.

What belongs here: the process, its environment, the way in (key or token) and the signature. What must not: what is committed (gitops.py).
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from predator_si.errors import BadInput, Missing, Unavailable

AUTHOR = ("predator-si", "bot@predator-si.invalid")
SECONDS = 60.0
"""For one ``git`` command."""
TOKEN_USER = "x-access-token"
"""User name that goes with a token; the servers that look at it at all know this one."""
_TOKEN_VARIABLE = "PREDATOR_SI_GIT_TOKEN"
# Runs in git's own shell: the token stands in an environment, never in a command line, a file or a URL.
_HELPER = f"""!f() {{ test "$1" = get && printf 'username=%s\\npassword=%s\\n' {TOKEN_USER} "${_TOKEN_VARIABLE}"; }}; f"""
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PATH = re.compile(r'["\'%$\\\n\r\t]|^-')
"""Characters that ssh or a shell would read as something else."""


@dataclass(frozen=True)
class GitAccess:
    """The way into a remote repository, and who signs.

    Parameters
    ----------
    ssh_key, known_hosts
        Files: a deploy key, and the server's host keys. Only this key is offered, and only these servers are talked to.
    token_env
        Name of the environment variable with a token for https; read at each use.
    signing_key
        File of an SSH key without a passphrase.
    """

    ssh_key: Path | None = None
    known_hosts: Path | None = None
    token_env: str | None = None
    signing_key: Path | None = None

    def environment(self, url: str) -> dict[str, str]:
        """What ``git`` needs in its environment to reach ``url``.

        Raises
        ------
        BadInput
            A secret in the address, or a token for an address where others could read it.
        Missing
            A file or a variable that is named does not exist.
        """
        check_address(url)
        settings = {"http.followRedirects": "false", "http.lowSpeedLimit": "1", "http.lowSpeedTime": f"{int(SECONDS)}", "protocol.ext.allow": "never"}
        more: dict[str, str] = {}
        if self.token_env is not None:
            parts = urlsplit(url)
            if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
                raise BadInput(f"{shown(url)}: a token is sent over https only. Change gitops.url, or give an SSH key instead of tokenEnv.")
            origin = f"{parts.scheme}://{parts.netloc}"
            more[_TOKEN_VARIABLE] = self.token()
            settings |= {"credential.helper": "", f"credential.{origin}.helper": _HELPER}
        if self.ssh_key is not None:
            more |= {"GIT_SSH_COMMAND": self._ssh(), "GIT_SSH_VARIANT": "ssh"}
        return more | as_environment(settings)

    def signing(self) -> tuple[dict[str, str], list[str]]:
        """Environment and argument that make ``git commit-tree`` sign; empty without a key."""
        if self.signing_key is None:
            return {}, []
        key = _file(self.signing_key, "gitops.signingKey", "Make one: ssh-keygen -t ed25519 -N '' -f FILE.")
        # an encrypted key would ask for its passphrase on the terminal of whoever started us
        return {"SSH_ASKPASS": "false", "SSH_ASKPASS_REQUIRE": "force", **as_environment({"gpg.format": "ssh", "user.signingKey": key})}, ["-S"]

    def token(self) -> str:
        """The token.

        Raises
        ------
        Missing
            The variable is empty.
        BadInput
            What it holds cannot be a token; it is not repeated.
        """
        name = self.token_env or ""
        token = os.environ.get(name, "").strip()
        if not token:
            raise Missing(f"the environment variable {name} (gitops.tokenEnv) is empty. Put a token with write access to the GitOps repository into it.")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise BadInput(f"the environment variable {name} (gitops.tokenEnv) holds no token: only printable ASCII without spaces can be one.")
        return token

    def _ssh(self) -> str:
        assert self.ssh_key is not None
        key = _file(self.ssh_key, "gitops.sshKey", "Make one: ssh-keygen -t ed25519 -N '' -f FILE, and add its .pub as a deploy key that may write.")
        if self.known_hosts is None:
            raise BadInput("gitops.sshKey needs gitops.knownHosts: without the server's keys anybody could answer in its place.")
        hosts = _file(self.known_hosts, "gitops.knownHosts", "Make it: ssh-keyscan HOST > FILE, and compare the keys with those the provider publishes.")
        options = {
            "BatchMode": "yes", "IdentitiesOnly": "yes", "IdentityAgent": "none", "StrictHostKeyChecking": "yes", "UserKnownHostsFile": f'"{hosts}"',
            "GlobalKnownHostsFile": os.devnull, "UpdateHostKeys": "no", "PasswordAuthentication": "no", "ConnectTimeout": "15", "ServerAliveInterval": "10",
            "ServerAliveCountMax": "3", "ForwardAgent": "no",
        }  # fmt: skip
        return shlex.join(["ssh", "-F", os.devnull, "-i", key, *(part for name, value in options.items() for part in ("-o", f"{name}={value}"))])

    def redacted(self, text: str) -> str:
        """``text`` without the token: a server may repeat what it was sent."""
        token = os.environ.get(self.token_env, "").strip() if self.token_env is not None else ""
        if token:
            import base64

            both = base64.b64encode(f"{TOKEN_USER}:{token}".encode()).decode()
            text = text.replace(token, "[token]").replace(both, "[token]")
        return text


def check_address(url: str) -> None:
    """Refuse an address that carries a secret, or that would make ``git`` run a program."""
    parts = urlsplit(url) if "://" in url else None
    if parts is not None and (parts.password is not None or (parts.scheme in ("http", "https") and parts.username is not None)):
        raise BadInput(f"{shown(url)}: holds a user or a password. Take it out of gitops.url and name an environment variable in gitops.tokenEnv.")
    if url.startswith("-") or re.match(r"^[A-Za-z0-9]+::", url):
        raise BadInput(f"{shown(url)}: is not ssh://, git@host:path, https:// or the path of a repository. Correct gitops.url.")


def shown(url: str) -> str:
    """The address as it may be told: without what stands before ``@`` in a URL."""
    return re.sub(r"^([a-z+]+://)[^/@]*@", r"\1", url)


def clean_environment() -> dict[str, str]:
    """The environment without what could bend Git: no user or system configuration, no hooks, no prompts, one author."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_") and name not in ("SSH_ASKPASS", "SSH_ASKPASS_REQUIRE")}
    name, email = AUTHOR
    return kept | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
        "GIT_AUTHOR_NAME": name,
        "GIT_AUTHOR_EMAIL": email,
        "GIT_COMMITTER_NAME": name,
        "GIT_COMMITTER_EMAIL": email,
        "LC_ALL": "C",
    }


def run(
    folder: Path, *arguments: str, data: bytes | None = None, held: int | None = None, more: Mapping[str, str] | None = None, seconds: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """One ``git`` command in ``folder``; its exit status is the caller's to judge.

    Parameters
    ----------
    held
        A lock's file descriptor: a child that outlives a killed parent keeps it, and with it the lock.
    more
        Variables over ``clean_environment``.

    Raises
    ------
    Unavailable
        It cannot be run, or does not end in time; then it and its children are ended.
    """
    command = ["git", "-c", f"core.hooksPath={os.devnull}", "-c", "gc.auto=0", *arguments]
    limit = SECONDS if seconds is None else seconds
    try:
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL if data is None else subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**clean_environment(), **(more or {})}, pass_fds=() if held is None else (held,),
        )  # fmt: skip
    except (FileNotFoundError, NotADirectoryError) as error:
        raise Unavailable(f"git cannot be run in {folder} ({error}). Install git 2.34 or newer, and check that the folder exists.") from error
    with process:
        try:
            out, complaint = process.communicate(data, timeout=limit)
        except subprocess.TimeoutExpired as error:
            _end(process)
            raise Unavailable(f"git {arguments[0]} did not end within {limit:g} s in {folder}. Check that the repository's disk or server answers.") from error
        except BaseException:
            _end(process)
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, complaint)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End ``git`` and what it started: a transport left behind would keep the lock, and the pipes open."""
    import psutil

    try:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.Error:
        family = []
    for member in family:
        try:
            member.kill()
        except psutil.Error:
            continue  # it ended by itself
    process.kill()


def must(folder: Path, result: subprocess.CompletedProcess[bytes]) -> bytes:
    """The output of a command that has to succeed."""
    if result.returncode:
        verb = result.args[5]
        raise Unavailable(f"git {verb} failed in {folder}: {reason(result.stderr)}. If the clone is damaged, delete it: it is made again from the repository.")
    return result.stdout


def text(folder: Path, result: subprocess.CompletedProcess[bytes]) -> str:
    """The output of a command that has to succeed, as text."""
    return must(folder, result).decode("utf-8", "surrogateescape")


def reason(stderr: bytes) -> str:
    """Git's complaint in one line."""
    lines = [line.strip() for line in stderr.decode("utf-8", "replace").splitlines() if line.strip() and not line.startswith("hint:")]
    return "; ".join(lines[:3])[:300] or "no reason given"


def as_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Configuration for one command, without a file and without arguments that others can list."""
    found = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return found


def _file(path: Path, key: str, hint: str) -> str:
    name = os.path.abspath(Path(path).expanduser())  # noqa: PTH100 - resolve() would follow links that somebody chose to keep
    if _PATH.search(name):
        raise BadInput(f"{key}: {name!r} has a character that ssh reads as something else. Give it another name.")
    if not Path(name).is_file():
        raise Missing(f"{key}: {name} does not exist. {hint}")
    return name
