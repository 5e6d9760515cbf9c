"""Events in the User Behavior Insights indexes of an OpenSearch: ``ubi_queries`` and ``ubi_events``.

What belongs here: paging through a window, completely or saying that it was not. What must not: names of fields (``columns``), storing.

A page is asked for with ``search_after`` the sort values of the last hit. The sort is time, query and action, which are not unique together: hits with the same
values on both sides of a page's end would be skipped. So a page that ends within such a group is cut back to its beginning, and what arrived is held against
the number of hits that the index counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from predator_si.contour import Credential, OpenSearchEvents
from predator_si.errors import BadInput, PredatorError, Unavailable
from predator_si.monitor.sources.access import Endpoint
from predator_si.monitor.sources.columns import from_documents
from predator_si.monitor.sources.reading import Reading, raw_frame, validated
from predator_si.monitor.sources.rules import Kind
from predator_si.records import Provenance

PAGE = 1000
ACTIONS = ("click", "dwell", "rating")
"""Actions that are asked for; UBI knows many more (impressions, carts) that no metric here is made of."""


@dataclass(frozen=True)
class OpenSearchUBI:
    """UBI indexes of one cluster.

    Parameters
    ----------
    values
        The contour's entry.
    page
        Hits in one answer, at most 10,000.
    """

    values: OpenSearchEvents
    credential: Credential | None = None
    env: Mapping[str, str] | None = None
    timeout: float = 10.0
    page: int = PAGE
    name: str = "opensearch"

    def read(self, start: datetime, end: datetime) -> Reading:
        """All queries and actions with ``start <= timestamp < end``; a cluster that is down, or a page that is short, is named in the provenance."""
        provenance = Provenance(source=self.name, origin=self.values.address, window_start=start, window_end=end)
        frames: dict[Kind, list[pl.DataFrame]] = {"search": [], "action": []}
        indexes: tuple[tuple[Kind, str], ...] = (("search", self.values.queries), ("action", self.values.events))
        try:
            with Endpoint(self.values.address, self.credential, env=self.env, timeout=self.timeout) as api:
                for kind, index in indexes:
                    documents = self._all(api, kind, index, start, end)
                    if documents:
                        frames[kind].append(raw_frame(from_documents(documents, kind), kind, source=self.name, origin=f"opensearch:{index}", arrived=end))
        except PredatorError as error:
            return Reading(provenance.model_copy(update={"unknown": (str(error),)}), complete=False)
        return validated(provenance, frames)

    def _all(self, api: Endpoint, kind: Kind, index: str, start: datetime, end: datetime) -> list[dict[str, Any]]:
        sort = ["timestamp", "query_id"] + (["action_name"] if kind == "action" else [])
        filters: list[dict[str, Any]] = [{"range": {"timestamp": {"gte": _moment(start), "lt": _moment(end), "format": "strict_date_optional_time"}}}]
        if kind == "action":
            filters.append({"terms": {"action_name": list(ACTIONS)}})
        if self.values.application is not None:
            filters.append({"term": {"application": self.values.application}})
        body: dict[str, Any] = {
            "size": self.page,
            "query": {"bool": {"filter": filters}},
            "sort": [{name: {"order": "asc"}} for name in sort],
            "track_total_hits": True,
        }
        found: list[dict[str, Any]] = []
        total: int | None = None
        while True:
            answer = api.ask("POST", f"/{index}/_search", json=body)
            hits, counted = _hits(answer, index)
            total = counted if total is None else total
            last = len(hits) < self.page
            if not last:
                hits = _whole_groups(hits, index, self.page)
            found += [hit["_source"] for hit in hits]
            if last:
                break
            body = {**body, "search_after": hits[-1]["sort"]}
        if total is not None and len(found) < total:
            raise Unavailable(f"{self.values.address}/{index}: {len(found)} of {total} documents arrived; the window is read again at the next tick")
        return found


def _hits(answer: dict[str, Any] | None, index: str) -> tuple[list[dict[str, Any]], int | None]:
    """Hits of an answer, and how many there are in all; an answer of only some shards is no answer."""
    if answer is None or not isinstance(answer.get("hits"), dict) or not isinstance(answer["hits"].get("hits"), list):
        raise Unavailable(f"index {index} answers no hits: {str(answer)[:200]}")
    failed = (answer.get("_shards") or {}).get("failed", 0)
    if answer.get("timed_out") or failed:
        raise Unavailable(f"index {index} answers in part only ({failed} shards failed, timed out: {answer.get('timed_out')})")
    hits = answer["hits"]["hits"]
    if not all(isinstance(hit, dict) and isinstance(hit.get("_source"), dict) and isinstance(hit.get("sort"), list) for hit in hits):
        raise Unavailable(f"index {index} answers hits without _source or sort")
    total = answer["hits"].get("total")
    return hits, total.get("value") if isinstance(total, dict) and total.get("relation") == "eq" else None


def _whole_groups(hits: list[dict[str, Any]], index: str, page: int) -> list[dict[str, Any]]:
    """A full page without the hits of its last sort value, which may go on behind its end."""
    kept = [hit for hit in hits if hit["sort"] != hits[-1]["sort"]]
    if not kept:
        raise BadInput(f"index {index}: {page} documents have the same time, query and action; ask for larger pages, or look at who writes them")
    return kept


def _moment(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
