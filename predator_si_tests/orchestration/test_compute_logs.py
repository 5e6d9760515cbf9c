"""Logs of steps in an object store: written whole at the end, in part before it, read back on a machine that never ran the step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._check import CheckError
from dagster._core.storage.compute_log_manager import ComputeIOType

from predator_si.orchestration.compute_logs import ObjectStoreComputeLogManager

KEY = ["run-1", "compute_logs", "train"]


def manager(store: str, local: Path) -> ObjectStoreComputeLogManager:
    return ObjectStoreComputeLogManager(store, str(local))


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    import fsspec

    yield (tmp_path / "store").as_uri() if request.param == "file" else "memory://logs"
    fsspec.filesystem("memory").store.clear()


def capture(store: str, tmp_path: Path, text: str) -> None:
    writer = manager(store, tmp_path / "pod")
    with writer.open_log_stream(KEY, ComputeIOType.STDERR) as stream:
        assert stream is not None
        stream.write(text)
    writer.dispose()


def test_another_machine_reads_what_a_pod_wrote(store: str, tmp_path: Path) -> None:
    capture(store, tmp_path, "epoch 1\nepoch 2\n")
    assert not list((tmp_path / "pod").rglob("*.err")), "nothing is left on the pod's disk"
    reader = manager(store, tmp_path / "webserver")
    assert reader.is_capture_complete(KEY)
    assert reader.get_log_data_for_type(KEY, ComputeIOType.STDERR, 0, None)[0] == b"epoch 1\nepoch 2\n"
    assert reader.display_path_for_type(KEY, ComputeIOType.STDERR) == f"{store}/run-1/compute_logs/train.err"
    assert reader.get_log_keys_for_log_key_prefix(["run-1", "compute_logs"], ComputeIOType.STDERR) == [KEY]
    assert reader.get_log_keys_for_log_key_prefix(["run-2", "compute_logs"], ComputeIOType.STDERR) == []
    assert reader.download_url_for_type(KEY, ComputeIOType.STDERR) is None


def test_an_unfinished_log_is_copied_beside_and_is_not_taken_for_the_whole(store: str, tmp_path: Path) -> None:
    writer = manager(store, tmp_path / "pod")
    path = Path(writer.local_manager.get_captured_local_path(KEY, "err"))
    path.parent.mkdir(parents=True)
    path.write_text("epoch 1\n")
    writer.upload_to_cloud_storage(KEY, ComputeIOType.STDERR, partial=True)
    writer.upload_to_cloud_storage(KEY, ComputeIOType.STDOUT, partial=True)
    reader = manager(store, tmp_path / "webserver")
    assert not reader.is_capture_complete(KEY) and reader.display_path_for_type(KEY, ComputeIOType.STDERR) == ""
    assert reader.cloud_storage_has_logs(KEY, ComputeIOType.STDERR, partial=True)
    assert not reader.cloud_storage_has_logs(KEY, ComputeIOType.STDOUT, partial=True), "an empty one says nothing"
    reader.download_from_cloud_storage(KEY, ComputeIOType.STDERR, partial=True)
    assert Path(reader.local_manager.get_captured_local_path(KEY, "err", partial=True)).read_text() == "epoch 1\n"


def test_deleting_takes_one_step_or_a_whole_run_and_no_other(store: str, tmp_path: Path) -> None:
    capture(store, tmp_path, "x")
    keeper = manager(store, tmp_path / "webserver")
    keeper.delete_logs(log_key=["run-1", "compute_logs", "other"])
    keeper.delete_logs(prefix=["run"])
    assert keeper.cloud_storage_has_logs(KEY, ComputeIOType.STDERR)
    keeper.delete_logs(log_key=KEY)
    assert not keeper.cloud_storage_has_logs(KEY, ComputeIOType.STDERR)
    capture(store, tmp_path, "x")
    keeper.delete_logs(prefix=["run-1"])
    assert not keeper.cloud_storage_has_logs(KEY, ComputeIOType.STDERR)
    with pytest.raises(CheckError, match="log_key"):
        keeper.delete_logs()  # of everything: nobody means that


def test_an_instance_file_can_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGS_ARE_HERE", (tmp_path / "store").as_uri())
    (tmp_path / "instance").mkdir()
    (tmp_path / "instance" / "dagster.yaml").write_text(
        "compute_logs:\n  module: predator_si.orchestration.compute_logs\n  class: ObjectStoreComputeLogManager\n"
        f"  config: {{url: {{env: LOGS_ARE_HERE}}, local_dir: {tmp_path / 'captured'}, upload_interval: 30}}\n"
    )

    with dg.DagsterInstance.from_config(str(tmp_path / "instance")) as instance:
        assert isinstance(instance.compute_log_manager, ObjectStoreComputeLogManager) and instance.compute_log_manager.upload_interval == 30
        with instance.compute_log_manager.open_log_stream(KEY, ComputeIOType.STDERR) as stream:  # capture_logs would take this process's own streams
            stream.write("a line of the step")
        assert instance.compute_log_manager.cloud_storage_has_logs(KEY, ComputeIOType.STDERR)
