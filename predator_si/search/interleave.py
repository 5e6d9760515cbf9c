"""Team-draft interleaving: one result list made of two, and whose documents were clicked.

What belongs here: the draft and its credit. What must not: who gets such a list (``variants``), what the clicks prove (``experiment``).

Radlinski, Kurup, Joachims, "How does clickthrough data reflect retrieval quality?" (CIKM 2008): like captains who pick teams, in each round both rankers
add their best document that is not in the list yet, and a coin says who picks first. A click credits the ranker whose pick it was. A person thus compares both
rankers within one list, under the same query and the same mood, which is why far fewer requests are needed than for an A/B test. The coins come from a
seed that is written down, so a list can be made again from both rankings.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from predator_si.errors import BadInput

Team = Literal["champion", "candidate"]
CREDIT_SCHEMA: dict[str, Any] = {
    "query_id": pl.String,
    "timestamp": pl.Datetime("us", "UTC"),
    "client_id": pl.String,
    "champion_clicks": pl.Int64,
    "candidate_clicks": pl.Int64,
}


@dataclass(frozen=True, slots=True)
class Draft:
    """An interleaved list, best first, and whose pick each document was."""

    ids: tuple[str, ...]
    teams: tuple[Team, ...]


def team_draft(champion: Sequence[str], candidate: Sequence[str], k: int, seed: str) -> Draft:
    """The first ``k`` documents of both rankings, drafted in turns; fewer where both together have fewer.

    Whoever has fewer picks is next; where both have as many, a coin decides. When a ranking has no document left that is not drafted, the other goes on.

    Parameters
    ----------
    champion, candidate
        Document ids, best first, each once.
    seed
        Whatever names this draft: the same seed and rankings give the same list.

    Raises
    ------
    BadInput
        A document stands in a ranking twice, or ``k`` is negative.
    """
    for name, ids in (("champion", champion), ("candidate", candidate)):
        if len(set(ids)) != len(ids):
            raise BadInput(f"the {name}'s ranking holds a document twice; a draft needs each once. De-duplicate it.")
    if k < 0:
        raise BadInput(f"a list of {k} documents: the length is 0 or more.")
    rankings: dict[Team, Sequence[str]] = {"champion": champion, "candidate": candidate}
    drafted: dict[str, Team] = {}
    picks: dict[Team, int] = {"champion": 0, "candidate": 0}
    while len(drafted) < k:
        if picks["champion"] == picks["candidate"]:
            heads = hashlib.blake2b(f"{seed}\0{picks['champion']}".encode(), digest_size=1).digest()[0] & 1
            order: tuple[Team, Team] = ("champion", "candidate") if heads else ("candidate", "champion")
        else:
            order = ("champion", "candidate") if picks["champion"] < picks["candidate"] else ("candidate", "champion")
        pick = next(((team, one) for team in order for one in rankings[team] if one not in drafted), None)
        if pick is None:
            break
        drafted[pick[1]] = pick[0]
        picks[pick[0]] += 1
    return Draft(tuple(drafted), tuple(drafted.values()))


def draft_seed(secret: bytes, query_id: str, person: str | None, query: str, champion: str, candidate: str) -> str:
    """Seed of a draft: the same person who asks the same again sees the same list; where nobody is known, each request has its own.

    Parameters
    ----------
    secret
        Of this process, so that the seed that is written down tells nothing about who asked what.
    person
        Id of the session, or else of the client.
    champion, candidate
        Digests: another pair drafts anew.
    """
    who = query_id if person is None else f"{person}\0{' '.join(query.casefold().split())}"
    return hashlib.blake2b(f"{champion}\0{candidate}\0{who}".encode("utf-8", "surrogatepass"), key=secret, digest_size=8).hexdigest()


def credited_clicks(search: pl.DataFrame, exposures: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Clicked documents of each interleaved request, by whose pick they were.

    A document counts once a request however often it was clicked; a click on something that was not shown counts nowhere. Requests whose list was not
    drafted (a model had failed) and requests without clicks are not among the rows.

    Parameters
    ----------
    search, exposures, actions
        Frames of ``search.events.read_events``.

    Returns
    -------
    pl.DataFrame
        ``query_id``, ``timestamp``, ``client_id``, ``champion_clicks``, ``candidate_clicks``; in the order of time.
    """
    drafted = exposures.filter((pl.col("variant") == "interleaved") & (pl.col("teams").list.len() > 0)).unique("query_id", keep="first", maintain_order=True)
    shown = (
        search.unique("query_id", keep="first", maintain_order=True)
        .select("query_id", "timestamp", "client_id", object_id=pl.col("results").list.eval(pl.element().struct.field("object_id")))
        .join(drafted.select("query_id", "teams"), on="query_id", how="inner")
        .filter(pl.col("object_id").list.len() == pl.col("teams").list.len())
        .explode("object_id", "teams")
    )
    clicks = actions.filter(pl.col("action_name") == "click").select("query_id", "object_id").unique()
    found = (
        shown.join(clicks, on=("query_id", "object_id"), how="inner")
        .group_by("query_id", "timestamp", "client_id")
        .agg(
            champion_clicks=(pl.col("teams") == "champion").sum().cast(pl.Int64),
            candidate_clicks=(pl.col("teams") == "candidate").sum().cast(pl.Int64),
        )
        .sort("timestamp", "query_id")
    )
    return found.select(list(CREDIT_SCHEMA)) if found.height else pl.DataFrame(schema=CREDIT_SCHEMA)
