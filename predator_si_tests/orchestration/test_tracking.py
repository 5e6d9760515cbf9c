"""Training runs in a real MLflow store, opened by dagster-mlflow inside Dagster runs; and the tracker that keeps nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from predator_si.errors import BadInput, Missing, PredatorError, Refused, Unavailable
from predator_si.home import Home
from predator_si.orchestration.tracking import EXPERIMENT, MlflowTracker, mlflow_tracker
from predator_si.records import ModelCard
from predator_si.train.tracking import ExperimentTracker, NullTracker, tracked

CYCLE = "si_2026_01_31_001"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One home for the module: making MLflow's tables takes six seconds."""
    return Home(tmp_path_factory.mktemp("mlflow") / "home").ensure()


@pytest.fixture(params=["memory", "mlflow"])
def tracker(request: pytest.FixtureRequest) -> ExperimentTracker:
    return NullTracker() if request.param == "memory" else MlflowTracker(request.getfixturevalue("store"))


@pytest.fixture
def model(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[str], tuple[str, Path]]:
    """Model folders as the model store has them, under digests that no other test uses."""

    def made(name: str) -> tuple[str, Path]:
        digest = "sha256:" + hashlib.sha256(f"{request.node.name} {name}".encode()).hexdigest()
        folder = tmp_path / digest[7:]
        folder.mkdir()
        (folder / "predator.json").write_text(ModelCard(name=name, digest=digest, backend="torch-fp32", max_length=64).to_json())
        (folder / "model.safetensors").write_bytes(b"0" * 1000)
        return digest, folder

    return made


def materialize(home: Home, body: Callable[[ExperimentTracker], None], ui: str | None = None) -> dg.ExecuteInProcessResult:
    """``body`` as an asset of a real Dagster run."""

    @dg.asset(key=["cycle", "reranker_model"])
    def reranker_model(tracker: dg.ResourceParam[ExperimentTracker]) -> None:
        body(tracker)

    return dg.materialize([reranker_model], resources={"tracker": mlflow_tracker(home, ui)}, instance=dg.DagsterInstance.ephemeral(), raise_on_error=False)


def runs(home: Home, dagster_run_id: str) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=home.mlflow_uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return list(client.search_runs([experiment.experiment_id], filter_string=f"tags.dagster_run_id = '{dagster_run_id}'"))


# --------------------------------------------------------------------------- the registry, the same for both


def test_a_model_is_one_version_however_often_it_is_registered(tracker: ExperimentTracker, model: Callable[[str], tuple[str, Path]]):
    (first, folder), (second, other) = model("first"), model("second")
    version = tracker.register(first, folder, {"cycle": CYCLE})
    assert int(tracker.register(second, other)) == int(version) + 1
    assert tracker.register(first, folder, {"cycle": "later"}) == version


def test_aliases_move_except_gold(tracker: ExperimentTracker, model: Callable[[str], tuple[str, Path]]):
    (first, folder), (second, other) = model("first"), model("second")
    tracker.register(first, folder)
    tracker.register(second, other)
    for digest in (first, second, first):
        tracker.set_alias("champion", digest)
        assert tracker.alias("champion") == digest
    tracker.set_alias("gold-1", first)
    tracker.set_alias("gold-1", first)
    with pytest.raises(Refused, match="fixed point"):
        tracker.set_alias("gold-1", second)
    with pytest.raises(Refused, match="fixed point"):
        tracker.clear_alias("gold-1")
    assert tracker.alias("gold-1") == first
    assert tracker.alias("gold-2") is None
    tracker.set_alias("challenger", second)
    tracker.clear_alias("challenger")
    tracker.clear_alias("challenger")
    assert (tracker.alias("challenger"), tracker.alias("champion")) == (None, first)


def test_all_aliases_at_once(tracker: ExperimentTracker, model: Callable[[str], tuple[str, Path]]):
    (first, folder), (second, other) = model("first"), model("second")
    tracker.register(first, folder, {"cycle": CYCLE})
    tracker.register(second, other)
    gold = f"gold-{1 + max((int(name[5:]) for name in tracker.aliases() if name.startswith('gold-')), default=0)}"
    tracker.set_alias("champion", first)
    tracker.set_alias("challenger", second)
    tracker.set_alias(gold, first)
    found = tracker.aliases()
    assert (found["champion"], found["challenger"], found[gold]) == (first, second, first)
    tracker.clear_alias("challenger")
    assert "challenger" not in tracker.aliases()


def test_what_the_registry_refuses(tracker: ExperimentTracker, model: Callable[[str], tuple[str, Path]], tmp_path: Path):
    digest, folder = model("only")
    with pytest.raises(Missing, match="register it before"):
        tracker.set_alias("champion", digest)
    for alias in ("best", "gold-0", "gold-", "champion2", "v1"):
        with pytest.raises(BadInput, match="not an alias"):
            tracker.set_alias(alias, digest)
    with pytest.raises(BadInput, match="not a model digest"):
        tracker.register("sha256:short", folder)
    with pytest.raises(Missing, match=r"no predator\.json"):
        tracker.register(digest, tmp_path)


def test_nothing_is_written_to_no_run(tracker: ExperimentTracker, tmp_path: Path):
    for write in (lambda: tracker.log_metrics({"loss": 1.0}), lambda: tracker.log_file(tmp_path / "x"), lambda: tracker.log_table({"a": [1]}, "t")):
        with pytest.raises(BadInput, match="no run is open"):
            write()
    tracker.end("FINISHED")
    assert tracker.url() is None


def test_outside_a_dagster_run_mlflow_opens_nothing(store: Home):
    with pytest.raises(BadInput, match="inside a Dagster run only"):
        MlflowTracker(store).start(CYCLE, "train", {})


# --------------------------------------------------------------------------- runs


def test_a_run_ends_as_its_body_does():
    tracker = NullTracker()
    with tracked(tracker, CYCLE, "good", {"epochs": 1}) as run_id:
        tracker.log_metrics({"loss": 0.5}, step=3)
        with pytest.raises(BadInput, match="still open"):
            tracker.start(CYCLE, "second", {})
    with pytest.raises(ZeroDivisionError), tracked(tracker, CYCLE, "bad", {}):
        raise ZeroDivisionError
    with pytest.raises(KeyboardInterrupt), tracked(tracker, CYCLE, "stopped", {}):
        raise KeyboardInterrupt
    assert [run.status for run in tracker.runs.values()] == ["FINISHED", "FAILED", "KILLED"]
    assert tracker.runs[run_id].metrics == [(3, {"loss": 0.5})]


def test_a_training_run_is_dagster_mlflows(store: Home, model: Callable[[str], tuple[str, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    digest, folder = model("trained")
    report = tmp_path / "report.json"
    report.write_text("{}")
    seen: dict[str, Any] = {}

    def body(tracker: ExperimentTracker) -> None:
        from dagster_mlflow.resources import MlFlow

        assert isinstance(tracker, MlflowTracker)
        with tracked(tracker, CYCLE, "train", {"epochs": 2, "note": "x" * 9000, "lr": None}) as run_id:
            seen["class"] = type(tracker._mlflow) is MlFlow
            tracker.log_metrics({"loss": 0.9}, step=1)
            tracker.log_metrics({"loss": 0.4}, step=2)
            tracker.log_file(report, "reports")
            tracker.log_table({"query_id": ["q1", "q2"], "ndcg_at_10": [0.5, 1.0]}, "dev_per_query")
            seen["version"] = tracker.register(digest, folder, {"cycle": CYCLE})
        seen.update(run_id=run_id, url=tracker.url())

    result = materialize(store, body, ui="http://127.0.0.1:5000")
    assert result.success and seen["class"]
    [run] = runs(store, result.run_id)
    assert run.info.run_id == seen["run_id"]
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"{CYCLE} train")
    assert run.data.tags["predator/cycle"] == CYCLE
    assert run.data.params["epochs"] == "2" and len(run.data.params["note"]) == 6000
    assert seen["url"] == f"http://127.0.0.1:5000/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=store.mlflow_uri, registry_uri=store.mlflow_uri)
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "loss")] == [(1, 0.9), (2, 0.4)]
    version = client.get_model_version("reranker", seen["version"])
    assert (version.run_id, version.source) == (run.info.run_id, folder.resolve().as_uri())
    assert version.tags == {"cycle": CYCLE, "digest": digest, "model_uri": folder.resolve().as_uri()}
    kept = sorted(path.name for path in (store.mlflow / "artifacts" / run.info.run_id).rglob("*") if path.is_file())
    assert kept == ["MLmodel", "dev_per_query.json", "predator.json", "report.json"]  # what the model is, and not the weights
    table = next((store.mlflow / "artifacts" / run.info.run_id).rglob("dev_per_query.json"))
    assert json.loads(table.read_text()) == {"columns": ["query_id", "ndcg_at_10"], "data": [["q1", 0.5], ["q2", 1.0]]}
    assert not (tmp_path / "mlruns").exists() and not (tmp_path / "mlartifacts").exists()


def test_the_champion_loads_by_its_alias_with_its_signature_and_card(store: Home, tmp_path: Path):
    """MLflow's own loader over the store's folder: same scores as ours, nothing copied, nothing unpickled."""
    import mlflow
    from mlflow import MlflowClient

    from predator_si.search.models import ModelStore
    from predator_si.search.rerank import load_reranker
    from predator_si.search.tiny import tiny_cross_encoder
    from predator_si.train.model_card import ModelFacts, write_model_card

    models = ModelStore(tmp_path / "models")
    digest = models.add(tiny_cross_encoder(tmp_path / "tiny", ["one text", "another text"], seed=1), name="tiny", backend="torch-fp32", max_length=32)
    write_model_card(models, digest, ModelFacts(cycle_id=CYCLE, dataset_id="aug_2026_01_31_001", dataset_hash="abc", examples=7, corpus="toy"))
    tracker = MlflowTracker(store)
    version = tracker.register(digest, models.path(digest), {"cycle": CYCLE})
    tracker.set_alias("champion", digest)
    pairs = [("one", "another text"), ("text", "one text")]
    mlflow.set_tracking_uri(store.mlflow_uri)
    mlflow.set_registry_uri(store.mlflow_uri)
    try:
        loaded = mlflow.pyfunc.load_model("models:/reranker@champion")
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
    import pandas as pd

    scores = loaded.predict(pd.DataFrame(pairs, columns=["query", "text"]))
    assert scores.tolist() == load_reranker(models.path(digest)).score_pairs(pairs).tolist()
    assert loaded.metadata.signature.inputs.input_names() == ["query", "text"]
    with pytest.raises(mlflow.exceptions.MlflowException):
        loaded.predict(pd.DataFrame({"query": ["one"]}))
    described = MlflowClient(tracking_uri=store.mlflow_uri, registry_uri=store.mlflow_uri).get_model_version("reranker", version)
    assert "## Intended use" in described.description and "aug_2026_01_31_001" in described.description
    assert digest in models and models.card(digest).digest == digest, "what MLflow needs beside the weights does not change their digest"


def _fails(tracker: ExperimentTracker) -> None:
    with tracked(tracker, CYCLE, "train", {}):
        raise ValueError("out of data")


def _forgets(tracker: ExperimentTracker) -> None:
    tracker.start(CYCLE, "train", {})


def _interrupted(tracker: ExperimentTracker) -> None:
    with tracked(tracker, CYCLE, "train", {}):
        raise KeyboardInterrupt


@pytest.mark.parametrize(("body", "status"), [(_fails, "FAILED"), (_forgets, "FAILED"), (_interrupted, "KILLED")])
def test_no_run_stays_running(store: Home, body: Callable[[ExperimentTracker], None], status: str):
    dagster_runs: list[str] = []

    def noted(tracker: ExperimentTracker) -> None:
        assert isinstance(tracker, MlflowTracker) and tracker._context is not None
        dagster_runs.append(str(tracker._context.run_id))
        body(tracker)

    try:
        materialize(store, noted)
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        assert status == "KILLED"
    assert [run.info.status for run in runs(store, dagster_runs[0])] == [status]

    import mlflow

    assert mlflow.active_run() is None


def test_steps_of_one_dagster_run_share_its_mlflow_run(store: Home):
    ids = []

    def body(tracker: ExperimentTracker) -> None:
        with tracked(tracker, CYCLE, "train", {"seed": 1, "max_length": 64}) as run_id:
            ids.append(run_id)
        for _ in range(2):  # the second time is a retry: it says nothing new
            with tracked(tracker, CYCLE, "export", {"seed": 1, "max_length": 32, "backend": "onnx-int8"}) as run_id:
                ids.append(run_id)

    result = materialize(store, body)
    assert result.success
    [run] = runs(store, result.run_id)
    assert set(ids) == {run.info.run_id}
    assert run.data.params == {"seed": "1", "max_length": "64", "export/max_length": "32", "backend": "onnx-int8"}
    assert (run.info.status, run.info.run_name) == ("FINISHED", f"{CYCLE} train")


def test_what_a_killed_process_left_is_closed(store: Home):
    from mlflow import MlflowClient

    tracker = MlflowTracker(store)
    client = MlflowClient(tracking_uri=store.mlflow_uri)
    experiment = tracker._experiment()
    left = client.create_run(experiment, tags={"dagster_run_id": "dead"}).info.run_id
    other = client.create_run(experiment, tags={"dagster_run_id": "alive"}).info.run_id
    assert tracker.close_runs("dead", "KILLED") == [left]
    assert tracker.close_runs("dead", "FAILED") == []
    assert [client.get_run(run_id).info.status for run_id in (left, other)] == ["KILLED", "RUNNING"]


@pytest.fixture
def broken(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "broken").ensure()
    (home.mlflow / "mlflow.db").write_bytes(b"this is no database " * 500)
    yield home


def test_a_broken_store_is_named(broken: Home):
    with pytest.raises(Unavailable, match=r"mlflow\.db: MLflow refuses"):
        MlflowTracker(broken).alias("champion")
    failed = materialize(broken, _forgets)
    assert not failed.success
    [event] = [event for event in failed.all_events if event.is_step_failure]
    error = event.step_failure_data.error
    assert error is not None and error.cause is not None and Unavailable.__name__ in str(error.cause.cls_name)


def test_every_error_has_the_one_root():
    assert all(issubclass(error, PredatorError) for error in (BadInput, Missing, Refused, Unavailable))
