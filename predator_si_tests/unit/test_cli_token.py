"""`predator-si token`: shown once, listed without its secret, worthless after revoke."""

from __future__ import annotations

import pytest

from predator_si.api.tokens import PATTERN, Role, TokenFile
from predator_si.home import Home
from predator_si_tests.support.command_line import CommandLine


def test_a_token_from_its_making_to_its_end(home: Home, capsys: pytest.CaptureFixture[str]):
    run = CommandLine(home.path, capsys)
    assert run("token", "list").out.strip() == "no token was made yet"
    made = run("token", "create", "anna", "--role", "approver", "--days", "3")
    text = made.out.strip()
    assert made.code == 0 and PATTERN.fullmatch(text)
    known = TokenFile(home.path / "api" / "tokens.json").verify(text)
    assert known is not None and known.role is Role.APPROVER and known.expires_at is not None and round((known.expires_at - known.created_at).days) == 3
    [row] = run("token", "list", "--json").json
    assert row["name"] == "anna" and row["standing"] == "valid" and "hash" not in row and text.rpartition("_")[2] not in str(row)
    assert run("token", "create", "anna").code == 2 and run("token", "create", "petro", "--role", "king").code == 2
    assert run("token", "revoke", "anna").code == 0 and run("token", "revoke", "anna").code == 2
    assert TokenFile(home.path / "api" / "tokens.json").verify(text) is None
    assert run("token", "create", "anna", "--days", "0", "--json").json["expires_at"] is None, "the name is free again"
