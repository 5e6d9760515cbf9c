"""``dataset_manifest.yaml`` (CONTRACT.md section 4) and the files of a data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from predator_si import __version__
from predator_si.augment.material import Generator
from predator_si.augment.recipe import ASKED, Filters, Sizes
from predator_si.errors import BadInput, Unavailable
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


def dataset_id_for(name: str) -> str:
    """The data set that a cycle's id or a data set's own id names.

    Raises
    ------
    BadInput
        Neither.
    """
    if DATASET_ID.match(name):
        return name
    if CYCLE_ID.match(name):
        return dataset_id_of(name)
    raise BadInput(f"{name!r} is neither a cycle (si_2026_11_22_001) nor a data set (aug_2026_11_22_001). `predator-si dataset list` shows them.")


def dataset_manifest(
    cycle_id: str,
    report: DiagnosticReport,
    statistics: Mapping[str, Any],
    target_tokens: Sequence[str],
    *,
    base_documents: int,
    generators: Sequence[Generator] = (),
    sizes: Sizes | None = None,
    filters: Filters | None = None,
) -> dict[str, Any]:
    """All keys of the contract, and how to make the same data set again; ``dvc`` and ``mlflow`` stay null until it is versioned and logged.

    ``generators`` are named with their version: their own ``version`` where they have one, else that of predator_si. Where one asked a language model, what it
    spent is beside it.
    """
    return {
        "dataset_id": dataset_id_of(cycle_id),
        "cycle_id": cycle_id,
        "created_at": utc_now().isoformat(timespec="seconds"),
        "source": {"type": "+".join(statistics["groups_by_source"]), "trigger": report.trigger, "base_documents": base_documents},
        "method": _method(statistics),
        "target_tokens": list(target_tokens),
        "statistics": _plain(statistics),
        "teacher": statistics.get("teacher"),
        "seed": statistics.get("seed"),
        "generators": [_described(generator) for generator in generators],
        "sizes": _plain(asdict(sizes or Sizes())),
        "filters": _plain(asdict(filters or Filters())),
        "dvc": {"path": None, "hash": None},
        "mlflow": {"run_id": None, "artifact_uri": None},
    }


_METHODS = {
    "clicks": "clicks corrected for position",
    "log": "queries of the log answered by the teacher",
    "title": "titles, headings and questions of documents",
    "template": "forms of log queries filled with a slice's phrases",
    "phrase": "salient phrases",
    "crop": "crops",
    "llm": "queries written by a language model and confirmed by another",
}


def _method(statistics: Mapping[str, Any]) -> str:
    """What was done, from what came out of it."""
    sources = [text for source, text in _METHODS.items() if source in statistics["groups_by_source"]]
    teacher = statistics.get("teacher")
    labels = "labels without a teacher" if teacher is None else f"soft labels by {teacher}"
    return f"{'; '.join(sources)}; negatives sampled from the live candidates of several retrievers; {labels}"


def _described(generator: Generator) -> dict[str, Any]:
    kind = type(getattr(generator, "inner", generator))
    spending = getattr(generator, "spending", None)
    told = {"source": generator.source, "name": f"{kind.__module__}.{kind.__qualname__}", "version": str(getattr(generator, "version", __version__))}
    return {**told, "spending": _plain(spending())} if callable(spending) else told


def _plain(value: Any) -> Any:
    """Only what YAML's safe writer knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(child) for child in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value


def write_dataset(folder: Path, dataset: Dataset) -> dict[str, Path]:
    """Write the Parquet file, its CSV export and the manifest into ``folder``: all three, or none.

    A client's query is written as its sealed token (``Dataset.tokens``) in both files: they are versioned and copied, and erasing must reach all of them.

    Returns
    -------
    dict[str, Path]
        ``parquet``, ``csv``, ``manifest``.

    Raises
    ------
    Unavailable
        The disk is full, or the folder cannot be written to: what was there before is untouched.
    """
    folder = Path(folder)
    paths = {"parquet": folder / PARQUET, "csv": folder / CSV, "manifest": folder / MANIFEST}
    of_clients = pl.col("query").replace(list(dataset.tokens), list(dataset.tokens.values()))
    stored = dataset.examples.with_columns(pl.when(pl.col("source").is_in(sorted(ASKED))).then(of_clients).otherwise("query").alias("query"))
    partial = {name: path.with_name(f"{path.name}.partial") for name, path in paths.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stored.write_parquet(partial["parquet"])
        stored.write_csv(partial["csv"])
        _dump(partial["manifest"], dataset.manifest)
        for name, path in paths.items():
            partial[name].replace(path)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise Unavailable(
            f"{folder}: the data set {dataset.dataset_id} cannot be written ({str(error).splitlines()[0]}); nothing was changed. Free some space and try again."
        ) from error
    finally:
        for path in partial.values():
            path.unlink(missing_ok=True)
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
    partial = path.with_name(f"{path.name}.partial")
    try:
        _dump(partial, content)
        partial.replace(path)
    except OSError as error:
        raise Unavailable(f"{path}: cannot be written ({error.strerror}); it is as it was. Free some space, then try again.") from error
    finally:
        partial.unlink(missing_ok=True)


def _dump(path: Path, content: Mapping[str, Any]) -> None:
    import yaml

    path.write_text(yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True, width=160), encoding="utf-8")
