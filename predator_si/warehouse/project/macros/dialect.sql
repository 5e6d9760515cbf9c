{#- The differences between DuckDB and PostgreSQL; every other line of this project is the same on both. -#}

{#- Results of search events, a row each: position from 1, object_id, score, first_stage_score, rerank_score; with the columns named in `keep`. -#}
{% macro result_rows(relation, keep) -%}
  {{ return(adapter.dispatch('result_rows', 'predator_si')(relation, keep)) }}
{%- endmacro %}

{% macro duckdb__result_rows(relation, keep) -%}
  select {{ keep | join(', ') }}, position, result.object_id as object_id, result.score as score,
         result.first_stage_score as first_stage_score, result.rerank_score as rerank_score
  from (
    select {{ keep | join(', ') }}, unnest(results) as result, generate_subscripts(results, 1) as position
    from {{ relation }}
  ) as exploded
{%- endmacro %}

{% macro postgres__result_rows(relation, keep) -%}
  select {{ keep | join(', ') }}, position, result ->> 'object_id' as object_id,
         cast(result ->> 'score' as double precision) as score,
         cast(result ->> 'first_stage_score' as double precision) as first_stage_score,
         cast(result ->> 'rerank_score' as double precision) as rerank_score
  from {{ relation }} as shown
  cross join lateral jsonb_array_elements(shown.results) with ordinality as exploded (result, position)
{%- endmacro %}

{#- Type 7 of Hyndman and Fan (1996) on both engines, as numpy.quantile and the fast path have it; nulls do not count. -#}
{% macro quantile(column, q, where='true') -%}
  percentile_cont({{ q }}) within group (order by case when {{ where }} then {{ column }} end)
{%- endmacro %}

{% macro ratio(numerator, denominator) -%}
  cast({{ numerator }} as double precision) / nullif(cast({{ denominator }} as double precision), 0)
{%- endmacro %}
