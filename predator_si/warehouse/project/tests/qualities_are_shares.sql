{{ config(meta={'description': "Qualities lie in 0..1, and not more probes failed than were asked.", 'dagster': {'ref': {'name': 'mart_window_quality'}}}) }}
select * from {{ ref('mart_window_quality') }}
where failed > probes
  or not (coalesce(ndcg_at_10, 0) between 0 and 1 and coalesce(recall_at_20, 0) between 0 and 1 and coalesce(mrr, 0) between 0 and 1)
