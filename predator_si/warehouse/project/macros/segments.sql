{#- One row for all requests of a window and variant, and one for each value of each segment. -#}

{% macro segment_kinds() -%}
  {{ return(['query_words', 'script', 'head_tail', 'traffic']) }}
{%- endmacro %}

{#- Query length in words as a class; null where the raw layer does not say. -#}
{% macro words_class(column) -%}
  case
    when {{ column }} is null then 'unknown'
    when {{ column }} <= 1 then '0-1'
    when {{ column }} = 2 then '2'
    when {{ column }} <= 4 then '3-4'
    when {{ column }} <= 8 then '5-8'
    else '9+'
  end
{%- endmacro %}

{% macro segment_columns(kinds=segment_kinds()) -%}
  case {% for kind in kinds %}when grouping({{ kind }}) = 0 then '{{ kind }}' {% endfor %}else 'all' end as segment_kind,
  case {% for kind in kinds %}when grouping({{ kind }}) = 0 then {{ kind }} {% endfor %}else 'all' end as segment
{%- endmacro %}

{% macro group_by_segment(kinds=segment_kinds()) -%}
  group by grouping sets (
    (window_start, variant)
    {%- for kind in kinds %}, (window_start, variant, {{ kind }}){% endfor %}
  )
{%- endmacro %}
