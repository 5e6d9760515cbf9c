from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput
from predator_si.records import ActionEvent, ExposureEvent, ScoredDocument, SearchEvent
from predator_si.search.events import ACTION_SCHEMA, EXPOSURE_SCHEMA, SEARCH_SCHEMA
from predator_si.search.interleave import credited_clicks, draft_seed, team_draft

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
RANKINGS = st.lists(st.integers(0, 14).map(str), unique=True, max_size=12)


@settings(max_examples=50, deadline=None)
@given(RANKINGS, RANKINGS, st.integers(0, 15), st.text(max_size=5))
def test_a_draft_is_made_as_captains_pick(champion: list[str], candidate: list[str], k: int, seed: str) -> None:
    draft = team_draft(champion, candidate, k, seed)
    assert draft == team_draft(champion, candidate, k, seed), "the seed gives the same list again"
    assert len(draft.ids) == len(set(draft.ids)) == len(draft.teams) == min(k, len({*champion, *candidate}))
    rankings = {"champion": champion, "candidate": candidate}
    seen: list[str] = []
    counts = {"champion": 0, "candidate": 0}
    for one, team in zip(draft.ids, draft.teams, strict=True):
        left = {name: [doc for doc in ranking if doc not in seen] for name, ranking in rankings.items()}
        assert one == left[team][0], "each pick is the best that its team has left"
        other = "candidate" if team == "champion" else "champion"
        assert counts[team] <= counts[other] or not left[other], "nobody picks twice while the other waits"
        counts[team] += 1
        seen.append(one)


def test_who_picks_first_is_a_fair_coin_and_no_rank_favours_a_team() -> None:
    firsts = np.array([team_draft(["a", "b", "c", "d"], ["d", "c", "b", "a"], 4, f"seed {i}").teams for i in range(2000)]) == "candidate"
    shares = firsts.mean(axis=0)
    assert np.all(np.abs(shares - 0.5) < 4.5 * 0.5 / np.sqrt(2000)), shares


def test_equal_rankings_draft_themselves_and_teams_share_the_picks() -> None:
    draft = team_draft(["a", "b", "c", "d"], ["a", "b", "c", "d"], 4, "x")
    assert draft.ids == ("a", "b", "c", "d") and draft.teams.count("champion") == 2


@pytest.mark.parametrize(("champion", "k", "message"), [(["a", "a"], 3, "champion's ranking holds a document twice"), (["a"], -1, "length is 0 or more")])
def test_what_is_no_ranking_is_refused(champion: list[str], k: int, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        team_draft(champion, ["b"], k, "x")


def test_the_same_person_who_asks_the_same_again_drafts_alike_and_nobody_can_tell_who_it_was() -> None:
    def seed(query_id: str, person: str | None, query: str = "How to  sort", secret: bytes = b"s" * 32, candidate: str = "B") -> str:
        return draft_seed(secret, query_id, person, query, "A", candidate)

    assert seed("q1", "session") == seed("q2", "session", "how to sort")
    assert len({seed("q1", "session"), seed("q1", "other"), seed("q1", "session", "why"), seed("q1", "session", candidate="C")}) == 4
    assert seed("q1", None) == seed("q1", None, "anything") != seed("q2", None), "where nobody is known each request has its own"
    assert seed("q1", "session") != seed("q1", "session", secret=b"t" * 32)


def _frames(lists: dict[str, tuple[list[str], list[str]]], clicks: list[tuple[str, str]]) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Frames as the spool gives them: query_id -> (shown, teams), and (query_id, clicked)."""
    common = {"query_id": "", "timestamp": NOW}
    searches = [
        SearchEvent(**{**common, "query_id": q}, user_query="w", client_id="c", variant="interleaved", status=200, latency_ms=1,
                    results=tuple(ScoredDocument(object_id=one) for one in shown)) for q, (shown, _) in lists.items()
    ]  # fmt: skip
    exposures = [
        ExposureEvent(**{**common, "query_id": q}, release="r", mode="interleave", unit="client", bucket=1, variant="interleaved",
                      champion_digest="A", teams=tuple(teams)) for q, (_, teams) in lists.items()
    ]  # fmt: skip
    actions = [ActionEvent(**{**common, "query_id": q}, action_name="click", object_id=one) for q, one in clicks]
    return tuple(
        pl.DataFrame([row.model_dump() for row in rows], schema=schema, orient="row")
        for rows, schema in ((searches, SEARCH_SCHEMA), (exposures, EXPOSURE_SCHEMA), (actions, ACTION_SCHEMA))
    )  # type: ignore[return-value]


def test_clicks_credit_the_team_that_picked_the_document_once_each() -> None:
    lists = {
        "q1": (["a", "b", "c"], ["champion", "candidate", "candidate"]),
        "q2": (["a", "b"], ["candidate", "champion"]),
        "q3": (["a", "b"], []),  # a model had failed: nothing was drafted
        "q4": (["a", "b"], ["champion", "candidate"]),
    }
    clicks = [("q1", "b"), ("q1", "b"), ("q1", "c"), ("q1", "elsewhere"), ("q2", "b"), ("q3", "a"), ("unknown", "a")]
    search, exposures, actions = _frames(lists, clicks)
    found = credited_clicks(search, exposures, actions)
    assert found.select("query_id", "champion_clicks", "candidate_clicks").rows() == [("q1", 0, 2), ("q2", 1, 0)]
    doubled = credited_clicks(pl.concat([search, search]), pl.concat([exposures, exposures]), pl.concat([actions, actions]))
    assert doubled.equals(found), "duplicated events change nothing"
    assert credited_clicks(search, exposures, actions.clear()).schema == found.schema
