{{ config(materialized='view') }}
select source, origin, line, reason, kind, seen_at
from {{ source('raw', 'quarantine') }}
