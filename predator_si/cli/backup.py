"""`backup create`, `backup restore`: a copy of the home elsewhere, and a home made from one."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import progress, say, show_json
from predator_si.errors import BadInput, PredatorError
from predator_si.settings import Settings

app = typer.Typer(help="Copies of the home: databases, artifacts, registry, Git.", no_args_is_help=True)


@app.command()
def create(
    context: typer.Context,
    destination: Annotated[str | None, typer.Argument(help="A folder or any fsspec URL [default: backup.destination of the contour].")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Copy the home while everything runs; the keys of people's queries (privacy/) are never in it.

    Example: `predator-si backup create /mnt/backups`
    """
    from predator_si.orchestration.loop import Loop
    from predator_si.orchestration.steps.keep_copy import back_up

    settings = settings_of(context)
    where = destination or settings.values.backup.destination
    if where is None:
        raise BadInput("no destination: give one, or set selfImprovement.backup.destination.")
    with progress("copying") as report:
        url, manifest = back_up(Loop(settings), where, f"cli:{getpass.getuser()}", report)
    size = sum(part.bytes for part in manifest.parts)
    if as_json:
        show_json({"backup": url, "bytes": size, **manifest.model_dump()})
    else:
        say(f"{url}: {size / 1e6:.1f} MB, {len(manifest.databases)} databases, ledger up to record {manifest.ledger_seq}")
        say("privacy/ (keys of people's queries) is not in it; copy it to a place of its own")


@app.command()
def restore(
    context: typer.Context,
    source: Annotated[str, typer.Argument(help="Folder or fsspec URL of one backup, as `backup create` printed it.")],
    as_json: JsonFlag = False,
) -> None:
    """Make the home from a backup; the folder must be new or empty. Every part's hash and the ledger are checked first.

    Example: `predator-si backup restore /mnt/backups/local-20261123T020000Z --home ./restored`
    """
    from predator_si.backup import restore_backup

    settings = settings_of(context, log=False)  # a line of the log would make the folder that must be new
    with progress("restoring") as report:
        found = restore_backup(source, settings.folders, actor=f"cli:{getpass.getuser()}", on_progress=report)
    lost, why = _accepted(settings, f"restored from the backup of {found.manifest.created_at:%Y-%m-%d %H:%M} UTC", found.manifest.ledger_seq)
    if as_json:
        said = {"lost": lost, "lost_reason": why}
        show_json({"home": str(settings.home), "entries": found.entries, "missing": found.missing, **said, **found.manifest.model_dump()})
        return
    say(f"{settings.home}: restored as of {found.manifest.created_at:%Y-%m-%d %H:%M} UTC, ledger up to record {found.manifest.ledger_seq}")
    for path in found.missing:
        say(f"not on this machine, and needed: {path}")
    if lost is not None:
        say(f"ledger records {lost[0]} to {lost[1]} as they were anchored in Git are not in this backup; that is recorded, and anchored")
    if why is not None:
        say(f"whether the anchors in Git know later records is unknown ({why}). Once they answer: `predator-si audit accept`")
    say("next: `predator-si audit verify`, then `predator-si up`")


def _accepted(settings: Settings, reason: str, newest: int) -> tuple[tuple[int, int] | None, str | None]:
    """What the anchors know and the backup does not, accepted: first and last record, or null; and why nobody knows."""
    from predator_si.orchestration.loop import Loop
    from predator_si.orchestration.steps.anchor import accept_ledger, has_repository

    loop = Loop(settings)
    if not has_repository(loop):
        return None, None
    try:
        if accept_ledger(loop, f"cli:{getpass.getuser()}", reason, newest=newest) is None:
            return None, None
    except PredatorError as error:
        return None, str(error)
    (record,) = loop.control.records_of("ledger_accepted", 1)
    return (int(record.payload["lost_from"]), int(record.payload["lost_to"])), None
