"""Real Git, real DVC, real GTO: a data set survives the loss of its cache, and a broken remote is said, not guessed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from predator_si.augment import DatasetRepo
from predator_si.errors import BadInput, Missing

pytestmark = [pytest.mark.live, pytest.mark.slow]


@pytest.fixture
def repo(tmp_path: Path) -> DatasetRepo:
    return DatasetRepo(tmp_path / "home" / "datasets", tmp_path / "home" / "dvc-store")


def file(folder: Path, content: str, name: str = "augmented_dataset.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(content)
    return folder / name


def test_commit_wipe_the_cache_pull_and_read_the_tags(repo: DatasetRepo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    person = tmp_path / "person"
    person.mkdir()
    monkeypatch.setenv("HOME", str(person))
    first = repo.commit([file(tmp_path / "a", "query,label\none,1\n"), file(tmp_path / "a", "dataset_id: x\n", "dataset_manifest.yaml")], "aug_2026_11_22_001")
    assert first["path"] == "aug_2026_11_22_001.dvc" and first["tag"] == "reranker-dataset@v0.0.1" and first["hash"].endswith(".dir")
    assert repo.commit([file(tmp_path / "a", "query,label\none,1\n"), tmp_path / "a" / "dataset_manifest.yaml"], "aug_2026_11_22_001") == first
    second = repo.commit([file(tmp_path / "b", "query,label\ntwo,1\n")], "aug_2026_11_22_002")
    assert second["tag"] == "reranker-dataset@v0.0.2" and second["hash"] != first["hash"]

    shutil.rmtree(repo.folder / ".dvc" / "cache")
    shutil.rmtree(repo.folder / "aug_2026_11_22_001")
    restored = repo.restore("aug_2026_11_22_001", tmp_path / "back").folder
    assert (restored / "augmented_dataset.csv").read_text() == "query,label\none,1\n"
    assert sorted(path.name for path in restored.iterdir()) == ["augmented_dataset.csv", "dataset_manifest.yaml"]
    assert list(tmp_path.glob(".restoring-*")) == []

    import gto.api

    assert repo.versions() == {"reranker-dataset@v0.0.1": "aug_2026_11_22_001", "reranker-dataset@v0.0.2": "aug_2026_11_22_002"}
    assert gto.api.find_latest_version(str(repo.folder), "reranker-dataset").version == "v0.0.2"
    assert repo.tag("aug_2026_11_22_001", "gold") == "reranker-dataset#gold#1"
    [staged] = gto.api.find_versions_in_stage(str(repo.folder), "reranker-dataset", "gold")
    assert staged.version == "v0.0.1"

    assert list(person.rglob("*")) == [], "nothing may be written to the user's home"
    status = subprocess.run(["git", "status", "--porcelain"], cwd=repo.folder, capture_output=True, text=True, check=True).stdout
    assert status == ""
    committed = subprocess.run(["git", "grep", "-l", str(tmp_path), "HEAD"], cwd=repo.folder, capture_output=True, text=True, check=False).stdout
    assert committed == "", "no machine path is committed"


def test_lost_contents_and_unknown_ids_are_named(repo: DatasetRepo, tmp_path: Path):
    with pytest.raises(BadInput, match="no data set id"):
        repo.commit([file(tmp_path / "a", "x")], "aug_1")
    with pytest.raises(BadInput, match="no such file"):
        repo.commit([tmp_path / "absent.csv"], "aug_2026_11_22_001")
    repo.commit([file(tmp_path / "a", "x")], "aug_2026_11_22_001")
    with pytest.raises(Missing, match="known: aug_2026_11_22_001"):
        repo.restore("aug_2026_11_22_009", tmp_path / "back")
    shutil.rmtree(repo.remote)
    with pytest.raises(Missing, match="cannot be pulled"):
        repo.restore("aug_2026_11_22_001", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_changed_data_set_gets_a_new_version(repo: DatasetRepo, tmp_path: Path):
    first = repo.commit([file(tmp_path / "a", "x")], "aug_2026_11_22_001")
    again = repo.commit([file(tmp_path / "a", "y")], "aug_2026_11_22_001")
    assert (first["tag"], again["tag"]) == ("reranker-dataset@v0.0.1", "reranker-dataset@v0.0.2") and first["hash"] != again["hash"]
    assert (repo.restore("aug_2026_11_22_001", tmp_path / "back").folder / "augmented_dataset.csv").read_text() == "y"
