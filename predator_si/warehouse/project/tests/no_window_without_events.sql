{{ config(meta={'description': "A row stands for requests, and every window of people's requests has its row.", 'dagster': {'ref': {'name': 'mart_window_latency'}}}) }}
select window_start from {{ ref('mart_window_latency') }} where window_start in {{ dirty_windows() }} and requests < 1
union all
(
    select window_start from {{ ref('int_requests') }} where window_start in {{ dirty_windows() }}
    except
    select window_start from {{ ref('mart_window_latency') }} where segment_kind = 'all'
)
