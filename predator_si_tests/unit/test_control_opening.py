"""Where a home's control database is: a file, or the database that the environment names, without its password in any message."""

from __future__ import annotations

from pathlib import Path

import pytest

from predator_si.control.opening import address, is_there, open_control
from predator_si.control.schema import Database
from predator_si.errors import BadInput, Missing
from predator_si.home import Home

URL = "postgresql://predator:quite-secret@127.0.0.1:1/predator"


def test_without_an_address_it_is_a_file(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert address({}) is None and not is_there(home, {})
    open_control(home, env={}).append("note", "test")
    assert is_there(home, {}) and home.control_db.is_file() and not (tmp_path / "home.id").exists()


def test_an_address_is_read_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "address").write_text(f"{URL}\n")
    assert address({"PREDATOR_SI_CONTROL": URL}) == address({"PREDATOR_SI_CONTROL_FILE": str(tmp_path / "address")}) == URL
    assert is_there(Home(tmp_path), {"PREDATOR_SI_CONTROL": URL})
    with pytest.raises(Missing, match="cannot be read"):
        address({"PREDATOR_SI_CONTROL_FILE": str(tmp_path / "none")})


@pytest.mark.parametrize("text", ["mysql://root:quite-secret@host/db", "/var/lib/control.db", "sqlite:///quite-secret.db"])
def test_another_kind_of_address_is_refused_and_not_repeated(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match="no address of a PostgreSQL") as refused:
        open_control(Home(tmp_path), env={"PREDATOR_SI_CONTROL": text})
    assert text not in str(refused.value)


def test_a_server_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"127\.0\.0\.1") as away:
        open_control(Home(tmp_path), env={"PREDATOR_SI_CONTROL": URL})
    assert "quite-secret" not in str(away.value)


def test_every_spelling_means_the_driver_that_is_installed() -> None:
    for scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        made = object.__new__(Database)
        with pytest.raises(Exception, match=r"127\.0\.0\.1"):
            made.__init__(URL.replace("postgresql", scheme))  # type: ignore[misc]
        assert made._url.drivername == "postgresql+psycopg"
