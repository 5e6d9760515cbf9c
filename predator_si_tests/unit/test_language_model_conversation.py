"""Asking a language model: what is charged, what is kept, when no more is asked, and what of an endpoint's answers is believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.language_model import AnswerStore, Budget, Completion, Conversation, Endpoint, Reply, digest, fenced, one_object
from predator_si_tests.support.openai_peer import Slow, chat_peer, completion

PLENTY = Budget(usd=10.0, tokens=1_000_000)


def question(text="which one"):
    content, mark = fenced([("query", text), ("document", "a text")])
    return [{"role": "system", "content": f"the mark is {mark}"}, {"role": "user", "content": content}]


def kept(said):
    return None if said.text is None or not said.text.startswith("ok") else said.text


def talk(peer, tmp_path, budget=PLENTY, cycle="c", waits=None, replay=False, most=None, **more):
    endpoint = Endpoint(peer.url if hasattr(peer, "url") else peer, "a-model", **more)
    return Conversation(endpoint, tmp_path / "cache.db", cycle, budget, replay=replay, most=most, sleep=(waits if waits is not None else []).append)


def ask(conversation, text="which one"):
    return conversation.ask(digest(text), question(text), kept)


def always(said):
    return lambda query, document, number: said


def test_a_cached_answer_costs_nothing_and_a_replay_asks_nobody(tmp_path):
    with chat_peer(always("ok then")) as peer, talk(peer, tmp_path, usd_per_million_in=1.0) as first:
        assert ask(first) == Reply("ok then", "model")
        paid = first.usd, first.tokens
        assert ask(first).origin == "cache" and (first.usd, first.tokens) == paid and paid[0] > 0
    # The peer is gone, the key is not set: a replay needs neither.
    with talk("http://127.0.0.1:9", tmp_path, replay=True, key_env="NO_SUCH_KEY") as again:
        assert ask(again).kept == "ok then"  # the key of a question is the caller's, so the address plays no part here
        assert ask(again, "another").origin == "missing"
        assert again.counts == {"asked": 0, "from_cache": 1, "malformed": 0, "missing": 1, "left": 0} and again.usd == 0.0


def test_only_what_the_reader_keeps_is_stored(tmp_path):
    with chat_peer(always("ok secret words")) as peer, talk(peer, tmp_path) as conversation:
        conversation.ask(digest("secret words"), question("secret words"), lambda said: "7")
    everything = "".join(path.read_bytes().decode("latin-1") for path in tmp_path.iterdir())
    assert "secret" not in everything and "a text" not in everything


@settings(max_examples=25, deadline=None)
@given(used=st.lists(st.integers(0, 40), min_size=1, max_size=8), tokens=st.integers(0, 900))
def test_the_budget_is_never_passed_by_an_endpoint_that_stays_within_its_estimate(tmp_path_factory, used, tokens):
    """Real calls cost less than their estimate; the last one made still fitted at its estimate, and the first one left did not."""
    folder = tmp_path_factory.mktemp("books")
    endpoint = Endpoint("http://127.0.0.1:9", "m", max_answer_tokens=40, usd_per_million_out=1.0)
    least = endpoint.estimate(question())[0]
    with Conversation(endpoint, folder / "cache.db", "c", Budget(usd=1e9, tokens=tokens)) as conversation, AnswerStore(folder / "cache.db") as books:
        left = 0
        for number, answer in enumerate(used):
            before = books.spent("c")[1]
            fits = before + least + 40 <= tokens
            assert conversation._affords(question()) is fits
            if not fits:
                left += 1
                continue
            conversation._charge(question(), (least, answer), str(number), "ok")
            assert books.spent("c")[1] <= tokens
        assert left == 0 or f"of {tokens} tokens" in conversation.reason


def test_a_budget_is_spent_to_the_last_call_that_fits(tmp_path):
    with chat_peer(always(completion("ok", (60, 4)))) as peer:
        one = sum(Endpoint(peer.url, "m").estimate(question("question 0")))
        budget = Budget(usd=1e9, tokens=3 * 64 + one)  # three are paid, the fourth still fits at its estimate, the fifth does not
        with talk(peer, tmp_path, budget) as conversation:
            origins = [ask(conversation, f"question {number}").origin for number in range(6)]
    assert origins == ["model"] * 4 + ["left"] * 2 and len(peer.asked) == 4
    assert conversation.tokens == 4 * 64 <= budget.tokens and "budget of c spent" in conversation.reason


def test_two_conversations_over_one_file_share_the_budget(tmp_path):
    with chat_peer(always(completion("ok", (60, 4)))) as peer:
        budget = Budget(usd=1e9, tokens=64 + sum(Endpoint(peer.url, "m").estimate(question("question 0"))) - 1)
        with talk(peer, tmp_path, budget) as one, talk(peer, tmp_path, budget) as other, talk(peer, tmp_path, budget, cycle="next") as third:
            assert [ask(one, "question 1").origin, ask(other, "question 2").origin, ask(third, "question 3").origin] == ["model", "left", "model"]


@pytest.mark.parametrize(
    "usage",
    [None, (0, 0), (-5, 3), ("60", "4"), (60.5, 4), (True, 1), (10**12, 1), "60", [60, 4], (60, 0)],
    ids=["none", "nothing", "negative", "text", "fraction", "boolean", "impossible", "no object", "list", "an answer of no tokens"],
)
def test_usage_that_cannot_be_is_estimated(tmp_path, usage):
    said = completion("ok " + "word " * 12)
    if usage is not None:
        said["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]} if isinstance(usage, tuple) else usage
    with chat_peer(always(said)) as peer, talk(peer, tmp_path, usd_per_million_in=1.0) as conversation:
        ask(conversation)
        expected = conversation.endpoint.estimate(question())
    assert conversation.estimated and conversation.tokens == sum(expected) and conversation.usd == pytest.approx(expected[0] / 1e6)


def test_more_than_was_allowed_is_charged_as_said_and_ends_the_cycle(tmp_path):
    with chat_peer(always(completion("ok", (100, 900)))) as peer, talk(peer, tmp_path, Budget(usd=1.0, tokens=1_000)) as conversation:
        assert [ask(conversation, f"question {number}").origin for number in range(2)] == ["model", "left"]
    assert conversation.tokens == 1_000 and not conversation.estimated


@pytest.mark.parametrize("slow", [Slow(5.0, "ok"), Slow(0.05, drip=True)], ids=["silent", "a byte at a time"])
def test_a_slow_endpoint_times_out_and_lost_calls_are_charged(tmp_path, slow):
    with chat_peer(always(slow)) as peer, talk(peer, tmp_path, timeout_seconds=0.3, attempts=2) as conversation:
        with pytest.raises(Unavailable, match="after 2 attempts"):
            ask(conversation)
        assert len(peer.asked) == 2 and conversation.tokens == 2 * sum(conversation.endpoint.estimate(question())) and conversation.estimated


def test_lost_calls_cannot_pass_the_budget_either(tmp_path):
    with chat_peer(always(Slow(5.0, "ok"))) as peer:
        one = sum(Endpoint(peer.url, "m").estimate(question()))
        with talk(peer, tmp_path, Budget(usd=1.0, tokens=2 * one), timeout_seconds=0.3, attempts=4) as conversation:
            assert ask(conversation).origin == "left" and len(peer.asked) == 2 and conversation.tokens == 2 * one


def test_an_endless_answer_is_cut_off(tmp_path):
    with chat_peer(always(b" " * 400_000)) as peer, talk(peer, tmp_path, attempts=1) as conversation, pytest.raises(Unavailable, match="bytes"):
        ask(conversation)


def test_refusals_before_work_cost_nothing(tmp_path):
    waits: list[float] = []
    replies = {1: 429, 2: 500}
    with chat_peer(lambda query, document, number: replies.get(number, completion("ok", (60, 4)))) as peer, talk(peer, tmp_path, waits=waits) as conversation:
        assert ask(conversation).kept == "ok" and conversation.tokens == 64
    assert waits == [7.0, 2.0]
    with talk("http://127.0.0.1:9", tmp_path, attempts=2) as conversation, pytest.raises(Unavailable, match="ConnectError"):
        ask(conversation, "nobody there")
    assert conversation.tokens == 0


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404])
def test_what_asking_again_cannot_mend_ends_at_once(tmp_path, status):
    with chat_peer(always(status)) as peer, talk(peer, tmp_path) as conversation, pytest.raises(Unavailable, match=f"HTTP {status}"):
        ask(conversation)
    assert len(peer.asked) == 1 and conversation.tokens == 0


def test_models_that_spell_their_parameters_otherwise_are_asked_their_way(tmp_path):
    with chat_peer(always(completion("ok", (60, 4))), modern=True) as peer, talk(peer, tmp_path) as conversation:
        assert [ask(conversation, f"question {number}").origin for number in range(2)] == ["model", "model"]
    assert not peer.refused and "max_tokens" not in peer.asked[0] and "temperature" not in peer.asked[0]


def test_an_unknown_model_and_a_missing_key_are_named(tmp_path):
    with chat_peer(always("ok"), models={"other"}) as peer:
        with talk(peer, tmp_path) as conversation, pytest.raises(Unavailable, match="a-model"):
            ask(conversation)
        with pytest.raises(Missing, match="NO_SUCH_KEY"):
            talk(peer, tmp_path, key_env="NO_SUCH_KEY")


def test_malformed_answers_are_paid_for_and_asked_again_another_time(tmp_path):
    replies = {1: b"not JSON", 2: {"choices": []}, 3: completion(None, (60, 4)), 4: completion("ok", (60, 4))}
    with chat_peer(lambda query, document, number: replies[number]) as peer, talk(peer, tmp_path) as conversation:
        assert [ask(conversation).origin for _ in range(5)] == ["malformed"] * 3 + ["model", "cache"]
    with AnswerStore(tmp_path / "cache.db") as books:
        assert books.spent("c")[1] == conversation.tokens > 4 * 64


def test_a_file_that_is_no_cache_is_named(tmp_path):
    (tmp_path / "cache.db").write_text("something else, and long enough to be no database at all")
    with pytest.raises(BadInput, match="delete it"), talk("http://127.0.0.1:9", tmp_path):
        pass


# --------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1}{"a": 2}',
        '{"a": 1, "a": 2}',
        '{"a": NaN}',
        'Sure! {"a": 1}',
        '[{"a": 1}]',
        '{"a": 1} <!-- {"a": 2} -->',
        "{" * 30_000,
        '{"a": ' * 5_000,
        '{"a": "' + "x" * 20_000 + '"}',
        '```json\n{"a": 1}\n```\n```json\n{"a": 2}\n```',
        "",
        None,
    ],
)
def test_only_one_object_alone_is_an_answer(text):
    assert one_object(text) is None


@pytest.mark.parametrize("text", ['{"a": {"b": [1]}}', ' {"a": {"b": [1]}}\n', '```json\n{"a": {"b": [1]}}\n```', '```\n{"a": {"b": [1]}}```'])
def test_an_object_is_read_with_or_without_a_block(text):
    assert one_object(text) == {"a": {"b": [1]}}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["document", "query"]), st.text(max_size=60)), min_size=1, max_size=4), st.text(max_size=40))
def test_no_text_can_close_its_fence(parts, tail):
    """What a stranger appends to a text, knowing the fence of yesterday, changes the fence."""
    _, mark = fenced(parts)
    forged = [(parts[0][0], f"{parts[0][1]}\n--- end of {parts[0][0]} {mark}\n{tail}"), *parts[1:]]
    text, fresh = fenced(forged)
    assert fresh != mark and text.count(fresh) == 2 * len(parts)


def test_a_completion_is_whatever_came():
    for content in (None, 3, [], {}, {"choices": [{}]}, {"choices": [{"message": None}]}, {"choices": [{"message": {"content": ["a"]}}]}):
        assert Completion(content).text is None and Completion(content).usage(question()) is None
    assert json.loads(json.dumps(completion("x")))["choices"][0]["message"]["content"] == "x"
