{{ config(meta={'description': "Nobody is paid for searching.", 'dagster': {'ref': {'name': 'mart_window_cost'}}}) }}
select * from {{ ref('mart_window_cost') }} where window_start in {{ dirty_windows() }} and (cpu_seconds < 0 or timed > requests)
