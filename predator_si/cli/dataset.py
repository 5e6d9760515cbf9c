"""`dataset list`, `dataset tag`, `dataset restore`: versions of the training data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from predator_si.cli.choices import JsonFlag, settings_of
from predator_si.cli.screen import progress, say, show_json, show_table

app = typer.Typer(help="Versions of the training data, kept with DVC and tagged as GTO tags.", no_args_is_help=True)

_Id = Annotated[str, typer.Argument(help="A cycle (si_2026_11_22_001) or its data set (aug_2026_11_22_001).")]


@app.command("list")
def list_datasets(context: typer.Context, as_json: JsonFlag = False) -> None:
    """List the versions of this home, oldest first.

    Example: `predator-si dataset list --json`
    """
    from predator_si.augment import DatasetRepo

    repo = DatasetRepo.of(settings_of(context).folders.path)
    found = repo.listing()
    if as_json:
        show_json(found)
        return
    rows = [(one["tag"], one["dataset_id"], one["hash"], ", ".join(one["stages"])) for one in found]
    show_table("", ("version", "data set", "hash", "stages"), rows, "none yet; the synthetic_dataset asset of a cycle stores one")


@app.command("tag")
def tag_dataset(
    context: typer.Context,
    dataset: _Id,
    stage: Annotated[str, typer.Argument(help="Small letters, digits and dashes, as in gold.")],
    as_json: JsonFlag = False,
) -> None:
    """Assign the newest version of a data set to a stage, by GTO's tag.

    Example: `predator-si dataset tag si_2026_11_22_001 gold`
    """
    from predator_si.augment import DatasetRepo, dataset_id_for

    repo = DatasetRepo.of(settings_of(context).folders.path)
    chosen = dataset_id_for(dataset)
    made = repo.tag(chosen, stage)
    if as_json:
        show_json({"dataset_id": chosen, "stage": stage, "tag": made})
    else:
        say(made)


@app.command("restore")
def restore_dataset(
    context: typer.Context,
    dataset: _Id,
    to: Annotated[Path | None, typer.Option(help="Folder to put the files into [default: the cycle's artifacts].")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Bring a data set back as it was stored, and prove it by its hash. Queries of erased clients stay unreadable.

    Example: `predator-si dataset restore si_2026_11_22_001 --to restored`
    """
    from predator_si.augment import DatasetRepo, dataset_id_for, read_manifest, update_manifest
    from predator_si.augment.manifest import MANIFEST

    folders = settings_of(context).folders
    chosen = dataset_id_for(dataset)
    target = to if to is not None else folders.artifacts / ("si" + chosen.removeprefix("aug"))
    logged = read_manifest(target / MANIFEST).get("mlflow") if (target / MANIFEST).is_file() else None
    repo = DatasetRepo.of(folders.path)
    with progress("restoring") as report:
        report(0, 1)
        found = repo.restore(chosen, target)
        report(1, 1)
    if MANIFEST in found.files:  # it was stored before it could say where it is kept
        update_manifest(target / MANIFEST, dvc={"path": f"{chosen}.dvc", "hash": found.hash}, mlflow=logged)
    if as_json:
        show_json({"dataset_id": chosen, "folder": str(found.folder), "hash": found.hash, "files": found.files})
    else:
        say(f"{found.folder}: {', '.join(found.files)}; hash {found.hash}, as stored")
