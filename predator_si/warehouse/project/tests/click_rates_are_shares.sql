{{ config(meta={'description': "Rates lie in 0..1, a rating in 1..5.", 'dagster': {'ref': {'name': 'mart_window_clicks'}}}) }}
select * from {{ ref('mart_window_clicks') }}
where window_start in {{ dirty_windows() }}
  and not (coalesce(click_through, 0) between 0 and 1 and coalesce(click_mrr, 1) between 0 and 1 and coalesce(satisfaction, 1) between 1 and 5)
