{{ config(materialized='ephemeral') }}
-- Raw search events of the windows that are made anew, each with what is wrong with it (null: nothing).
select
    *,
    case
        when query_id is null then 'no query_id'
        when row_number() over (partition by query_id order by event_time, writer, seq) > 1 then 'duplicate query_id'
        when not coalesce(status between 100 and 599, false) then 'status is not an HTTP status'
        when not coalesce(latency_ms between 0 and 1e9, false) then 'latency_ms is not a time'
        when variant not in ('champion', 'candidate', 'interleaved', 'shadow') then 'unknown variant'
    end as problem
from {{ source('raw', 'search_events') }}
where window_start in {{ dirty_windows() }}
