{{ config(meta={'description': "The median is not above the 95th percentile, nor that above the 99th.", 'dagster': {'ref': {'name': 'mart_window_latency'}}}) }}
select * from {{ ref('mart_window_latency') }}
where window_start in {{ dirty_windows() }} and (p50_latency_ms > p95_latency_ms or p95_latency_ms > p99_latency_ms)
