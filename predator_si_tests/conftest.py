"""What every test runs under: no network beyond loopback, no telemetry, no settings of the person who runs it, a home of its own."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from predator_si.quiet import quiet_environment

# Before any library is imported: most read their switches at import.
os.environ.update(quiet_environment(offline=True))

from predator_si.home import Home
from predator_si.settings import Settings, load_settings

_FOREIGN: list[str] = []
_NAMES = {"localhost", "localhost.localdomain", "ip6-localhost", socket.gethostname().lower()}


class NetworkRefused(ConnectionError):
    """A test tried to leave this machine."""


def _is_here(host: object) -> bool:
    if host in (None, "", b""):
        return True
    name = host.decode("ascii", "replace") if isinstance(host, bytes) else str(host)
    try:
        address = ipaddress.ip_address(name.split("%")[0])
    except ValueError:
        return name.lower() in _NAMES
    return address.is_loopback or address.is_unspecified


def _refuse(what: str) -> None:
    _FOREIGN.append(what)
    raise NetworkRefused(f"tests stay on this machine; refused: {what}")


def _guard_network() -> None:
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            _refuse(f"connect to {address}")
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_here(address[0]):
            _refuse(f"connect to {address}")
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_here(host):
            _refuse(f"look-up of {host!r}")
        return getaddrinfo(host, *args, **kwargs)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign, assignment]
    socket.socket.connect_ex = guarded_connect_ex  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = guarded_getaddrinfo


def pytest_configure(config: pytest.Config) -> None:
    """Guard the whole session, fixtures of any scope included."""
    _guard_network()


@pytest.fixture(autouse=True)
def refused_connections() -> Iterator[list[str]]:
    """Fail a test that tried to leave this machine, even where the library swallowed the refusal; a test that means to may clear the list."""
    _FOREIGN.clear()
    yield _FOREIGN
    if _FOREIGN:
        pytest.fail(f"the test reached out: {', '.join(_FOREIGN)}")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody's own settings reach a test; PREDATOR_SI_CACHE stays, since real models lie there."""
    for name in list(os.environ):
        if (name.startswith("PREDATOR_SI_") and name != "PREDATOR_SI_CACHE") or name == "DAGSTER_HOME":
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Any) -> Home:
    """A fresh home folder with its sub-folders made."""
    return Home(tmp_path / "home").ensure()


@pytest.fixture
def settings(home: Home) -> Settings:
    """Settings of contour ``local`` over a fresh home."""
    return load_settings(home=home.path)
