{{ config(meta={'description': "A request stands in the window of its own time.", 'dagster': {'ref': {'name': 'stg_search_events'}}}) }}
select window_start, query_id, event_time
from {{ ref('stg_search_events') }}
where window_start in {{ dirty_windows() }} and not (event_time >= window_start and event_time < window_start + interval '15 minutes')
