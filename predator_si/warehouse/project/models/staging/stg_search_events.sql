select
    window_start, query_id, event_time, variant, model_digest, status, latency_ms, retrieve_ms, rerank_ms, queue_ms, cpu_seconds, depth, results,
    coalesce(simulated, false) as simulated, coalesce(probe, false) as probe, stands_for, coalesce(degraded, false) as degraded,
    query_words, script, query_bucket, source
from {{ ref('base_search_events') }}
where problem is null
