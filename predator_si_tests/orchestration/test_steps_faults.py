"""What is missing, stale, damaged, away, or held by somebody else: unknown or one clear message, and nothing is lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.build import build_defs
from predator_si.control import Control
from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.monitor import Skip
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.partitions import add_cycle
from predator_si.orchestration.steps import improve, observe
from predator_si.orchestration.steps import prepare as preparing
from predator_si.proof import prepare as setting_up
from predator_si.records import Answer, CycleState, ServingConfig, utc_now
from predator_si.release.release_file import parse_release
from predator_si.settings import Settings, load_settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.support.platform import (
    on_free_port,
    open_cycle,
    prepare,
    tiny_scale,
    word_model,
    write_baseline,
    write_snapshot,
    write_toy_corpus,
)
from predator_si_tests.support.waiting import free_port

NOBODY = "sha256:" + "7" * 64


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_corpus(tmp_path_factory.mktemp("corpus") / "toy")


@pytest.fixture
def loop(settings: Settings, corpus: Path) -> Loop:
    """A prepared home whose service is away."""
    found = Loop(on_free_port(settings))
    prepare(found, word_model(found, "champion", 0.0), tiny_scale(), corpus)
    setting_up.build_first_index(found, part=None)
    return found


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as found:
        yield found


def run(loop: Loop, instance: dg.DagsterInstance, job: str, cycle_id: str | None = None) -> dg.ExecuteInProcessResult:
    definitions = build_defs(loop.settings, loop=loop, tracker=NullTracker())
    if cycle_id is not None:
        add_cycle(instance, cycle_id)
    return definitions.resolve_job_def(job).execute_in_process(instance=instance, partition_key=cycle_id, raise_on_error=False)


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Why a run failed, with the causes."""
    texts = []
    for event in result.all_events:
        if event.event_type_value == "STEP_FAILURE":
            error: Any = event.event_specific_data.error  # type: ignore[union-attr]
            while error is not None:
                texts.append(error.message)
                error = error.cause
    return "\n".join(texts)


# --------------------------------------------------------------------------- telemetry


def test_a_service_that_is_away_makes_a_snapshot_of_unknowns_and_no_cycle(loop: Loop, instance: dg.DagsterInstance) -> None:
    write_baseline(loop, loop.serving().model)
    result = run(loop, instance, "observe_job")
    assert result.success, failure(result)
    (snapshot,) = loop.snapshots()
    (champion,) = result.asset_materializations_for_node("observe__metrics_snapshot")[0].metadata["champions"].records  # type: ignore[attr-defined]
    assert champion.data["model"] == loop.serving().model[:19] and champion.data["until"] == "now"
    assert {name for name, metric in snapshot.metrics.items() if metric.known} == set()
    assert all(metric.reason for metric in snapshot.metrics.values())
    assert snapshot.metrics["ndcg_at_10"].reason == "no judged probes were sent in this window"
    checks = {check.check_name: check for check in result.get_asset_check_evaluations()}
    needed = {gate.name for gate in loop.settings.quality_gates if gate.no_data == "unknown"}
    assert {name for name, check in checks.items() if not check.passed} == needed
    assert {checks[name].severity for name in needed} == {dg.AssetCheckSeverity.WARN}, "unknown is a warning, not a failure"
    assert {str(checks[name].metadata["answer"].value) for name in needed} == {"unknown"}
    answer = observe.next_step(loop)
    assert isinstance(answer, Skip) and "unknown: ndcg_at_10 is unknown" in answer.reason
    assert loop.control.cycles() == []


def test_numbers_that_are_too_old_are_unknown_and_start_nothing(loop: Loop) -> None:
    champion = loop.serving().model
    write_baseline(loop, champion)
    snapshot = write_snapshot(loop, champion, values={"ndcg_at_10": 0.1})
    aged = {name: metric.model_copy(update={"age_seconds": 90_000.0}) for name, metric in snapshot.metrics.items()}
    (loop.home.snapshots / f"{snapshot.snapshot_id}.json").write_text(snapshot.model_copy(update={"metrics": aged}).to_json())
    answers = {gate.criterion.metric: gate.answer for gate in observe.gates(loop, loop.snapshots(1)[-1])}
    assert answers["ndcg_at_10"] is answers["error_rate"] is Answer.UNKNOWN
    answer = observe.next_step(loop)
    assert isinstance(answer, Skip) and "ndcg_at_10 is stale: 90000 s old" in answer.reason


def test_numbers_without_a_source_are_unknown(loop: Loop) -> None:
    write_snapshot(loop, loop.serving().model, values={"ndcg_at_10": None, "p95_latency_ms": None, "error_rate": None})
    gates = {gate.criterion.metric: gate for gate in observe.gates(loop, loop.snapshots(1)[-1])}
    assert {gates[name].answer for name in ("ndcg_at_10", "p95_latency_ms", "error_rate")} == {Answer.UNKNOWN}
    assert gates["user_satisfaction"].answer is Answer.NOT_APPLICABLE, "nobody rates on a fresh machine"


def test_a_cycle_without_a_snapshot_cannot_be_diagnosed(loop: Loop) -> None:
    cycle_id = open_cycle(loop.control).cycle_id
    with pytest.raises(Missing, match=f"cycle {cycle_id} has no metrics snapshot before"):
        preparing.report_causes(loop, cycle_id)


def test_damaged_probes_are_named(loop: Loop) -> None:
    snapshot = write_snapshot(loop, loop.serving().model)
    path = loop.home.snapshots / f"{snapshot.snapshot_id}.parquet"
    cycle_id = open_cycle(loop.control).cycle_id
    for content in (None, b"PAR1 no more"):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadInput, match=r"the probes of the snapshot cannot be read .*Take a new snapshot") as caught:
            preparing.report_causes(loop, cycle_id)
        assert str(path) in str(caught.value)


# --------------------------------------------------------------------------- files and models


def test_a_damaged_data_set_is_named_and_nothing_is_trained(loop: Loop, instance: dg.DagsterInstance) -> None:
    cycle_id = open_cycle(loop.control).cycle_id
    loop.control.transition(cycle_id, CycleState.PREPARED, "a test", "test")
    path = loop.artifacts(cycle_id) / "augmented_dataset.parquet"
    for content in (None, b"", b"PAR1 and no more"):
        if content is not None:
            path.write_bytes(content)
        result = run(loop, instance, "cycle_train_job", cycle_id)
        said = failure(result)
        assert not result.success and f"{path}: the training data cannot be read" in said and "synthetic_dataset asset again" in said
    assert loop.control.cycle(cycle_id).state is CycleState.PREPARED


def test_a_model_that_is_not_there_is_named(loop: Loop) -> None:
    cycle_id = open_cycle(loop.control).cycle_id
    loop.save(cycle_id, "challenger.json", ServingConfig(model=NOBODY, depth=8))
    with pytest.raises(Missing, match=NOBODY):
        improve.offline_reranker(loop, NOBODY)
    with pytest.raises(Missing, match=NOBODY):
        improve.trainable(loop, NOBODY)
    assert loop.control.cycle(cycle_id).state is CycleState.OPENED


def test_a_model_whose_torch_weights_are_gone_cannot_be_trained_from(loop: Loop) -> None:
    folder = loop.home.path / "exported"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"onnx")
    exported = loop.models.add(folder, name="exported", backend="onnx-int8", max_length=64, source_digest=NOBODY)
    with pytest.raises(Missing, match=f"the torch weights behind {exported} \\({NOBODY}\\) are not in the model store"):
        improve.trainable(loop, exported)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("reranker: [", "release-local.yaml"),
        ("reranker: {champion: latest}\n", "reranker.champion"),
        ("reranker: {champion: CHAMPION, depth: 5000}\n", "reranker.depth"),
        ("reranker: {champion: CHAMPION}\nautoPromote: true\n", "autoPromote"),
        ("", "release-local.yaml"),
    ],
    ids=["not YAML", "no digest", "out of range", "foreign key", "empty"],
)
def test_a_malformed_release_file_is_one_clear_message(loop: Loop, instance: dg.DagsterInstance, text: str, words: str) -> None:
    champion = loop.serving().model
    loop.repo.change(lambda files: {loop.release_name: text.replace("CHAMPION", champion)}, "by hand")
    with pytest.raises(BadInput, match=r"release-local\.yaml") as caught:
        loop.serving()
    assert words in str(caught.value) and "Traceback" not in str(caught.value)
    result = run(loop, instance, "observe_job")
    assert not result.success and words in failure(result)
    assert loop.control.cycles() == [] and loop.snapshots() == []


def test_a_damaged_artifact_names_its_file_and_field(loop: Loop) -> None:
    cycle_id = open_cycle(loop.control).cycle_id
    loop.save(cycle_id, "challenger.json", {"model": "x"})
    with pytest.raises(BadInput, match=r"challenger.json: not a ServingConfig: depth"):
        improve.evaluate_challenger(loop, cycle_id)
    assert loop.control.sealed_openings("toy") == 0, "the seal is not broken for a cycle that cannot be evaluated"


# --------------------------------------------------------------------------- locks


def test_a_lease_of_another_cycle_is_respected(loop: Loop, instance: dg.DagsterInstance) -> None:
    lease = loop.control.acquire("cycle-local", "si_2026_01_01_001", 60)
    cycle_id = open_cycle(loop.control).cycle_id
    result = run(loop, instance, "cycle_prepare_job", cycle_id)
    assert not result.success and "lease 'cycle-local' is held by si_2026_01_01_001" in failure(result)
    assert loop.control.cycle(cycle_id).state is CycleState.OPENED
    loop.control.check(lease)  # still theirs


def test_the_lease_of_a_killed_run_goes_to_the_cycles_next_one_and_a_step_gives_it_back(loop: Loop) -> None:
    cycle_id = open_cycle(loop.control).cycle_id
    lost = loop.control.acquire("cycle-local", cycle_id, 3600)
    with loop.working_on(cycle_id) as cycle:
        assert cycle.cycle_id == cycle_id
        with pytest.raises(Refused, match="was superseded"):
            loop.control.check(lost)
        with pytest.raises(Refused, match=f"is held by {cycle_id}"):
            loop.control.acquire("cycle-local", "si_2026_01_01_001", 60)
    with pytest.raises(ZeroDivisionError), loop.working_on(cycle_id):
        raise ZeroDivisionError
    assert loop.control.acquire("cycle-local", "si_2026_01_01_001", 60).holder == "si_2026_01_01_001"


def test_work_stops_when_its_cycle_has_ended(loop: Loop) -> None:
    cycle_id = open_cycle(loop.control).cycle_id
    stop = loop.should_stop(cycle_id)
    assert not stop()
    loop.control.transition(cycle_id, CycleState.CANCELLED, "a person", "anna")
    assert stop()


# --------------------------------------------------------------------------- setting up, again


@pytest.fixture
def tiny_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that need no download; all else of the set-up is real."""

    def get_models(loop: Loop, *_: Any) -> tuple[str, Path]:
        from predator_si.search.tiny import HashingEmbedder

        return word_model(loop, "first", 0.0), HashingEmbedder().save(loop.home.path / "embedder")

    monkeypatch.setattr(setting_up, "get_models", get_models)


def test_setting_up_again_archives_the_state_and_keeps_what_was_done(settings: Settings, corpus: Path, tiny_models: None) -> None:
    shutil.copytree(corpus, settings.folders.corpus / "toy")
    loop = setting_up.prepare_home(settings, tiny_scale(), "toy")
    first = loop.serving().model
    setting_up.build_first_index(loop)
    write_snapshot(loop, first)
    write_baseline(loop, first)
    cycle_id = open_cycle(loop.control).cycle_id
    loop.control.transition(cycle_id, CycleState.PREPARED, "a test", "test")
    loop.control.acquire("cycle-local", cycle_id, 3600)  # the killed run's
    loop.save(cycle_id, "diagnostic_report.json", {"kept": True})
    other = word_model(loop, "other", 1.0)
    text = loop.release_text()
    loop.repo.change(lambda files: {loop.release_name: text.replace(first, other)}, "released meanwhile")
    records = len(loop.control.records(500))

    again = setting_up.prepare_home(settings, tiny_scale(), "toy")
    cycle = again.control.cycle(cycle_id)
    assert cycle.state is CycleState.FAILED and "ended without finishing it" in cycle.reason
    assert json.loads((again.artifacts(cycle_id) / "diagnostic_report.json").read_text()) == {"kept": True}
    assert again.control.verify() == [] and len(again.control.records(500)) > records
    (archive,) = (settings.home / "archive").iterdir()
    assert {"service", "snapshots", "applied", "baseline.json", "plan.json"} <= {path.name for path in archive.iterdir()}
    assert len(list((archive / "snapshots").glob("*.json"))) == 1 and list((archive / "service" / "index").iterdir())
    assert again.snapshots() == [] and again.baseline() is None and not list(again.home.index.glob("*"))
    assert parse_release(again.release_text(), again.release_name).reranker.champion == first, "Git returned to the first champion, by a commit"
    assert other in again.models
    assert isinstance(observe.next_step(again), Skip)

    assert open_cycle(again.control).cycle_id != cycle_id
    with again.working_on(open_cycle_of(again)) as next_cycle:
        assert next_cycle.cycle_id != cycle_id, "the dead run's lease does not keep the next cycle out"


def open_cycle_of(loop: Loop) -> str:
    """The active cycle."""
    found = loop.control.active_cycle("local")
    assert found is not None
    return found.cycle_id


def test_a_home_whose_services_run_is_not_set_up_again(settings: Settings, corpus: Path, tiny_models: None) -> None:
    import psutil

    shutil.copytree(corpus, settings.folders.corpus / "toy")
    setting_up.prepare_home(settings, tiny_scale(), "toy")
    settings.folders.up_pid.write_text(json.dumps({"pid": os.getpid(), "started": psutil.Process().create_time()}))
    with pytest.raises(Refused, match=r"the services of this home are running. Stop them first: `predator-si down`"):
        setting_up.prepare_home(settings, tiny_scale(), "toy")
    assert (settings.home / "plan.json").is_file() and not (settings.home / "archive").exists()


def test_a_home_that_cannot_be_written_is_said_before_anything_is_built(tmp_path: Path, tiny_models: None) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="is a file, a folder is needed there"):
        setting_up.prepare_home(load_settings("local", home=tmp_path / "file", env={}), tiny_scale(), "toy")
    with pytest.raises(Unavailable, match="cannot be written to"):
        setting_up.prepare_home(load_settings("local", home=Path("/proc/predator"), env={}), tiny_scale(), "toy")


# --------------------------------------------------------------------------- as a person sees it: one message, exit code 2


def test_a_busy_port_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("PREDATOR_SI_PORTS", f"search={port}")
        outcome = CommandLine(tmp_path / "home", capsys)("demo", "--scale", "small")
    assert outcome.code == 2 and f"port {port} (search) is busy" in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


def test_an_unwritable_home_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PREDATOR_SI_PORTS", f"search={free_port()}")
    outcome = CommandLine(tmp_path / "file", capsys)("demo", "--scale", "small")
    assert outcome.code == 2 and "is a file, a folder is needed there" in " ".join(outcome.err.split())
    assert "Traceback" not in outcome.err


def test_a_wrong_scale_and_half_a_collection_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = CommandLine(tmp_path / "home", capsys)
    outcome = command("demo", "--scale", "huge")
    assert outcome.code == 2 and "there are small and full" in " ".join(outcome.err.split())
    outcome = command("demo", "--base", tmp_path)
    assert outcome.code == 2 and "--base and --shift belong together" in " ".join(outcome.err.split())


# --------------------------------------------------------------------------- killed while it writes

_WRITER = """
import sys
from pathlib import Path
from predator_si.orchestration.loop import Loop
from predator_si.settings import load_settings
loop = Loop(load_settings("local", home=Path(sys.argv[1]), env={}))
n = 0
while True:
    loop.save(sys.argv[2], "diagnostic_report.json", {"n": n, "filling": ["x" * 100] * 2000})
    n += 1
    if n == 3:
        print("writing", flush=True)
"""


def test_an_artifact_is_whole_or_not_there_when_its_writer_is_killed(loop: Loop) -> None:
    cycle_id = open_cycle(loop.control).cycle_id
    for pause in (0.0, 0.013, 0.029):
        process = subprocess.Popen([sys.executable, "-c", _WRITER, str(loop.home.path), cycle_id], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None and process.stdout.readline() == b"writing\n"
            time.sleep(pause)  # not luck: wherever in the writing it dies, the file must be whole
        finally:
            process.kill()
            process.wait(20)
            if process.stdout is not None:
                process.stdout.close()
        found = json.loads((loop.artifacts(cycle_id) / "diagnostic_report.json").read_text())
        assert found["n"] >= 2 and len(found["filling"]) == 2000
    assert Control(loop.home.control_db).verify() == []
    assert utc_now() >= loop.control.cycle(cycle_id).opened_at
