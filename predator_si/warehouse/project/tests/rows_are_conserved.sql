{{ config(meta={'description': "Every raw row of the windows at hand was staged or set aside with a reason; none got lost, none was made up.", 'dagster': {'ref': {'name': 'stg_search_events'}}}) }}
with staged as (
    select window_start, 'search' as kind, count(*) as n from {{ ref('stg_search_events') }} where window_start in {{ dirty_windows() }} group by window_start
    union all
    select window_start, 'action' as kind, count(*) as n from {{ ref('stg_actions') }} where window_start in {{ dirty_windows() }} group by window_start
    union all
    select window_start, kind, count(*) as n from {{ ref('stg_rejects') }} where window_start in {{ dirty_windows() }} group by window_start, kind
),
counted as (
    select window_start, kind, sum(n) as n from staged group by window_start, kind
),
raw as (
    select window_start, 'search' as kind, search_rows as n from {{ source('raw', 'windows') }} where dirty
    union all
    select window_start, 'action' as kind, action_rows as n from {{ source('raw', 'windows') }} where dirty
)
select raw.window_start, raw.kind, raw.n as raw_rows, coalesce(counted.n, 0) as staged_or_rejected
from raw
left join counted on counted.window_start = raw.window_start and counted.kind = raw.kind
where raw.n <> coalesce(counted.n, 0)
