select
    window_start, variant, {{ segment_columns() }},
    count(*) as requests,
    count(*) filter (where answered or failed) as served,
    count(*) filter (where answered) as answered,
    count(*) filter (where failed) as errors,
    {{ ratio('count(*) filter (where failed)', 'count(*) filter (where answered or failed)') }} as error_rate,
    count(*) filter (where degraded) as degraded,
    {{ ratio('count(*) filter (where degraded)', 'count(*) filter (where answered or failed)') }} as degraded_rate,
    avg(latency_ms) filter (where answered) as avg_latency_ms,
    {{ quantile('latency_ms', 0.5, 'answered') }} as p50_latency_ms,
    {{ quantile('latency_ms', 0.95, 'answered') }} as p95_latency_ms,
    {{ quantile('latency_ms', 0.99, 'answered') }} as p99_latency_ms,
    {{ quantile('retrieve_ms', 0.95, 'answered') }} as p95_retrieve_ms,
    {{ quantile('rerank_ms', 0.95, 'answered') }} as p95_rerank_ms,
    {{ quantile('queue_ms', 0.95, 'answered') }} as p95_queue_ms,
    count(distinct model_digest) as models
from {{ ref('int_requests') }}
where window_start in {{ dirty_windows() }}
{{ group_by_segment() }}
