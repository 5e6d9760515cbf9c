{{ config(materialized='view', pre_hook=[]) }}
select source, origin, line, reason, kind, seen_at
from {{ source('raw', 'quarantine') }}
