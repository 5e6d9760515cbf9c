"""What steps write to stdout and stderr, kept in an object store: in a cluster a run's pod and its disk are gone when somebody wants to read them.

What belongs here: the compute log manager that ``deploy/k8s/dagster.yaml`` names. What must not: our own logs, the choice of a store.

Any address that fsspec knows will do: ``s3://bucket/logs``, ``gs://...``, ``file:///shared/logs``. Credentials are those of the store's own library, from the
environment or the pod's identity; its package (``s3fs``, ``gcsfs`` ...) must be in the image (``EXTRA_PACKAGES`` of ``deploy/docker``).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import dagster as dg
from dagster._core.storage.cloud_storage_compute_log_manager import PollingComputeLogSubscriptionManager, TruncatingCloudStorageComputeLogManager
from dagster._core.storage.compute_log_manager import ComputeIOType
from dagster._core.storage.local_compute_log_manager import IO_TYPE_EXTENSION, LocalComputeLogManager
from dagster._serdes import ConfigurableClass, ConfigurableClassData

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem


class ObjectStoreComputeLogManager(TruncatingCloudStorageComputeLogManager["dg.DagsterInstance"], ConfigurableClass):
    """Logs are captured in a local folder and copied to the store: while a step runs every ``upload_interval`` seconds, and whole at its end.

    Parameters
    ----------
    url
        Folder in the store.
    local_dir
        Where logs are captured first.
    upload_interval
        Seconds between copies of a log that is still being written; null: only whole ones are copied.
    """

    def __init__(self, url: str, local_dir: str, upload_interval: int | None = None, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._url = url.rstrip("/")
        self._local_manager = LocalComputeLogManager(local_dir)
        self._upload_interval = upload_interval
        self._inst_data = inst_data
        self._subscriptions = PollingComputeLogSubscriptionManager(self)  # type: ignore[no-untyped-call]
        self._store: tuple[AbstractFileSystem, str] | None = None

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """How Dagster makes this manager again in another process."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """Shape of its block in ``dagster.yaml``."""
        return {
            "url": dg.StringSource,
            "local_dir": dg.Field(dg.StringSource, default_value="/tmp/compute-logs"),
            "upload_interval": dg.Field(dg.Noneable(dg.Int), is_required=False, default_value=None),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> ObjectStoreComputeLogManager:
        """Made from that block."""
        return cls(inst_data=inst_data, **config_value)

    @property
    def local_manager(self) -> LocalComputeLogManager:
        """Captures on this machine."""
        return self._local_manager

    @property
    def upload_interval(self) -> int | None:
        """Seconds between copies of an unfinished log."""
        return self._upload_interval

    def delete_logs(self, log_key: Sequence[str] | None = None, prefix: Sequence[str] | None = None) -> None:
        """Delete the logs of a step (``log_key``), or all below a run (``prefix``)."""
        self.local_manager.delete_logs(log_key=log_key, prefix=prefix)
        store, _ = self._opened()
        paths = [self._path(log_key, kind, partial) for kind in ComputeIOType for partial in (False, True)] if log_key else [self._folder(prefix or ())]
        for path in paths:
            if store.exists(path):
                store.rm(path, recursive=True)

    def download_url_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str | None:
        """Null: a signed address would outlive the right to read; the page shows the text itself."""
        return None

    def display_path_for_type(self, log_key: Sequence[str], io_type: ComputeIOType) -> str:
        """Where the log of a finished step lies, for people."""
        return f"{self._url}/{self._name(log_key, io_type)}" if self.is_capture_complete(log_key) else ""

    def cloud_storage_has_logs(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> bool:
        """Whether the store holds a log."""
        return bool(self._opened()[0].exists(self._path(log_key, io_type, partial)))

    def download_from_cloud_storage(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> None:
        """Bring a log to this machine."""
        path = Path(self.local_manager.get_captured_local_path(log_key, IO_TYPE_EXTENSION[io_type], partial=partial))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._opened()[0].get_file(self._path(log_key, io_type, partial), str(path))

    def get_log_keys_for_log_key_prefix(self, log_key_prefix: Sequence[str], io_type: ComputeIOType) -> Sequence[list[str]]:
        """Keys of the finished logs right below a prefix."""
        store, folder = self._opened()[0], self._folder(log_key_prefix)
        suffix = f".{IO_TYPE_EXTENSION[io_type]}"
        names = [str(path).rsplit("/", 1)[-1] for path in store.ls(folder, detail=False)] if store.exists(folder) else []
        return [[*log_key_prefix, name.removesuffix(suffix)] for name in sorted(names) if name.endswith(suffix)]

    def on_subscribe(self, subscription: Any) -> None:
        """Somebody follows a log on the page."""
        self._subscriptions.add_subscription(subscription)

    def on_unsubscribe(self, subscription: Any) -> None:
        """Nobody does any more."""
        self._subscriptions.remove_subscription(subscription)

    def dispose(self) -> None:
        """End the thread that polls for readers."""
        self._subscriptions.dispose()
        self.local_manager.dispose()

    def _upload_file_obj(self, data: IO[bytes], log_key: Sequence[str], io_type: ComputeIOType, partial: bool = False) -> None:
        store, path = self._opened()[0], self._path(log_key, io_type, partial)
        if not partial or data.read(1):  # an empty file of an unfinished step says nothing
            data.seek(0)
            store.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            with store.open(path, "wb") as out:
                shutil.copyfileobj(data, out)

    def _opened(self) -> tuple[AbstractFileSystem, str]:
        if self._store is None:
            from fsspec.core import url_to_fs

            self._store = url_to_fs(self._url)
        return self._store

    def _folder(self, parts: Sequence[str]) -> str:
        return "/".join([self._opened()[1], *parts])

    def _path(self, log_key: Sequence[str], io_type: ComputeIOType, partial: bool) -> str:
        return f"{self._opened()[1]}/{self._name(log_key, io_type)}{'.partial' if partial else ''}"

    @staticmethod
    def _name(log_key: Sequence[str], io_type: ComputeIOType) -> str:
        return f"{'/'.join(log_key)}.{IO_TYPE_EXTENSION[io_type]}"
