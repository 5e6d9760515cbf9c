{#- Incremental work by window. Which windows are new or have changed since the last whole build stands in the source raw.windows. -#}

{% macro dirty_windows() -%}
  (select window_start from {{ source('raw', 'windows') }} where dirty)
{%- endmacro %}

{#- Before a model writes its windows: take out what it wrote before, and what retention has removed where the model may not keep it. -#}
{% macro clear_windows(with_gone) -%}
  {%- if is_incremental() -%}
    delete from {{ this }} where window_start in
      (select window_start from {{ source('raw', 'windows') }} where dirty{{ ' or gone' if with_gone }})
  {%- endif -%}
{%- endmacro %}

{#- Snapshots that must be compared anew: new or measured again, or some window that they cover has changed. -#}
{% macro dirty_snapshots() -%}
  (
    select distinct snapshots.snapshot_id
    from {{ source('raw', 'snapshots') }} as snapshots
    where snapshots.dirty or exists (
      select 1 from {{ source('raw', 'windows') }} as windows
      where windows.dirty
        and windows.window_start < snapshots.measured_to
        and windows.window_start + interval '15 minutes' > snapshots.measured_from
    )
  )
{%- endmacro %}

{% macro clear_where(column, selection) -%}
  {%- if is_incremental() -%}
    delete from {{ this }} where {{ column }} in {{ selection }}
  {%- endif -%}
{%- endmacro %}

{#- Windows whose probes are new or were sent again. -#}
{% macro dirty_probes() -%}
  (select window_start from {{ source('raw', 'snapshots') }} where dirty)
{%- endmacro %}
