"""The service's Prometheus metrics.

What belongs here: names, labels and help texts, one registry a service. What must not: measuring anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from predator_si.search.ingest import IngestState
from predator_si.search.score_cache import CacheState
from predator_si.search.shadow import ShadowState
from predator_si.search.spool import SpoolState
from predator_si.search.variants import Variants

PREFIX = "predator_si_"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What the parts of the service say about themselves at the moment of a scrape."""

    variants: Variants
    release_error: str | None
    release_refused: int
    release_applied: int
    spool: SpoolState
    ingest: IngestState | None
    """Null in a process that only answers."""
    documents: int
    index_version: int
    cache: CacheState
    shadow: ShadowState


class Telemetry:
    """All metrics of one search service: those counted here, and those that ``state`` answers when asked."""

    def __init__(self, state: Callable[[], ServiceState]) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(PREFIX + "search_requests", "Searches answered, by variant and HTTP status.", ["variant", "status"], registry=registry)
        self.degraded = Counter(
            PREFIX + "search_degraded",
            "Searches whose reranker failed, answered with status 200 in first-stage order: errors of the variant.",
            ["variant"],
            registry=registry,
        )
        self.fallbacks = Counter(
            PREFIX + "search_fallbacks",
            "Searches whose own model failed and that another model answered, by variant; they count as degraded too.",
            ["variant"],
            registry=registry,
        )
        self.stages = Histogram(
            PREFIX + "search_stage_seconds",
            "Time of a search by stage: queue, retrieve, rerank, total.",
            ["stage", "variant"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.pairs = Counter(
            PREFIX + "search_pairs_scored", "Candidates that the reranker scored or the score cache knew, by variant.", ["variant"], registry=registry
        )
        self.cpu = Counter(PREFIX + "search_cpu_seconds", "Processor time measured around searches.", ["variant"], registry=registry)
        self.waiting = Gauge(PREFIX + "search_waiting", "Searches in the queue or at work.", registry=registry)
        self.rerank_requests = Counter(PREFIX + "rerank_requests", "Calls of /rerank, by HTTP status.", ["status"], registry=registry)
        self.actions = Counter(PREFIX + "actions", "Clicks, dwells and ratings accepted.", ["action_name"], registry=registry)
        self.pushed = Counter(PREFIX + "searches_pushed", "Searches that another service answered and sent to /events.", registry=registry)
        self.refused = Counter(PREFIX + "events_refused", "Events of accepted requests that were refused, each named in the answer.", registry=registry)
        self.unknown_query = Counter(
            PREFIX + "actions_unknown_query",
            "Actions for a query_id that is not among the last that this process issued; recorded all the same.",
            registry=registry,
        )
        registry.register(_AtScrape(state))

    def text(self) -> bytes:
        """All metrics in the Prometheus text format."""
        return generate_latest(self.registry)


class _AtScrape(Collector):
    """Metrics that are read from the service's state when somebody asks."""

    def __init__(self, state: Callable[[], ServiceState]) -> None:
        self._state = state

    def describe(self) -> list[Metric]:
        """Nothing: the registry must not ask for the state before the service stands."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as of now."""
        state = self._state()
        model = GaugeMetricFamily(PREFIX + "model_info", "1 for the model that a variant serves.", labels=["variant", "digest", "name", "backend"])
        for name, reranker in (("champion", state.variants.champion), ("candidate", state.variants.candidate), ("shadow", state.variants.previous)):
            if reranker is not None:
                model.add_metric([name, reranker.digest, reranker.card.name, reranker.card.backend], 1)
        yield model
        spool, ingest = state.spool, state.ingest
        written = CounterMetricFamily(PREFIX + "events_written", "Events durable on disk.", labels=["kind"])
        lost = CounterMetricFamily(
            PREFIX + "events_lost",
            "Events that this process gave up because the disk refused them for too long; what a killed process lost is counted by read_events.",
            labels=["kind"],
        )
        for kind, count in spool.durable.items():
            written.add_metric([kind], count)
            lost.add_metric([kind], spool.dropped[kind])
        yield written
        yield lost
        for name, text, value in (
            ("event_write_errors", "Failed attempts to write events.", spool.write_errors),
            ("release_refused", "Changes of the release file that could not be applied.", state.release_refused),
            ("release_applied", "Changes of the release file that were applied.", state.release_applied),
            *(_ingest_counters(ingest) if ingest else ()),
            ("search_shadow_scored", "Requests that a model in shadow scored again.", state.shadow.scored),
            ("search_shadow_dropped", "Requests that it was to score and did not, because too many waited.", state.shadow.dropped),
            ("search_shadow_failed", "Requests that it could not score.", state.shadow.failed),
            ("score_cache_hits", "Scores that the cache knew.", state.cache.hits),
            ("score_cache_misses", "Scores that it did not know.", state.cache.misses),
        ):
            yield CounterMetricFamily(PREFIX + name, text, value=value)
        gauges: tuple[tuple[str, str, float], ...] = (
            ("release_error", "1 while the applied release file cannot be followed.", state.release_error is not None),
            ("candidate_weight", "Share of the clients, or in mode shadow of the requests, that the trial touches.", state.variants.candidate_weight),
            ("shadow_share", "Share of the requests that the previous champion scores again.", _share(state.variants)),
            ("shadow_queue_length", "Requests that wait to be scored in shadow, or are being scored.", state.shadow.queued),
            ("rerank_depth", "Documents that the cross-encoder reads for a query.", state.variants.release.depth),
            ("fusion_weight", "Share of the first stage in the final score.", state.variants.release.fusion_weight),
            ("events_pending", "Events in memory, not durable yet.", spool.pending),
            ("event_write_failing", "1 while events cannot be written.", spool.error is not None),
            *(_ingest_gauges(ingest) if ingest else ()),
            ("score_cache_entries", "Scores kept in memory; 0 where the cache is off.", state.cache.entries),
            ("index_documents", "Documents that can be found.", state.documents),
            ("index_version", "Number of the index version that serves.", state.index_version),
        )
        for name, text, number in gauges:
            yield GaugeMetricFamily(PREFIX + name, text, value=float(number))


def _ingest_counters(ingest: IngestState) -> tuple[tuple[str, str, int], ...]:
    return (
        ("ingest_applied", "Documents put into the index or removed from it.", ingest.applied),
        ("ingest_dead_letters", "Documents given up; dead.jsonl has the reasons.", ingest.dead),
    )


def _ingest_gauges(ingest: IngestState) -> tuple[tuple[str, str, float], ...]:
    return (
        ("ingest_queue_length", "Documents accepted and not in the index yet.", ingest.queued),
        ("ingest_lag_seconds", "Age of the oldest document that is not in the index yet.", ingest.lag_seconds),
        ("ingest_documents_per_second", "Documents applied per second over the last minute.", ingest.documents_per_second),
        ("ingest_dead_letters_open", "Documents given up that are neither indexed nor set aside since.", ingest.unsettled),
        ("ingest_workers", "Threads that prepare documents.", ingest.workers),
    )


def _share(variants: Variants) -> float:
    return variants.release.shadow_share if variants.previous is not None else 0.0
