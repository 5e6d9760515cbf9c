with clicks as (
    select window_start, query_id, object_id, min(event_time) as clicked_at
    from {{ ref('stg_actions') }}
    where action_name = 'click' and object_id is not null and window_start in {{ dirty_windows() }}
    group by window_start, query_id, object_id
),
clicked_requests as (
    select requests.window_start, requests.query_id, requests.results
    from {{ ref('stg_search_events') }} as requests
    where requests.window_start in {{ dirty_windows() }} and requests.query_id in (select query_id from clicks)
),
shown as (
    {{ result_rows('clicked_requests', ['window_start', 'query_id']) }}
)
-- the position is the one at which the document was shown; what the client says about it is not believed
select clicks.window_start, clicks.query_id, clicks.object_id, shown.position, clicks.clicked_at
from clicks
inner join shown on shown.window_start = clicks.window_start and shown.query_id = clicks.query_id and shown.object_id = clicks.object_id
