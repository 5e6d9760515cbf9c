"""Several questions to a language model on their way together: faster, and otherwise nothing is different."""

from __future__ import annotations

import json
import threading

import pytest

from predator_si.language_model import Budget, Conversation, Endpoint, Question
from predator_si_tests.support.openai_peer import chat_peer
from predator_si_tests.support.waiting import wait_until
from predator_si_tests.support.writing import PLENTY, generator, likes, made, writes


class Busy:
    """Counts how many requests are being answered at the same time; until two ever were, each waits for another, ten seconds at most."""

    def __init__(self) -> None:
        self.now, self.most, self.changed = 0, 0, threading.Condition()

    def __call__(self, asked):  # type: ignore[no-untyped-def]
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.most >= 2, 10)
            self.now -= 1
        return writes(asked)


def test_so_many_are_on_their_way_and_the_proposals_are_those_of_one_at_a_time(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        alone = made(generator(peer, tmp_path / "alone"), wanted=100)
    busy = Busy()
    with chat_peer(likes, write=busy) as peer:
        together = generator(peer, tmp_path / "together", at_once=4)
        assert made(together, wanted=100) == alone and len(alone) == 36
    assert 2 <= busy.most <= 4 and together.counts["asked"] == 12
    replay = generator(peer, tmp_path / "together", at_once=3, replay=True)  # the peer is gone
    assert made(replay, wanted=100) == alone and replay.counts["missing"] == 0


def test_calls_on_their_way_count_against_the_budget(tmp_path):
    """Each call may take most of what is left: two at once would pass the limit although each alone would not."""
    endpoint_tokens = 400
    with chat_peer(likes, write=writes) as peer:
        endpoint = Endpoint(peer.url, "writer", max_answer_tokens=endpoint_tokens)
        messages = [{"role": "system", "content": "no fence"}, {"role": "user", "content": "x" * 100}]
        most = sum(endpoint.estimate(messages))
        with Conversation(endpoint, tmp_path / "llm.db", "c", Budget(10.0, int(1.5 * most)), sleep=lambda seconds: None) as asking:

            def lost(messages):  # type: ignore[no-untyped-def]
                wait_until(lambda: asking.reason is not None, 10, "another question that the budget refuses")

            asking._completion = lost  # type: ignore[method-assign]
            replies = asking.ask_many([Question(f"k{n}", messages, lambda completion: "kept") for n in range(4)], 4)
    assert [reply.origin for reply in replies] == ["left"] * 4 and "budget of c spent" in str(asking.reason)
    assert asking._reserved == (0.0, 0), "nothing stays reserved"


def test_what_a_first_run_left_a_replay_leaves_too(tmp_path):
    with chat_peer(likes, write=writes) as peer:
        whole = generator(peer, tmp_path / "free")
        made(whole, wanted=100)
        tight = generator(peer, tmp_path / "tight", budget=Budget(10.0, whole.spending()["tokens"] // 2), at_once=4)
        first = made(tight, wanted=100)
    assert 0 < len(first) < 36 and "budget of c spent" in tight.stopped and tight.spending()["tokens"] <= whole.spending()["tokens"] // 2
    assert made(generator(peer, tmp_path / "tight", replay=True, at_once=4), wanted=100) == first


@pytest.mark.parametrize("said", [500, 401, b"<html>"])
def test_an_endpoint_that_fails_ends_it_once(tmp_path, said):
    with chat_peer(likes, write=lambda asked: said) as peer:
        writing = generator(peer, tmp_path, at_once=4, writer={"attempts": 2})
        assert made(writing) == [] and writing.stopped
    assert len(peer.asked) <= 8


def test_parameters_are_learned_by_all_that_are_on_their_way(tmp_path):
    with chat_peer(likes, write=Busy(), modern=True) as peer:
        writing = generator(peer, tmp_path, at_once=4)
        assert len(made(writing, wanted=36)) == 36 and writing.stopped is None
    assert {"max_completion_tokens"} == {key for body in peer.asked for key in body if "token" in key}
    assert json.dumps(peer.asked[0]) and PLENTY.tokens > 0
