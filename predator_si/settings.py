"""One typed, frozen Settings: the contour's values (CONTRACT.md section 2) and the environment of this process.

What belongs here: where settings come from and in which order they win. What must not: the shape of a contour's values (contour.py),
reading YAML (values.py), any stage.

Later wins: defaults, values.yaml, values-<contour>.yaml, the file named by ``--values`` or PREDATOR_SI_VALUES; then the environment for
PREDATOR_SI_HOME, PREDATOR_SI_CACHE, PREDATOR_SI_PORTS and PREDATOR_SI_SEARCH_URL. PREDATOR_SI_CHART names another folder of the contours' files: in a
cluster the one that the chart mounts.
"""

from __future__ import annotations

import difflib
import os
import typing
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from predator_si.contour import Budget, ContourValues, Experiment, Prices, Resources, Sources, Watch
from predator_si.contour_copies import Copies, read_copies
from predator_si.errors import BadInput, Missing
from predator_si.home import Home
from predator_si.records import Criterion, Record
from predator_si.signals import signal
from predator_si.values import KeyPath, Values, overlay, read_block, unknown_key

CHART = Path(__file__).resolve().parents[1] / "deploy" / "helm" / "predator-umbrella"
"""The values files of a checkout. A package installed without one knows contour ``local`` only."""


class Ports(Record):
    """Ports on the loopback interface."""

    dagster: int = Field(default=3000, ge=1, le=65535)
    mlflow: int = Field(default=5000, ge=1, le=65535)
    api: int = Field(default=8000, ge=1, le=65535)
    search: int = Field(default=8080, ge=1, le=65535)

    @model_validator(mode="after")
    def _distinct(self) -> Ports:
        ports = list(self.model_dump().values())
        if len(set(ports)) != len(ports):
            raise ValueError("two services cannot share a port")
        return self


class DemoScale(Record):
    """How much the loop does in one cycle. Counts are queries, requests or documents; ``None`` means all there are."""

    name: Literal["small", "full"]
    models: Literal["tiny", "real"]
    """``tiny``: seeded models of a few hundred kilobytes; ``real``: ms-marco-MiniLM-L-12-v2 and all-MiniLM-L6-v2."""
    seed: int = 20
    depth: int
    """Candidates that the reranker scores for each search."""
    fusion_weight: float = 0.0
    """Share of the first stage's score; the same for champion and challenger."""
    documents_per_package: int | None
    champion_length: int
    """Tokens of a pair as the first champion reads it."""
    max_length: int
    """Tokens of a pair in training, and so of what is trained."""
    log_requests: int
    """Searches of the shifted query log, answered by the first stage alone: where training clicks come from."""
    baseline_requests: int
    """Searches answered by the champion itself before the shift: latency, errors, cost."""
    shift_requests: int
    """The same after it."""
    probe_queries: int
    """Judged dev queries of each part asked at every snapshot."""
    dev_queries: int
    """Judged dev queries that choose the backend."""
    test_queries: int
    """Sealed queries of the shift part, opened once a cycle."""
    click_groups: int
    document_groups: int
    negatives: int
    groups_per_step: int
    learning_rate: float
    frozen_layers: int
    layers: int | None = None
    """Encoder layers of what is trained; null keeps the champion's."""
    epochs: float = 1.0
    train_seconds: float
    average_with_start: float = 0.0
    trial_requests: int
    watch_requests: int
    """Over all checks of the watch together."""
    watch_checks: int
    watch_probes: int
    drill_requests: int
    latency_requests: int
    """Closed-loop searches of each arm when P95 is measured."""
    resamples: int
    """Of the bootstrap and of the sign-flip test."""
    explain_seconds: float = 60.0
    """Wall time that the explaining methods of a diagnosis may take together."""
    hurries: bool = False
    """Whether the watch and the trial ask for no more than ``watch_checks``, ``watch_requests`` and ``trial_requests`` although the contour does: while a demo
    runs, and in the homes of drills. Every other home does what its contour says."""


DEMO_SCALES: dict[str, DemoScale] = {
    "small": DemoScale(
        name="small",
        models="tiny",
        explain_seconds=20.0,
        depth=10,
        documents_per_package=200,
        fusion_weight=0.35,
        champion_length=96,
        max_length=64,
        log_requests=300,
        baseline_requests=150,
        shift_requests=150,
        probe_queries=120,
        dev_queries=60,
        test_queries=150,
        click_groups=150,
        document_groups=100,
        negatives=4,
        groups_per_step=8,
        learning_rate=1e-3,
        frozen_layers=0,
        epochs=3.0,
        train_seconds=30.0,
        trial_requests=200,
        watch_requests=200,
        watch_checks=2,
        watch_probes=60,
        drill_requests=100,
        latency_requests=60,
        resamples=2000,
    ),
    "full": DemoScale(
        name="full",
        models="real",
        seed=22,
        depth=20,
        documents_per_package=None,
        fusion_weight=0.3,
        champion_length=128,
        max_length=96,
        log_requests=2500,
        baseline_requests=30,
        shift_requests=54,
        probe_queries=80,
        dev_queries=150,
        test_queries=500,
        click_groups=1000,
        document_groups=100,
        negatives=4,
        groups_per_step=8,
        learning_rate=1e-4,
        frozen_layers=0,
        layers=9,
        train_seconds=400.0,
        trial_requests=200,
        watch_requests=200,
        watch_checks=2,
        watch_probes=30,
        drill_requests=100,
        latency_requests=60,
        resamples=10000,
    ),
}


class Settings(Record):
    """Everything one process needs to know about its contour and its machine."""

    contour: str
    home: Path
    """Absolute; need not exist yet."""
    cache: Path
    """Downloads shared by all homes; absolute."""
    ports: Ports
    search_url: str
    values_file: Path | None = None
    """The values file laid over the contour's, where there is one."""
    chart: Path | None = None
    """Folder of the contours' values files, where it is not the checkout's."""
    values: ContourValues
    copies: Copies = Copies()
    """How many copies of the search service the chart starts at least and at most."""
    quality_gates: tuple[Criterion, ...]
    """The contour's gates as criteria, ready for ``monitor``."""

    @property
    def folders(self) -> Home:
        """Names of what lies in the home folder."""
        return Home(self.home)

    @property
    def enabled(self) -> bool:
        """Whether the loop may start cycles at all."""
        return self.values.enabled

    @property
    def mock_signals(self) -> bool:
        """Whether metrics are made up, and everything made from them is marked so."""
        return self.values.mock_signals

    @property
    def policy(self) -> Literal["staging", "full"]:
        """How far the loop may go by itself."""
        return self.values.policy

    @property
    def kill_switch(self) -> bool:
        """The values' own kill switch; the control database holds the one that people press."""
        return self.values.kill_switch

    @property
    def ab_testing(self) -> bool:
        """Whether a challenger is tried on live traffic before it is promoted."""
        return self.values.features.ab_testing

    @property
    def ab_split_ratio(self) -> float:
        """Share of clients that the challenger serves during a trial."""
        return self.values.features.ab_split_ratio

    @property
    def auto_promote(self) -> bool:
        """Whether a promote verdict needs no person."""
        return self.values.features.auto_promote

    @property
    def rollback_on_degrade(self) -> bool:
        """Whether a degraded release is taken back without asking."""
        return self.values.features.rollback_on_degrade

    @property
    def approval_required(self) -> bool:
        """Whether a person approves each promotion: asked for outright, or left over because nothing promotes by itself."""
        return self.values.manual_approval_required or not self.auto_promote

    @property
    def max_cycles_per_day(self) -> int:
        """Cycles that may start in one UTC day."""
        return self.values.max_cycles_per_day

    @property
    def cycle_interval(self) -> timedelta:
        """Least time between the starts of two cycles."""
        return self.values.cycle_interval

    @property
    def watch(self) -> Watch:
        """The checks after a deploy."""
        return self.values.watch

    @property
    def experiment(self) -> Experiment:
        """The trial on live traffic."""
        return self.values.experiment

    @property
    def budget(self) -> Budget:
        """Limits of money."""
        return self.values.budget

    @property
    def prices(self) -> Prices:
        """The price table behind estimated costs."""
        return self.values.prices

    @property
    def warehouse(self) -> Literal["duckdb", "postgres"]:
        """Where dbt makes the marts."""
        return self.values.warehouse

    @property
    def sources(self) -> Sources:
        """Where telemetry comes from."""
        return self.values.sources

    @property
    def resources(self) -> Resources:
        """What training may use."""
        return self.values.resources

    @property
    def run_resources(self) -> Resources:
        """What a training's own run may use: no GPU where a pod of its own trains, or the two would wait for each other."""
        return Resources() if self.values.training.trainer == "pod" else self.resources

    def environment(self) -> dict[str, str]:
        """The variables that make a child process load these same settings."""
        ports = ",".join(f"{name}={port}" for name, port in self.ports.model_dump().items())
        return {
            "PREDATOR_SI_CONTOUR": self.contour,
            "PREDATOR_SI_HOME": str(self.home),
            "PREDATOR_SI_CACHE": str(self.cache),
            "PREDATOR_SI_PORTS": ports,
            "PREDATOR_SI_SEARCH_URL": self.search_url,
            "DAGSTER_HOME": str(self.folders.dagster),
            **({"PREDATOR_SI_VALUES": str(self.values_file)} if self.values_file is not None else {}),
            **({"PREDATOR_SI_CHART": str(self.chart)} if self.chart is not None else {}),
        }


def load_settings(
    contour: str | None = None,
    home: Path | None = None,
    values_file: Path | None = None,
    env: Mapping[str, str] = os.environ,
    chart: Path | None = None,
) -> Settings:
    """The settings of ``contour``.

    Parameters
    ----------
    contour
        ``local``, ``dev-mac``, ``edge-oracle``, ``compute-nvidia`` or any other with a values file; default PREDATOR_SI_CONTOUR or ``local``.
    home
        The home folder; default PREDATOR_SI_HOME or ``./.predator``.
    values_file
        One more values file, laid over the contour's; default PREDATOR_SI_VALUES or none.
    env
        Environment to read.
    chart
        Folder of the values files; default PREDATOR_SI_CHART or the checkout's.

    Raises
    ------
    BadInput
        A values file or variable cannot be used; the message names file and line, or the variable.
    Missing
        There is no values file for this contour.
    """
    contour = contour or env.get("PREDATOR_SI_CONTOUR") or "local"
    extra = values_file or (Path(env["PREDATOR_SI_VALUES"]) if env.get("PREDATOR_SI_VALUES") else None)
    chart = _absolute(chart or env.get("PREDATOR_SI_CHART") or CHART)
    values, copies = _contour_values(contour, chart, extra)
    ports = _ports(env.get("PREDATOR_SI_PORTS", ""))
    url = env.get("PREDATOR_SI_SEARCH_URL") or values.sources.search or f"http://127.0.0.1:{ports.search}"
    return Settings(
        contour=contour,
        home=_absolute(home or env.get("PREDATOR_SI_HOME") or ".predator"),
        cache=_absolute(env.get("PREDATOR_SI_CACHE") or "~/.cache/predator-si"),
        ports=ports,
        search_url=url.rstrip("/"),
        values_file=_absolute(extra) if extra is not None else None,
        chart=chart if chart != CHART else None,
        values=values,
        copies=copies,
        quality_gates=values.criteria(),
    )


def _absolute(name: str | Path) -> Path:
    return Path(os.path.abspath(Path(name).expanduser()))  # noqa: PTH100 - resolve() would follow links that the user chose to keep


def _ports(text: str) -> Ports:
    chosen: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = part.partition("=")
        if name not in Ports.model_fields or not number.isdecimal():
            raise BadInput(f"PREDATOR_SI_PORTS: {part!r} is not NAME=PORT with a NAME of {', '.join(Ports.model_fields)}; example: dagster=3100,search=8180.")
        chosen[name] = int(number)
    try:
        return Ports(**chosen)
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"PREDATOR_SI_PORTS: {'.'.join(map(str, first['loc'])) or text}: {first['msg']}.") from error


def _contour_values(contour: str, chart: Path, extra: Path | None) -> tuple[ContourValues, Copies]:
    layers = []
    if chart.is_dir():
        files = {path.name.removeprefix("values-").removesuffix(".yaml"): path for path in sorted(chart.glob("values-*.yaml"))}
        if contour not in files:
            near = difflib.get_close_matches(contour, files, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(files)}."
            raise Missing(f"contour {contour!r} has no values file in {chart}; {hint}")
        layers = [chart / "values.yaml", files[contour]]
    elif contour != "local":
        raise Missing(f"contour {contour!r} needs the values files of a checkout, and {chart} is not there; clone the repository, or use contour 'local'.")
    base = Values() if layers else Values(ContourValues().model_dump(by_alias=True, exclude_none=True, mode="json"))
    layers += [extra] if extra is not None else []
    for file in layers:
        base = overlay(base, _one_file(file))
    try:
        return ContourValues.model_validate(base.tree), read_copies(layers)
    except ValidationError as error:
        raise _explained(error, base) from error


def _one_file(file: Path) -> Values:
    """One values file with its keys checked and its gates under their canonical names."""
    values = read_block(file)
    _check_keys(values.tree, ContourValues, (), values)
    gates = values.tree.get("qualityGates")
    if isinstance(gates, dict):
        first: dict[str, str] = {}
        for spelling in list(gates):
            path = ("qualityGates", spelling)
            try:
                name = signal(spelling).name
            except KeyError as error:
                raise BadInput(f"{values.place(path)}: {error.args[0]}") from error
            if name in first:
                other = values.place(("qualityGates", first[name]))
                raise BadInput(f"{values.place(path)}: {spelling!r} and {first[name]!r} at {other} are one metric; keep one of them.")
            first[name] = spelling
        for name, spelling in first.items():
            gates[name] = gates.pop(spelling)
            for old in [old for old in values.places if old[:2] == ("qualityGates", spelling)]:
                values.places[("qualityGates", name, *old[2:])] = values.places[old]
    return values


def _check_keys(tree: Mapping[str, Any], model: type[BaseModel], path: KeyPath, values: Values) -> None:
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, child in tree.items():
        here = (*path, key)
        if key not in fields:
            raise unknown_key(here, fields, values.place(here))
        kind = fields[key].annotation
        if not isinstance(child, dict):
            continue
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            _check_keys(child, kind, here, values)
            continue
        entries = typing.get_args(kind)[-1] if typing.get_origin(kind) is dict else None
        if isinstance(entries, type) and issubclass(entries, BaseModel):
            for name, entry in child.items():
                if isinstance(entry, dict):
                    _check_keys(entry, entries, (*here, name), values)
        for block in typing.get_args(kind) if entries is None else ():  # a block that may be null
            if isinstance(block, type) and issubclass(block, BaseModel):
                _check_keys(child, block, here, values)


def _explained(error: ValidationError, values: Values) -> BadInput:
    first = error.errors()[0]
    path = tuple(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "value_error" and path == ("qualityGates",):
        path = (*path, message.partition(":")[0])  # the validator sees all gates at once and names the one
    place = values.place(path)
    return BadInput(f"{place or 'settings'}: {'.'.join(('selfImprovement', *path))}: {message}.")
