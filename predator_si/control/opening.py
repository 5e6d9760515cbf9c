"""Where a home's control database is: a file in it, or the PostgreSQL database that ``PREDATOR_SI_CONTROL`` names.

The address holds a password, so it stands in the environment (or in the file that ``PREDATOR_SI_CONTROL_FILE`` names), never in values, arguments or logs, and
processes inherit it. A database belongs to one home: a drill's or a bench's own home never writes into the one of a running loop.

What belongs here: finding and opening it. What must not: what is in it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from predator_si.control.database import Control
from predator_si.control.schema import BUSY_SECONDS
from predator_si.control.stop_flag import StopFlags
from predator_si.errors import BadInput, Missing, Refused
from predator_si.home import Home

VARIABLE = "PREDATOR_SI_CONTROL"
_NOTE = "home"


def address(env: Mapping[str, str] = os.environ) -> str | None:
    """The database's address; null: a file in the home folder.

    Raises
    ------
    Missing
        The file that should hold it cannot be read.
    BadInput
        It is no PostgreSQL address; it is not repeated.
    """
    text, named = env.get(VARIABLE, "").strip(), env.get(f"{VARIABLE}_FILE", "").strip()
    if not text and named:
        try:
            text = Path(named).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise Missing(f"{VARIABLE}_FILE: {named} cannot be read ({error.strerror}). Put the database's address into it.") from error
    if text and text.partition("://")[0].partition("+")[0] not in ("postgresql", "postgres"):
        raise BadInput(f"{VARIABLE} holds no address of a PostgreSQL database. Give postgresql://user:password@host/database, or leave it empty.")
    return text or None


def is_there(home: Home, env: Mapping[str, str] = os.environ) -> bool:
    """Whether there is a control database to look into: looking must not make one."""
    return address(env) is not None or home.control_db.exists()


def open_control(home: Home, *, busy_seconds: float = BUSY_SECONDS, env: Mapping[str, str] = os.environ) -> Control:
    """The control database of a home, made where it is missing.

    Raises
    ------
    Refused
        The PostgreSQL database belongs to another home.
    BadInput, Unavailable
        As ``Control`` raises them.
    """
    url = address(env)
    if url is None:
        return Control(home.control_db, busy_seconds=busy_seconds)
    control = Control(url, busy_seconds=busy_seconds, flags=StopFlags(home.path))
    mine, known = _identity(home), control.get_note(_NOTE)
    if known is None:
        control.set_note(_NOTE, mine)
    elif known != mine:
        raise Refused(
            f"{control.name} is the control database of another home than {home.path}. Unset {VARIABLE} for this one, or give it a database of its own."
        )
    return control


def _identity(home: Home) -> str:
    """What names a home wherever it lies: made once, copied with it by a backup."""
    path = home.path / "home.id"
    for _ in range(2):
        try:
            return path.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            home.path.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".home.id.{secrets.token_hex(4)}.partial")
            partial.write_text(secrets.token_hex(16), encoding="ascii")
            try:
                path.hardlink_to(partial)  # the first one stays
            except FileExistsError:
                pass
            finally:
                partial.unlink()
    return path.read_text(encoding="ascii").strip()
