"""Cycles that put another index in place of the served one: faults of an index are planted, and the same road that models take heals them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import polars as pl
import pytest

from predator_si.corpora import load_corpus
from predator_si.errors import Missing
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import keep
from predator_si.records import CycleState
from predator_si.release.latency import summarise_latency
from predator_si.release.release_file import parse_release
from predator_si.search.index_builds import IndexBuilds
from predator_si.search.index_repair import IndexHealth
from predator_si.search.index_versions import IndexVersions
from predator_si.search.tiny import HashingEmbedder
from predator_si.settings import Settings
from predator_si_tests.orchestration.test_actions import Home, begin, dagster, toy  # noqa: F401
from predator_si_tests.support.sensors import contour
from predator_si_tests.support.stage import GOOD
from predator_si_tests.support.waiting import wait_until

RECALL = {"type": "recall_at_20_down", "metric": "recall_at_20", "actions": ("diagnose", "repair_index", "choose_embedder")}
ERRORS = {"type": "index_errors_up", "metric": "index_errors", "value": 5.0, "actions": ("retry", "quarantine", "reindex")}


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """A contour without trials: the road without its longest piece."""
    return contour(settings.home, tmp_path, "  features: {abTesting: false}\n")


def as_fast(home: Home, cycle_id: str) -> None:
    """What a trial would have measured of two arms that take the same time."""
    times = [10.0 + place % 7 for place in range(80)]
    home.loop.save(cycle_id, "latency.json", summarise_latency(times, times))


def found(home: Home, text: str, k: int = 60) -> list[str]:
    answer = httpx.post(f"{home.loop.search_url}/search", json={"query": text, "k": k, "probe": True}, trust_env=False, timeout=30)
    return [one["object_id"] for one in answer.json()["results"]]


def ingest(home: Home) -> dict[str, Any]:
    return dict(home.info()["ingest"])


def relevant(home: Home) -> list[str]:
    """The judged documents of the shift part."""
    return sorted(home.loop.corpus.judgments(split="dev", part="shift")["doc_id"].unique().to_list())


def lose(loop: Loop, lost: Sequence[str]) -> None:
    """The fault: the next version of the index lacks documents, and nobody was told."""
    index = loop.index()
    nothing = pl.DataFrame(schema={"doc_id": pl.String, "title": pl.String, "text": pl.String})
    IndexVersions(loop.home.index).publish(index.updated(nothing, lost))


def test_lost_documents_are_found_out_indexed_again_tried_and_released(begin: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    real = Home.__init__

    def broken(self: Home, settings: Settings, instance: dg.DagsterInstance, corpus: Path, *likes: float, **weights: float) -> None:
        real(self, settings, instance, corpus, *likes, **weights)
        lose(self.loop, sorted(load_corpus(corpus).judgments(split="dev", part="shift")["doc_id"].unique().to_list())[:5])

    monkeypatch.setattr(Home, "__init__", broken)
    home = begin(GOOD)
    gone = relevant(home)[:5]
    assert not set(gone) & set(found(home, "about sorting verified page"))
    cycle_id, plan = home.acted(**RECALL)
    health = IndexHealth.read(home.folder(cycle_id) / "index_health.json")
    assert (health.missing, health.stale, health.extra, health.expected) == (gone, [], [], 60)
    assert plan.action == "repair_index" and plan.config is not None and plan.config.index == f"{cycle_id}-repair_index" and plan.config.model == home.old
    tried = {one.action: one for one in plan.tried}
    assert tried["repair_index"].documents_wrong == 0 and tried["repair_index"].recall_difference is not None
    assert tried["repair_index"].recall_difference.low > 0, "the effect is measured, not assumed"
    home.onwards(cycle_id, "cycle_evaluate_job")
    assert home.run("cycle_trial_job", cycle_id).success
    arms = home.info()["variants"]
    assert (arms["champion"]["index_build"], arms["candidate"]["index_build"]) == ("first", plan.config.index), "one model, two indexes"
    body = {"query": "sorting", "k": 60, "probe": True, "variant": "candidate"}
    by_candidate = httpx.post(f"{home.loop.search_url}/search", json=body, trust_env=False).json()["results"]
    assert set(gone) <= {one["object_id"] for one in by_candidate}
    as_fast(home, cycle_id)
    assert home.run("cycle_release_job", cycle_id).success
    assert home.state(cycle_id) is CycleState.RELEASED, home.loop.control.cycle(cycle_id).reason
    assert home.info()["index_build"] == plan.config.index and home.info()["index"]["documents"] == 60
    assert set(gone) <= set(found(home, "about sorting verified page"))
    release = parse_release(home.loop.release_text(), home.loop.release_name)
    assert (release.index.build, release.index.candidate_build, release.reranker.candidate) == (plan.config.index, None, None)

    back = keep.take_back(home.loop, cycle_id, "a person wants it", deny=False)
    assert back.verified and home.info()["index_build"] == "first" and home.info()["index"]["documents"] == 55


def test_another_bi_encoder_is_measured_and_its_index_takes_over(begin: Callable[..., Home], monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """The home's own bi-encoder hashes words into two dimensions and finds little; the one at hand has enough of them."""
    monkeypatch.setattr("predator_si_tests.support.platform.HashingEmbedder", lambda: HashingEmbedder(2))
    monkeypatch.setattr("predator_si.search.retrieve.words", lambda text: [])  # no help from the lexical leg
    monkeypatch.setattr("predator_si.orchestration.steps.indexes.SOURCES", {})  # what this machine's cache holds is not for this test to say
    home = begin(GOOD)
    assert home.loop.index().embedder.name == "hashing@2"
    better = HashingEmbedder(512).save(home.loop.home.path / "embedders" / "hashing-512")
    (home.loop.home.path / "embedders" / "not-one").mkdir()
    cycle_id, plan = home.acted(**RECALL)
    tried = {one.action: one for one in plan.tried}
    assert plan.action == "choose_embedder" and tried["choose_embedder"].recall_difference is not None and tried["choose_embedder"].recall_difference.low > 0
    assert "hashing@512" in tried["choose_embedder"].note
    table = home.loop.artifacts(cycle_id) / "embedders.json"
    assert table.read_text().count('"recall_at_20"') == 2
    build = str(plan.config.index)  # type: ignore[union-attr]
    assert IndexBuilds(home.loop.home.builds).note(build).embedder_folder == better.resolve()
    home.onwards(cycle_id, "cycle_evaluate_job")
    as_fast(home, cycle_id)
    home.onwards(cycle_id, "cycle_release_job")
    assert home.info()["index_build"] == build and home.loop.index().embedder.name == "hashing@512"
    httpx.post(f"{home.loop.search_url}/documents", json={"documents": [{"doc_id": "new", "title": "", "text": "a document fed in later"}]}, trust_env=False)
    wait_until(lambda: home.info()["index"]["documents"] == 61, 20, "the new document")
    back = keep.take_back(home.loop, cycle_id, "a person wants it", deny=False)
    assert back.verified and home.loop.index().embedder.name == "hashing@2" and "new" in home.loop.index(), "nothing that was fed in is lost on the way back"


def test_documents_that_were_given_up_are_retried_and_set_aside_where_they_fail_again(
    begin: Callable[..., Home],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faulty = {"on": True}
    real = HashingEmbedder.encode

    def encode(self: HashingEmbedder, texts: Sequence[str], on_progress: Any = None) -> Any:
        if any(("moody" in text and faulty["on"]) or "poison" in text for text in texts):
            raise ValueError("no vector for this text")
        return real(self, texts, on_progress)

    monkeypatch.setattr(HashingEmbedder, "encode", encode)
    home = begin(GOOD)
    texts = [f"moody document {n}" for n in range(4)] + ["poison document"]
    rows = [{"doc_id": f"fed-{n}", "title": "", "text": text} for n, text in enumerate(texts)]
    httpx.post(f"{home.loop.search_url}/documents", json={"documents": rows}, trust_env=False)
    wait_until(lambda: ingest(home)["dead_letters"] == len(rows), 30, "the dead letters")
    faulty["on"] = False
    cycle_id, plan = home.acted(**ERRORS)
    assert plan.action == "quarantine" and plan.goal == "index"
    assert {one.action: one.documents_wrong for one in plan.tried} == {"retry": 1, "quarantine": 0}, "one of them fails again"
    openings = home.loop.control.sealed_openings("toy")
    home.onwards(cycle_id, "cycle_evaluate_job", "cycle_release_job")
    assert home.commits(cycle_id) == ["promote"] and home.loop.control.sealed_openings("toy") == openings, "it is brought back, without a trial"
    assert ingest(home)["dead_letters"] == 0 and home.info()["index"]["documents"] == 64
    assert "fed-0" in found(home, "moody document")
    note = IndexBuilds(home.loop.home.builds).note(str(plan.config.index))  # type: ignore[union-attr]
    assert list(note.set_aside) == ["fed-4"]
    result = home.watched(cycle_id)
    assert [gate.value for gate in result.gates if gate.criterion.name == "index_errors"] == [0.0]
    with pytest.raises(Missing):
        IndexBuilds(home.loop.home.builds).note(f"{cycle_id}-retry")


def test_an_index_whose_vectors_are_wrong_is_made_anew(begin: Callable[..., Home]) -> None:  # noqa: F811
    """Nothing was given up and every text is right, so only the whole of it can be indexed again."""
    home = begin(GOOD)
    cycle_id, plan = home.acted(**ERRORS)
    assert plan.action == "reindex" and set(plan.not_built) == {"retry", "quarantine"}
    assert home.loop.index(f"{cycle_id}-reindex").fingerprint == home.loop.index().fingerprint
