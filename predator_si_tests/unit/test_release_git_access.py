"""Remote repositories: a real Git server over HTTP that wants a token, an ssh that is checked word by word, commits with a signature."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Missing, PredatorError, Unavailable
from predator_si.release.git import AUTHOR, GitAccess, clean_environment
from predator_si.release.gitops import GitOpsRepo
from predator_si_tests.support.git_http import GitServer, watched_command_lines

NAME, CYCLE, TOKEN_ENV = "release-local.yaml", "si_2026_11_23_001", "PREDATOR_SI_TEST_GIT_TOKEN"
TOKEN = "ghx_0123456789abcdefSECRET"


def git(folder: Path, *arguments: str, **more: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True, env={**clean_environment(), **more}).stdout.strip()


def one_more(files: Any) -> dict[str, str]:
    return {NAME: f"n: {int(files[NAME].split()[1]) + 1}\n"}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    GitOpsRepo.init_bare(tmp_path / "served" / "gitops.git", {NAME: "n: 0\n", "deny.yaml": "denied: []\n"})
    git(tmp_path / "served" / "gitops.git", "config", "http.receivepack", "true")
    return tmp_path / "served" / "gitops.git"


@pytest.fixture
def server(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[GitServer]:
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    with GitServer(bare.parent, TOKEN) as found:
        yield found


def remote(server: GitServer, tmp_path: Path, seconds: float = 60.0, **access: Any) -> GitOpsRepo:
    return GitOpsRepo(f"{server.address}/gitops.git", tmp_path / "work", "main", GitAccess(**{"token_env": TOKEN_ENV} | access), seconds)


# --------------------------------------------------------------------------- by token


def test_a_change_goes_over_http_with_the_token(server: GitServer, bare: Path, tmp_path: Path) -> None:
    repo = remote(server, tmp_path)
    commit = repo.change(one_more, "one more", cycle_id=CYCLE, stage="trial")
    assert commit == git(bare, "rev-parse", "main") == repo.sync()
    assert set(server.authorised) == {"x-access-token"}
    assert repo.find_commit(CYCLE, "trial") == commit


def test_the_token_stands_nowhere_that_others_read(server: GitServer, bare: Path, tmp_path: Path) -> None:
    stop, seen = threading.Event(), []
    watcher = threading.Thread(target=lambda: seen.extend(watched_command_lines(stop, TOKEN)))
    watcher.start()
    try:
        remote(server, tmp_path).change(one_more, "one more")
    finally:
        stop.set()
        watcher.join()
    assert seen == [], "no process showed it in its command line"
    held = [path for folder in (tmp_path / "work", bare) for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert held == [], "and no file keeps it"


def test_a_server_that_repeats_the_token_does_not_get_it_into_our_messages(server: GitServer, tmp_path: Path) -> None:
    server.mood.repeats_credentials = True
    with pytest.raises(Unavailable) as raised:
        remote(server, tmp_path).sync()
    told = str(raised.value)
    assert "403" in told or "[token]" in told
    assert TOKEN not in told and "eC1hY2Nlc3MtdG9rZW4" not in told


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ("wrong", Unavailable, "cannot be read"),
        ("", Missing, f"{TOKEN_ENV} .* is empty"),
        ("two words", BadInput, "holds no token"),
        ("a\nb", BadInput, "no token"),
    ],
)
def test_a_token_that_is_wrong_or_missing_is_told_without_it(
    server: GitServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, error: type[PredatorError], said: str
) -> None:
    monkeypatch.setenv(TOKEN_ENV, value)
    with pytest.raises(error, match=said) as raised:
        remote(server, tmp_path).sync()
    assert not value or value not in str(raised.value)


def test_a_redirect_does_not_get_the_token(server: GitServer, tmp_path: Path) -> None:
    with GitServer(server.root, TOKEN) as elsewhere:
        server.mood.redirects_to = elsewhere.address.replace("127.0.0.1", "localhost")
        with pytest.raises(Unavailable):
            remote(server, tmp_path).sync()
        assert elsewhere.asked == []


@pytest.mark.parametrize(
    "url", ["https://bot:hunter2@git.example.org/x", "https://hunter2@git.example.org/x", "ext::sh -c hunter2", "--upload-pack=hunter2", "fd::17,hunter2"]
)  # fmt: skip
def test_an_address_with_a_secret_or_a_program_in_it_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(BadInput) as raised:
        GitOpsRepo(url, tmp_path / "work")
    assert "://" not in url or "hunter2" not in str(raised.value)


def test_a_token_is_not_sent_where_others_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_ENV, TOKEN)
    for url in ("http://git.example.org/x.git", "git://git.example.org/x.git", "git@git.example.org:x.git"):
        with pytest.raises(BadInput, match="over https only"):
            GitOpsRepo(url, tmp_path / "work", access=GitAccess(token_env=TOKEN_ENV)).sync()


# --------------------------------------------------------------------------- away, slow, refusing


def test_a_server_that_is_away_leaves_nothing_half_done(server: GitServer, bare: Path, tmp_path: Path) -> None:
    repo, before = remote(server, tmp_path), git(bare, "rev-parse", "main")
    repo.sync()
    server.mood.away = True
    with pytest.raises(Unavailable, match="cannot be read"):
        repo.change(one_more, "one more", cycle_id=CYCLE, stage="trial")
    assert git(bare, "rev-parse", "main") == before == repo.head()
    server.mood.away = False
    assert repo.change(one_more, "one more", cycle_id=CYCLE, stage="trial") == git(bare, "rev-parse", "main")
    assert git(bare, "show", f"main:{NAME}") == "n: 1"


def test_a_server_that_hangs_is_not_waited_for_and_keeps_no_lock(server: GitServer, tmp_path: Path) -> None:
    repo = remote(server, tmp_path, seconds=1.0)
    server.mood.hangs = threading.Event()
    with pytest.raises(Unavailable, match=r"did not end within 1 s"):
        repo.sync()
    server.mood.hangs.set()
    server.mood.hangs = None
    # whoever hung was ended with all its children: nobody holds the clone any more
    assert remote(server, tmp_path).change(one_more, "one more")


def test_a_push_whose_answer_is_lost_is_not_made_twice(server: GitServer, bare: Path, tmp_path: Path) -> None:
    repo = remote(server, tmp_path)
    server.mood.deaf_after_push = True
    commit = repo.change(one_more, "one more")
    assert commit == git(bare, "rev-parse", "main")
    assert (git(bare, "show", f"main:{NAME}"), git(bare, "rev-list", "--count", "main")) == ("n: 1", "2")


def test_a_rule_of_the_server_is_told_in_its_words(server: GitServer, bare: Path, tmp_path: Path) -> None:
    hook = bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho 'main is protected: open a merge request' >&2\nexit 1\n")
    hook.chmod(0o755)
    repo, before = remote(server, tmp_path), git(bare, "rev-parse", "main")
    with pytest.raises(Unavailable, match=r"refuses the push.*main is protected.*nothing was changed"):
        repo.change(one_more, "one more")
    assert git(bare, "rev-parse", "main") == before == repo.sync()
    hook.unlink()
    assert repo.change(one_more, "one more")


# --------------------------------------------------------------------------- by SSH key

_SSH = """#!/bin/sh
# Stands for OpenSSH's client: writes down how it was called, then runs what the server would have run.
printf '%s\\n' "$@" >> "$SSH_SAID"
for last; do :; done
exec sh -c "$last"
"""


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(_SSH)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SSH_SAID", str(tmp_path / "said"))
    for name in ("deploy key", "known hosts"):  # a path may hold a space
        (tmp_path / name).write_text("x")
    return tmp_path / "said"


def test_ssh_offers_one_key_and_talks_to_known_servers_only(bare: Path, tmp_path: Path, ssh: Path) -> None:
    access = GitAccess(ssh_key=tmp_path / "deploy key", known_hosts=tmp_path / "known hosts")
    repo = GitOpsRepo(f"ssh://git@git.example.org{bare}", tmp_path / "work", access=access)
    commit = repo.change(one_more, "one more")
    assert commit == git(bare, "rev-parse", "main")
    words = ssh.read_text().splitlines()
    calls = [dict(enumerate(call.splitlines())) for call in ssh.read_text().split("-F\n")[1:]]
    assert len(calls) >= 3, "ls-remote, fetch, push"
    assert words.count(str(tmp_path / "deploy key")) == len(calls)
    for option in ("BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=yes", "GlobalKnownHostsFile=/dev/null",
                   f'UserKnownHostsFile="{tmp_path / "known hosts"}"', "PasswordAuthentication=no", "ForwardAgent=no", "ConnectTimeout=15"):  # fmt: skip
        assert words.count(option) == len(calls), option
    assert words.count("git@git.example.org") == len(calls)


def test_real_ssh_understands_these_options(tmp_path: Path) -> None:
    """OpenSSH itself prints the configuration that the words amount to, without connecting."""
    if shutil.which("ssh") is None:
        pytest.skip("the program ssh is not on PATH")
    for name in ("deploy key", "known hosts"):
        (tmp_path / name).write_text("x")
    command = GitAccess(ssh_key=tmp_path / "deploy key", known_hosts=tmp_path / "known hosts").environment("ssh://git@host/x")["GIT_SSH_COMMAND"]
    said = subprocess.run(["sh", "-c", f"{command} -G git@git.example.org"], capture_output=True, text=True, check=True).stdout.splitlines()
    told = dict(line.split(" ", 1) for line in said if " " in line)
    assert told["stricthostkeychecking"] in ("true", "yes") and told["batchmode"] == "yes" and told["identitiesonly"] == "yes"
    assert told["userknownhostsfile"].strip('"') == str(tmp_path / "known hosts") and told["globalknownhostsfile"] == "/dev/null"
    assert told["identityfile"] == str(tmp_path / "deploy key") and told["identityagent"] == "none" and told["passwordauthentication"] == "no"


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("x")
    with pytest.raises(Missing, match=r"gitops\.sshKey.*ssh-keygen"):
        GitOpsRepo("git@host:x.git", tmp_path / "w", access=GitAccess(ssh_key=tmp_path / "none", known_hosts=tmp_path / "key")).sync()
    with pytest.raises(Missing, match=r"gitops\.knownHosts.*ssh-keyscan"):
        GitOpsRepo("git@host:x.git", tmp_path / "w", access=GitAccess(ssh_key=tmp_path / "key", known_hosts=tmp_path / "none")).sync()
    with pytest.raises(BadInput, match=r"needs gitops\.knownHosts"):
        GitOpsRepo("git@host:x.git", tmp_path / "w", access=GitAccess(ssh_key=tmp_path / "key")).sync()


# --------------------------------------------------------------------------- signed


@pytest.fixture
def key(tmp_path: Path) -> Path:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("the program ssh-keygen is not on PATH")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "bot", "-f", str(tmp_path / "signing")], check=True)
    return tmp_path / "signing"


def test_commits_are_signed_where_a_key_is_configured(bare: Path, tmp_path: Path, key: Path) -> None:
    repo = GitOpsRepo(bare, tmp_path / "work", access=GitAccess(signing_key=key))
    commit = repo.change(one_more, "signed", cycle_id=CYCLE, stage="trial")
    allowed = tmp_path / "allowed"
    allowed.write_text(f"{AUTHOR[1]} {key.with_suffix('.pub').read_text()}")
    told = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "gpg.ssh.allowedSignersFile", "GIT_CONFIG_VALUE_0": str(allowed)}
    assert git(bare, "log", "-1", "--format=%G? %GS", commit or "", **told) == f"G {AUTHOR[1]}"
    shown = subprocess.run(["git", "log", "-1", "--show-signature", "main"], cwd=bare, capture_output=True, text=True, env=clean_environment() | told)
    assert f'Good "git" signature for {AUTHOR[1]}' in shown.stdout + shown.stderr
    stranger = tmp_path / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    allowed.write_text(f"{AUTHOR[1]} {stranger.with_suffix('.pub').read_text()}")
    assert git(bare, "log", "-1", "--format=%G?", "main", **told) != "G"
    assert GitOpsRepo(bare, tmp_path / "plain").change(one_more, "not signed")
    assert git(bare, "log", "-1", "--format=%G?", "main", **told) == "N"


def test_a_key_that_cannot_sign_commits_nothing(bare: Path, tmp_path: Path, key: Path) -> None:
    locked = tmp_path / "locked"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "a passphrase", "-f", str(locked)], check=True)
    before = git(bare, "rev-parse", "main")
    for signing, error, said in ((locked, Unavailable, "cannot be signed"), (tmp_path / "none", Missing, "gitops.signingKey")):
        with pytest.raises(error, match=said):
            GitOpsRepo(bare, tmp_path / "work", access=GitAccess(signing_key=signing)).change(one_more, "x")
    assert git(bare, "rev-parse", "main") == before


# --------------------------------------------------------------------------- what a commit says


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.sampled_from(["Verdict", "Evidence", "From", "To", "Approved-By", "Policy"]), st.text(max_size=60), max_size=6))
def test_a_trailer_is_one_line_whatever_it_is_made_of(bare: Path, tmp_path: Path, values: dict[str, str]) -> None:
    """Nothing that a person or a model wrote can add a trailer of its own."""
    repo = GitOpsRepo(bare, tmp_path / "work")
    commit = repo.change(one_more, "x\n\nPredator-Verdict: promote", trailers=values)
    told = git(bare, "log", "-1", "--format=%(trailers:only,unfold)", commit or "").splitlines()
    assert [line.partition(": ")[0] for line in told] == [*(f"Predator-{name}" for name in values), "Predator-Change"]
    for name, line in zip(values, told, strict=False):
        kept = "".join(letter for letter in " ".join(values[name].split()) if letter.isprintable())[:300] or "-"
        assert line.partition(": ")[2].split() == kept.split()


@pytest.mark.parametrize("name", ["Cycle", "Stage", "Change", "two words", "x", "A:B", "A\nB", ""])
def test_a_trailer_of_another_name_is_refused(bare: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInput, match="cannot be a trailer"):
        GitOpsRepo(bare, tmp_path / "work").change(one_more, "x", trailers={name: "y"})
