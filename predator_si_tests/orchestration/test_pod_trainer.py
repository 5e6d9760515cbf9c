"""Trainer ``pod`` without a cluster: its pod, and two ends that share a folder: words in order, a stop, and an end that notices that the other is gone."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from predator_si.errors import BadInput, Missing
from predator_si.orchestration.pod_trainer import CLAIM, IMAGE, PodTrainer
from predator_si.settings import load_settings
from predator_si.train.accelerated import STARTER, WORKER, serve
from predator_si.train.folder_talk import FolderTalk


@pytest.fixture
def ends(tmp_path: Path):
    folder = tmp_path / "order"
    folder.mkdir()
    found = FolderTalk(folder, STARTER, WORKER), FolderTalk(folder, WORKER, STARTER)
    yield folder, *found
    for end in found:
        end.close()


def test_words_arrive_whole_and_in_order_and_leave_nothing(ends):
    folder, starter, worker = ends
    assert not starter.poll(0)
    for number in range(30):
        worker.send_bytes(b"%d" % number * 1000)
    assert [starter.recv_bytes() for _ in range(30)] == [b"%d" % number * 1000 for number in range(30)]
    starter.send_bytes(b"back")
    assert worker.recv_bytes() == b"back"
    assert sorted(path.name for path in folder.iterdir()) == [f"{STARTER}.alive", f"{WORKER}.alive"]


def test_a_stop_is_seen_and_waiting_does_something_meanwhile(ends):
    _, starter, worker = ends
    assert not worker.stopped()
    starter.stop()
    assert worker.stopped()
    looks: list[None] = []
    starter._meanwhile = lambda: looks.append(None)
    assert not starter.poll(0.05) and len(looks) >= 2


def test_who_is_gone_is_not_waited_for(ends):
    folder, starter, worker = ends
    long_ago = (folder / f"{STARTER}.alive").stat().st_mtime - 1000
    os.utime(folder / f"{STARTER}.alive", (long_ago, long_ago))
    with pytest.raises(EOFError, match="gave no sign of life for 1000 s"):
        worker.recv_bytes()
    shutil.rmtree(folder)
    with pytest.raises(EOFError, match="is gone"):
        worker.stopped()
    with pytest.raises(ConnectionError, match="is gone"):
        worker.send_bytes(b"x")
    starter.stop()  # nobody hears it, and nothing is made


def test_a_judgment_goes_back_and_forth(ends):
    _, starter, worker = ends
    answers: list[object] = []
    steps: list[tuple[int, int]] = []

    def trains() -> None:
        worker.send_bytes(b'{"step": 10, "steps": 20, "loss": 0.5}')
        worker.send_bytes(b'{"judge": null}')
        answers.append(worker.recv_bytes())
        worker.send_bytes(b'{"scores": [0.25, 0.75]}')
        answers.append(worker.recv_bytes())
        worker.send_bytes(b'{"trained": {"digest": "d"}}')

    thread = threading.Thread(target=trains)
    thread.start()
    said = serve(starter, lambda: True, lambda score: float(sum(score([("q", "a"), ("q", "b")]))), lambda: False, lambda *at: steps.append(at), None)
    thread.join(10)
    assert said == {"trained": {"digest": "d"}} and steps == [(10, 20)]
    assert answers == [b'{"score": [["q", "a"], ["q", "b"]]}', b'{"value": 1.0}']


def test_a_worker_that_ended_without_a_word_is_noticed(ends):
    _, starter, _ = ends
    assert serve(starter, lambda: False, None, lambda: False, None, None) is None


def test_only_the_training_pod_asks_for_the_gpu_and_only_in_a_cluster(tmp_path: Path):
    file = tmp_path / "pod.yaml"
    file.write_text("selfImprovement:\n  resources: {gpu: true, gpuCount: 2, gpuType: amd}\n  training: {trainer: pod}\n")
    settings = load_settings("local", home=tmp_path / "home", values_file=file, env={})
    assert not settings.run_resources.gpu and settings.resources.gpu
    spec = PodTrainer(settings, env={CLAIM: "predator-si-home", IMAGE: "runs@sha256:1"}).pod_spec()
    (container,) = spec["containers"]
    assert container["image"] == "runs@sha256:1" and container["resources"]["limits"]["amd.com/gpu"] == "2"
    assert container["volumeMounts"][0] == {"name": "home", "mountPath": str(tmp_path / "home")} and "envFrom" not in container
    with pytest.raises(Missing, match="trainer pod is for runs in a cluster"):
        PodTrainer(settings, env={}).pod_spec()
    file.write_text("selfImprovement:\n  training: {trainer: pod, image: 'trainer:latest'}\n")
    with pytest.raises(BadInput, match="image"):
        load_settings("local", home=tmp_path / "home", values_file=file, env={})
