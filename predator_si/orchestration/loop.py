"""Everything one installation's loop works with, opened from its settings.

What belongs here: where the parts are and how they are opened. What must not: what a stage does, Dagster.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from predator_si.control import ACTIVE, Control
from predator_si.control.opening import open_control
from predator_si.control.schema import BUSY_SECONDS
from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.home import Home
from predator_si.notify import Channel, Event, Outbox, Secrets, channels_of
from predator_si.notify.log import LOG, write_to
from predator_si.orchestration.holding import hold
from predator_si.orchestration.metering import metered
from predator_si.records import Baseline, Cycle, MetricsSnapshot, Record, ServingConfig
from predator_si.settings import DemoScale, Settings

if TYPE_CHECKING:
    from predator_si.corpora import Corpus
    from predator_si.evaluate import PairScores
    from predator_si.privacy import Vault
    from predator_si.release.deny import DenyEntry
    from predator_si.release.deployer import Deployer
    from predator_si.release.gitops import GitOpsRepo
    from predator_si.search.models import ModelStore
    from predator_si.search.retrieve import Embedder, HybridIndex

OPENERS = frozenset({"quality_gate_sensor", "training_schedule"})
"""Who opens cycles without a person."""
_INDEXES: dict[tuple[str, bool], tuple[tuple[str, int], HybridIndex]] = {}
"""By home, and whether it is a build beside the served one: the index opened last, and which files it was. Two to a process: they are large."""
_EMBEDDERS: dict[Path, Embedder] = {}
"""By folder: loading one takes seconds."""


class LoopPlan(Record):
    """What this home's loop works on: ``plan.json`` in the home folder, written when it is prepared."""

    corpus: Path
    embedder: Path
    scale: DemoScale
    prepared_at: datetime
    """Policy counts the cycles since then: setting a home up anew is a person's act."""


class Loop:
    """The parts of one installation.

    Parameters
    ----------
    settings
        Of the contour and the machine.
    busy_seconds
        How long a change waits for another writer of the control database.
    """

    def __init__(self, settings: Settings, *, busy_seconds: float = BUSY_SECONDS) -> None:
        self.settings = settings
        self.busy_seconds = busy_seconds
        self.home = Home(settings.home)
        self.contour = settings.contour
        self.search_url = settings.search_url
        write_to(self.home.logs)

    @cached_property
    def plan(self) -> LoopPlan:
        """The plan of this home.

        Raises
        ------
        Missing
            The home was never prepared.
        """
        path = self.home.path / "plan.json"
        if not path.is_file():
            raise Missing(f"{path}: this home was not prepared. Run `predator-si demo` or `predator-si up` first.")
        return LoopPlan.read(path)

    @cached_property
    def control(self) -> Control:
        """The control database."""
        return open_control(self.home, busy_seconds=self.busy_seconds)

    def vault(self) -> Vault:
        """The keys of stored query text; what the ledger calls erased cannot be opened with it."""
        from predator_si.search.personal import open_vault

        return open_vault(self.home.path)

    @cached_property
    def models(self) -> ModelStore:
        """The model store."""
        from predator_si.search.models import ModelStore

        return ModelStore(self.home.models)

    @cached_property
    def pair_scores(self) -> PairScores:
        """Pair scores shared by all stages."""
        from predator_si.evaluate import PairScores

        return PairScores(self.home.pair_scores)

    @cached_property
    def corpus(self) -> Corpus:
        """Documents, queries and judgments that the loop is judged by."""
        from predator_si.corpora import load_corpus

        return load_corpus(self.plan.corpus)

    @cached_property
    def repo(self) -> GitOpsRepo:
        """The writer's side of the GitOps repository."""
        from predator_si.orchestration.delivery import open_repo

        return open_repo(self.settings, self.home.gitops)

    @cached_property
    def deployer(self) -> Deployer:
        """Who brings a commit into force."""
        from predator_si.orchestration.delivery import open_deployer

        return open_deployer(self.settings, self.repo)

    @property
    def confirm_seconds(self) -> float:
        """Within which a commit must be in force, and then the service must say so."""
        return self.settings.values.deploy.timeout.total_seconds()

    def index(self, build: str | None = None) -> HybridIndex:
        """The index that serves now, so that offline stages see the service's candidates; or the build of a name, beside it.

        Raises
        ------
        Missing
            There is no index, or no build of this name.
        """
        from predator_si.search.index_builds import NOTE, IndexBuilds
        from predator_si.search.index_versions import IndexVersions
        from predator_si.search.retrieve import HybridIndex

        versions = IndexVersions(self.home.index)
        folder, beside = versions.folder(versions.current()), build is not None and build != self.served_build()
        if build is not None and beside:
            builds = IndexBuilds(self.home.builds)
            builds.note(build)
            folder = builds.folder(build)
        key, files = (str(self.home.index), beside), (str(folder), (folder / (NOTE if beside else "index.json")).stat().st_mtime_ns)
        if key not in _INDEXES or _INDEXES[key][0] != files:
            _INDEXES.pop(key, None)
            _INDEXES[key] = (files, HybridIndex.load(folder, self.embedder(folder)))
        return _INDEXES[key][1]

    def served_build(self) -> str:
        """Name of the build that the serving index goes back to."""
        from predator_si.search.index_builds import FIRST, note_of
        from predator_si.search.index_versions import IndexVersions

        versions = IndexVersions(self.home.index)
        note = note_of(versions.folder(versions.current()))
        return FIRST if note is None else note.name

    def embedder(self, index_folder: Path | None = None) -> Embedder:
        """The bi-encoder that an index was built with; by default the home's own."""
        from predator_si.search.index_builds import embedder_of
        from predator_si.search.retrieve import load_embedder

        folder = self.plan.embedder if index_folder is None else embedder_of(index_folder, self.plan.embedder)
        if folder not in _EMBEDDERS:
            _EMBEDDERS[folder] = load_embedder(folder)
        return _EMBEDDERS[folder]

    @property
    def answered_here(self) -> tuple[str, ...]:
        """Contours whose questions people answer here: this one, and the one to which its releases are promoted."""
        onward = self.settings.values.promotion.to
        return (self.contour,) if onward is None else (self.contour, onward)

    # ----------------------------------------------------------------- what people are told

    @cached_property
    def outbox(self) -> Outbox:
        """Messages on their way."""
        said = self.settings.values.notify
        return Outbox(self.home.outbox, repeat_after=said.repeat_after, most_per_hour=said.at_most_per_hour)

    @cached_property
    def channels(self) -> list[Channel]:
        """Where messages go; one that cannot be used is logged once and left out."""
        found, problems = channels_of(self.settings.values.notify, self.settings.values.monitoring, Secrets())
        for problem in problems:
            LOG.warning("- channel left out: %s", problem)
        return found

    def notify(self, event: Event) -> bool:
        """Tell people: log it, and put it into the outbox, from which ``messenger_sensor`` delivers it. Never raises; False when told already, or not kept."""
        try:
            return self.outbox.put(event, [channel.name for channel in self.channels])
        except Unavailable as error:
            LOG.error("%s %s: %s (and its message is not kept: %s)", event.cycle_id or "-", event.kind, event.title, error)
            return False

    # ----------------------------------------------------------------- what is served

    @property
    def release_name(self) -> str:
        """Name of the machine-owned release file."""
        return f"release-{self.contour}.yaml"

    def release_text(self) -> str:
        """The release file at the branch's head."""
        self.repo.sync()
        return self.repo.show(self.release_name)

    def serving(self) -> ServingConfig:
        """The champion's configuration, by Git."""
        from predator_si.release.release_file import parse_release

        return parse_release(self.release_text(), self.release_name).serving

    def released(self) -> ServingConfig:
        """The champion's configuration with what belongs to the whole service beside it (workers, index), by Git: what a follower must report."""
        from predator_si.release.release_file import parse_release

        release = parse_release(self.release_text(), self.release_name)
        return release.serving.model_copy(update={"ingest_workers": release.ingest.workers, "index": release.index.build})

    def denied(self) -> list[DenyEntry]:
        """The deny list, by Git as it was fetched: what may not be served in this contour."""
        from predator_si.release.deny import parse_deny
        from predator_si.release.release_file import DENY_FILE

        return parse_deny(self.repo.show(DENY_FILE), contour=self.contour)

    def info(self, *, facts: bool = False) -> dict[str, Any]:
        """What the service says about itself; with ``facts`` also what its documents are like.

        Raises
        ------
        Unavailable
            It does not answer.
        """
        import httpx

        try:
            answer = httpx.get(f"{self.search_url}/info", params={"facts": "true"} if facts else None, timeout=30.0 if facts else 10.0, trust_env=False)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"{self.search_url}/info does not answer ({type(error).__name__}: {error}). Start the service: `predator-si up`.") from error
        return found

    def flush(self) -> None:
        """Ask the service to write its events out, so that a window is whole."""
        import httpx

        try:
            httpx.post(f"{self.search_url}/flush", timeout=30.0, trust_env=False).raise_for_status()
        except httpx.HTTPError as error:
            raise Unavailable(
                f"{self.search_url}/flush failed ({type(error).__name__}: {error}); the newest events are not on disk. Is the service running?"
            ) from error

    # ----------------------------------------------------------------- cycles and their artifacts

    def artifacts(self, cycle_id: str) -> Path:
        """The folder of a cycle's artifacts."""
        folder = self.home.artifacts / cycle_id
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def save(self, cycle_id: str, name: str, record: Record | dict[str, Any]) -> Path:
        """Write one artifact, whole or not at all, also where two runs write it at once; refused to a run that lost its lease."""
        if "control" in vars(self):  # who never opened it holds no lease
            self.control.require_lease()
        path = self.artifacts(cycle_id) / name
        partial = path.with_name(f".{name}.{secrets.token_hex(4)}.partial")
        partial.write_text(record.to_json() if isinstance(record, Record) else json.dumps(record, indent=2, sort_keys=True, default=str) + "\n")
        partial.replace(path)
        return path

    def judged_as(self, cycle_id: str) -> str:
        """The trigger type whose criteria judge a cycle (``release.decide.judged_as``)."""
        from predator_si.release.decide import judged_as

        path = self.home.artifacts / cycle_id / "challenger.json"
        return judged_as(self.control.cycle(cycle_id).trigger.type, ServingConfig.read(path) if path.is_file() else None)

    def should_stop(self, cycle_id: str) -> Callable[[], bool]:
        """Whether work on a cycle must stop: the kill switch is on, or the cycle has ended."""
        return lambda: self.control.kill_switch(self.contour) or self.control.cycle(cycle_id).state not in ACTIVE

    @contextmanager
    def working_on(self, cycle_id: str) -> Iterator[Cycle]:
        """Hold the contour's one lease for a run of a cycle (``orchestration.holding``): whatever it writes within is refused once the lease is lost.

        Raises
        ------
        Refused
            Another cycle holds it, or another run of this one.
        """
        with hold(self.control, f"cycle-{self.contour}", cycle_id, self._has_ended), metered(self, cycle_id):
            yield self.control.cycle(cycle_id)

    def _has_ended(self, cycle_id: str) -> bool:
        try:
            return self.control.cycle(cycle_id).state not in ACTIVE
        except Missing:
            return False

    # ----------------------------------------------------------------- snapshots

    def snapshots(self, limit: int = 200) -> list[MetricsSnapshot]:
        """The newest snapshots of this contour, oldest first; unreadable ones are an error, not a gap."""
        paths = sorted(self.home.snapshots.glob(f"{self.contour}-????????T*.json"))[-limit:]
        return [MetricsSnapshot.read(path) for path in paths]

    def probes(self, snapshot_id: str) -> pl.DataFrame:
        """The judged queries that were asked for a snapshot."""
        path = self.home.snapshots / f"{snapshot_id}.parquet"
        try:
            return pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise BadInput(f"{path}: the probes of the snapshot cannot be read ({str(error).splitlines()[0]}). Take a new snapshot.") from error

    def baseline(self) -> Baseline | None:
        """The reference of the current champion, where there is one."""
        path = self.home.path / "baseline.json"
        return Baseline.read(path) if path.is_file() else None

    def baseline_is_of_another(self, champion: str) -> bool:
        """Whether the baseline belongs to a model that does not serve any more."""
        known = self.baseline()
        return known is not None and known.champion != champion
