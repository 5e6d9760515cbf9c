"""Indexes beside the one that serves: what is carried over when one takes another's place, what an index lacks, and how that is mended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.errors import BadInput, Missing
from predator_si.records import utc_now
from predator_si.search.first_stages import FirstStages
from predator_si.search.index_builds import FIRST, IndexBuild, IndexBuilds, embedder_of, note_of, read_inventory, write_inventory
from predator_si.search.index_repair import examine, indexable, rebuild, repair
from predator_si.search.index_versions import IndexVersions
from predator_si.search.ingest import Document, IngestQueue
from predator_si.search.journal import Journal, read_journal
from predator_si.search.retrieve import HybridIndex, load_embedder
from predator_si.search.tiny import HashingEmbedder

ROWS = [(f"d{i}", f"Title {i}", f"body number{i} about {'even' if i % 2 else 'odd'} things") for i in range(8)]


def frame(rows: Sequence[tuple[str, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["doc_id", "title", "text"], orient="row")


def ids(index: object) -> set[str]:
    return set(index.documents()["doc_id"].to_list())  # type: ignore[attr-defined]


class Service:
    """The indexes and the queue of a service, without its HTTP."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.embedder = HashingEmbedder(32).save(home / "embedder")
        if not (home / "service").exists():
            write_inventory(home / "service" / "index", frame(ROWS))
            IndexVersions(home / "service" / "index").publish(HybridIndex.build(frame(ROWS), HashingEmbedder(32)))
        self.first = FirstStages(home / "service", lambda folder: HybridIndex.load(folder, load_embedder(embedder_of(folder, self.embedder))), self.embedder)
        self.failing: set[str] = set()
        self.queue = IngestQueue(home / "service" / "ingest", prepare=self.prepare, apply=self.first.reindex, retry_seconds=0.01, tries=2)
        self.queue.start()
        self.running = True

    def stop(self) -> None:
        if self.running:
            self.queue.stop()
        self.running = False

    def prepare(self, documents: Sequence[Document]) -> None:
        if any(document.doc_id in self.failing for document in documents):
            raise ValueError("no vector")

    def put(self, *documents: Document) -> None:
        self.queue.put(list(documents))
        assert self.queue.wait_until_empty(10)

    def facts(self):  # type: ignore[no-untyped-def]
        return read_journal(self.home / "service" / "ingest")

    def examined(self, corpus: pl.DataFrame | None = None):  # type: ignore[no-untyped-def]
        note = self.first.served.note
        return examine(
            self.first.served.index.documents(), read_inventory(self.home / "service" / "index"), self.facts(), frame(ROWS) if corpus is None else corpus,
            note.set_aside if note else None,
        )  # fmt: skip

    def build(self, name: str, index: HybridIndex, folder: Path | None = None, **more: object) -> None:
        note = IndexBuild(name=name, embedder=index.embedder.name, embedder_folder=folder, documents=index.n_documents,
                          last_seq=self.facts().applied_through, created_at=utc_now(), **more)  # type: ignore[arg-type]  # fmt: skip
        self.first.builds.add(index, note)


@pytest.fixture
def service(tmp_path: Path):  # type: ignore[no-untyped-def]
    found = Service(tmp_path)
    yield found
    found.stop()


def test_a_build_takes_the_place_of_the_index_and_back_with_everything_that_was_fed_in_meanwhile(service: Service) -> None:
    other = HashingEmbedder(64).save(service.home / "other")
    service.put(Document("before", "", "fed in before the build"))
    made = HybridIndex.build(service.first.served.index.documents(), HashingEmbedder(64))
    service.build("other", made, other)
    service.put(Document("after", "", "fed in after the build"), Document("d1", "Title 1", "another text now"))
    service.queue.delete("d2")
    assert service.queue.wait_until_empty(10)
    assert service.first.follow("other", None, service.queue)
    served = service.first.served
    assert served.build == "other" and served.index.embedder.name == "hashing@64"  # type: ignore[attr-defined]
    assert ids(served.index) == {"before", "after", *(f"d{i}" for i in range(8))} - {"d2"}
    assert "another text" in served.index.text("d1"), "the later text, not the build's"  # type: ignore[attr-defined]
    service.put(Document("last", "", "fed in under the other index"))
    assert note_of(service.first.versions.folder(service.first.served.version)) == served.note, "the next version is still the build's"
    assert service.first.follow(FIRST, None, service.queue)
    assert ids(service.first.served.index) >= {"last", "after"} and "d2" not in ids(service.first.served.index)
    assert service.first.served.index.embedder.name == "hashing@32" and not service.first.follow(FIRST, None, service.queue)  # type: ignore[attr-defined]


def test_a_service_that_starts_again_goes_on_with_the_build(service: Service) -> None:
    service.build("other", HybridIndex.build(frame(ROWS), HashingEmbedder(64)), HashingEmbedder(64).save(service.home / "other"))
    service.first.follow("other", None, service.queue)
    service.stop()
    again = Service(service.home)
    assert again.first.served.build == "other" and again.first.served.index.n_documents == 8
    again.stop()


def test_a_candidate_has_its_own_index_and_takes_every_change(service: Service) -> None:
    service.build("small", HybridIndex.build(frame(ROWS[:4]), HashingEmbedder(32)))
    assert not service.first.follow(FIRST, "small", service.queue)
    assert service.first.of("candidate").index.n_documents == 4 and service.first.of("champion").index.n_documents == 8
    service.put(Document("new", "", "for both"))
    assert "new" in ids(service.first.of("candidate").index) and "new" in ids(service.first.of("champion").index)
    assert service.first.follow("small", None, service.queue), "the index that was tried takes over as it is"
    assert ids(service.first.served.index) == {"new", "d0", "d1", "d2", "d3"} and service.first.of("candidate") is service.first.served


def test_a_build_that_is_missing_or_damaged_changes_nothing(service: Service) -> None:
    before = service.first.served
    with pytest.raises(Missing, match="no index build"):
        service.first.follow("gone", None, service.queue)
    service.build("torn", HybridIndex.build(frame(ROWS), HashingEmbedder(32)))
    (service.first.builds.folder("torn") / "vectors.npy").write_bytes(b"torn")
    with pytest.raises(BadInput, match="changed since"):
        service.first.follow("torn", None, service.queue)
    with pytest.raises(BadInput, match="not the name"):
        service.first.follow("../x", None, service.queue)
    assert service.first.served is before and service.first.candidate is None


def test_an_index_that_lost_documents_is_seen_and_mended(service: Service) -> None:
    service.put(Document("fed", "A title", "fed in once"), Document("d7", "Title 7", "a newer text"))
    assert service.examined().health.wrong == 0
    sound = service.first.served.index
    service.first._publish(sound.updated(frame([("d5", "Title 5", "an old text"), ("odd", "", "nobody fed this in")]), ["d0", "d7", "fed"]), None)
    found = service.examined()
    assert (found.health.missing, found.health.stale, found.health.extra, found.health.lost) == (["d0", "d7", "fed"], ["d5"], ["odd"], [])
    mended, bad = repair(service.first.served.index, found)  # type: ignore[arg-type]
    assert bad == {} and sorted(mended.documents().rows()) == sorted(sound.documents().rows())
    anew, bad = rebuild(found, HashingEmbedder(32))
    assert bad == {} and sorted(anew.documents().rows()) == sorted(sound.documents().rows())


def test_a_text_that_nobody_knows_any_more_is_lost_and_never_made_up(service: Service) -> None:
    service.put(Document("fed", "", "fed in once"))
    service.stop()
    again = Service(service.home)  # the journal is made smaller at each start: only the fingerprint is left
    assert "fed in once" not in (service.home / "service" / "ingest" / "journal.jsonl").read_text()
    assert again.facts().known["fed"].digest is not None and again.examined().health.wrong == 0
    again.first._publish(again.first.served.index.updated(frame([]).cast(pl.String), ["fed"]), None)
    health = again.examined().health
    assert health.missing == health.lost == ["fed"]
    again.stop()


def test_dead_letters_stay_open_until_a_build_answers_for_them(service: Service) -> None:
    service.failing = {"bad", "moody"}
    service.put(Document("bad", "", "never indexable"), Document("moody", "", "not at the moment"), Document("good", "", "well"))
    assert service.queue.state().unsettled == 2 and service.queue.state().dead == 2
    found = service.examined()
    assert found.health.missing == ["bad", "moody"] and len(found.health.open_letters) == 2 and found.health.lost == []

    class Moody(HashingEmbedder):
        def encode(self, texts, on_progress=None):  # type: ignore[no-untyped-def]
            if any("never" in text for text in texts):
                raise ValueError("no vector for this")
            return super().encode(texts, on_progress)

    index = service.first.served.index
    index.embedder = Moody(32)  # type: ignore[attr-defined]
    mended, bad = repair(index, found)  # type: ignore[arg-type]
    assert set(bad) == {"bad"} and "no vector for this" in bad["bad"] and "moody" in mended
    service.build("mended", mended, settled=found.health.open_letters, set_aside=bad)
    service.first.follow("mended", None, service.queue)
    assert service.queue.state().unsettled == 0 and service.queue.state().dead == 2, "what happened stays counted, what is open is not"
    health = service.examined().health
    assert (health.wrong, health.set_aside) == (0, ["bad"])
    service.put(Document("bad", "", "still fails"))
    assert service.examined().health.missing == ["bad"], "fed in again, it is tried again"


def test_bad_vectors_are_found_one_by_one() -> None:
    class Odd:
        name = "odd"

        def encode(self, texts, on_progress=None):  # type: ignore[no-untyped-def]
            return np.array([[np.nan if "number3" in text else 1.0] for text in texts], np.float32)

    good, bad = indexable(frame(ROWS), Odd())
    assert good.height == 7 and list(bad) == ["d3"] and "not one of numbers" in bad["d3"]


def test_a_home_without_an_inventory_says_so(tmp_path: Path) -> None:
    with pytest.raises(Missing, match="nobody wrote down"):
        read_inventory(tmp_path)


def test_what_waits_is_not_counted_as_held_by_a_build(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    queue_rows = [{"op": "put", "seq": n, "doc_id": f"x{n}", "title": "", "text": "t", "at": 0.0} for n in (1, 2, 3)]
    with journal.path.open("a") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in [*queue_rows, {"op": "done", "seqs": [1, 3], "outcome": "applied"}])
    assert read_journal(tmp_path).applied_through == 1
    journal.close()
    assert IndexBuilds(tmp_path / "none").root.exists() is False and "x" not in IndexBuilds(tmp_path / "none")
