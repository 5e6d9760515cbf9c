select window_start, 'search' as kind, query_id, event_time, problem as reason, source
from {{ ref('base_search_events') }}
where problem is not null
union all
select window_start, 'action' as kind, query_id, event_time, problem as reason, source
from {{ ref('base_actions') }}
where problem is not null
