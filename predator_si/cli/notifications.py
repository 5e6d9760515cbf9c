"""`notify test`, `notify list`: whether the contour's channels take a message, and what people were told."""

from __future__ import annotations

from typing import Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import say, show_json, show_table
from predator_si.errors import PredatorError

app = typer.Typer(help="Messages to people: channels and what they took.", no_args_is_help=True)


@app.command()
def test(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Send one message to each channel of the contour now; exit code 1 when one does not take it, or cannot be used.

    Example: `predator-si notify test`
    """
    from predator_si.notify import Event, Secrets, channels_of
    from predator_si.records import utc_now

    settings = settings_of(context)
    channels, problems = channels_of(settings.values.notify, settings.values.monitoring, Secrets())
    event = Event(
        kind="report",
        severity="info",
        title=f"[{settings.contour}] predator-si can reach you",
        text="This message was asked for by `predator-si notify test`.",
        next_step="Nothing to do.",
        key=f"test:{utc_now().isoformat()}",
    )
    told: dict[str, str | None] = {}
    for channel in channels:
        try:
            channel.send(event)
            told[channel.name] = None
        except PredatorError as error:
            told[channel.name] = str(error)
    good = not problems and bool(told) and not any(told.values())
    if as_json:
        show_json({"ok": good, "channels": [{"name": name, "error": error} for name, error in told.items()], "problems": problems})
    else:
        for name, why in told.items():
            say(f"{name}: {'took it' if why is None else why}")
        for problem in problems:
            say(problem)
        if not told and not problems:
            say("this contour has no channel: name one in notify.channels (docs/alerts.md)")
    raise typer.Exit(0 if good else 1)


@app.command("list")
def told(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 20,
    as_json: JsonFlag = False,
) -> None:
    """What people were told, newest first, and by channel whether it arrived.

    Example: `predator-si notify list --limit 5`
    """
    from predator_si.notify import Outbox

    path = settings_of(context).folders.outbox
    found = Outbox(path).history(limit) if path.exists() else []
    if as_json:
        show_json(found)
        return
    rows = []
    for one in found:
        ways = ", ".join(f"{name} {way['state']}" for name, way in one["channels"].items()) or "the log alone"
        rows.append((one["at"][:19], one["event"]["kind"], one["event"]["severity"], one["event"]["title"], one["again"], ways))
    show_table("", ("time (UTC)", "kind", "severity", "what", "noticed again", "channels"), rows, "nobody was told anything yet")
