"""A model on its way from one store to another: every byte checked, whatever was cut short, in any place that fsspec knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.orchestration.shared_models import SharedModels
from predator_si.search.models import ModelStore
from predator_si_tests.support.search_fakes import FakeHome


@pytest.fixture(params=["folder", "memory"])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> SharedModels:
    """An empty place, in a folder and in an object store that lives in this process."""
    import fsspec

    fsspec.filesystem("memory").store.clear()
    return SharedModels(str(tmp_path / "shared") if request.param == "folder" else "memory://models")


@pytest.fixture
def stores(tmp_path: Path) -> tuple[ModelStore, ModelStore, str, str]:
    """A store with a served model and the weights that it was made from, and an empty one."""
    home = FakeHome(tmp_path / "edge")
    weights = home.model("weights")
    return home.store, ModelStore(tmp_path / "compute" / "models"), home.model("served", source_digest=weights), weights


def test_a_model_arrives_with_its_card_and_what_it_was_made_from(shared: SharedModels, stores: tuple[ModelStore, ModelStore, str, str]) -> None:
    ours, theirs, digest, weights = stores
    with pytest.raises(Missing, match="is not there, or not whole yet"):
        shared.fetch(theirs, digest)
    assert shared.push(ours, digest) > 0
    folder = shared.fetch(theirs, digest)
    assert folder == theirs.path(digest) and theirs.card(digest) == ours.card(digest) and weights in theirs
    assert shared.push(ours, digest) == 0, "what is there whole is not sent again"
    assert [path.name for path in theirs.root.iterdir() if path.name.startswith(".")] == []


def test_what_was_cut_short_is_sent_again(shared: SharedModels, stores: tuple[ModelStore, ModelStore, str, str]) -> None:
    ours, theirs, digest, _ = stores
    shared.push(ours, digest)
    target = f"{shared._root}/{digest[7:]}"
    shared._files.pipe_file(f"{target}/model.safetensors", b"half")
    assert shared.push(ours, digest) > 0
    shared._files.rm_file(f"{target}/files.json")
    with pytest.raises(Missing):
        shared.fetch(theirs, digest)
    assert shared.push(ours, digest) > 0 and shared.fetch(theirs, digest)


@pytest.mark.parametrize("what", ["weights", "card", "list", "a way out"])
def test_other_bytes_are_never_taken(shared: SharedModels, stores: tuple[ModelStore, ModelStore, str, str], what: str) -> None:
    ours, theirs, digest, _ = stores
    shared.push(ours, digest)
    target = f"{shared._root}/{digest[7:]}"
    listed = json.loads(shared._files.cat_file(f"{target}/files.json"))
    if what == "weights":  # of the same length
        good = shared._files.cat_file(f"{target}/model.safetensors")
        shared._files.pipe_file(f"{target}/model.safetensors", bytes([good[0] ^ 1]) + good[1:])
    elif what == "card":  # whole by the list, and another model's by its digest
        other = FakeHome(ours.root.parent.parent / "other")
        third = other.model("third")
        shared.push(other.store, third)
        shared._files.pipe_file(f"{target}/files.json", shared._files.cat_file(f"{shared._root}/{third[7:]}/files.json"))
        for name in json.loads(shared._files.cat_file(f"{target}/files.json")):
            shared._files.pipe_file(f"{target}/{name}", shared._files.cat_file(f"{shared._root}/{third[7:]}/{name}"))
    elif what == "list":
        shared._files.pipe_file(f"{target}/files.json", b"[1]")
    else:
        shared._files.pipe_file(f"{target}/files.json", json.dumps(listed | {"../../out": {"size": 1, "sha256": "0"}}).encode())
    with pytest.raises(BadInput):
        shared.fetch(theirs, digest)
    assert digest not in theirs and list(theirs.root.glob(".adding-*")) == [] and not (theirs.root.parent.parent / "out").exists()


def test_a_place_that_cannot_be_used_is_one_clear_message(tmp_path: Path, stores: tuple[ModelStore, ModelStore, str, str]) -> None:
    ours, theirs, digest, _ = stores
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="could not be copied there"):
        SharedModels(str(tmp_path / "file")).push(ours, digest)
    with pytest.raises(Missing):
        SharedModels(str(tmp_path / "nowhere")).fetch(theirs, digest)
    with pytest.raises(BadInput, match="cannot be written to"):
        SharedModels("nosuch://models")
