"""``dataset_manifest.yaml`` (CONTRACT.md section 4) and the files of a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from predator_si.errors import BadInput
from predator_si.privacy import TOKEN, Vault
from predator_si.records import CYCLE_ID, DiagnosticReport, utc_now

if TYPE_CHECKING:
    from predator_si.augment.dataset import Dataset

PARQUET, CSV, MANIFEST = "augmented_dataset.parquet", "augmented_dataset.csv", "dataset_manifest.yaml"
DATASET_ID = re.compile(r"^aug_\d{4}_\d{2}_\d{2}_\d{3}$")


def dataset_id_of(cycle_id: str) -> str:
    """``aug_YYYY_MM_DD_NNN`` of the cycle ``si_YYYY_MM_DD_NNN``.

    Raises
    ------
    BadInput
        Not a cycle id.
    """
    if not CYCLE_ID.match(cycle_id):
        raise BadInput(f"{cycle_id!r} is no cycle id; it looks like si_2026_11_22_001. Take it from the cycle's record.")
    return "aug" + cycle_id.removeprefix("si")


def dataset_manifest(
    cycle_id: str, report: DiagnosticReport, statistics: Mapping[str, Any], target_tokens: Sequence[str], *, base_documents: int
) -> dict[str, Any]:
    """All keys of the contract; ``dvc`` and ``mlflow`` stay null until the data set is versioned and logged (see :func:`update_manifest`)."""
    return {
        "dataset_id": dataset_id_of(cycle_id),
        "cycle_id": cycle_id,
        "created_at": utc_now().isoformat(timespec="seconds"),
        "source": {"type": "+".join(statistics["groups_by_source"]), "trigger": report.trigger, "base_documents": base_documents},
        "method": "clicks corrected for position; titles, headings and salient phrases; negatives sampled from the live candidates; no language model",
        "target_tokens": list(target_tokens),
        "statistics": dict(statistics),
        "dvc": {"path": None, "hash": None},
        "mlflow": {"run_id": None, "artifact_uri": None},
    }


def write_dataset(folder: Path, dataset: Dataset) -> dict[str, Path]:
    """Write the Parquet file, its CSV export and the manifest into ``folder``; each appears whole or not at all.

    A client's query is written as its sealed token (``Dataset.tokens``) in both files: they are versioned and copied, and erasing must reach all of them.

    Returns
    -------
    dict[str, Path]
        ``parquet``, ``csv``, ``manifest``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"parquet": folder / PARQUET, "csv": folder / CSV, "manifest": folder / MANIFEST}
    of_clients = pl.col("query").replace(list(dataset.tokens), list(dataset.tokens.values()))
    stored = dataset.examples.with_columns(pl.when(pl.col("source") == "clicks").then(of_clients).otherwise("query").alias("query"))
    for name, write in (("parquet", stored.write_parquet), ("csv", stored.write_csv)):
        partial = paths[name].with_suffix(".partial")
        write(partial)
        partial.replace(paths[name])
    _write_yaml(paths["manifest"], dataset.manifest)
    return paths


def read_examples(path: Path, vault: Vault | None) -> tuple[pl.DataFrame, int]:
    """The rows of a stored data set with readable queries, and how many rows are left out because their client was erased or their key has expired.

    All rows of a group share its query, so a group is there as a whole or not at all.

    Raises
    ------
    BadInput
        The file cannot be read.
    """
    try:
        stored = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadInput(f"{path}: the training data cannot be read ({str(error).splitlines()[0]}). Run the synthetic_dataset asset again.") from error
    tokens = stored.filter(pl.col("query").str.contains(TOKEN))["query"].unique().to_list()
    texts = vault.open(tokens) if vault is not None else [None] * len(tokens)
    examples = stored.with_columns(pl.col("query").replace(tokens, pl.Series(texts, dtype=pl.String))).drop_nulls("query")
    return examples, stored.height - examples.height


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in ``path``.

    Raises
    ------
    BadInput
        No such file, no YAML, or not a manifest.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BadInput(f"{path}: no such file; a data set's manifest was expected here. Run the stage that writes it first.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not YAML: {error}. Restore the file or build the data set again.") from error
    if not isinstance(content, dict) or "dataset_id" not in content:
        raise BadInput(f"{path}: no dataset_id in it; this is no data set's manifest. Restore the file or build the data set again.")
    return content


def update_manifest(path: Path, *, dvc: Mapping[str, Any] | None = None, mlflow: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Fill in where the data set is kept and which run logged it; other keys stay."""
    content = read_manifest(path)
    for key, values in (("dvc", dvc), ("mlflow", mlflow)):
        if values is not None:
            content[key] = {**(content.get(key) or {}), **values}
    _write_yaml(Path(path), content)
    return content


def _write_yaml(path: Path, content: Mapping[str, Any]) -> None:
    import yaml

    partial = path.with_suffix(".partial")
    partial.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=160), encoding="utf-8")
    partial.replace(path)
