{{ config(materialized='view') }}
select
    snapshot_id, window_start, query_id, model_digest,
    case when champion is null or model_digest is null or model_digest = champion then 'champion' else 'other' end as variant,
    status, error is not null as failed, latency_ms, ndcg_at_10, recall_at_20, rr_at_10,
    {{ words_class('query_words') }} as query_words, coalesce(script, 'unknown') as script
from {{ source('raw', 'probes') }}
