"""What each action changes: its fault planted, its patch committed and in force, the signal that it is about read before and after under the same load.

What belongs here: the faults by name, the loads, the readings, the way into force and back. What must not: which action a row takes (the loop's own steps).

Every patch is the loop's own: its configuration comes from ``steps.act``, its commit from ``release.deploy``, its way into force from the reconciler and the
service's own word, its way back from the stored reverse patch. It is committed past the trial and the sealed queries, which are no part of an effect. The
fault stays on while the signal is read again, so the difference is what the action takes off it; how large the fault was is the bench's choice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from predator_si.errors import Unavailable
from predator_si.evaluate.actions import ActionPlan
from predator_si.orchestration.delivery import bring_into_force
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import observe
from predator_si.orchestration.steps.act import TRAINING_ACTIONS
from predator_si.proof.drill import lane
from predator_si.proof.drill.processes import wait_until
from predator_si.proof.react.faults import ANY, CURSED, RefusingEmbedder
from predator_si.proof.react.platform import LONGEST, REQUESTS, Peak, Platform
from predator_si.records import CycleState, HelmPatch, MetricsSnapshot, ServingConfig, Trigger
from predator_si.release.deploy import commit_patch
from predator_si.release.patch import load_patch, make_patch, promote_changes
from predator_si.release.rollback import rollback
from predator_si.train.tracking import NullTracker

JUDGED = ("ndcg_at_10", "recall_at_20")
"""Signals that judged queries are asked for."""
SCENARIOS = {
    "depth_zero": ("error_rate_up", "full"),
    "previous_model": ("error_rate_up", "bad_release"),
    "retry": ("index_errors_up", "passing_letters"),
    "quarantine": ("index_errors_up", "lasting_letters"),
    "reindex": ("index_errors_up", "passing_letters"),
    "repair_index": ("recall_at_20_down", "lost_documents"),
    "widen_candidates": ("recall_at_20_down", "crowd_of_documents"),
    "tune_fusion": ("recall_at_20_down", "wrong_weight"),
    "quantise": ("p95_latency_ms_up", "slow_backend"),
    "cut_depth": ("p95_latency_ms_up", "slow_backend"),
    "add_replicas": ("p95_latency_ms_up", "many_clients"),
    "add_workers": ("etl_lag_seconds_up", "slow_embedding"),
    "cheaper_variant": ("cost_per_1k_requests_up", "dear_backend"),
}
"""Actions whose effect is measured: the row they belong to, and the fault they are to help against."""
UNKNOWN = {
    "fewer_replicas": "what an idle copy costs is on a cluster's bill; on one machine a search costs its processor seconds, however many copies run",
    "choose_embedder": "hashed words know no synonyms, so none of them finds more here; a cycle on a real collection compares them in embedders.json",
}
"""Actions whose effect one machine cannot show, and why."""
WITHOUT_PATCH = frozenset({"diagnose", "profile", "augment", "explain_worst_queries", *TRAINING_ACTIONS})
"""What reads, or trains: there is no patch of the release file to measure by itself."""
_USD, _BURNT = 100.0, 0.005
"""Price of a processor hour, and processor seconds of a pair: together a thousand searches cost more than the gate allows."""
_CROWD = 96
"""Searches that fill the line of those that wait."""
_DOCUMENTS = 40
"""New documents about each topic, where they crowd the old ones out."""


@dataclass(frozen=True)
class Reading:
    """A signal: its value (null where it is unknown), observations, and the interval where there is one."""

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Planted:
    """A fault that is on.

    Attributes
    ----------
    words
        What is wrong.
    load
        What the service is sent while the signal is read; the same before and after.
    read
        The signal, given the snapshot that was taken of the load.
    """

    words: str
    load: Callable[[], None]
    load_words: str
    read: Callable[[MetricsSnapshot], Reading]


@dataclass(frozen=True)
class Strength:
    """How hard the faults are, and the limits of two gates, where nobody sits through a minute of lag (null: the contour's own)."""

    pair_seconds: float
    document_seconds: float
    lag_limit: float | None = None
    p95_limit: float | None = None


def metric_of(signal: str) -> str:
    """The metric that a row's signal is about (``p95_latency_ms_up`` -> ``p95_latency_ms``)."""
    return signal.removesuffix("_up").removesuffix("_down")


class Effects:
    """Plants faults in a platform, puts actions into force, reads signals."""

    def __init__(self, platform: Platform, strength: Strength) -> None:
        self.platform, self.strength = platform, strength
        self._undo: list[Callable[[], None]] = []

    @property
    def loop(self) -> Loop:
        """The platform's loop, which is opened anew after each row."""
        return self.platform.loop

    def plant(self, fault: str) -> Planted:
        """Plant a fault by its name."""
        return getattr(self, f"_{fault}")()  # type: ignore[no-any-return]

    def mend(self) -> None:
        """Take every fault back."""
        self.platform.faults.mend()
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()
        self.platform.mend()

    def snapshot(self, signal: str) -> MetricsSnapshot:
        """A snapshot of what was sent since the last one; judged queries are asked only where the signal is about them."""
        return observe.take_snapshot(self.loop, probes=metric_of(signal) in JUDGED)

    # ------------------------------------------------------------------ an action in force

    def change(self, signal: str, planted: Planted, before: Reading, plan: ActionPlan) -> dict[str, Any]:
        """Put the plan's configuration into force, read the signal again, and go back: the keys ``before``, ``after``, ``effect`` and what belongs to them."""
        assert plan.config is not None
        patch, seconds = self._put_in_force(plan.cycle_id, plan.config)
        try:
            wait_until(lambda: self.platform.queue()["queued"] == 0, LONGEST, "the end of the ingest queue", every=0.05)
            observe.take_snapshot(self.loop, probes=False)  # what came before is none of its business
            planted.load()
            after = planted.read(self.snapshot(signal))
        finally:
            self._take_back(patch)
        moved = {key: value for key, value in patch.changes.items() if value != patch.reverse[key]}
        return effect_of(signal, planted, before, after) | {"changes": moved, "in_force_seconds": seconds}

    def _put_in_force(self, cycle_id: str, config: ServingConfig) -> tuple[HelmPatch, float]:
        """Commit, and wait for the reconciler and for the service's own word; the committed patch, and seconds from the commit on."""
        loop = self.loop
        text = loop.release_text()
        patch = make_patch(text, promote_changes(config), cycle_id=cycle_id, stage="promote", file=loop.release_name, base_commit=loop.repo.head())
        committed = commit_patch(loop.repo, patch, f"bench react: {cycle_id}")
        assert committed.commit is not None
        found = bring_into_force(loop, config.model, "champion", cycle_id=cycle_id, stage="promote", commit=committed.commit, settings=config)
        if not found.confirmed:
            self._take_back(committed)
            raise Unavailable(f"cycle {cycle_id}: {found.reason}")
        self.platform.scale()
        return committed, found.seconds

    def _take_back(self, patch: HelmPatch) -> None:
        loop = self.loop

        def back(digest: str, commit: str) -> Any:
            return bring_into_force(loop, digest, "champion", cycle_id=patch.cycle_id, stage="rollback", commit=commit, settings=loop.released())

        found = rollback(loop.repo, patch, [], "bench react: the effect is measured", back)
        self.platform.scale()
        if not found.verified:
            raise Unavailable(f"cycle {patch.cycle_id}: {found.reason}")

    # ------------------------------------------------------------------ the faults, each with its load

    def _full(self, digest: str = ANY, whose: str = "the reranker") -> Planted:
        self.platform.faults.slow[digest] = 0.02
        words = f"{whose} is so slow that the line of waiting searches is full"
        return self._searched("error_rate", words, lambda: self.platform.traffic(_CROWD, 12, 0.3), f"{_CROWD} searches by 12 clients")

    def _bad_release(self) -> Planted:
        platform, loop = self.platform, self.loop
        sibling = platform.ground.sibling(len(loop.models.cards()))
        cycle_id = lane.open_drill(loop, sibling)
        lane.release(loop, cycle_id, NullTracker())
        for state in (CycleState.WATCHING, CycleState.STABLE):
            loop.control.transition(cycle_id, state, "bench react: the release before the fault", "bench")

        def undo() -> None:
            self._take_back(load_patch(loop.artifacts(cycle_id), "promote"))
            loop.control.transition(cycle_id, CycleState.ROLLED_BACK, "bench react: the row is measured", "bench")

        self._undo.append(undo)
        return self._full(sibling, "the model of the newest release")

    def _letters(self, *, everywhere: bool) -> None:
        platform, before = self.platform, self.platform.queue()["dead_letters"]
        platform.faults.refuses = True
        platform.feed("bad", [f"{CURSED} document {number}" for number in range(5)])
        wait_until(lambda: platform.queue()["dead_letters"] >= before + 5, LONGEST, "the dead letters", every=0.1)
        platform.faults.refuses = platform.faults.everywhere = everywhere

    def _passing_letters(self) -> Planted:
        self._letters(everywhere=False)
        return self._searched("index_errors", "five documents could not be embedded; now they could be", lambda: None, "none")

    def _lasting_letters(self) -> Planted:
        index = self.loop.index()
        index.embedder = RefusingEmbedder(index.embedder, self.platform.faults)
        self._letters(everywhere=True)
        return self._searched("index_errors", "five documents cannot be embedded by anybody", lambda: None, "none")

    def _lost_documents(self) -> Planted:
        wanted = self.loop.corpus.judgments(split="dev").filter(relevance=1.0)["doc_id"].unique().sort().to_list()
        self.platform.bend_gate("ndcg_at_10", 0.0, "this row is about recall")
        self.platform.lose_documents(wanted[: len(wanted) // 2])
        return self._asked("recall_at_20", "the index lacks half of the documents that people want, and nobody was told")

    def _crowd_of_documents(self) -> Planted:
        platform = self.platform
        topics = self.loop.corpus.documents()["doc_id"].str.split("-").list.first().unique().sort().to_list()
        platform.feed("crowd", [f"about {topic} outdated page {topic} {number}" for topic in topics for number in range(_DOCUMENTS)])
        wait_until(lambda: platform.queue()["queued"] == 0, LONGEST, "the new documents", every=0.1)
        return self._asked("recall_at_20", f"{_DOCUMENTS} more documents about each topic crowd the relevant ones out of the first twenty")

    def _wrong_weight(self) -> Planted:
        planted, loop = self._crowd_of_documents(), self.loop
        config = loop.serving().model_copy(update={"depth": _DOCUMENTS + 4, "fusion_weight": 0.9})
        cycle = loop.control.open_cycle(loop.contour, trigger_for("recall_at_20_down", None, ("by_hand",)), "bench", "a person's edit")
        loop.control.transition(cycle.cycle_id, CycleState.CANCELLED, "bench react: its commit is a person's", "bench")
        patch, _ = self._put_in_force(cycle.cycle_id, config)
        self._undo.append(lambda: self._take_back(patch))
        return Planted(f"{planted.words}, and somebody gave the first stage nine tenths of the weight", planted.load, planted.load_words, planted.read)

    def _slow_backend(self) -> Planted:
        if self.strength.p95_limit is not None:
            self.platform.bend_gate("p95_latency_ms", self.strength.p95_limit, "a smaller limit")
        self.platform.faults.slow[self.platform.champion] = self.strength.pair_seconds
        words = f"the champion's backend takes {1e3 * self.strength.pair_seconds:g} ms longer for each pair"
        return self._searched("p95_latency_ms", words, self.platform.traffic, f"{REQUESTS} searches, one after the other")

    def _many_clients(self) -> Planted:
        self.platform.faults.slow[ANY] = self.strength.pair_seconds
        words = f"any model takes {1e3 * self.strength.pair_seconds:g} ms longer for each pair, and four clients ask at once"
        return self._searched("p95_latency_ms", words, lambda: self.platform.traffic(REQUESTS, 4), f"{REQUESTS} searches by 4 clients")

    def _slow_embedding(self) -> Planted:
        platform, strength, n = self.platform, self.strength, 64
        if strength.lag_limit is not None:
            platform.bend_gate("etl_lag_seconds", strength.lag_limit, "a smaller limit")
        platform.faults.embed_seconds = strength.document_seconds
        peaks: list[Peak] = []

        def load() -> None:
            platform.feed(f"late-{len(peaks)}", [f"a document that waits, number {number}" for number in range(n)])
            peaks.append(Peak(platform.queue))

        def read(_: MetricsSnapshot) -> Reading:
            seconds, looks = peaks[-1].wait()
            return Reading(seconds, looks)

        return Planted(f"each new document takes {strength.document_seconds:g} s to embed", load, f"{n} documents at once; their longest lag", read)

    def _dear_backend(self) -> Planted:
        platform = self.platform
        prices = platform.settings.values.prices.model_copy(update={"usd_per_vcpu_hour": _USD})
        values = platform.settings.values.model_copy(update={"prices": prices})
        platform.loop = Loop(platform.settings.model_copy(update={"values": values}))
        platform.faults.burns[platform.champion] = _BURNT
        words = f"the champion's backend burns {1e3 * _BURNT:g} ms of processor time more for each pair, and a processor hour costs {_USD:g} USD"
        return self._searched("cost_per_1k_requests", words, self.platform.traffic, f"{REQUESTS} searches, one after the other")

    def _upside_down(self) -> Planted:
        self.platform.faults.upside_down = True
        return self._asked("ndcg_at_10", "the reranker's scores are upside down")

    def _bad_ratings(self) -> Planted:
        def load() -> None:
            self.platform.traffic()
            for query_id in self.platform.asked[-40:]:
                self.platform.post("/events", {"query_id": query_id, "action_name": "rating", "value": 2.0})
            self.loop.flush()

        return self._searched("user_satisfaction", "forty people rate what they found with 2 of 5", load, f"{REQUESTS} searches and 40 ratings")

    def _asked(self, metric: str, words: str) -> Planted:
        return self._searched(metric, words, self.platform.traffic, f"{REQUESTS} searches, and the judged queries of a snapshot")

    def _searched(self, metric: str, words: str, load: Callable[[], None], load_words: str) -> Planted:
        def read(snapshot: MetricsSnapshot) -> Reading:
            found = snapshot.metrics.get(metric)
            if found is None:
                return Reading(None, 0, reason="the snapshot does not hold it")
            return Reading(found.value, found.n or 0, found.ci_low, found.ci_high, found.reason)

        return Planted(words, load, load_words, read)


def effect_of(signal: str, planted: Planted, before: Reading, after: Reading | None, why: str | None = None) -> dict[str, Any]:
    """A signal before and after, and the difference; null with ``why`` where one of them is not known."""
    known = after is not None and after.value is not None and before.value is not None
    effect = after.value - before.value if known else None  # type: ignore[union-attr, operator]
    unknown = why or next((f"unknown: {one.reason}" for one in (before, after) if one is not None and one.value is None), None)
    return {
        "metric": metric_of(signal), "load": planted.load_words, "before": before.value, "after": None if after is None else after.value, "effect": effect,
        "n": [before.n, None if after is None else after.n], "before_ci": [before.low, before.high],
        "after_ci": None if after is None else [after.low, after.high], "effect_why": None if known else unknown,
    }  # fmt: skip


def trigger_for(signal: str, value: float | None, actions: tuple[str, ...]) -> Trigger:
    """A trigger of a signal that asks for these actions alone."""
    metric = metric_of(signal)
    return Trigger(type=signal, metric=metric, value=value, baseline=None, delta=None, actions=actions, reason=f"bench react: {metric}")
