{{ config(meta={'description': "Exactly once: a request of the windows at hand stands in no other window. Late events are accepted for a day, so a day around is looked at.", 'dagster': {'ref': {'name': 'stg_search_events'}}}) }}
select here.query_id, here.window_start, elsewhere.window_start as other_window
from {{ ref('stg_search_events') }} as here
inner join {{ ref('stg_search_events') }} as elsewhere on elsewhere.query_id = here.query_id and elsewhere.window_start <> here.window_start
where here.window_start in {{ dirty_windows() }}
  and elsewhere.window_start >= (select min(window_start) - interval '1 day' from {{ source('raw', 'windows') }} where dirty)
  and elsewhere.window_start <= (select max(window_start) + interval '1 day' from {{ source('raw', 'windows') }} where dirty)
