"""`token create`, `token list`, `token revoke`: who may use the REST API.

What belongs here: showing. What must not: hashing and keeping (``api.tokens``).
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import remark, say, show_json, show_table
from predator_si.errors import BadInput

if TYPE_CHECKING:
    from predator_si.api.tokens import Token, TokenFile

app = typer.Typer(help="Bearer tokens of the REST API.", no_args_is_help=True)
ROLES = ("viewer", "operator", "approver", "admin")


def _file(context: typer.Context) -> TokenFile:
    from predator_si.api.app import token_file

    return token_file(settings_of(context))


def _told(token: Token) -> dict[str, object]:
    from predator_si.records import utc_now

    shown = token.model_dump(mode="json", include={"id", "name", "role", "created_at", "expires_at", "revoked_at"})
    return {**shown, "standing": token.standing(utc_now())}


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose it is; the ledger calls its bearer api:NAME.")],
    role: Annotated[
        str, typer.Option(help="viewer (reads), operator (trigger, feedback), approver (approvals), admin (start, stop, rollback, gates).")
    ] = "viewer",
    days: Annotated[int, typer.Option(min=0, help="Days until it ends; 0: never.")] = 90,
    as_json: JsonFlag = False,
) -> None:
    """Make a token and show it once: only its hash is kept.

    Example: `predator-si token create anna --role approver --days 30`
    """
    from predator_si.api.tokens import Role

    if role not in ROLES:
        raise BadInput(f"--role {role!r}: there are {', '.join(ROLES)}.")
    file = _file(context)
    text, token = file.create(name, Role(role), timedelta(days=days) if days else None)
    if as_json:
        show_json({**_told(token), "token": text})
        return
    say(text)
    remark(f"{token.role.value} until {token.expires_at:%Y-%m-%d}" if token.expires_at else f"{token.role.value}, without an end")
    remark(f"it is shown once; {file.path} keeps its hash")


@app.command("list")
def list_tokens(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List tokens, never their secrets.

    Example: `predator-si token list`
    """
    rows = [_told(token) for token in _file(context).tokens()]
    if as_json:
        show_json(rows)
        return
    shown = [(row["id"], row["name"], row["role"], row["standing"], row["expires_at"]) for row in rows]
    show_table("", ("id", "name", "role", "standing", "ends"), shown, "no token was made yet")


@app.command()
def revoke(context: typer.Context, which: Annotated[str, typer.Argument(help="The id or the name of the token.")]) -> None:
    """Make a token worthless at once.

    Example: `predator-si token revoke anna`
    """
    gone = _file(context).revoke(which)
    say(f"{gone.name} ({gone.id}) may not come in any more")
