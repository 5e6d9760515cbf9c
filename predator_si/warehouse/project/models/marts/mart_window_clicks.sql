with found as (
    select
        window_start, variant, {{ segment_columns() }},
        count(*) filter (where answered) as answered,
        count(*) filter (where answered and clicks > 0) as clicked,
        cast(coalesce(sum(clicks) filter (where answered), 0) as bigint) as clicks,
        avg(cast(1 as double precision) / best_click) filter (where answered and clicks > 0) as click_mrr,
        avg(click_dcg) filter (where answered) as click_dcg_at_10,
        cast(sum(ratings) as bigint) as ratings,
        {{ ratio('sum(rating_sum)', 'sum(ratings)') }} as satisfaction
    from {{ ref('int_requests') }}
    where window_start in {{ dirty_windows() }}
    {{ group_by_segment() }}
),
recorded as (
    -- without a single click in a window and variant nobody can tell whether clicks are recorded at all
    select *, max(case when segment_kind = 'all' then clicked end) over (partition by window_start, variant) > 0 as clicks_recorded
    from found
)
select
    window_start, variant, segment_kind, segment, answered, clicked, clicks,
    case when clicks_recorded then {{ ratio('clicked', 'answered') }} end as click_through,
    click_mrr,
    case when clicks_recorded then click_dcg_at_10 end as click_dcg_at_10,
    ratings, satisfaction
from recorded
