import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.search.index_versions import IndexVersions
from predator_si.search.ingest import Document, IngestQueue
from predator_si.search.journal import Journal
from predator_si.search.prepared import PreparedEmbedder
from predator_si_tests.support.search_fakes import DOCUMENTS, FakeIndex, load_fake_index
from predator_si_tests.support.waiting import wait_until


class Sink:
    """An index that is a dict, with faults on demand."""

    def __init__(self) -> None:
        self.held: dict[str, str] = {}
        self.batches: list[int] = []
        self.prepared: list[str] = []
        self.disk_full = 0
        self.open = threading.Event()
        self.open.set()

    def prepare(self, documents: Sequence[Document]) -> None:
        self.open.wait(10)
        if any(document.title == "cannot be embedded" for document in documents):
            raise ValueError("no vector")
        self.prepared.extend(document.doc_id for document in documents)

    def apply(self, upserts: Sequence[Document], deletes: Sequence[str]) -> None:
        if self.disk_full:
            self.disk_full -= 1
            raise OSError(28, "No space left on device")
        if any(document.text == "poison" for document in upserts):
            raise ValueError("poison")
        self.batches.append(len(upserts) + len(deletes))
        for doc_id in deletes:
            self.held.pop(doc_id, None)
        self.held.update({document.doc_id: document.text for document in upserts})


def queue(folder: Path, sink: Sink, **options: object) -> IngestQueue:
    return IngestQueue(folder, prepare=sink.prepare, apply=sink.apply, retry_seconds=0.02, **options)  # type: ignore[arg-type]


def documents(*ids: str, text: str = "text", title: str = "") -> list[Document]:
    return [Document(one, title, text) for one in ids]


def test_documents_are_applied_and_the_lag_is_the_age_of_the_oldest(tmp_path: Path) -> None:
    sink, now = Sink(), [1000.0]
    sink.open.clear()
    ingest = queue(tmp_path, sink, clock=lambda: now[0])
    ingest.put(documents("a", "b"))
    now[0] += 7
    ingest.put(documents("c"))
    ingest.start()
    state = ingest.state()
    assert (state.queued, state.lag_seconds) == (3, 7.0)
    sink.open.set()
    assert ingest.wait_until_empty(5)
    state = ingest.state()
    assert (state.queued, state.lag_seconds, state.applied, state.dead) == (0, 0.0, 3, 0)
    assert state.documents_per_second == pytest.approx(3 / 60)
    assert set(sink.held) == {"a", "b", "c"}
    ingest.stop()


def test_accepted_documents_survive_the_end_of_the_process(tmp_path: Path) -> None:
    first = queue(tmp_path, Sink())
    first.put(documents("a", "b"))
    first.delete("old")
    first._journal.close()  # killed: no thread ever ran
    with (tmp_path / "journal.jsonl").open("a") as stream:
        stream.write('{"op": "put", "seq": 4, "doc_id": "torn')  # never acknowledged
    sink = Sink()
    sink.held["old"] = "x"
    second = queue(tmp_path, sink)
    assert second.state().queued == 3
    second.start()
    assert second.wait_until_empty(5)
    assert sink.held == {"a": "text", "b": "text"}
    assert second.put(documents("c")) == [4]  # numbers go on, they are never given twice
    assert second.wait_until_empty(5)
    second.stop()
    third = queue(tmp_path, sink)
    assert third.state().queued == 0 and third.put(documents("d")) == [5]
    third.stop()


def test_later_changes_of_a_document_win_whatever_finishes_first(tmp_path: Path) -> None:
    sink = Sink()
    ingest = queue(tmp_path, sink, workers=4, batch=1)
    ingest.start()
    for number in range(60):
        ingest.put(documents("same", text=f"version {number}"))
        if number % 7 == 0:
            ingest.delete("gone")
            ingest.put(documents("gone"))
            ingest.delete("gone")
    assert ingest.wait_until_empty(10)
    assert sink.held == {"same": "version 59"}
    ingest.stop()


def test_a_document_that_cannot_be_applied_is_a_dead_letter_after_three_tries_and_takes_nobody_with_it(tmp_path: Path) -> None:
    sink = Sink()
    ingest = queue(tmp_path, sink)
    good = documents(*[f"d{i}" for i in range(20)])
    ingest.put([*good[:10], *documents("bad", text="poison"), *documents("worse", title="cannot be embedded"), *good[10:]])
    ingest.start()
    assert ingest.wait_until_empty(10)
    assert set(sink.held) == {d.doc_id for d in good}
    dead = {row["doc_id"]: row for row in map(json.loads, (tmp_path / "dead.jsonl").read_text().splitlines())}
    assert (dead["bad"]["tries"], dead["bad"]["reason"]) == (3, "applying failed: ValueError: poison")
    assert (dead["worse"]["tries"], dead["worse"]["reason"]) == (3, "preparing failed: ValueError: no vector")
    assert ingest.state().dead == 2
    ingest.stop()
    assert queue(tmp_path, sink).state().queued == 0


def test_a_full_disk_holds_the_queue_up_and_buries_nobody(tmp_path: Path) -> None:
    sink = Sink()
    sink.disk_full = 8
    ingest = queue(tmp_path, sink)
    ingest.start()
    ingest.put(documents("a"))
    wait_until(lambda: ingest.state().error is not None, 5, "the error")
    assert "No space left" in str(ingest.state().error)
    assert ingest.wait_until_empty(5)
    wait_until(lambda: ingest.state().error is None, 5, "the recovery")
    assert set(sink.held) == {"a"} and ingest.state().dead == 0
    ingest.stop()


def test_a_full_queue_accepts_all_of_a_batch_or_nothing(tmp_path: Path) -> None:
    ingest = queue(tmp_path, Sink(), max_queued=3)
    ingest.put(documents("a", "b"))
    with pytest.raises(Unavailable, match="full"):
        ingest.put(documents("c", "d"))
    assert ingest.state().queued == 2 and ingest.put(documents("c")) == [3]
    ingest.stop()


def test_workers_can_be_added_and_taken_away(tmp_path: Path) -> None:
    sink = Sink()
    ingest = queue(tmp_path, sink)
    ingest.start()

    def running() -> int:
        return sum(t.name.startswith("ingest-") and t.name != "ingest-apply" and t in ingest._running and t.is_alive() for t in threading.enumerate())

    assert running() == 1
    ingest.set_workers(3)
    wait_until(lambda: running() == 3, 5, "three workers")
    ingest.set_workers(2)
    wait_until(lambda: running() == 2, 5, "two workers")
    ingest.put(documents(*"abcdefgh"))
    assert ingest.wait_until_empty(5) and len(sink.held) == 8
    ingest.stop()


def test_a_second_service_in_the_same_home_is_refused(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    with pytest.raises(Unavailable, match="another search service"):
        Journal(tmp_path)
    first.close()
    Journal(tmp_path).close()


def test_a_damaged_line_is_counted_and_the_file_kept_for_a_person(tmp_path: Path) -> None:
    journal = queue(tmp_path, Sink())
    journal.put(documents("a", "b", "c"))
    journal.stop()
    path = tmp_path / "journal.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "garbage\n", *lines[3:]]))
    again = Journal(tmp_path)
    assert again.damaged == 1 and [operation.doc_id for operation in again.pending] == ["a", "c"]
    assert (tmp_path / "journal.damaged.jsonl").is_file()
    again.close()


def test_a_large_journal_shrinks_to_what_still_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("predator_si.search.journal._COMPACT_BYTES", 2000)
    ingest = queue(tmp_path, Sink())
    ingest.start()
    for number in range(40):
        ingest.put(documents(f"d{number}", text="x" * 200))
        assert ingest.wait_until_empty(5)
    wait_until(lambda: (tmp_path / "journal.jsonl").stat().st_size < 3000, 5, "a small journal")
    ingest.stop()
    again = Journal(tmp_path)
    assert (again.pending, again.last_seq) == ([], 40)
    again.close()


def test_publishing_is_atomic_and_keeps_the_version_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = IndexVersions(tmp_path / "index")
    with pytest.raises(Missing, match="no index"):
        versions.current()
    assert [versions.publish(FakeIndex(DOCUMENTS[:n])) for n in (1, 2, 3)] == [1, 2, 3]
    assert versions.current() == 3 and versions.versions() == [2, 3]
    with monkeypatch.context() as patched:
        patched.setattr(FakeIndex, "save", lambda self, folder: (folder.mkdir(), (_ for _ in ()).throw(OSError("disk full"))))
        with pytest.raises(OSError, match="disk full"):
            versions.publish(FakeIndex(DOCUMENTS))
    assert versions.current() == 3 and load_fake_index(versions.folder(3)).n_documents == 3
    assert versions.publish(FakeIndex(DOCUMENTS)) == 5  # what a failed attempt left behind is never taken for an index
    (tmp_path / "index" / "current").write_text("17\n")
    with pytest.raises(BadInput, match="17"):
        versions.current()


class CountingEmbedder:
    """An embedder that, like a tokenizer, must not be used by two threads at once."""

    name = "counting"

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.busy = threading.Lock()

    def encode(self, texts: Sequence[str], on_progress: object = None) -> np.ndarray:
        if not self.busy.acquire(blocking=False):
            raise RuntimeError("Already borrowed")
        try:
            self.asked.extend(texts)
            time.sleep(0.002)
            return np.array([[len(text), sum(map(ord, text))] for text in texts], np.float32).reshape(len(texts), 2)
        finally:
            self.busy.release()


def test_vectors_prepared_by_workers_are_used_once_and_in_order() -> None:
    inner = CountingEmbedder()
    embedder = PreparedEmbedder(inner, CountingEmbedder)
    embedder.prepare([Document("1", "title", "b"), Document("2", "", "untitled")])
    texts = ["new", "title\nb", "other", "untitled"]
    assert np.array_equal(embedder.encode(texts), CountingEmbedder().encode(texts))
    assert inner.asked == ["new", "other"]
    embedder.encode(texts)
    assert inner.asked == ["new", "other", *texts]


def test_searching_and_preparing_at_once_never_share_an_embedder() -> None:
    embedder = PreparedEmbedder(CountingEmbedder(), CountingEmbedder)
    work = [
        *(lambda i=i: embedder.prepare([Document(str(i), "", f"text {i}")]) for i in range(40)),
        *(lambda i=i: embedder.encode([f"text {i}", f"query {i}"]) for i in range(40)),
    ]
    with ThreadPoolExecutor(6) as pool:
        for running in [pool.submit(one) for one in work]:
            running.result()


def test_documents_that_arrive_while_an_index_is_built_are_applied_in_few_steps(tmp_path: Path) -> None:
    sink = Sink()
    apply, prepare = sink.apply, sink.prepare
    sink.apply = lambda *batch: (time.sleep(0.05), apply(*batch))[1]  # type: ignore[method-assign]
    sink.prepare = lambda batch: (time.sleep(0.005), prepare(batch))[1]  # type: ignore[method-assign]
    ingest = queue(tmp_path, sink, batch=1)
    ingest.start()
    start = time.monotonic()
    ingest.put(documents(*map(str, range(80))))
    assert ingest.wait_until_empty(20)
    assert len(sink.held) == 80
    assert len(sink.batches) <= 2 + (time.monotonic() - start) / 0.2  # without waiting there would be one each 0.05 s
    ingest.stop()
