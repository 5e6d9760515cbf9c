"""`erase`: what is known of a client is made unreadable everywhere, or what is old is let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.cli.switch import actor
from predator_si.errors import BadInput, Missing

if TYPE_CHECKING:
    from predator_si.search.erasure import Holding
    from predator_si.settings import Settings


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command()(erase)


def erase(
    context: typer.Context,
    client: Annotated[str | None, typer.Option(help="The id that the client sent to the search service.")] = None,
    older_than: Annotated[int | None, typer.Option(help="Instead: delete events older than so many days, and destroy the keys of their text.", min=1)] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this, only say what would be destroyed.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Destroy the keys of a client's queries: events, data sets, their versions and backups become unreadable. Ids and numbers stay, as evidence.

    Exit code 1: this client is unknown here, or something of it can still be read.

    Example: `predator-si erase --client 4f2a-web --yes`
    """
    settings = settings_of(context)
    if (client is None) == (older_than is None):
        raise BadInput("erase wants --client ID, or --older-than DAYS: one of them.")
    if not settings.home.is_dir():
        raise Missing(f"{settings.home}: there is no such home. Name it with --home.")
    ok = _erase_client(settings, client, yes, as_json) if client is not None else _expire(settings, older_than or 1, yes, as_json)
    raise typer.Exit(0 if ok else 1)


def _erase_client(settings: Settings, client: str, yes: bool, as_json: bool) -> bool:
    from predator_si.search.erasure import erase_client, find_client

    found = find_client(settings.home, client)
    answer: dict[str, Any] = {
        "client": found.client or None,
        "known": found.known,
        "keys": found.keys,
        "texts": sum(found.texts.values()),
        "files": found.texts,
        "events": found.events,
        "erased_before": found.erased,
        "done": False,
        "still_readable": None,
    }
    if found.known and yes:
        done = erase_client(settings.home, client, actor())
        answer |= {"done": True, "keys": done.keys, "texts": done.texts, "still_readable": done.still_readable}
    if as_json:
        show_json(answer)
    elif not found.known:
        say("this client is unknown here: no key, no event, no data set bears its id.")
    elif not yes:
        _show(found)
    else:
        say(f"{answer['keys']} keys destroyed; {answer['texts']} stored queries cannot be read any more, {answer['still_readable']} still can.")
    return found.known and not answer["still_readable"]


def _show(found: Holding) -> None:
    say(f"client {found.client}: {found.keys} keys, {found.events} events" + (", erased before" if found.erased else ""))
    show_table("", ("file", "queries that become unreadable"), sorted(found.texts.items()), "no stored query of it can be read")
    if found.plain:
        say(f"in plain text, from an older version: {', '.join(found.plain)}. Start the search service once, it seals them within a minute.")
    say("nothing was changed; add --yes to destroy the keys. There is no way back.")


def _expire(settings: Settings, days: int, yes: bool, as_json: bool) -> bool:
    from datetime import timedelta

    from predator_si.records import utc_now
    from predator_si.search.erasure import expire

    now = utc_now()
    if not yes:
        before = (now - timedelta(days=days)).date().isoformat()
        if as_json:
            show_json({"before": before, "files": None, "keys": None, "done": False})
        else:
            say(f"events from before {before} would be deleted and the keys of their text destroyed; add --yes to do it.")
        return True
    done = expire(settings.home, now, days, actor())
    if as_json:
        show_json({"before": done.before.isoformat(), "files": done.files, "keys": done.keys, "done": True})
    else:
        say(f"{done.files} files and {done.keys} keys from before {done.before} are gone.")
    return True
