"""A person's query through the whole platform: nothing of it stands readable on the disk, and erasing reaches every copy."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from predator_si.augment import Dataset, DatasetRepo, read_examples, write_dataset
from predator_si.control import Control
from predator_si.monitor.intake import Intake
from predator_si.monitor.sources.spool import Spool
from predator_si.privacy import open_text, trace
from predator_si.records import utc_now
from predator_si.search.app import create_app
from predator_si.search.erasure import erase_client, find_client
from predator_si.search.events import hour_name, read_events
from predator_si.search.personal import existing_vault, open_vault
from predator_si.search.rollup import roll_up
from predator_si_tests.support.search_fakes import FakeHome, FakeReranker, fake_home, load_fake_index, load_fake_reranker

pytestmark = pytest.mark.live

EMAIL, CLIENT, SESSION, OTHER = "olena.koval@example.com.ua", "web-olena-7731", "web-olena-7731-s9", "web-petro-8842"
QUERY = f"how to send mail to {EMAIL} from flask"
REDACTED = "how to send mail to [email] from flask"
PLAIN = "sort a dictionary by value quickly"
BROKEN = "query that breaks the reranker"
SECRETS = (EMAIL, CLIENT, SESSION, OTHER, QUERY, REDACTED, PLAIN, BROKEN, "olena", "dictionary by value")


class Quoting(FakeReranker):
    """Fails as libraries do: with a message that quotes what it was working on."""

    def score(self, query: str, texts: Any) -> Any:
        if query == BROKEN:
            raise ValueError(f"cannot tokenise {query!r}")
        return super().score(query, texts)


def quoting(folder: Path) -> FakeReranker:
    return Quoting(**vars(load_fake_reranker(folder)))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHome]:
    """A home whose service has answered two clients and somebody without an id; logs go to a file of the home."""
    found = fake_home(tmp_path / "home")
    found.release(found.model("first"))
    (found.path / "logs").mkdir()
    handler = logging.FileHandler(found.path / "logs" / "search.log")
    logging.getLogger("predator_si").addHandler(handler)
    for name in ("app", "ranking", "service", "spool"):  # a library's fileConfig in an earlier test may have switched them off
        monkeypatch.setattr(logging.getLogger(f"predator_si.search.{name}"), "disabled", False)
    try:
        asyncio.run(ask(found))
        yield found
    finally:
        logging.getLogger("predator_si").removeHandler(handler)
        handler.close()


async def ask(home: FakeHome) -> None:
    app = create_app(home.path, load_index=load_fake_index, load_reranker=quoting, poll_seconds=0.05, flush_seconds=0.05)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://search") as http:
        for query, client in ((QUERY, CLIENT), (PLAIN, CLIENT), (BROKEN, CLIENT), (PLAIN, OTHER), (PLAIN, None)):
            body = {"query": query, "client_id": client, "session_id": SESSION if client == CLIENT else None}
            answer = (await http.post("/search", json=body)).raise_for_status().json()
            click = {"query_id": answer["query_id"], "action_name": "click", "object_id": "d1", "position": 2, "client_id": client}
            (await http.post("/events", json=click)).raise_for_status()
        (await http.post("/flush")).raise_for_status()
    # what another program left in the spool's folder, unusable and in plain text
    (home.events / "spool" / "1-20261122T100000000000-2026112210.jsonl").write_text(f'{{"kind": "search", "user_query": "{QUERY}"\n')


def contents(home: FakeHome) -> Iterator[tuple[Path, bytes]]:
    """Every file below the home as bytes; Parquet also as the text that stands in it."""
    for path in sorted(home.path.rglob("*")):
        if path.is_file():
            body = path.read_bytes()
            yield path, body
            if body.startswith(b"PAR1"):
                yield path, json.dumps(pl.read_parquet(path, hive_partitioning=False).rows(), default=str, ensure_ascii=False).encode()


def leaks(home: FakeHome) -> list[tuple[str, str]]:
    return [(str(path.relative_to(home.path)), secret) for path, body in contents(home) for secret in SECRETS if secret.encode() in body]


def asked(home: FakeHome) -> list[str | None]:
    now = utc_now()
    return read_events(home.events, now - timedelta(hours=2), now).search.sort("timestamp")["user_query"].to_list()


def raw_layer(home: FakeHome) -> pl.DataFrame:
    return pl.read_parquet(sorted((home.path / "telemetry" / "search").rglob("*.parquet")), hive_partitioning=False)


def everything(home: FakeHome) -> Path:
    """Roll up, take in, build and version a data set; where its rows lie."""
    vault = open_vault(home.path)
    Intake(home.path / "telemetry", vault).run([Spool(home.events)])
    roll_up(home.events, hour_name(utc_now() + timedelta(hours=1)), vault=vault)
    now = utc_now()
    stored = read_events(home.events, now - timedelta(hours=2), now, open_text=False).search
    opened = dict(zip(open_text(stored, vault)["user_query"], stored["user_query"], strict=True))
    rows = [(0, REDACTED, "clicks"), (0, REDACTED, "clicks"), (1, "title of a document", "title"), (1, "title of a document", "title")]
    examples = pl.DataFrame(rows, schema=["group_id", "query", "source"], orient="row").with_columns(text=pl.lit("body"))
    dataset = Dataset("aug_2026_11_22_001", examples, {}, {"dataset_id": "aug_2026_11_22_001"}, {REDACTED: opened[REDACTED]})
    paths = write_dataset(home.path / "artifacts" / "si_2026_11_22_001", dataset)
    DatasetRepo(home.path / "datasets", home.path / "datasets-store").commit([paths["parquet"], paths["csv"]], dataset.dataset_id)
    return paths["parquet"]


def test_nothing_readable_is_stored_and_erasing_reaches_every_copy(home: FakeHome, tmp_path: Path) -> None:
    control = Control(home.path / "control.db")
    assert [text for text in asked(home) if text] == [REDACTED, PLAIN, BROKEN, PLAIN, PLAIN]
    spooled = [line for path in home.events.glob("spool/*.jsonl") if "2026112210" not in path.name for line in path.read_text().splitlines()]
    assert len(spooled) > 10 and not [secret for secret in SECRETS if any(secret in line for line in spooled)]
    dataset = everything(home)
    assert leaks(home) == []
    log = (home.path / "logs" / "search.log").read_text()
    assert "reranking failed" in log and "ValueError" in log and "cannot tokenise" not in log
    assert [text for text in asked(home) if text] == [REDACTED, PLAIN, BROKEN, PLAIN, PLAIN]
    vault = open_vault(home.path)
    assert read_examples(dataset, vault)[0]["query"].to_list() == [REDACTED] * 2 + ["title of a document"] * 2
    assert raw_layer(home)["client_id"].drop_nulls().str.starts_with("c1.").all() and raw_layer(home).height == 5

    backup = tmp_path / "backup"
    shutil.copytree(home.path, backup)
    found = find_client(home.path, CLIENT)
    assert found.known and found.keys == 1 and found.events >= 6
    # events, raw layer, the cycle's two files, the same two in DVC's working copy, cache and remote
    assert sum(found.texts.values()) >= 3 + 3 + 4 * 4 and {name.split("/")[0] for name in found.texts} == {
        "service", "telemetry", "artifacts", "datasets", "datasets-store"
    }  # fmt: skip
    done = erase_client(home.path, CLIENT, "test")
    assert (done.keys, done.texts, done.still_readable) == (1, sum(found.texts.values()), 0)

    def unreadable(where: FakeHome) -> None:
        assert asked(where) == [None, None, None, PLAIN, PLAIN]
        opened = open_text(raw_layer(where).sort("timestamp"), existing_vault(where.path))
        assert opened["user_query"].to_list() == [None, None, None, PLAIN, PLAIN]
        for copy in where.path.rglob("augmented_dataset.parquet"):
            examples, dropped = read_examples(copy, existing_vault(where.path))
            assert (examples["query"].unique().to_list(), dropped) == (["title of a document"], 2)

    unreadable(home)
    record = control.records()[-1]
    assert record.action == "client_erased" and record.payload == {"client": found.client, "keys": 1, "texts": done.texts}
    assert leaks(home) == [] and control.verify() == []
    assert not erase_client(home.path, "nobody", "test").client.startswith(CLIENT) and len(control.records()) == 1

    # the backup comes back, old vault and all; the ledger is the newest one, as docs/personal-data.md asks
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    for path in home.path.glob("control.db*"):
        shutil.copy(path, ledger)
    restored = FakeHome(tmp_path / "restored")
    shutil.copytree(backup, restored.path)
    assert len([text for text in open_vault(backup).open(raw_layer(home)["user_query"].to_list()) if text]) == 5  # the old keys would open it
    for path in restored.path.glob("control.db*"):
        path.unlink()
    shutil.copytree(ledger, restored.path, dirs_exist_ok=True)
    unreadable(restored)


def test_a_client_that_comes_back_after_erasing_gets_a_new_key(home: FakeHome) -> None:
    erase_client(home.path, CLIENT, "test")
    assert asked(home) == [None, None, None, PLAIN, PLAIN]
    asyncio.run(ask(home))
    assert asked(home)[5:] == [REDACTED, PLAIN, BROKEN, PLAIN, PLAIN]
    assert find_client(home.path, CLIENT).erased


def test_a_trace_names_the_place_and_not_the_words() -> None:
    try:
        try:
            raise KeyError(QUERY)
        except KeyError as error:
            raise ValueError(f"wrapped {QUERY}") from error
    except ValueError as error:
        text = trace(error)
    assert "KeyError" in text and "ValueError" in text and "test_privacy_end_to_end.py" in text
    assert not [secret for secret in SECRETS if secret in text]
