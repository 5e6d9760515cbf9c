"""Words of people's queries are shown only when enough different people used them; the statistics count all of them."""

from __future__ import annotations

import pytest

from predator_si.corpora.vocabulary import new_vocabulary, shared_words
from predator_si.diagnose.topics import find_topics

OLD = [f"sort a list number {i}" for i in range(30)]
NEW = ["tensor of koval", "tensor shape", "tensor dtype", "tensor koval again"]


def test_a_word_of_one_client_is_not_shared_however_often_it_came() -> None:
    askers = ["ann", "bob", "cid", "ann"]
    assert shared_words(NEW, askers, 3) == {"tensor"}
    assert "koval" in shared_words(NEW, askers, 1) and "koval" not in shared_words(NEW, askers, 2)
    assert shared_words(["x y", None, "x"], ["a", "b", "c"], 2) == {"x"}
    assert shared_words([], [], 3) == frozenset()


def test_rates_count_what_the_list_leaves_out() -> None:
    every, shown = new_vocabulary(OLD, NEW), new_vocabulary(OLD, NEW, listable=shared_words(NEW, ["ann", "bob", "cid", "ann"], 3))
    assert [row["token"] for row in shown.new_tokens] == ["tensor"]
    assert "koval" in [row["token"] for row in every.new_tokens]
    assert (shown.new_rate, shown.p_value, shown.known) == (every.new_rate, every.p_value, every.known)


@pytest.mark.parametrize("listable", [{"tensor", "shape"}, set()])
def test_a_topic_is_named_by_shared_words_only(listable: set[str]) -> None:
    topics = find_topics(NEW, None, seed=0, listable=listable)
    named = {word for topic in topics.topics for word in topic.name.split()} - {"no", "words"}
    assert named <= listable and "koval" not in {word for terms in topics.terms.values() for word in terms}
    assert "koval" in {word for terms in find_topics(NEW, None, seed=0).terms.values() for word in terms}
