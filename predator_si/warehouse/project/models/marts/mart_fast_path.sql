{{ config(pre_hook="{{ clear_where('snapshot_id', dirty_snapshots()) }}") }}
-- Clicks count until the snapshot was taken: one that was measured again has seen the late ones too.
with snapshots as (
    select distinct snapshot_id, window_start, measured_from, measured_to, created_at, champion
    from {{ ref('stg_snapshots') }}
    {% if is_incremental() -%}
    where snapshot_id in {{ dirty_snapshots() }}
    {%- endif %}
),
requests as (
    select
        snapshots.snapshot_id, requests.*,
        coalesce(requests.first_click_at < snapshots.created_at, false) as clicked_in_time
    from snapshots
    inner join {{ ref('int_requests') }} as requests
        on requests.event_time >= snapshots.measured_from and requests.event_time < snapshots.measured_to
        and requests.window_start < snapshots.measured_to and requests.window_start + interval '15 minutes' > snapshots.measured_from
        and (snapshots.champion is null or coalesce(requests.model_digest = snapshots.champion, requests.variant = 'champion'))
),
measured as (
    select
        snapshot_id,
        count(*) filter (where answered or failed) as served,
        count(*) filter (where answered) as answered,
        {{ ratio('count(*) filter (where failed)', 'count(*) filter (where answered or failed)') }} as error_rate,
        avg(latency_ms) filter (where answered) as avg_latency_ms,
        {{ quantile('latency_ms', 0.5, 'answered') }} as p50_latency_ms,
        {{ quantile('latency_ms', 0.95, 'answered') }} as p95_latency_ms,
        {{ quantile('latency_ms', 0.99, 'answered') }} as p99_latency_ms,
        case when count(*) filter (where answered and clicked_in_time) > 0
            then {{ ratio('count(*) filter (where answered and clicked_in_time)', 'count(*) filter (where answered)') }} end as click_through
    from requests
    group by snapshot_id
),
warehouse as (
    {% for metric, number, unit in [
        ('error_rate', 'error_rate', 'mean'), ('served_requests', 'served', 'count'), ('answered_requests', 'answered', 'count'),
        ('avg_latency_ms', 'avg_latency_ms', 'mean'), ('p50_latency_ms', 'p50_latency_ms', 'mean'), ('p95_latency_ms', 'p95_latency_ms', 'mean'),
        ('p99_latency_ms', 'p99_latency_ms', 'mean'), ('click_through', 'click_through', 'mean'),
    ] -%}
    {% if not loop.first %}union all {% endif -%}
    select snapshots.snapshot_id, '{{ metric }}' as metric, cast(measured.{{ number }} as double precision) as value,
           cast({{ 0 if unit == 'count' else 1e-9 }} as double precision) as tolerance
    from snapshots left join measured on measured.snapshot_id = snapshots.snapshot_id
    {% endfor -%}
),
fast as (
    select snapshot_id, metric, value, reason, metric_source from {{ ref('stg_snapshots') }}
    union all
    -- how many requests stand behind the rate and behind the latencies
    select snapshot_id, 'served_requests' as metric, cast(n as double precision) as value, reason, metric_source from {{ ref('stg_snapshots') }} where metric = 'error_rate'
    union all
    select snapshot_id, 'answered_requests' as metric, cast(n as double precision) as value, reason, metric_source from {{ ref('stg_snapshots') }} where metric = 'avg_latency_ms'
),
arrived as (
    select snapshots.snapshot_id, max(windows.newest_part_at) as newest_part_at
    from snapshots
    inner join {{ source('raw', 'windows') }} as windows
        on windows.window_start < snapshots.measured_to and windows.window_start + interval '15 minutes' > snapshots.measured_from
    group by snapshots.snapshot_id
),
compared as (
    select
        snapshots.*, warehouse.metric, fast.value as fast_value, warehouse.value as warehouse_value, warehouse.tolerance,
        abs(fast.value - warehouse.value) as difference,
        fast.reason as fast_reason, fast.metric_source,
        not (fast.metric_source like 'search events%' or fast.metric_source like 'clicks%') as from_elsewhere, arrived.newest_part_at
    from warehouse
    inner join snapshots on snapshots.snapshot_id = warehouse.snapshot_id
    left join fast on fast.snapshot_id = warehouse.snapshot_id and fast.metric = warehouse.metric
    left join arrived on arrived.snapshot_id = warehouse.snapshot_id
)
select
    snapshot_id, window_start, measured_from, measured_to, created_at, champion, metric, fast_value, warehouse_value, difference, tolerance,
    case
        when fast_value is null or warehouse_value is null or from_elsewhere then 'unknown'
        when difference <= tolerance * greatest(1, abs(fast_value)) then 'agrees'
        when newest_part_at is null or newest_part_at > created_at then 'unknown'
        else 'differs'
    end as answer,
    case
        when fast_value is null then 'the snapshot does not know it: ' || coalesce(fast_reason, 'it has no such metric')
        when from_elsewhere then 'the snapshot has it from ' || metric_source || ', not from events'
        when warehouse_value is null and newest_part_at is null then 'the raw layer has no events of this time'
        when warehouse_value is null then 'the warehouse has no such requests of this model at this time'
        when difference <= tolerance * greatest(1, abs(fast_value)) then 'the same number twice'
        when newest_part_at is null then 'the raw layer has no events of this time'
        when newest_part_at > created_at then 'events were added to this time after the snapshot was taken'
        else 'two ways from the same events to this number disagree'
    end as reason
from compared
