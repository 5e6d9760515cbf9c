"""What a contour's values may say: the keys of CONTRACT.md section 2 with their types, ranges and defaults.

What belongs here: the shape of the `selfImprovement` block. What must not: reading files (values.py) or the environment (settings.py).
The defaults are contour ``local``; a test holds them equal to values.yaml with values-local.yaml laid over it.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from predator_si.contour_api import Api
from predator_si.contour_augment import Augment
from predator_si.contour_deploy import Deploy, GitOps
from predator_si.contour_gates import DEFAULT_GATES, Evidence, Gate, check_gate
from predator_si.contour_gates import criteria as gate_criteria
from predator_si.contour_notify import Backup, Monitoring, Notify
from predator_si.contour_release import ApprovalValues, Promotion
from predator_si.contour_training import H2OStudio, Training
from predator_si.contour_types import Block, Duration, http_address
from predator_si.records import ActionEvent, Criterion, SearchEvent
from predator_si.signals import SIGNALS, signal


class Features(Block):
    """The switches of the loop, also accepted one level higher (flat spelling)."""

    auto_promote: bool = True
    ab_testing: bool = True
    ab_split_ratio: Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of clients that the challenger serves during a trial."""
    rollback_on_degrade: bool = True


class MockMetrics(Block):
    """What the mock signals report; read only where ``mockSignals`` is true."""

    ndcg_at_10: Annotated[float, Field(ge=0, le=1, alias="ndcg_at_10")] = 0.72
    avg_latency_ms: Annotated[float, Field(ge=0, alias="avg_latency_ms")] = 350.0


class Resources(Block):
    """What training may use."""

    gpu: bool = False
    gpu_count: Annotated[int, Field(ge=0)] = 0
    gpu_type: str | None = None


class Kubecost(Block):
    """Cost telemetry of a cluster, and what cost may lead to."""

    enabled: bool = False
    """A measured bill comes first: refused without ``sources.opencost`` and its allocation at the head of ``sources.metrics.cost_per_1k_requests``."""
    budget_alert: Annotated[float, Field(gt=0, le=100)] = 80
    """Percentage of ``budget.usdPerMonth`` at which people are told."""
    cost_optimization: bool = True
    """The gate on cost starts cycles; false: it only tells people."""


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*")


class Credential(Block):
    """Who we are to a source: the *names* of environment variables that hold a token or a password, never these themselves."""

    user: str | None = None
    """Its name is no secret."""
    password_env: str | None = None
    """Of that user's password."""
    token_env: str | None = None
    """Of a bearer token; instead of user and password."""

    @field_validator("password_env", "token_env")
    @classmethod
    def _is_a_name(cls, value: str | None) -> str | None:
        if value is not None and _VARIABLE.fullmatch(value) is None:
            raise ValueError("is the name of an environment variable; a secret in a values file would be readable by everybody who reads the repository")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Credential:
        if (self.token_env is None) == (self.password_env is None):
            raise ValueError("give either tokenEnv or passwordEnv with user")
        return self


class EventFolder(Block):
    """A folder into which another search service puts its events as Parquet or JSONL, in UBI names."""

    path: str
    """Where it is mounted here."""


class PostgresEvents(Block):
    """Tables of another search service's events. The session only reads."""

    address: str
    """``postgresql://host:port/database``."""
    searches: str | None = None
    """Table or view with one row a search, ``schema.table`` or ``table``."""
    actions: str | None = None
    """The same with one row a click, dwell or rating."""
    columns: dict[str, str] = Field(default_factory=dict)
    """Our name -> the table's, where they differ; ``actions.position: rank`` for the table of actions."""
    lookback: Duration = timedelta(hours=1)
    """Rows that were written this late are still found."""

    @field_validator("address")
    @classmethod
    def _without_secret(cls, value: str) -> str:
        if re.fullmatch(r"postgres(ql)?://[^\s/@]+(/[^\s@?]*)?", value) is None:
            raise ValueError("is postgresql://host:port/database; user and password go into credentials.postgres")
        return value

    @field_validator("searches", "actions")
    @classmethod
    def _is_a_table(cls, value: str | None) -> str | None:
        if value is not None and (len(parts := value.split(".")) > 2 or not all(_PLAIN.fullmatch(part) for part in parts)):
            raise ValueError(f"{value!r} is not a table; write table or schema.table")
        return value

    @field_validator("columns")
    @classmethod
    def _names_our_columns(cls, value: dict[str, str]) -> dict[str, str]:
        ours = {"searches": set(SearchEvent.model_fields), "actions": set(ActionEvent.model_fields)}
        for name in value:
            table, _, column = name.rpartition(".")
            if column not in (ours.get(table, set()) if table else ours["searches"] | ours["actions"]):
                raise ValueError(f"{name!r} is no column of an event; it is our name on the left, like latency_ms or actions.position")
        return value

    @model_validator(mode="after")
    def _has_a_table(self) -> PostgresEvents:
        if self.searches is None and self.actions is None:
            raise ValueError("name the table of searches, of actions, or both")
        return self


class OpenSearchEvents(Block):
    """Indexes of OpenSearch User Behavior Insights."""

    address: str
    """``https://host:9200``."""
    queries: str = "ubi_queries"
    """Index of searches."""
    events: str = "ubi_events"
    """Index of actions."""
    application: str | None = None
    """Only what this application recorded; null: all of it."""
    lookback: Duration = timedelta(hours=1)
    """Records that arrive this late are still found."""

    _checked = field_validator("address")(http_address)


class MetricSource(Block):
    """One source that a metric may come from. Of those named for a metric the first that has a value not older than ``max_age`` wins."""

    source: Literal["events", "probes", "service", "prices", "prometheus", "opencost"]
    """``events`` is the raw layer, whatever fills it; ``service`` is ``GET /info`` of the search service; ``prices`` the estimate from the price table."""
    max_age: Duration | None = None
    """An older value is passed over; null: of any age."""
    query: str | None = None
    """PromQL (``$window`` stands for the window's length), or for ``opencost`` which allocation: ``namespace=search``. Null: the one for our own service."""
    count: str | None = None
    """PromQL of the number of observations behind the value, for the gate's minimum sample."""

    @model_validator(mode="after")
    def _query_fits(self) -> MetricSource:
        if self.query is not None and self.source not in ("prometheus", "opencost"):
            raise ValueError(f"{self.source} takes no query")
        if self.source == "opencost" and (self.query is None or re.fullmatch(r"[\w:.\-/]+=.+", self.query) is None):
            raise ValueError("opencost needs query: which allocation is the search service's, like namespace=search or label:app=search")
        if self.count is not None and self.source != "prometheus":
            raise ValueError(f"{self.source} counts by itself")
        return self


class Sources(Block):
    """Addresses of telemetry that this contour has; null means that there is no such source."""

    search: str | None = None
    """The search service; null is the embedded one on this machine's search port."""
    prometheus: str | None = None
    opencost: str | None = None
    """OpenCost, or Kubecost (with ``/model`` at the end where its API lies there)."""
    events: EventFolder | None = None
    postgres: PostgresEvents | None = None
    opensearch: OpenSearchEvents | None = None
    credentials: dict[str, Credential] = Field(default_factory=dict)
    """By source: ``prometheus``, ``opencost``, ``postgres``, ``opensearch``."""
    metrics: dict[str, Annotated[tuple[MetricSource, ...], Field(strict=False, min_length=1)]] = Field(default_factory=dict)
    """By metric: its sources in order of precedence. A metric that is not named here has the order of ``monitor.sources.resolve.PRECEDENCE``."""

    _checked = field_validator("search", "prometheus", "opencost")(http_address)

    @field_validator("credentials")
    @classmethod
    def _known_sources(cls, value: dict[str, Credential]) -> dict[str, Credential]:
        for name in value:
            if name not in ("prometheus", "opencost", "postgres", "opensearch"):
                raise ValueError(f"{name}: credentials are for prometheus, opencost, postgres, opensearch")
        return value

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: dict[str, tuple[MetricSource, ...]]) -> dict[str, tuple[MetricSource, ...]]:
        found: dict[str, tuple[MetricSource, ...]] = {}
        for spelling, sources in value.items():
            try:
                name = signal(spelling).name
            except KeyError as error:
                raise ValueError(error.args[0]) from error
            if name in found:
                raise ValueError(f"{spelling} stands here twice, in two spellings; keep one")
            found[name] = sources
        return found


class Watch(Block):
    """The checks after a deploy: ``checks`` of them, either ``interval`` apart or each over ``requests`` served requests."""

    checks: Annotated[int, Field(ge=1, le=1000)] = 4
    interval: Duration | None = None
    requests: Annotated[int, Field(ge=1)] | None = None
    shadow_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of the requests that the old champion scores again, unseen, until the watch ends; 0: it is let go at once."""

    @model_validator(mode="after")
    def _one_way_of_counting(self) -> Watch:
        if (self.interval is None) == (self.requests is None):
            raise ValueError("count checks either by interval or by requests: set one, and the other to null")
        return self


class Experiment(Block):
    """The trial on live traffic. The sequential test may end it before ``max_days``, never before ``min_days`` and ``min_samples``."""

    mode: Literal["ab", "shadow", "interleave"] = "ab"
    """The only mode, where ``modes`` names none."""
    modes: Annotated[tuple[Literal["shadow", "interleave", "ab"], ...], Field(strict=False)] = ()
    """A chain, always in the order shadow, interleave, ab."""
    ramp: Annotated[tuple[Annotated[float, Field(gt=0, lt=0.5)], ...], Field(strict=False)] = ()
    """Shares of the challenger before ``features.abSplitRatio``, rising."""
    shadow_share: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of the requests that the challenger scores unseen, in mode shadow."""
    interleave_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Of the clients that see merged lists, in mode interleave."""
    min_days: Annotated[float, Field(ge=0)] = 0.0
    max_days: Annotated[float, Field(gt=0)] = 7.0
    min_samples: Annotated[int, Field(ge=1)] = 200
    """Served requests, both arms together."""
    max_samples: Annotated[int, Field(ge=1)] = 2000
    """Served requests at which a trial that shows nothing is rejected."""
    novelty_days: Annotated[float, Field(ge=0)] = 0.0
    """First part of a trial that counts for errors and validity only."""
    design: dict[str, float] = Field(default_factory=dict)
    """Levels and tuning that differ from ``statistics.design``, by their names there; try them with ``predator-si simulate --contour``."""
    margin: Annotated[float, Field(ge=0, le=0.1)] = 0.01
    """How much lower NDCG may be and still count as not worse."""

    @model_validator(mode="after")
    def _days_in_order(self) -> Experiment:
        if self.min_days > self.max_days:
            raise ValueError(f"minDays {self.min_days:g} is more than maxDays {self.max_days:g}")
        if self.novelty_days >= self.max_days:
            raise ValueError(f"noveltyDays {self.novelty_days:g} is not less than maxDays {self.max_days:g}: nothing of a trial would ever count")
        if self.min_samples > self.max_samples:
            raise ValueError(f"minSamples {self.min_samples} is more than maxSamples {self.max_samples}")
        if list(self.ramp) != sorted(set(self.ramp)) or len(set(self.modes)) != len(self.modes):
            raise ValueError("ramp rises, and modes names each mode once")
        return self


class Budget(Block):
    """Limits of money."""

    usd_per_month: Annotated[float, Field(gt=0)] = 100.0
    usd_per_cycle: Annotated[float, Field(gt=0)] = 5.0


class Prices(Block):
    """The price table behind every cost that is labelled ``estimated``."""

    usd_per_vcpu_hour: Annotated[float, Field(ge=0)] = 0.04
    usd_per_gpu_hour: Annotated[float, Field(ge=0)] = 1.2


class Privacy(Block):
    """How long queries are kept, and when words of clients' queries may be shown."""

    retention_days: Annotated[int, Field(ge=1, le=3650)] = 90
    """Events older than this are deleted, and the keys of their text destroyed."""
    min_clients: Annotated[int, Field(ge=1)] = 3
    """A word is listed in a report only when so many different clients asked with it."""


class Probes(Block):
    """Judged queries asked of the live service at each tick: frozen within a period of the calendar, then partly exchanged."""

    rotation: Duration = timedelta(days=7)
    """Length of a period."""
    stays: Annotated[int, Field(ge=1, le=52)] = 2
    """Periods that a query stays: neighbouring periods share all but one part in ``stays`` of their queries."""

    @field_validator("rotation")
    @classmethod
    def _is_long_enough(cls, value: timedelta) -> timedelta:
        if value < timedelta(hours=1):
            raise ValueError("a panel needs some windows to be compared in: at least 1h")
        return value


class LanguageModelJudge(Block):
    """A language model that grades the results of judged probes, behind an OpenAI-compatible address; it is believed only where people agree with it."""

    enabled: bool = False
    base_url: str | None = None
    """Without ``/v1``."""
    model: str | None = None
    key_env: Annotated[str | None, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = None
    """Name of the environment variable that holds the key."""
    usd_per_million_in: Annotated[float, Field(ge=0)] = 0.0
    usd_per_million_out: Annotated[float, Field(ge=0)] = 0.0
    usd_per_cycle: Annotated[float, Field(ge=0)] = 1.0
    """Of a cycle, or of a day outside one."""
    tokens_per_cycle: Annotated[int, Field(ge=0)] = 500_000
    questions_per_tick: Annotated[int, Field(ge=1)] = 60
    kappa: Annotated[float, Field(gt=0, lt=1)] = 0.4
    """Least agreement with people: the lower end of weighted kappa's interval, over at least 100 pairs."""

    @model_validator(mode="after")
    def _is_somewhere(self) -> LanguageModelJudge:
        if self.base_url is not None and not re.fullmatch(r"https?://[^\s/]+\S*", self.base_url):
            raise ValueError(f"baseUrl {self.base_url!r} is not an http(s) address")
        if self.enabled and (self.base_url is None or self.model is None):
            raise ValueError("a judge that is enabled needs baseUrl and model")
        return self


class ContourValues(Block):
    """The whole `selfImprovement` block."""

    enabled: bool = True
    mock_signals: bool = False
    mock_metrics: MockMetrics = MockMetrics()
    policy: Literal["staging", "full"] = "full"
    features: Features = Features()
    manual_approval_required: bool = False
    kill_switch: bool = False
    max_cycles_per_day: Annotated[int, Field(ge=0, le=96)] = 6
    cycle_interval: Duration = timedelta(hours=1)
    """Least time between the starts of two cycles; monitoring ticks every 15 minutes whatever it says."""
    cool_down: Duration = timedelta(hours=2)
    """How long a trigger waits after a cycle that came to nothing; doubled with each further one in a row, up to seven days."""
    approval: ApprovalValues = ApprovalValues()
    promotion: Promotion = Promotion()
    quality_gates: dict[str, Gate] = DEFAULT_GATES
    evidence: Evidence = Evidence()
    monitoring: Monitoring = Monitoring()
    backup: Backup = Backup()
    resources: Resources = Resources()
    kubecost: Kubecost = Kubecost()
    h2o_studio: Annotated[H2OStudio, Field(alias="h2oStudio")] = H2OStudio()
    sources: Sources = Sources()
    watch: Watch = Watch(requests=60)
    experiment: Experiment = Experiment()
    budget: Budget = Budget()
    prices: Prices = Prices()
    training: Training = Training()
    privacy: Privacy = Privacy()
    probes: Probes = Probes()
    llm_judge: LanguageModelJudge = LanguageModelJudge()
    augment: Augment = Augment()
    api: Api = Api()
    notify: Notify = Notify()
    gitops: GitOps = GitOps()
    deploy: Deploy = Deploy()
    warehouse: Literal["duckdb", "postgres"] = "duckdb"
    """Where dbt makes the marts: a file in the home folder, or the database that PGHOST, PGDATABASE, PGUSER and PGPASSWORD name."""

    @field_validator("quality_gates")
    @classmethod
    def _gates_make_sense(cls, gates: dict[str, Gate]) -> dict[str, Gate]:
        for name, gate in gates.items():
            check_gate(signal(name), gate)
        return gates

    @model_validator(mode="after")
    def _bill_is_read(self) -> ContourValues:
        named = self.sources.metrics.get("cost_per_1k_requests", ())
        if self.kubecost.enabled and (self.sources.opencost is None or not named or named[0].source != "opencost"):
            raise ValueError(
                "kubecost.enabled is true, and no bill is read: give sources.opencost its address, and sources.metrics.cost_per_1k_requests an entry "
                "{source: opencost, query: namespace=NAME} before any other"
            )
        return self

    def criteria(self) -> tuple[Criterion, ...]:
        """The gates as criteria, in the order of the metric table, named ``<metric>_min``, ``_max`` and ``_relative``."""
        found = {signal(name).name: gate for name, gate in self.quality_gates.items()}
        return tuple(criterion for name in SIGNALS if name in found for criterion in gate_criteria(SIGNALS[name], found[name]))
