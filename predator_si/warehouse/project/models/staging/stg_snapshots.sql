{{ config(materialized='view') }}
select snapshot_id, window_start, contour, champion, measured_from, measured_to, created_at, mock, lost_events, quarantined, metric, value, n, reason, metric_source
from {{ source('raw', 'snapshots') }}
