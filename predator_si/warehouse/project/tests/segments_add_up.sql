{{ config(meta={'description': "Each kind of segment holds every request of its window and variant once.", 'dagster': {'ref': {'name': 'mart_window_latency'}}}) }}
with kinds as (
    select window_start, variant, segment_kind, sum(requests) as requests, sum(errors) as errors
    from {{ ref('mart_window_latency') }}
    where window_start in {{ dirty_windows() }}
    group by window_start, variant, segment_kind
)
select kinds.*
from kinds
inner join kinds as every_one on every_one.window_start = kinds.window_start and every_one.variant = kinds.variant and every_one.segment_kind = 'all'
where kinds.requests <> every_one.requests or kinds.errors <> every_one.errors
