select window_start, query_id, event_time, action_name, object_id, value, coalesce(simulated, false) as simulated, source
from {{ ref('base_actions') }}
where problem is null
