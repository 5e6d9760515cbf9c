{{ config(meta={'description': "Rates lie in 0..1.", 'dagster': {'ref': {'name': 'mart_window_latency'}}}) }}
select * from {{ ref('mart_window_latency') }}
where window_start in {{ dirty_windows() }} and not (coalesce(error_rate, 0) between 0 and 1 and coalesce(degraded_rate, 0) between 0 and 1)
