{{ config(pre_hook="{{ clear_where('window_start', dirty_probes()) }}") }}
{%- set kinds = ['query_words', 'script'] -%}
with found as (
    select
        window_start, variant, {{ segment_columns(kinds) }},
        count(*) as probes,
        count(*) filter (where failed) as failed,
        avg(ndcg_at_10) as ndcg_at_10, avg(recall_at_20) as recall_at_20, avg(rr_at_10) as mrr
    from {{ ref('stg_probes') }}
    {% if is_incremental() -%}
    where window_start in {{ dirty_probes() }}
    {%- endif %}
    {{ group_by_segment(kinds) }}
),
judged as (
    select *, max(case when segment_kind = 'all' then {{ ratio('failed', 'probes') }} end) over (partition by window_start, variant) <= {{ var('failed_probes') }} as fair
    from found
)
select
    window_start, variant, segment_kind, segment, probes, failed,
    case when fair then ndcg_at_10 end as ndcg_at_10,
    case when fair then recall_at_20 end as recall_at_20,
    case when fair then mrr end as mrr
from judged
