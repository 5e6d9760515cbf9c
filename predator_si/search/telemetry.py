"""The service's Prometheus metrics.

What belongs here: names, labels and help texts, one registry a service. What must not: measuring anything.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from predator_si.search.ingest import IngestState
from predator_si.search.spool import SpoolState
from predator_si.search.variants import Variants

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.5, 5.0, 10.0)


class Telemetry:
    """All metrics of one search service; ``text`` renders them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        prefix = "predator_si_"
        self.requests = Counter(prefix + "search_requests", "Searches answered, by variant and HTTP status.", ["variant", "status"], registry=registry)
        self.degraded = Counter(
            prefix + "search_degraded", "Searches whose reranker failed, answered in first-stage order: errors of the variant.", ["variant"], registry=registry
        )
        self.stages = Histogram(
            prefix + "search_stage_seconds",
            "Time of a search by stage: queue, retrieve, rerank, total.",
            ["stage", "variant"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.cpu = Counter(prefix + "search_cpu_seconds", "Processor time measured around searches.", ["variant"], registry=registry)
        self.waiting = Gauge(prefix + "search_waiting", "Searches in the queue or at work.", registry=registry)
        self.rerank_requests = Counter(prefix + "rerank_requests", "Calls of /rerank, by HTTP status.", ["status"], registry=registry)
        self.actions = Counter(prefix + "actions", "Clicks, dwells and ratings accepted.", ["action_name"], registry=registry)
        self.unknown_query = Counter(
            prefix + "actions_unknown_query",
            "Actions for a query_id that this process did not issue lately; they are recorded all the same.",
            registry=registry,
        )
        self.model = Gauge(prefix + "model_info", "1 for the model that a variant serves.", ["variant", "digest", "name", "backend"], registry=registry)
        self.release_error = Gauge(prefix + "release_error", "1 while the applied release file cannot be followed.", registry=registry)
        self.release_errors = Gauge(prefix + "release_errors_total", "Changes of the release file that were refused.", registry=registry)
        self.release_swaps = Gauge(prefix + "release_swaps_total", "Changes of the release file that were applied.", registry=registry)
        self.candidate_weight = Gauge(prefix + "candidate_weight", "Share of traffic that the candidate gets.", registry=registry)
        self.depth = Gauge(prefix + "rerank_depth", "Documents that the cross-encoder reads for a query.", registry=registry)
        self.events_written = Gauge(prefix + "events_written_total", "Events durable on disk, by kind.", ["kind"], registry=registry)
        self.events_lost = Gauge(
            prefix + "events_lost_total",
            "Events that this process gave up because the disk refused them for too long. Losses of killed processes are counted by read_events.",
            ["kind"],
            registry=registry,
        )
        self.events_pending = Gauge(prefix + "events_pending", "Events in memory, not durable yet.", registry=registry)
        self.event_errors = Gauge(prefix + "event_write_errors_total", "Failed attempts to write events.", registry=registry)
        self.ingest_queue = Gauge(prefix + "ingest_queue_length", "Documents accepted and not in the index yet.", registry=registry)
        self.ingest_lag = Gauge(prefix + "ingest_lag_seconds", "Age of the oldest document that is not in the index yet.", registry=registry)
        self.ingest_rate = Gauge(prefix + "ingest_documents_per_second", "Documents applied per second over the last minute.", registry=registry)
        self.ingest_applied = Gauge(prefix + "ingest_applied_total", "Documents applied.", registry=registry)
        self.ingest_dead = Gauge(prefix + "ingest_dead_letters_total", "Documents given up, with their reason in dead.jsonl.", registry=registry)
        self.ingest_workers = Gauge(prefix + "ingest_workers", "Threads that prepare documents.", registry=registry)
        self.index_documents = Gauge(prefix + "index_documents", "Documents that can be found.", registry=registry)
        self.index_version = Gauge(prefix + "index_version", "Number of the index version that serves.", registry=registry)

    def text(self, variants: Variants, release: tuple[str | None, int, int], spool: SpoolState, ingest: IngestState, documents: int, version: int) -> bytes:
        """All metrics in the Prometheus text format; ``release`` is the follower's error, refused and applied changes."""
        self.model.clear()
        for name, reranker in (("champion", variants.champion), ("candidate", variants.candidate)):
            if reranker is not None:
                self.model.labels(name, reranker.digest, reranker.card.name, reranker.card.backend).set(1)
        self.candidate_weight.set(variants.candidate_weight)
        self.depth.set(variants.release.depth)
        self.release_error.set(release[0] is not None)
        self.release_errors.set(release[1])
        self.release_swaps.set(release[2])
        for kind, count in spool.durable.items():
            self.events_written.labels(kind).set(count)
            self.events_lost.labels(kind).set(spool.dropped[kind])
        self.events_pending.set(spool.pending)
        self.event_errors.set(spool.write_errors)
        self.ingest_queue.set(ingest.queued)
        self.ingest_lag.set(ingest.lag_seconds)
        self.ingest_rate.set(ingest.documents_per_second)
        self.ingest_applied.set(ingest.applied)
        self.ingest_dead.set(ingest.dead)
        self.ingest_workers.set(ingest.workers)
        self.index_documents.set(documents)
        self.index_version.set(version)
        return generate_latest(self.registry)
