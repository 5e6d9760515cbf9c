"""The home folder: where everything of one installation lies, and the Dagster instance in it.

What belongs here: names of paths. What must not: what stands in the files, except the two files that a new Dagster instance needs.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from predator_si.errors import BadInput, Unavailable

DAGSTER_INSTANCE = """\
# The Dagster instance of one machine; storage is SQLite under DAGSTER_HOME, Dagster's own default.
# `predator-si up` and `predator-si demo` write this file into <home>/dagster; on Kubernetes deploy/k8s/dagster.yaml takes its place.
telemetry:
  enabled: false

# The page asks nobody for an e-mail address on the first visit.
nux:
  enabled: false

# The one choke point of every launch (UI, sensors, backfills): stamps who asked, obeys the kill switch, sets GPU tags.
run_coordinator:
  module: predator_si.orchestration.coordinator
  class: PredatorRunCoordinator

# One cycle at a time. The tag limit and the pool hold separately, because a pool that has never been used lets two runs through;
# a lease in the control database is the third lock.
concurrency:
  pools:
    granularity: run
    default_limit: 1
  runs:
    # Every lane has a limit (orchestration/op_tags.py), and all but rollback's together are one fewer than the runs at once: priority does not end a run that
    # has begun, so a way back that shares its place with an hour's backup would wait for it.
    max_concurrent_runs: 7
    tag_concurrency_limits:
      - key: predator/lane
        value: cycle
        limit: 1
      - key: predator/lane
        value: train
        limit: 1
      - key: predator/lane
        value: watch
        limit: 1
      - key: predator/lane
        value: upkeep
        limit: 1
      - key: predator/lane
        value: observe
        limit: 2
      - key: predator/lane
        value: rollback
        limit: 1

# More than 0 attempts to resume would make a cancelled run skip its remaining steps instead of ending.
run_monitoring:
  enabled: true
  max_resume_run_attempts: 0
  start_timeout_seconds: 180
  cancel_timeout_seconds: 60
  poll_interval_seconds: 15

# A failed step is a verdict, not an accident; only a worker that died is worth another try, and the cycle decides that itself.
run_retries:
  enabled: false

retention:
  schedule:
    purge_after_days: {skipped: 7, failure: 30, success: 30}
  sensor:
    purge_after_days: {skipped: 7, failure: 30, success: 30}
"""

DAGSTER_WORKSPACE = """\
# The one code location. `dagster dev -w workspace.yaml` works from a checkout; `predator-si up` writes the same file into <home>/dagster.
load_from:
  - python_module:
      module_name: predator_si.definitions
      location_name: predator_si
"""


@dataclass(frozen=True)
class Home:
    """The folder that holds one installation, and the names of what lies in it.

    Parameters
    ----------
    path
        The folder. It need not exist: :meth:`ensure` makes it.
    """

    path: Path

    @property
    def control_db(self) -> Path:
        """SQLite file of cycles, lease, flags and ledger."""
        return self.path / "control.db"

    @property
    def dagster(self) -> Path:
        """``DAGSTER_HOME``."""
        return self.path / "dagster"

    @property
    def workspace(self) -> Path:
        """Dagster's workspace file: the one code location."""
        return self.dagster / "workspace.yaml"

    @property
    def mlflow(self) -> Path:
        """MLflow's SQLite store and artifacts."""
        return self.path / "mlflow"

    @property
    def mlflow_uri(self) -> str:
        """Tracking URI of the MLflow store."""
        return f"sqlite:///{self.mlflow / 'mlflow.db'}"

    @property
    def gitops_bare(self) -> Path:
        """The GitOps repository: the truth about what is released."""
        return self.path / "gitops.git"

    @property
    def gitops(self) -> Path:
        """The writer's clone of the GitOps repository."""
        return self.path / "gitops"

    @property
    def reconcile(self) -> Path:
        """The reconciler's clone of the GitOps repository."""
        return self.path / "reconcile"

    @property
    def applied(self) -> Path:
        """What the reconciler has applied; the search service follows these files."""
        return self.path / "applied"

    @property
    def models(self) -> Path:
        """The model store, a folder for each digest."""
        return self.path / "models"

    @property
    def corpus(self) -> Path:
        """Built and imported corpora, a folder for each name."""
        return self.path / "corpus"

    @property
    def service(self) -> Path:
        """State of the search service."""
        return self.path / "service"

    @property
    def index(self) -> Path:
        """Index generations of the search service."""
        return self.service / "index"

    @property
    def builds(self) -> Path:
        """Indexes beside the one that serves, by name."""
        return self.service / "builds"

    @property
    def events(self) -> Path:
        """Spool and hourly files of search and action events."""
        return self.service / "events"

    @property
    def telemetry(self) -> Path:
        """The raw layer: every valid event once, by 15-minute windows of its own time, and the quarantine. ``monitor.intake`` alone writes here."""
        return self.path / "telemetry"

    @property
    def telemetry_search(self) -> Path:
        """Search events: ``window=<yyyymmddTHHMM>/<part>.parquet`` (UTC start of the window)."""
        return self.telemetry / "search"

    @property
    def telemetry_actions(self) -> Path:
        """Action events, in the window of their request where that is known: ``window=<yyyymmddTHHMM>/<part>.parquet``."""
        return self.telemetry / "actions"

    @property
    def warehouse(self) -> Path:
        """What dbt writes: the DuckDB file, compiled SQL, logs. It can be built again from ``telemetry`` and ``snapshots``."""
        return self.path / "warehouse"

    @property
    def warehouse_file(self) -> Path:
        """The marts in a DuckDB file; one process may write it at a time."""
        return self.warehouse / "marts.duckdb"

    @property
    def telemetry_judgments(self) -> Path:
        """Labels of requests that were probes, by the request's id: ``window=<yyyymmddTHHMM>/<part>.parquet``."""
        return self.telemetry / "judgments"

    @property
    def telemetry_windows(self) -> Path:
        """What was measured of each closed window, every revision: ``<yyyymmddTHHMM>/r<revision>/``."""
        return self.telemetry / "windows"

    @property
    def telemetry_quarantine(self) -> Path:
        """Records that could not be used, with the reason and the place they came from: ``<part>.parquet``."""
        return self.telemetry / "quarantine"

    @property
    def vault(self) -> Path:
        """SQLite file of the keys of stored query text. It never lies in the same backup as the rest of the home."""
        return self.path / "privacy" / "vault.db"

    @property
    def judgments(self) -> Path:
        """Judged queries used as probes."""
        return self.path / "judgments"

    @property
    def topics(self) -> Path:
        """Topics of earlier diagnoses, so that a topic keeps its number."""
        return self.path / "topics.json"

    @property
    def pair_scores(self) -> Path:
        """SQLite file of scores of query-document pairs, shared by stages; it can be computed again."""
        return self.path / "pair_scores.db"

    @property
    def snapshots(self) -> Path:
        """Metrics snapshots and baselines."""
        return self.path / "snapshots"

    @property
    def artifacts(self) -> Path:
        """A folder for each cycle."""
        return self.path / "artifacts"

    @property
    def reports(self) -> Path:
        """Weekly reports."""
        return self.path / "reports"

    @property
    def logs(self) -> Path:
        """One log file for each process of ``predator-si up``."""
        return self.path / "logs"

    @property
    def datasets(self) -> Path:
        """The DVC and Git repository of training data."""
        return self.path / "datasets"

    @property
    def written_queries(self) -> Path:
        """SQLite file of what language models wrote for training, by hash, and of what each cycle spent on it."""
        return self.path / "written_queries.db"

    @property
    def outbox(self) -> Path:
        """SQLite file of messages to people that are on their way, and of those that were told."""
        return self.path / "notify.db"

    @property
    def up_pid(self) -> Path:
        """Process id of the supervisor that ``predator-si up`` started."""
        return self.path / "up.pid"

    def release_file(self, contour: str) -> Path:
        """The applied machine-owned release file of ``contour``."""
        return self.applied / f"release-{contour}.yaml"

    @property
    def deny_file(self) -> Path:
        """The applied deny list."""
        return self.applied / "deny.yaml"

    def ensure(self) -> Home:
        """Make the folder and those in it that more than one part writes to, and the two Dagster files where they are missing.

        Raises
        ------
        BadInput
            The path is a file, or passes through one.
        Unavailable
            The folder cannot be made or written to.
        """
        folders = (self.path, self.dagster, self.mlflow, self.applied, self.models, self.corpus, self.index, self.events, self.judgments)
        try:
            for folder in (*folders, self.snapshots, self.artifacts, self.logs):
                folder.mkdir(parents=True, exist_ok=True)
            # Permission bits do not tell about read-only or full file systems; a written file does.
            with tempfile.NamedTemporaryFile(dir=self.path, prefix=".writable-") as probe:
                probe.write(b"x")
                probe.flush()
        except (FileExistsError, NotADirectoryError) as error:
            raise BadInput(f"{error.filename}: is a file, a folder is needed there; choose another home with --home or PREDATOR_SI_HOME.") from error
        except OSError as error:
            raise Unavailable(f"{self.path}: cannot be written to ({error.strerror}); free space, change its owner, or choose another with --home.") from error
        for file, text in ((self.dagster / "dagster.yaml", DAGSTER_INSTANCE), (self.workspace, DAGSTER_WORKSPACE)):
            if not file.exists():
                partial = file.with_name(f".{file.name}.{os.getpid()}")
                partial.write_text(text, encoding="utf-8")
                partial.replace(file)
        return self
