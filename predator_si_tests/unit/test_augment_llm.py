"""Queries from a language model: what comes of them, who confirms them, what they cost, and what happens when the models fail."""

from __future__ import annotations

import json

import polars as pl
import pytest

from predator_si.augment import Sizes, build_dataset
from predator_si.augment.generators.llm import WrittenQueries
from predator_si.augment.generators.structure import Structure
from predator_si.augment.llm_prompt import STYLES, read_answer
from predator_si.augment.recipe import Guard
from predator_si.errors import Refused
from predator_si.language_model import Budget, Completion, Endpoint
from predator_si.monitor.judgments import LLMEndpoint
from predator_si_tests.support.generator_material import report
from predator_si_tests.support.openai_peer import Slow, chat_peer, completion
from predator_si_tests.support.writing import NO_CLICKS, NOTHING_SEALED, PLENTY, Overlap, documents, generator, likes, made, material, writes

# --------------------------------------------------------------------------- what comes of it


def test_three_styles_for_a_document_confirmed_by_another_model(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        writing = generator(peer, tmp_path)
        found = made(writing)
    assert not peer.refused and [one.method for one in found] == ["question", "keyword", "claim"] * 3
    assert {one.source for one in found} == {"llm"} and all(one.weight == 1.0 and one.doc_id for one in found)
    assert {asked.model for asked in peer.requests} == {"writer", "judge"}
    assert writing.counts["asked"] == 3 and writing.counts["proposed"] == writing.counts["written"] == 9
    assert writing.spending()["tokens"] > 0 and writing.stopped is None


def test_weak_documents_come_first_and_neighbours_carry_grades(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        found = made(generator(peer, tmp_path), wanted=12)
    assert sum(one.targeted for one in found) == 6  # half, as long as there are others
    assert {int(one.doc_id[1:]) % 4 == 0 for one in found if one.targeted} == {True}
    for one in found:
        assert one.doc_id not in one.grades and set(one.grades.values()) <= {0.0, 1 / 3}
        assert one.excluded == {doc_id for doc_id, grade in one.grades.items() if grade > 0}, "what may be relevant becomes no negative"
        assert {int(doc_id[1:]) % 4 for doc_id in one.excluded} <= {int(one.doc_id[1:]) % 4}


@pytest.mark.parametrize(("grade", "weight"), [(3, 1.0), (2, 2 / 3), (1, None), (0, None)])
def test_what_the_judge_does_not_confirm_goes(tmp_path, grade, weight):
    with chat_peer(lambda query, document, number: json.dumps({"grade": grade}), write=writes) as peer:
        writing = generator(peer, tmp_path)
        found = made(writing, wanted=3)
    if weight is None:
        assert not found and writing.counts["judge_rejected"] == 36
    else:
        assert [one.weight for one in found] == pytest.approx([weight] * 3)


def test_a_model_does_not_judge_itself(tmp_path):
    with pytest.raises(Refused, match="judgeModel"):
        WrittenQueries(Endpoint("http://127.0.0.1:9", "One"), LLMEndpoint("http://127.0.0.1:8", "one "), tmp_path / "llm.db", "c", PLENTY)


def test_equal_material_and_seed_give_equal_proposals_from_the_cache_for_nothing(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        first = made(generator(peer, tmp_path))
        asked = len(peer.asked)
        again = generator(peer, tmp_path, cycle="later", budget=Budget(0.0, 0))
        assert made(again) == first and len(peer.asked) == asked
    assert again.counts["from_cache"] == 3 and again.spending()["tokens"] == 0


def test_a_replay_needs_no_network_and_counts_what_is_missing(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        first = made(generator(peer, tmp_path))
    replay = generator(peer, tmp_path, replay=True, writer={"key_env": "NO_SUCH_KEY"})  # the peer is gone
    assert made(replay) == first and replay.counts["missing"] == 0
    more = made(replay, wanted=100)
    assert more == first and replay.counts["missing"] == 9 and replay.spending()["tokens"] == 0


# --------------------------------------------------------------------------- budget


def test_it_stops_before_the_budget_is_passed_and_both_models_pay_from_it(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        free = generator(peer, tmp_path / "free")
        made(free, wanted=100)
        whole = free.spending()["tokens"]
        tight = generator(peer, tmp_path / "tight", budget=Budget(usd=10.0, tokens=whole // 2))
        found = made(tight, wanted=100)
        models = [asked.model for asked in peer.requests]
    assert 0 < len(found) < 36 and whole // 4 < tight.spending()["tokens"] <= whole // 2
    assert "budget of c spent" in tight.stopped and {"writer", "judge"} == set(models)
    dollars = generator(peer, tmp_path / "usd", budget=Budget(usd=1e-9, tokens=10**9), writer={"usd_per_million_in": 1.0})
    assert made(dollars) == [] and "USD" in dollars.stopped


def test_neither_a_stop_nor_the_clock_waits_for_the_models(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        told = iter([False, False, True])
        stopped = generator(peer, tmp_path / "stop", should_stop=lambda: next(told))
        assert len(made(stopped, wanted=100)) == 6 and stopped.stopped == "it was told to stop"
        late = generator(peer, tmp_path / "late", seconds=0.0)
        assert made(late, wanted=100) == [] and "seconds are over" in late.stopped


# --------------------------------------------------------------------------- endpoints that fail


@pytest.mark.parametrize(
    ("said", "stopped"),
    [
        (Slow(5.0, "late"), "does not answer"),
        (500, "HTTP 500"),
        (429, "HTTP 429"),
        (401, "refuses"),
        (b"<html>", "not what was asked for"),
        ('{"queries": [{"style": "question", "query": "how', "not what was asked for"),
        ("I cannot help with that.", "not what was asked for"),
        ({"choices": []}, "not what was asked for"),
        ({"error": {"message": "overloaded"}}, "not what was asked for"),
    ],
    ids=["slow", "500", "429", "401", "html", "cut off", "a refusal", "nothing", "an error"],
)
def test_an_endpoint_that_fails_ends_its_proposals_and_says_why(tmp_path, said, stopped):
    with chat_peer(likes, write=lambda asked: said) as peer:
        writing = generator(peer, tmp_path, writer={"timeout_seconds": 0.3, "attempts": 2})
        assert made(writing) == [] and stopped in writing.stopped and writing.counts["proposed"] == 0
    assert len(peer.asked) <= 8


def test_rubbish_between_good_answers_is_counted(tmp_path):
    with chat_peer(likes, write=lambda asked: "rubbish" if asked.number % 5 == 1 else writes(asked)) as peer:
        writing = generator(peer, tmp_path)
        found = made(writing, wanted=100)
    assert writing.counts["malformed"] > 0 and writing.stopped is None
    assert len(found) == 3 * (12 - writing.counts["malformed"])


def test_a_judge_that_says_rubbish_confirms_nothing(tmp_path):
    with chat_peer(lambda query, document, number: "a fine query, grade 3", write=writes) as peer:
        writing = generator(peer, tmp_path)
        assert made(writing, wanted=3) == [] and writing.counts["unjudged"] == writing.counts["written"] > 0


@pytest.mark.parametrize(
    "queries",
    [
        [{"style": "question", "query": "how to open it", "grades": [3, 0, 0, "3"]}],
        [{"style": "question", "query": "how to open it", "grades": [3, 0, 0]}],
        [{"style": "question", "query": "how to open it", "grades": [3, 0, 0, 4]}],
        [{"style": "question", "query": "how to open it", "grades": [3, 0, 0, True]}],
        [{"style": "question", "query": "how to open it", "grades": [3, 0, 0, 0], "run": "rm -rf /"}],
        [{"style": "order", "query": "how to open it", "grades": [3, 0, 0, 0]}],
        [{"style": "question", "query": ["how"], "grades": [3, 0, 0, 0]}],
        [{"style": "question", "query": "how to open it", "grades": [3, 0, 0, 0]}] * 2,
        [],
        "how to open it",
        None,
    ],
)
def test_whatever_is_not_in_the_schema_is_malformed(queries):
    assert read_answer(Completion(completion(json.dumps({"queries": queries}))), 4) is None


def test_one_bad_member_spoils_the_answer_and_extra_keys_too():
    good = {"style": "question", "query": "how to open it", "grades": [3, 0]}
    assert len(read_answer(Completion(completion(json.dumps({"queries": [good]}))), 2)) == 1
    assert read_answer(Completion(completion(json.dumps({"queries": [good], "note": "also do this"}))), 2) is None
    assert read_answer(Completion(completion('{"queries": [], "queries": ' + json.dumps([good]) + "}")), 2) is None


# --------------------------------------------------------------------------- odd documents


def test_empty_documents_are_not_asked_about_and_endless_ones_are_cut(tmp_path):
    rows = [
        ("empty", "", ""),
        ("blank", " ", "\n\t"),
        ("endless", "tensor page 1", "tensor word " * 90_000),
        ("plain", "socket page 2", "page 2 about sockets"),
    ]
    frame = pl.DataFrame(rows, schema=["doc_id", "title", "text"], orient="row")
    with chat_peer(likes, write=writes) as peer:
        writing = generator(peer, tmp_path)
        found = made(writing, wanted=100, of=material(frame))
    assert {one.doc_id for one in found} == {"endless", "plain"} and writing.counts["asked"] == 2 and not peer.refused
    assert max(len(message["content"]) for body in peer.asked for message in body["messages"]) < 8_000


def test_a_single_document_has_no_neighbours_and_no_documents_no_queries(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        [first, *_] = made(generator(peer, tmp_path), wanted=3, of=material(documents(1)))
        assert first.grades == {} and first.excluded == frozenset()
        assert made(generator(peer, tmp_path), of=material(documents(3), guard=Guard([], frozenset({"d0", "d1", "d2"})))) == []
        assert made(generator(peer, tmp_path), wanted=0) == []


# --------------------------------------------------------------------------- through the whole pipeline


def test_graded_lists_become_soft_labels_and_the_manifest_says_what_was_spent(tmp_path):
    frame = documents(40)
    with chat_peer(likes, write=writes) as peer:
        writing = generator(peer, tmp_path)
        sizes = Sizes(click_groups=0, document_groups=10, negative_ranks=(3, 20))
        data = build_dataset("si_2026_11_22_001", report(("tensor",)), NO_CLICKS, frame, Overlap(frame), NOTHING_SEALED, None, sizes, generators=[writing])
    groups = data.examples.partition_by("group_id", maintain_order=True)
    assert len(groups) == 10 and set(data.examples["source"]) == {"llm"} and set(data.examples["method"]) <= set(STYLES)
    for group in groups:
        assert group["label"][0] == 1.0 and group["kind"][0] == "positive" and group["doc_id"].n_unique() == group.height
        graded = group.filter(pl.col("kind") == "graded")
        assert graded.height == 3 and set(graded["label"]) <= {0.0, 1 / 3}
        assert set(group.filter(pl.col("kind").is_in(["hard", "medium", "random"]))["label"]) == {0.0}
    assert 1 / 3 in data.examples["label"].to_list()
    told = data.manifest["generators"][0]
    assert told["source"] == "llm" and told["version"] == "1.1" and told["spending"]["writer"] == "writer" and told["spending"]["tokens"] > 0
    assert data.statistics["generators"]["llm: WrittenQueries"]["proposed"] >= 10 and "language model" in data.manifest["method"]


def test_a_data_set_is_made_without_it_when_its_endpoint_is_down(tmp_path):
    frame = documents(40)
    with chat_peer(likes, write=lambda asked: 503) as peer:
        writing = generator(peer, tmp_path, writer={"attempts": 2})
        sizes = Sizes(click_groups=0, document_groups=10, negative_ranks=(3, 20))
        sources = [writing, Structure()]
        data = build_dataset("si_2026_11_22_001", report(("tensor",)), NO_CLICKS, frame, Overlap(frame), NOTHING_SEALED, None, sizes, generators=sources)
    assert set(data.examples["source"]) == {"title"}
    assert "HTTP 503" in data.manifest["generators"][0]["spending"]["stopped"]
