"""Assets that others make: the search service and the judgments."""

import dagster as dg

from predator_si.orchestration.links import pages_at
from predator_si.settings import Settings

SERVICE = dg.AssetSpec(
    ["search", "service"],
    group_name="search",
    kinds={"fastapi"},
    owners=["team:search"],
    description="The search service: what people ask and get; its release file is in Git.",
)
JUDGMENTS = dg.AssetSpec(
    ["search", "judgments"],
    group_name="search",
    kinds={"parquet"},
    owners=["team:search"],
    description="Judged queries: dev ones are probes, test ones stay sealed until a gate opens them.",
)
EVENTS = dg.AssetSpec(
    ["observe", "search_events"],
    group_name="observe",
    kinds={"parquet"},
    owners=["team:search"],
    deps=[SERVICE],
    description="Served requests with their clicks: an append-only spool, rolled into Parquet by the hour.",
)


def external_assets(settings: Settings) -> list[dg.AssetSpec]:
    """The three with the addresses of a contour: what the service says about itself, and the operations page."""
    told = {"service": dg.MetadataValue.url(f"{settings.search_url}/info"), "operations_page": dg.MetadataValue.url(pages_at(settings))}
    return [SERVICE.merge_attributes(metadata=told), JUDGMENTS, EVENTS]
