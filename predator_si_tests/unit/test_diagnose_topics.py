"""Topics keep their numbers when queries are resampled, shuffled or joined by new ones, and never give a number twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from predator_si.diagnose.topics import TopicMemory, Topics, find_topics
from predator_si.errors import BadInput
from predator_si.search.tiny import HashingEmbedder

THEMES = {
    "frames": ("join", "dataframe", "merge", "column", "pivot"),
    "sockets": ("socket", "tcp", "server", "port", "listen"),
    "plots": ("plot", "axis", "figure", "legend", "tick"),
    "dates": ("date", "timezone", "calendar", "month", "parse"),
}


class ThemeEmbedder:
    """Vectors that lie about one direction for each theme: what a good bi-encoder gives."""

    name = "themes@16"

    def __init__(self, noise: float = 0.2) -> None:
        self._noise = noise
        self._centres = np.linalg.qr(np.random.default_rng(5).normal(size=(16, 16)))[0]

    def encode(self, texts: Sequence[str], on_progress: object = None) -> np.ndarray:
        rows = []
        for text in texts:
            theme = next((place for place, words in enumerate((*THEMES.values(), ("tensor",))) if set(words) & set(text.split())), 15)
            noise = np.random.default_rng(abs(sum(ord(c) * (i + 1) for i, c in enumerate(text)))).normal(scale=self._noise, size=16)
            rows.append(self._centres[theme] + noise)
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def queries(n: int, seed: int, themes: Sequence[str] = tuple(THEMES)) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join([*rng.choice(THEMES[themes[i % len(themes)]], 3, replace=False), f"x{rng.integers(1000)}"]) for i in range(n)]


def agreement(first: Topics, texts: Sequence[str], second: Topics, others: Sequence[str]) -> float:
    """Share of the texts of both runs that have the same number in both."""
    one, two = (dict(zip(t, topics.numbers.tolist(), strict=True)) for t, topics in ((texts, first), (others, second)))
    shared = set(one) & set(two)
    assert len(shared) > 20
    return sum(one[text] == two[text] for text in shared) / len(shared)


def test_order_and_repetition_change_nothing():
    texts = queries(120, 1)
    first = find_topics(texts, ThemeEmbedder(), seed=3)
    second = find_topics([*reversed(texts), *texts[:30]], ThemeEmbedder(), seed=3)
    assert agreement(first, texts, second, [*reversed(texts), *texts[:30]]) == 1.0
    assert [t.label for t in first.topics] == [t.label for t in second.topics]


def test_numbers_and_names_stay_over_resampled_cycles():
    texts = queries(400, 1)
    memory, before, sample = None, None, texts[:300]
    shares = []
    for cycle in range(6):
        chosen = [texts[i] for i in np.random.default_rng(cycle).choice(400, 300, replace=False)]
        found = find_topics(chosen, ThemeEmbedder(), memory, seed=cycle)
        if before is not None:
            shares.append(agreement(before, sample, found, chosen))
            names = {t.number: t.name for t in before.topics}
            assert all(names.get(t.number, t.name) == t.name for t in found.topics)
        memory, before, sample = found.memory, found, chosen
    assert min(shares) >= 0.8, shares
    assert memory is not None and memory.cycle == 6


def test_numbers_without_memory_would_not_stay():
    """The measure above can fail: two runs numbered on their own do not agree."""
    texts = queries(300, 1)
    first, second = (find_topics(texts, ThemeEmbedder(), seed=seed) for seed in (1, 2))
    assert agreement(first, texts, second, texts) < 0.8


def test_a_new_theme_gets_a_new_number_and_a_theme_that_left_keeps_its_own_for_its_return():
    old = queries(200, 1, ("frames", "sockets", "plots"))
    first = find_topics(old, ThemeEmbedder(0.1), seed=0)
    fresh = [f"tensor gradient backward y{i}" for i in range(80)]
    second = find_topics([*queries(150, 2, ("frames", "sockets")), *fresh], ThemeEmbedder(0.1), first.memory, seed=1)
    numbers = set(second.numbers[-80:].tolist())
    assert numbers and numbers <= set(second.new) and min(numbers) > first.memory.last_number
    assert all("tensor" in second.label(number) for number in numbers)
    gone = {t.number for t in first.topics} - {t.number for t in second.topics}
    assert gone and gone <= {t.number for t in second.memory.topics}
    third = find_topics(queries(200, 3, ("frames", "plots")), ThemeEmbedder(0.1), second.memory, seed=2)
    plots = {n for text, n in zip(queries(200, 3, ("frames", "plots")), third.numbers.tolist(), strict=True) if set(text.split()) & set(THEMES["plots"])}
    assert plots & gone, "the theme that came back has one of its old numbers"


def test_numbers_are_never_given_twice():
    memory, given = None, Counter()
    for cycle, themes in enumerate((("frames",), ("sockets",), ("plots",), ("frames", "dates"))):
        found = find_topics(queries(80, cycle, themes), ThemeEmbedder(0.1), memory, seed=cycle)
        given.update(found.new)
        memory = found.memory
    assert max(given.values()) == 1 and max(given) == memory.last_number


def test_names_are_words_of_the_topic():
    found = find_topics(queries(200, 1), ThemeEmbedder(0.1), seed=0)
    themes = [set(words) for words in THEMES.values()]
    for topic in found.topics:
        assert 2 <= len(topic.name.split()) <= 4
        assert any(set(topic.name.split()) <= theme for theme in themes), topic.name


def test_without_an_embedder_words_are_hashed_and_the_reason_says_so():
    found = find_topics(queries(100, 1), None, seed=0)
    assert found.reason is not None and "hashed" in found.reason
    assert found.memory.embedder == HashingEmbedder().name


def test_memory_of_another_embedder_is_not_compared(tmp_path: Path):
    first = find_topics(queries(100, 1), ThemeEmbedder(), seed=0)
    second = find_topics(queries(100, 1), None, first.memory, seed=0)
    assert second.reason is not None and "themes@16" in second.reason
    assert min(t.number for t in second.topics) > first.memory.last_number


def test_memory_survives_its_file_and_a_damaged_one_is_named(tmp_path: Path):
    path = tmp_path / "deep" / "topics.json"
    assert TopicMemory.load(path) == TopicMemory()
    found = find_topics(queries(150, 1), ThemeEmbedder(), seed=0)
    found.memory.save(path)
    again = find_topics(queries(150, 1), ThemeEmbedder(), TopicMemory.load(path), seed=9)
    assert again.numbers.tolist() == found.numbers.tolist()
    path.write_text('{"embedder": 3}')
    with pytest.raises(BadInput, match=r"topics\.json"):
        TopicMemory.load(path)


def test_no_text_is_refused_and_one_text_is_one_topic():
    with pytest.raises(BadInput):
        find_topics([], None, seed=0)
    assert len(find_topics(["join frames"], None, seed=0).topics) == 1


def test_subsets_cover_every_query_once():
    found = find_topics(queries(90, 1), ThemeEmbedder(), seed=0)
    members = np.concatenate([rows for _, rows in found.subsets(range(60))])
    assert sorted(members.tolist()) == list(range(60))
