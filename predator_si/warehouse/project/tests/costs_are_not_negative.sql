{{ config(meta={'dagster': {'ref': {'name': 'mart_window_cost'}}}) }}
-- Nobody is paid for searching.
select * from {{ ref('mart_window_cost') }} where window_start in {{ dirty_windows() }} and (cpu_seconds < 0 or timed > requests)
