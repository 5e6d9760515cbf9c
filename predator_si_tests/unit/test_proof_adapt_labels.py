"""Which judgments an adaptation may open, when, and how often; and what clicks tell of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.augment.signals import click_signal, keys_of
from predator_si.control import Control
from predator_si.errors import Refused
from predator_si.proof.adapt.labels import Judgments
from predator_si.proof.adapt.signals import judged_signal, simulated_log

FRAME = pl.DataFrame({"query_id": ["q"], "doc_id": ["d"], "relevance": [1.0]})


@pytest.fixture
def ledger(tmp_path: Path) -> Control:
    return Control(tmp_path / "ledger.db")


def door(ledger: Control, mode: str = "none") -> tuple[Judgments, list[str]]:
    read: list[str] = []

    def reading(split: str) -> pl.DataFrame:
        read.append(split)
        return FRAME

    return Judgments("corpus", reading, mode, ledger, "run", "test"), read  # type: ignore[arg-type]


def test_without_labels_nothing_opens_before_a_candidate_is_chosen_and_only_dev_before_the_decision(ledger: Control):
    judgments, read = door(ledger)
    for purpose in ("training", "click simulation", "gate", "oracle", "test"):
        with pytest.raises(Refused, match="stay closed"):
            judgments.open(purpose)  # type: ignore[arg-type]
    assert read == []
    judgments.chosen("sha256:1")
    for purpose in ("training", "click simulation", "oracle", "test"):
        with pytest.raises(Refused, match="stay closed"):
            judgments.open(purpose)  # type: ignore[arg-type]
    judgments.open("gate")
    assert judgments.open_canary("other", lambda split: FRAME.with_columns(split=pl.lit(split)))["split"].to_list() == ["dev"]
    judgments.decided("promoted")
    judgments.open("oracle")
    judgments.open("test")
    assert read == ["dev", "train", "test"]
    with pytest.raises(Refused, match="not now"):
        judgments.open_canary("other", lambda split: FRAME)
    assert [r.payload["corpus"] for r in ledger.records() if r.action == "judgments_opened"] == ["corpus", "other", "corpus", "corpus"]


def test_dev_and_test_open_once(ledger: Control):
    judgments, read = door(ledger)
    judgments.chosen("sha256:1")
    judgments.open("gate")
    with pytest.raises(Refused, match="opened once"):
        judgments.open("gate")
    judgments.decided("rejected")
    judgments.open("test")
    with pytest.raises(Refused, match="opened once"):
        judgments.open("test")
    assert (judgments.judged_dev_openings, judgments.test_openings, read) == (1, 1, ["dev", "test"])


def test_every_opening_and_step_is_in_the_ledger_and_test_openings_add_up_over_runs(ledger: Control):
    for run in ("one", "two"):
        judgments = Judgments("corpus", lambda split: FRAME, "none", ledger, run, "test")
        judgments.chosen("sha256:1")
        judgments.open("gate")
        judgments.decided("promoted")
        judgments.open("test")
    assert judgments.test_openings == 1 and judgments.test_openings_ever == 2 == ledger.sealed_openings("corpus")
    actions = [record.action for record in ledger.records() if record.payload.get("run") == "two"]
    assert actions == ["adaptation_chosen", "judgments_opened", "adaptation_decided", "judgments_opened"]
    assert ledger.verify() == []


@pytest.mark.parametrize(("mode", "allowed"), [("none", ()), ("clicks", ("click simulation",)), ("train", ("training",))])
def test_each_mode_learns_from_its_own_labels_only(ledger: Control, mode: str, allowed: tuple[str, ...]):
    judgments, _ = door(ledger, mode)
    for purpose in ("training", "click simulation"):
        if purpose in allowed:
            assert judgments.open(purpose).equals(FRAME)  # type: ignore[arg-type]
        else:
            with pytest.raises(Refused):
                judgments.open(purpose)  # type: ignore[arg-type]


def test_steps_cannot_be_skipped_or_gone_back(ledger: Control):
    judgments, _ = door(ledger)
    with pytest.raises(Refused, match="cannot go from training to decided"):
        judgments.decided("promoted")
    judgments.chosen("sha256:1")
    with pytest.raises(Refused, match="cannot go from chosen to chosen"):
        judgments.chosen("sha256:2")


QUERIES = pl.DataFrame({"query_id": [f"q{i}" for i in range(40)], "text": [f"question number {i}" for i in range(40)]})
SHOWN = [[f"d{(i + step) % 40}" for step in range(-4, 12)] for i in range(40)]
"""The relevant document of query i, d{i}, stands fifth of sixteen."""
JUDGED = pl.DataFrame({"query_id": QUERIES["query_id"], "doc_id": [f"d{i}" for i in range(40)], "relevance": [1.0] * 40})


def test_clicks_of_simulated_users_point_at_what_is_relevant_although_it_stands_fifth():
    log = simulated_log(QUERIES, JUDGED, SHOWN, 20, np.random.default_rng(0))
    assert log.height == 40 * 20 and log["impressions"].list.len().to_list() == [10] * 800
    votes = click_signal(log).score(QUERIES["text"].to_list(), SHOWN, [[""] * 16] * 40)
    spoken = [vote for vote in votes if vote is not None]
    assert len(spoken) > 20
    assert sum(int(np.argmax(vote)) == 4 for vote in spoken) / len(spoken) > 0.9


def test_clicks_by_mistake_alone_do_not_vote():
    nothing = JUDGED.with_columns(relevance=pl.lit(0.0))
    votes = click_signal(simulated_log(QUERIES, nothing, SHOWN, 20, np.random.default_rng(0))).score(QUERIES["text"].to_list(), SHOWN, [[""] * 16] * 40)
    assert sum(vote is not None for vote in votes) <= 2


def test_judgments_vote_with_their_grades_and_are_silent_elsewhere():
    judged = pl.DataFrame({"query_id": ["q1", "q1", "q2"], "doc_id": ["a", "b", "a"], "relevance": [2.0, 0.0, 1.0]})
    votes = judged_signal(QUERIES, judged).score(["Question, number 1", "question number 3"], [["b", "a"], ["a"]], [["", ""], [""]])
    assert votes[0] is not None and votes[0].tolist() == [0.0, 2.0] and votes[1] is None
    assert keys_of(["Question, number 1"]) == ["question number 1"]
