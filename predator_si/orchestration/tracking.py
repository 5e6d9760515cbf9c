"""Training runs in MLflow, through dagster-mlflow: its resource opens the MLflow run that belongs to the Dagster run.

What belongs here: the ``ExperimentTracker`` over MLflow, and the Dagster resource that gives it to assets. What must not: importing
mlflow or dagster_mlflow when this module is imported (2 s and 200 MB for each sensor tick), hence the resource of dagster-mlflow is made
when a run starts.

dagster-mlflow leaves its run RUNNING, and its hook that would end it goes by the last op of a job, which is wrong for a selection. So an
asset ends its run itself (``train.tracking.tracked``), the resource's teardown closes one that was forgotten, and ``close_runs`` is for
the run-status sensor: after ``kill -9`` nobody else is left to do it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg

from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.home import Home
from predator_si.orchestration import op_tags
from predator_si.quiet import TELEMETRY_OFF, be_quiet
from predator_si.train import tracking
from predator_si.train.tracking import REGISTERED_MODEL, RunStatus

EXPERIMENT = "predator_si"
DAGSTER_RUN_TAG = "dagster_run_id"
"""dagster-mlflow's own tag."""
_NAME_TAG = "predator/name"
_LONGEST_PARAMETER = 6000  # MLflow refuses longer values
_LONGEST_DESCRIPTION = 5000  # of a model version, in its SQL store


class MlflowTracker:
    """``train.tracking.ExperimentTracker`` over MLflow.

    Steps of one Dagster run share one MLflow run, as dagster-mlflow has it: a second ``start`` in the same Dagster run goes on with the run
    of the first. A parameter that this run has with another value is then written as ``<name>/<key>``, since MLflow never changes one.

    Parameters
    ----------
    home
        Its ``mlflow_uri`` is the store, ``<home>/mlflow/artifacts`` takes the files.
    context
        Of the Dagster run. Without one, the registry works and ``start`` refuses.
    ui
        Address of the MLflow server of this home, for links.
    """

    def __init__(self, home: Home, context: dg.InitResourceContext | None = None, ui: str | None = None) -> None:
        self._home = home
        self._context = context
        self._ui = ui
        self._resource: Iterator[Any] | None = None
        self._mlflow: Any = None
        """dagster-mlflow's ``MlFlow`` of the open run."""
        self._page: tuple[str, str] | None = None
        self._client_made: Any = None

    # ------------------------------------------------------------------ runs

    def start(self, cycle_id: str, name: str, parameters: Mapping[str, Any]) -> str:
        """Open the MLflow run of this Dagster run; its id."""
        if self._mlflow is not None:
            raise BadInput(f"an MLflow run is still open; end it before starting {name!r}.")
        if self._context is None or self._context.dagster_run is None:
            raise BadInput(f"run {name!r} of {cycle_id}: dagster-mlflow opens runs inside a Dagster run only. Train through cycle_train_job.")
        self._experiment()  # before anybody else makes it, with a folder for artifacts that does not depend on the working directory
        be_quiet()
        from dagster_mlflow import mlflow_tracking

        config = {
            "experiment_name": EXPERIMENT,
            "mlflow_tracking_uri": self._home.mlflow_uri,
            "env": {"MLFLOW_DISABLE_TELEMETRY": TELEMETRY_OFF["MLFLOW_DISABLE_TELEMETRY"]},
            "extra_tags": {op_tags.CYCLE: cycle_id},
        }
        with _speaking(self._home.mlflow_uri):
            self._resource = iter(mlflow_tracking.resource_fn(self._context.replace_config(config)))
            self._mlflow = next(self._resource)
            try:
                run = self._mlflow.active_run()
                self._page = (run.info.experiment_id, run.info.run_id)
                logged = dict(run.data.params)
                first = run.data.tags.get(_NAME_TAG, name)
                # dagster-mlflow names a run after its job, also each time it goes on with one
                self._mlflow.set_tags({_NAME_TAG: first, "mlflow.runName": f"{cycle_id} {first}"})
                self._mlflow.log_params(_new_parameters(name, parameters, logged))
            except BaseException:
                self.end("FAILED")
                raise
        return str(run.info.run_id)

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Write metrics of the open run."""
        with _speaking(self._home.mlflow_uri):
            self._running().log_metrics(dict(values), step=step)

    def log_file(self, path: Path, folder: str = "") -> None:
        """Copy a file to the open run's artifacts."""
        running = self._running()
        if not path.is_file():
            raise Missing(f"{path}: no such file to log.")
        with _speaking(self._home.mlflow_uri):
            running.log_artifact(str(path), folder or None)

    def log_table(self, rows: Mapping[str, Sequence[Any]], name: str) -> None:
        """Write a table to the open run's artifacts, as MLflow's page shows one."""
        running = self._running()
        with _speaking(self._home.mlflow_uri):
            running.log_table({column: list(values) for column, values in rows.items()}, artifact_file=f"{name}.json")

    def end(self, status: RunStatus) -> None:
        """Close the open run; nothing happens when none is open."""
        if self._mlflow is None:
            return
        running, resource, self._mlflow, self._resource = self._mlflow, self._resource, None, None
        with _speaking(self._home.mlflow_uri):
            running.end_run(status=status)
            for _ in resource or ():  # lets dagster-mlflow finish its resource
                raise BadInput("dagster-mlflow's resource gave a second value; this is not the version that is pinned.")

    def url(self) -> str | None:
        """The newest run's page in the MLflow server of this home."""
        if self._ui is None or self._page is None:
            return None
        experiment, run_id = self._page
        return f"{self._ui}/#/experiments/{experiment}/runs/{run_id}"

    def _running(self) -> Any:
        if self._mlflow is None:
            raise tracking.not_open()
        return self._mlflow

    # ------------------------------------------------------------------ registry

    def register(self, digest: str, folder: Path, tags: Mapping[str, str] | None = None) -> str:
        """A version of ``reranker`` whose source and tag ``model_uri`` point at ``folder``, and whose description is the model card.

        ``folder`` gets an ``MLmodel`` with the signature, so that ``mlflow.pyfunc.load_model("models:/reranker@champion")`` works; the open run gets this
        file, ``predator.json`` and ``README.md``.
        """
        tracking.check_model(digest, folder)
        client = self._client()
        source = folder.resolve().as_uri()
        labels = {**(tags or {}), "digest": digest, "model_uri": source}
        run_id = self._page[1] if self._mlflow is not None and self._page is not None else None
        with _speaking(self._home.mlflow_uri):
            _write_mlmodel(folder, run_id)
        if run_id is not None:
            for name in ("predator.json", "MLmodel", "README.md"):
                if (folder / name).is_file():
                    self.log_file(folder / name, f"models/{digest[7:19]}")
        card = (folder / "README.md").read_text(encoding="utf-8")[:_LONGEST_DESCRIPTION] if (folder / "README.md").is_file() else None
        with _speaking(self._home.mlflow_uri):
            known = self._version(digest)
            if known is None:
                self._registered_model()
                made = client.create_model_version(REGISTERED_MODEL, source=source, run_id=run_id, tags=labels, description=card)
                return str(made.version)
            for key, value in labels.items():
                client.set_model_version_tag(REGISTERED_MODEL, known, key, value)
            if card is not None:
                client.update_model_version(REGISTERED_MODEL, known, card)
            return known

    def set_alias(self, alias: str, digest: str) -> None:
        """Point an alias at a registered digest."""
        tracking.check_movable(alias, self.alias(alias), digest)
        with _speaking(self._home.mlflow_uri):
            version = self._version(digest)
            if version is None:
                raise tracking.unregistered(digest)
            self._client().set_registered_model_alias(REGISTERED_MODEL, alias, version)

    def clear_alias(self, alias: str) -> None:
        """Take an alias off."""
        tracking.check_clearable(alias)
        if self.alias(alias) is not None:
            with _speaking(self._home.mlflow_uri):
                self._client().delete_registered_model_alias(REGISTERED_MODEL, alias)

    def alias(self, alias: str) -> str | None:
        """The digest that has the alias."""
        tracking.check_alias(alias)
        client = self._client()
        with _speaking(self._home.mlflow_uri):
            models = client.search_registered_models(filter_string=f"name='{REGISTERED_MODEL}'")
            version = models[0].aliases.get(alias) if models else None
            return None if version is None else str(client.get_model_version(REGISTERED_MODEL, str(version)).tags["digest"])

    def aliases(self) -> dict[str, str]:
        """All aliases with the digests that have them."""
        client = self._client()
        with _speaking(self._home.mlflow_uri):
            models = client.search_registered_models(filter_string=f"name='{REGISTERED_MODEL}'")
            held = dict(models[0].aliases) if models else {}
            digests = {version: str(client.get_model_version(REGISTERED_MODEL, version).tags["digest"]) for version in {str(value) for value in held.values()}}
        return {alias: digests[str(version)] for alias, version in held.items()}

    def _version(self, digest: str) -> str | None:
        found = self._client().search_model_versions(f"name='{REGISTERED_MODEL}' and tag.digest='{digest}'")
        return min((str(version.version) for version in found), key=int, default=None)

    def _registered_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client().create_registered_model(REGISTERED_MODEL)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    # ------------------------------------------------------------------ the store

    def close_runs(self, dagster_run_id: str, status: RunStatus) -> list[str]:
        """Close what a dead Dagster run left RUNNING; ids of the MLflow runs. For the run-status sensor."""
        experiment, client = self._experiment(), self._client()
        with _speaking(self._home.mlflow_uri):
            mine = f"tags.{DAGSTER_RUN_TAG} = '{dagster_run_id}' and attributes.status = 'RUNNING'"
            left = [run.info.run_id for run in client.search_runs([experiment], filter_string=mine)]
            for run_id in left:
                client.set_terminated(run_id, status=status)
        return left

    def _client(self) -> Any:
        if self._client_made is None:
            be_quiet()
            from mlflow import MlflowClient

            self._home.mlflow.mkdir(parents=True, exist_ok=True)
            with _speaking(self._home.mlflow_uri):
                self._client_made = MlflowClient(tracking_uri=self._home.mlflow_uri, registry_uri=self._home.mlflow_uri)
        return self._client_made

    def _experiment(self) -> str:
        client = self._client()
        from mlflow.exceptions import MlflowException

        with _speaking(self._home.mlflow_uri):
            try:
                found = client.get_experiment_by_name(EXPERIMENT)
                return str(found.experiment_id if found is not None else client.create_experiment(EXPERIMENT, (self._home.mlflow / "artifacts").as_uri()))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process was faster
                    raise
                return str(client.get_experiment_by_name(EXPERIMENT).experiment_id)


def existing_tracker(home: Home) -> MlflowTracker | None:
    """The registry of a home that has one; null where nothing was ever registered, so that nobody makes a database by looking."""
    return MlflowTracker(home) if (home.mlflow / "mlflow.db").is_file() else None


def mlflow_tracker(home: Home, ui: str | None = None) -> dg.ResourceDefinition:
    """The resource that gives assets a ``MlflowTracker`` (parameter type ``dg.ResourceParam[ExperimentTracker]``).

    Nothing is opened until an asset starts a run or asks the registry; a run that an asset left open is closed as FAILED.
    """

    @dg.resource(description=f"Training runs and registered models in {EXPERIMENT}'s MLflow store, through dagster-mlflow.")
    def experiment_tracker(context: dg.InitResourceContext) -> Iterator[MlflowTracker]:
        tracker = MlflowTracker(home, context, ui)
        try:
            yield tracker
        finally:
            tracker.end("FAILED")

    return experiment_tracker


def _write_mlmodel(folder: Path, run_id: str | None) -> None:
    """What MLflow needs to load the folder as it lies in the store: pairs of texts in, one logit each out. Written once; it is no weight file."""
    path = folder / "MLmodel"
    if path.is_file():
        return
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import add_to_model
    from mlflow.types import ColSpec, DataType, Schema

    inputs = Schema([ColSpec(DataType.string, "query"), ColSpec(DataType.string, "text")])
    model = Model(run_id=run_id, signature=ModelSignature(inputs=inputs, outputs=Schema([ColSpec(DataType.float)])))
    add_to_model(model, loader_module="predator_si.search.pyfunc")
    partial = folder / f".MLmodel.{secrets.token_hex(4)}.partial"  # two runs may register it at once
    model.save(str(partial))
    partial.replace(path)


def _new_parameters(name: str, parameters: Mapping[str, Any], logged: Mapping[str, str]) -> dict[str, str]:
    new = {}
    for key, value in parameters.items():
        text = str(value)[:_LONGEST_PARAMETER]
        own = key if logged.get(key, text) == text else f"{name}/{key}"
        if own not in logged:
            new[own] = text
    return new


@contextmanager
def _speaking(uri: str) -> Iterator[None]:
    """One clear message for whatever MLflow or its disk raises."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise Unavailable(f"{uri}: MLflow refuses: {first[:300]}. Check the file, the free space, and that no other version of MLflow migrates it.") from error
