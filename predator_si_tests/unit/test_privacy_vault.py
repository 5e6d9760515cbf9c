"""Keys: what they open, who may see them, what destroying leaves, and what an old copy can do."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Unavailable
from predator_si.privacy import Tombstone, Vault, is_sealed, open_text, protect
from predator_si.records import utc_now

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "privacy" / "vault.db")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    return Vault(tmp_path_factory.mktemp("shared") / "vault.db")


def events(*rows: tuple[str | None, str | None], when: datetime = NOW) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"user_query": pl.String, "client_id": pl.String}, orient="row")
    return frame.with_columns(timestamp=pl.lit(when, pl.Datetime("us", "UTC")), session_id=pl.lit("s"))


@given(st.text(max_size=40), st.one_of(st.none(), st.text(min_size=1, max_size=5)))
@settings(max_examples=100, deadline=None)
def test_a_sealed_text_comes_back_and_shows_nothing(shared: Vault, text: str, client: str | None) -> None:
    token = shared.seal(text, None if client is None else shared.client_hash(client), NOW)
    assert is_sealed(token) and shared.open([token, None, "plain"]) == [text, None, "plain"]
    assert shared.seal(text, None, NOW) != shared.seal(text, None, NOW)
    assert len(text) < 4 or text not in token


def test_the_file_is_its_owners_alone(vault: Vault) -> None:
    vault.sync()
    assert vault.path.parent.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in vault.path.parent.iterdir()} == {0o600}
    vault.path.chmod(0o644)
    assert Vault(vault.path).path.stat().st_mode & 0o777 == 0o600


def test_a_client_has_one_name_here_and_another_elsewhere(vault: Vault, tmp_path: Path) -> None:
    name = vault.client_hash("ann")
    assert name == Vault(vault.path).client_hash("ann") and name != vault.client_hash("ann ") and name != vault.session_hash("ann")
    assert name != Vault(tmp_path / "other.db").client_hash("ann") and "ann" not in name


def test_keys_are_durable_once_synced_and_shared_between_openers(vault: Vault) -> None:
    ann = vault.client_hash("ann")
    token = vault.seal("a question", ann, NOW)
    assert Vault(vault.path).open([token]) == [None]  # in memory only
    vault.sync()
    other = Vault(vault.path)
    assert other.open([token]) == ["a question"] and other.keys_of(ann) == 1
    assert vault.open([other.seal("another", ann, NOW)]) == ["another"] and vault.keys_of(ann) == 1


def test_a_damaged_or_foreign_token_is_null(vault: Vault, tmp_path: Path) -> None:
    token = vault.seal("a question", None, NOW)
    head, key_id, body = token.split(".")
    changed = body[:-3] + ("A" if body[-3] != "A" else "B") + body[-2:]
    assert vault.open([f"{head}.{key_id}.{changed}", f"v1.{'a' * 11}.{body}", f"v1.{key_id}.{body[:38]}"]) == [None, None, None]
    assert Vault(tmp_path / "other.db").open([token]) == [None]


def test_destroying_reaches_who_has_it_cached_and_later_text_gets_a_new_key(vault: Vault) -> None:
    reader, ann, bob = Vault(vault.path), vault.client_hash("ann"), vault.client_hash("bob")
    old = [vault.seal("one", ann, NOW), vault.seal("two", ann, NOW - timedelta(days=30))]
    kept = [vault.seal("three", bob, NOW), vault.seal("four", None, NOW)]
    vault.sync()
    assert reader.open([*old, *kept]) == ["one", "two", "three", "four"]
    assert reader.destroy(ann) == 2 and reader.is_erased(ann)
    for opener in (vault, reader, Vault(vault.path)):
        assert opener.open([*old, *kept]) == [None, None, "three", "four"]
    later = vault.seal("five", ann, NOW)
    vault.sync()
    assert reader.open([later, old[0]]) == ["five", None]
    assert vault.destroy(ann) == 1 and vault.open([later]) == [None]


def test_destroying_is_seen_by_another_process(vault: Vault) -> None:
    ann = vault.client_hash("ann")
    token = vault.seal("one", ann, NOW)
    vault.sync()
    assert vault.open([token]) == ["one"]
    program = f"from pathlib import Path; from predator_si.privacy import Vault; Vault(Path({str(vault.path)!r})).destroy({ann!r})"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert vault.open([token]) == [None]


def test_what_was_sealed_before_an_erasing_and_written_after_it_is_lost_with_it(vault: Vault) -> None:
    ann = vault.client_hash("ann")
    waiting = vault.seal("in the buffer", ann, NOW)
    Vault(vault.path).destroy(ann)
    vault.sync()
    assert vault.open([waiting]) == [None] and vault.keys_of(ann) == 0


def test_destroyed_key_bytes_stand_nowhere_in_the_files(vault: Vault) -> None:
    ann = vault.client_hash("ann")
    vault.seal("x", ann, NOW)
    vault.sync()
    key = sqlite3.connect(vault.path).execute("SELECT key FROM keys WHERE owner = ?", (ann,)).fetchone()[0]

    def there() -> bool:
        return any(bytes(key) in path.read_bytes() for path in vault.path.parent.iterdir())

    assert there()
    vault.destroy(ann)
    assert not there()


def test_an_old_copy_is_cleaned_by_tombstones_and_keeps_what_came_later(vault: Vault, tmp_path: Path) -> None:
    ann, bob = vault.client_hash("ann"), vault.client_hash("bob")
    tokens = [vault.seal("one", ann, NOW), vault.seal("two", bob, NOW), vault.seal("old", None, NOW - timedelta(days=99))]
    vault.sync()
    vault.close()
    shutil.copy(vault.path, tmp_path / "copy.db")
    erased = utc_now()
    copy = Vault(tmp_path / "copy.db")
    assert copy.open(tokens) == ["one", "two", "old"]
    assert copy.reapply([Tombstone(ann, erased)], date(2026, 9, 1)) == 2
    assert copy.open(tokens) == [None, "two", None]
    later = copy.seal("new", ann, NOW)
    copy.sync()
    assert copy.reapply([Tombstone(ann, erased)]) == 0 and copy.open([later]) == ["new"]


def test_expiry_takes_whole_days_of_nobody_and_whole_weeks_of_clients(vault: Vault) -> None:
    ann = vault.client_hash("ann")
    days = [NOW - timedelta(days=n) for n in range(20)]
    nobody, hers = [vault.seal(str(n), None, day) for n, day in enumerate(days)], [vault.seal(str(n), ann, day) for n, day in enumerate(days)]
    vault.sync()
    before = (NOW - timedelta(days=10)).date()
    vault.expire(before)
    assert [text is not None for text in vault.open(nobody)] == [day.date() >= before for day in days]
    readable = [text is not None for text in vault.open(hers)]
    assert all(readable[:11]) and not any(readable[17:])  # older than the cutoff by less than a week may stay, no more


def test_a_frame_is_protected_and_opened(vault: Vault) -> None:
    frame = events(("mail ann@x.org", "ann"), ("plain question", None), (None, "bob"))
    stored = protect(frame, vault)
    assert stored["user_query"].is_null().to_list() == [False, False, True] and all(is_sealed(text) for text in stored["user_query"].drop_nulls())
    assert stored["client_id"].to_list() == [vault.client_hash("ann"), None, vault.client_hash("bob")]
    assert set(stored["session_id"]) == {vault.session_hash("s")}
    assert open_text(stored, Vault(vault.path))["user_query"].to_list() == ["mail [email]", "plain question", None]
    assert open_text(stored, None)["user_query"].null_count() == 3
    assert open_text(frame, None).equals(frame)
    assert protect(stored, vault, stored=True).equals(stored)
    assert not protect(stored, vault)["user_query"].equals(stored["user_query"])  # from a client, what looks like a token is a text


def test_a_mixed_store_is_sealed_where_it_is_plain(vault: Vault) -> None:
    sealed, plain = protect(events(("one", "ann")), vault), events(("two", "ann"))
    both = protect(pl.concat([sealed, plain]), vault, stored=True)
    assert both["user_query"][0] == sealed["user_query"][0] and both["client_id"].n_unique() == 1
    assert open_text(both, vault)["user_query"].to_list() == ["one", "two"]
    vault.destroy(vault.client_hash("ann"))
    assert open_text(both, vault)["user_query"].to_list() == [None, None]


def test_clear_refusals(vault: Vault, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="needs timestamp"):
        protect(pl.DataFrame({"user_query": ["x"]}), vault)
    with pytest.raises(BadInput, match="no time zone"):
        vault.seal("x", None, datetime(2026, 11, 23))  # noqa: DTZ001
    (tmp_path / "no.db").write_bytes(b"this is no database, but it is long enough to look like one" * 20)
    with pytest.raises(BadInput, match="not a usable vault"):
        Vault(tmp_path / "no.db")
    (tmp_path / "file").write_text("x")
    with pytest.raises(Unavailable, match="vault cannot be used"):
        Vault(tmp_path / "file" / "vault.db")
