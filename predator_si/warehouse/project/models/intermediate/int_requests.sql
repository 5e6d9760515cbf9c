with clicks as (
    select
        window_start, query_id, count(*) as clicks, min(position) as best_click, min(clicked_at) as first_click_at,
        sum(power(cast(position as double precision), {{ var('position_bias') }}) * ln(cast(2 as double precision)) / ln(cast(position + 1 as double precision))) as click_dcg
    from {{ ref('int_clicks') }}
    where position <= 10 and window_start in {{ dirty_windows() }}
    group by window_start, query_id
),
ratings as (
    select window_start, query_id, count(*) as ratings, sum(value) as rating_sum
    from {{ ref('stg_actions') }}
    where action_name = 'rating' and value between 1 and 5 and window_start in {{ dirty_windows() }}
    group by window_start, query_id
),
requests as (
    select
        *,
        count(query_bucket) over (partition by window_start, query_bucket) as asked
    from {{ ref('stg_search_events') }}
    -- probes are not people, and the answer of a stand-in says nothing about the model it stands for
    where window_start in {{ dirty_windows() }} and not probe and stands_for is null
)
select
    requests.window_start, requests.query_id, requests.event_time,
    coalesce(requests.variant, 'champion') as variant, requests.model_digest, requests.status,
    requests.status between 200 and 399 and not requests.degraded as answered,
    requests.status >= 500 or requests.status = 429 or requests.degraded as failed,
    requests.degraded, requests.simulated,
    requests.latency_ms, requests.retrieve_ms, requests.rerank_ms, requests.queue_ms, requests.cpu_seconds,
    {{ words_class('requests.query_words') }} as query_words,
    coalesce(requests.script, 'unknown') as script,
    case when requests.query_bucket is null then 'unknown' when requests.asked >= {{ var('head_queries') }} then 'head' else 'tail' end as head_tail,
    case when requests.simulated then 'simulated' else 'people' end as traffic,
    coalesce(clicks.clicks, 0) as clicks, clicks.best_click, clicks.first_click_at, coalesce(clicks.click_dcg, 0) as click_dcg,
    coalesce(ratings.ratings, 0) as ratings, coalesce(ratings.rating_sum, 0) as rating_sum
from requests
left join clicks on clicks.window_start = requests.window_start and clicks.query_id = requests.query_id
left join ratings on ratings.window_start = requests.window_start and ratings.query_id = requests.query_id
