{{ config(materialized='ephemeral') }}
-- Raw actions of the windows that are made anew, each with what is wrong with it (null: nothing).
select
    *,
    case
        when query_id is null then 'no query_id'
        when row_number() over (partition by query_id, action_name, object_id, event_time, writer, seq order by event_time) > 1 then 'duplicate action'
        when not coalesce(action_name in ('click', 'dwell', 'rating'), false) then 'unknown action_name'
    end as problem
from {{ source('raw', 'actions') }}
where window_start in {{ dirty_windows() }}
