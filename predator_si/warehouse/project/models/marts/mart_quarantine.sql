{{ config(materialized='table') }}
with aside as (
    select source, origin, reason, kind, seen_at from {{ ref('stg_quarantine') }}
    union all
    select source, 'warehouse staging' as origin, reason, kind, event_time as seen_at from {{ ref('stg_rejects') }}
)
select
    coalesce(source, 'unknown') as source, coalesce(origin, 'unknown') as origin, coalesce(reason, 'unknown') as reason, coalesce(kind, 'unknown') as kind,
    count(*) as records, min(seen_at) as first_seen, max(seen_at) as last_seen
from aside
group by 1, 2, 3, 4
