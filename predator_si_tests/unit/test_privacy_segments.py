"""What is kept of a query in the clear: enough for segments, too little to read it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.privacy import Vault, protect
from predator_si.privacy.segments import BUCKETS, SEGMENTS, segments, segments_of
from predator_si.records import SearchEvent, utc_now
from predator_si.search.events import SEARCH_SCHEMA
from predator_si.search.personal import protect_search

NOW = utc_now()
TODAY = NOW.toordinal()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    return Vault(tmp_path_factory.mktemp("shared") / "v.db")


@pytest.mark.parametrize(
    ("text", "words", "script"),
    [
        ("join two frames", 3, "latin"), ("як відкрити файл", 3, "cyrillic"), ("pandas та polars", 3, "mixed"), ("3.14 + 2", 3, "none"), ("", 0, "none"),
        ("   ", 0, "none"), ("日本 語", 2, "han"), ("한국어", 1, "other"), ("naïve café", 2, "latin"), (None, None, None),
    ],
)  # fmt: skip
def test_words_and_script(text: str | None, words: int | None, script: str | None) -> None:
    row = segments(pl.Series([text], dtype=pl.String)).row(0, named=True)
    assert (row["query_words"], row["script"], row["query_bucket"]) == (words, script, None)


def test_equal_queries_share_a_bucket_under_one_salt_only(tmp_path: Path) -> None:
    one, other = Vault(tmp_path / "one.db"), Vault(tmp_path / "other.db")
    asked, days = pl.Series(["Read  CSV", "read csv ", "read json", None]), pl.Series([TODAY] * 4)
    first, second, third, nothing = segments(asked, one, days)["query_bucket"]
    assert first == second and first != third and nothing is None
    assert 0 <= first < BUCKETS
    assert segments(asked, other, days)["query_bucket"].to_list() != [first, second, third, nothing]
    assert segments(asked, one, days - 1)["query_bucket"].to_list() != [first, second, third, nothing]


def test_the_salt_of_a_bucket_is_gone_after_days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guessed text can be checked against a bucket only while the day's salt exists; retention ends that, and reading late does not make it anew."""
    vault = Vault(tmp_path / "v.db")
    assert vault.query_bucket("read csv", BUCKETS, TODAY) is not None
    monkeypatch.setattr("predator_si.privacy.vault.utc_now", lambda: NOW + timedelta(days=3))
    vault.expire(NOW.date() - timedelta(days=90))
    assert Vault(tmp_path / "v.db").query_bucket("read csv", BUCKETS, TODAY) is None


@given(st.text(max_size=30))
@settings(max_examples=150, deadline=None)
def test_one_text_has_the_segments_of_a_column(shared: Vault, text: str) -> None:
    column = segments(pl.Series([text], dtype=pl.String), shared, pl.Series([TODAY]))
    assert segments_of(text, shared, TODAY) == column.row(0, named=True)


def test_buckets_are_shared_by_many_texts(tmp_path: Path) -> None:
    """A bucket must not name a text: 20,000 texts fall into clearly fewer buckets, as many as chance says."""
    n, small = 20_000, 4_096
    vault = Vault(tmp_path / "v.db")
    used = len({vault.query_bucket(f"query {i}", small, TODAY) for i in range(n)})
    expected = small * (1 - (1 - 1 / small) ** n)
    assert abs(used - expected) < 40


def test_an_event_and_a_frame_keep_the_same_of_a_text(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "v.db")
    event = SearchEvent(query_id="q", timestamp=NOW, user_query="mail me at ann@example.org please", status=200, latency_ms=1.0)
    single = protect_search(event, vault)
    frame = protect(pl.DataFrame([dict(event.__dict__)], schema=SEARCH_SCHEMA, orient="row"), vault)
    kept = {name: getattr(single, name) for name in SEGMENTS}
    assert frame.select(list(SEGMENTS)).row(0, named=True) == kept
    assert kept["query_words"] == 5 and kept["script"] == "latin"
    assert "ann" not in frame["user_query"][0] and single.user_query != event.user_query


def test_what_a_store_has_sealed_keeps_its_segments(tmp_path: Path) -> None:
    """The text cannot be read any more when a stored frame is protected again; what was kept of it must not be lost by that."""
    vault = Vault(tmp_path / "v.db")
    first = protect_search(SearchEvent(query_id="q", timestamp=NOW, user_query="one two three", status=200, latency_ms=1.0), vault)
    plain = SearchEvent(query_id="p", timestamp=NOW, user_query="чотири слова тут є", status=200, latency_ms=1.0)
    frame = pl.DataFrame([dict(first.__dict__), dict(plain.__dict__)], schema=SEARCH_SCHEMA, orient="row")
    again = protect(frame, vault, stored=True)
    assert again["query_words"].to_list() == [3, 4]
    assert again["script"].to_list() == ["latin", "cyrillic"]
    assert again["query_bucket"].to_list()[0] == first.query_bucket
