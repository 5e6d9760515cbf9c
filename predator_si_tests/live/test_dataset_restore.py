"""`predator-si dataset`: versions of a real repository by command, and a cycle's data back after its artifacts were deleted, equal to the byte."""

from __future__ import annotations

import hashlib
import shutil
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from predator_si.augment import Dataset, DatasetRepo, read_examples, read_manifest, update_manifest, write_dataset
from predator_si.augment.versioning import folder_hash
from predator_si.home import Home
from predator_si.privacy import Vault
from predator_si.records import utc_now
from predator_si.search.personal import open_vault
from predator_si_tests.support.command_line import CommandLine

pytestmark = [pytest.mark.live, pytest.mark.slow]

CYCLE, DATASET = "si_2026_11_22_001", "aug_2026_11_22_001"


def sealed(vault: Vault, text: str, client: str) -> str:
    return vault.seal(text, vault.client_hash(client), utc_now() - timedelta(minutes=5))


def store(home: Home, vault: Vault, name: str = DATASET, cycle: str = CYCLE) -> dict[str, Path]:
    """A data set with a query of each of two clients and a made-up one, versioned as the loop does it."""
    asked = {"sort a dictionary by value": "web-olena", "plot a histogram": "web-petro"}
    rows = [(group, query, "clicks", f"text {group}") for group, query in enumerate([*asked, "title of a document"])]
    examples = pl.DataFrame(rows, schema=["group_id", "query", "source", "text"], orient="row").with_columns(
        source=pl.when(pl.col("group_id") == 2).then(pl.lit("title")).otherwise("source")
    )
    tokens = {query: sealed(vault, query, client) for query, client in asked.items()}
    vault.sync()
    made = Dataset(name, examples, {}, {"dataset_id": name, "cycle_id": cycle, "dvc": {"path": None, "hash": None}, "mlflow": {"run_id": None}}, tokens)
    paths = write_dataset(home.artifacts / cycle, made)
    version = DatasetRepo.of(home.path).commit(list(paths.values()), name)
    update_manifest(paths["manifest"], dvc={"path": version["path"], "hash": version["hash"]}, mlflow={"run_id": "r1"})
    return paths


def test_a_cycles_data_come_back_equal_and_an_erased_client_stays_unreadable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home").ensure()
    run = CommandLine(home.path, capsys)
    vault = open_vault(home.path)
    paths = store(home, vault)
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (paths["parquet"], paths["csv"])}
    listed = run("dataset", "list", "--json").json
    assert [(one["tag"], one["dataset_id"], one["stages"]) for one in listed] == [("reranker-dataset@v0.0.1", DATASET, [])]
    assert run("dataset", "tag", CYCLE, "gold", "--json").json["tag"] == "reranker-dataset#gold#1"
    assert run("dataset", "list", "--json").json[0]["stages"] == ["gold"]

    assert vault.destroy(vault.client_hash("web-olena")) == 1
    shutil.rmtree(home.artifacts / CYCLE)
    restored = run("dataset", "restore", CYCLE, "--json").json
    assert restored["folder"] == str(home.artifacts / CYCLE)
    after = {name: hashlib.sha256((home.artifacts / CYCLE / name).read_bytes()).hexdigest() for name in before}
    assert after == before and {name: restored["files"][name] for name in before} == before
    assert restored["hash"] == listed[0]["hash"]
    manifest = read_manifest(home.artifacts / CYCLE / "dataset_manifest.yaml")
    assert manifest["dvc"] == {"path": f"{DATASET}.dvc", "hash": listed[0]["hash"]}
    examples, lost = read_examples(home.artifacts / CYCLE / "augmented_dataset.parquet", open_vault(home.path))
    assert sorted(examples["query"]) == ["plot a histogram", "title of a document"] and lost == 1

    elsewhere = run("dataset", "restore", DATASET, "--to", tmp_path / "there", "--json").json
    assert folder_hash(tmp_path / "there", ["augmented_dataset.csv", "augmented_dataset.parquet"]).endswith(".dir")
    assert {name: elsewhere["files"][name] for name in before} == before


def test_what_is_not_there_or_was_changed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home").ensure()
    run = CommandLine(home.path, capsys)
    assert run("dataset", "list", "--json").json == []
    store(home, open_vault(home.path))
    for words, said in (
        (("dataset", "restore", "si_2026_11_22_009"), f"known: {DATASET}"),
        (("dataset", "restore", "yesterday"), "neither a cycle"),
        (("dataset", "tag", CYCLE, "Gold!"), "no stage name"),
    ):
        found = run(*words)
        assert found.code == 2 and said in " ".join(found.err.split())
    [content] = [path for path in (home.path / "datasets-store").rglob("*") if path.is_file() and path.read_bytes().startswith(b"group_id")]
    content.chmod(0o644)
    content.write_bytes(content.read_bytes().replace(b"text", b"TEXT"))
    found = run("dataset", "restore", CYCLE, "--to", tmp_path / "there")
    assert found.code == 2 and "Somebody changed them" in " ".join(found.err.split()) and not (tmp_path / "there").exists()
