select
    window_start, variant, {{ segment_columns() }},
    count(*) as requests,
    count(cpu_seconds) filter (where answered or failed) as timed,
    sum(cpu_seconds) filter (where answered or failed) as cpu_seconds,
    avg(cpu_seconds) filter (where answered or failed) as cpu_seconds_per_request,
    -- USD per hour over 3600 is USD per second of one request; a thousand of them are asked for
    {% if var('usd_per_vcpu_hour') | float > 0 -%}
    avg(cpu_seconds) filter (where answered or failed) * cast({{ var('usd_per_vcpu_hour') }} as double precision) / 3.6
    {%- else -%}
    cast(null as double precision)
    {%- endif %} as estimated_usd_per_1k_requests
from {{ ref('int_requests') }}
where window_start in {{ dirty_windows() }}
{{ group_by_segment() }}
