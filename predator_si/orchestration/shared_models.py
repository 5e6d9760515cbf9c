"""Models on their way from contour to contour: a place that both can reach, by digest.

What belongs here: bringing a stored model there, and taking one from there into a model store, every byte checked. What must not: when (``steps.onward``,
``steps.arrive``), what a model is (``search.models``).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from predator_si.backup.manifest import file_system
from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.search.models import TWIN, ModelStore

_LIST = "files.json"
"""Names, sizes and hashes of a model's files, written last: a model without it was cut short."""


class SharedModels:
    """Models below an fsspec URL: ``<url>/<hex>/`` holds the files of the store's folder and their list.

    Credentials are those of the place's own library, from the environment or the pod's identity.

    Raises
    ------
    BadInput
        No such protocol, or its package is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._files, self._root = file_system(self.url)

    def push(self, store: ModelStore, digest: str) -> int:
        """Copy a model there unless it is there whole; the bytes that were sent. What it was made from goes with it, or nothing could be trained from it.

        Raises
        ------
        Missing
            The model is not in the store.
        Unavailable
            The place does not take it.
        """
        source = store.card(digest).source_digest
        behind = self.push(store, source) if source is not None and source != digest and source in store else 0
        folder, target = store.path(digest), f"{self._root}/{digest[7:]}"
        listed = {path.relative_to(folder).as_posix(): _facts(path) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != TWIN}
        try:
            if self._listed(digest) == listed and all(self._size(f"{target}/{name}") == facts["size"] for name, facts in listed.items()):
                return behind
            for name in listed:
                self._files.makedirs(f"{target}/{name}".rpartition("/")[0], exist_ok=True)
                self._files.put_file(str(folder / name), f"{target}/{name}")
            self._files.pipe_file(f"{target}/{_LIST}", json.dumps(listed, indent=1, sort_keys=True).encode())
        except OSError as error:
            raise Unavailable(
                f"{self.url}: {digest} could not be copied there ({type(error).__name__}: {error}). See that the place answers, and that we may write there."
            ) from error
        return behind + sum(int(facts["size"]) for facts in listed.values())

    def fetch(self, store: ModelStore, digest: str) -> Path:
        """Take a model, and what it was made from where that is there, into ``store``; its folder. One that the store has stays as it is.

        Raises
        ------
        Missing
            It is not there, or not whole yet.
        BadInput
            What is there is not what its list, or its digest, says. Nothing is kept.
        Unavailable
            The place does not answer.
        """
        if digest in store:
            return store.path(digest)
        listed = self._listed(digest)
        if listed is None:
            raise Missing(f"{self.url}: model {digest} is not there, or not whole yet. The contour that proved it brings it there before its commit.")
        store.root.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".adding-", dir=store.root))
        try:
            for name, facts in listed.items():
                path = building / name
                if not path.resolve().is_relative_to(building.resolve()):
                    raise BadInput(f"{self.url}/{digest[7:]}/{_LIST}: {name} leads out of the model's folder. Nothing of it is taken.")
                path.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(f"{self._root}/{digest[7:]}/{name}", str(path))
                if _facts(path) != facts:
                    raise BadInput(f"{self.url}/{digest[7:]}/{name}: not the bytes that were brought there. Delete the folder there, and promote again.")
            kept = store.take(building, digest)
        except OSError as error:
            raise Unavailable(f"{self.url}: {digest} could not be taken from there ({type(error).__name__}: {error}). The next look tries again.") from error
        finally:
            shutil.rmtree(building, ignore_errors=True)
        source = store.card(digest).source_digest
        if source is not None and source not in store and self._listed(source) is not None:
            self.fetch(store, source)
        return kept

    def _listed(self, digest: str) -> dict[str, dict[str, Any]] | None:
        """The list of a model's files there; null where there is none."""
        where = f"{digest[7:]}/{_LIST}"
        try:
            found = json.loads(self._files.cat_file(f"{self._root}/{where}"))
            return {str(name): {"size": int(facts["size"]), "sha256": str(facts["sha256"])} for name, facts in found.items()}
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Unavailable(f"{self.url}: cannot be read ({type(error).__name__}: {error}). See that the place answers, and the credentials.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BadInput(f"{self.url}/{where}: not a list of files ({error}). Delete the folder there, and promote again.") from error

    def _size(self, path: str) -> int | None:
        try:
            return int(self._files.size(path))
        except FileNotFoundError:
            return None


def _facts(path: Path) -> dict[str, Any]:
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return {"size": path.stat().st_size, "sha256": total.hexdigest()}
