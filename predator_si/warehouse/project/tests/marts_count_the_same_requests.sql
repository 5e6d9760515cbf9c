{{ config(meta={'description': "The marts of latency, clicks and cost are about the same requests.", 'dagster': {'ref': {'name': 'mart_window_clicks'}}}) }}
select latency.window_start, latency.variant, latency.segment_kind, latency.segment, latency.requests, latency.answered, clicks.answered as clicks_answered
from {{ ref('mart_window_latency') }} as latency
left join {{ ref('mart_window_clicks') }} as clicks
    on clicks.window_start = latency.window_start and clicks.variant = latency.variant
    and clicks.segment_kind = latency.segment_kind and clicks.segment = latency.segment
left join {{ ref('mart_window_cost') }} as cost
    on cost.window_start = latency.window_start and cost.variant = latency.variant
    and cost.segment_kind = latency.segment_kind and cost.segment = latency.segment
where latency.window_start in {{ dirty_windows() }}
  and (clicks.answered is null or clicks.answered <> latency.answered or cost.requests is null or cost.requests <> latency.requests)
