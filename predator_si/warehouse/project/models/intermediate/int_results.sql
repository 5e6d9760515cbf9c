{{ config(materialized='view') }}
{{ result_rows(ref('stg_search_events'), ['window_start', 'query_id']) }}
