"""Near-duplicates against brute force, and the small text rules."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from predator_si.corpora.text import digest_lines, file_digest, first_sentence, near_duplicate_groups, near_duplicates_across, stable_fraction, words

# Few words and many texts: similar pairs are common.
BAGS = st.lists(st.lists(st.sampled_from("abcdefghijkl"), max_size=12).map(" ".join), max_size=25)


def similar(one: str, other: str, threshold: Fraction) -> bool:
    a, b = set(words(one)), set(words(other))
    return bool(a | b) and Fraction(len(a & b), len(a | b)) >= threshold


def components(texts: Sequence[str], threshold: Fraction) -> list[int]:
    """Connected components by repeated relabelling over all pairs, in exact arithmetic."""
    group = list(range(len(texts)))
    changed = True
    while changed:
        changed = False
        for i in range(len(texts)):
            for j in range(len(texts)):
                if group[i] != group[j] and similar(texts[i], texts[j], threshold):
                    group[i] = group[j] = min(group[i], group[j])
                    changed = True
    return group


@settings(max_examples=150, deadline=None)
@given(BAGS, st.sampled_from([Fraction(8, 10), Fraction(5, 10), Fraction(9, 10), Fraction(1)]))
@example(["a b c d e", "a b c d"], Fraction(8, 10))
@example(["a b c d e f g h i j", "a b c d e f g h"], Fraction(8, 10))
def test_near_duplicate_groups_are_those_of_all_pairs(texts: list[str], threshold: Fraction):
    assert near_duplicate_groups(texts, float(threshold)) == components(texts, threshold)


@settings(max_examples=100, deadline=None)
@given(BAGS, st.randoms(use_true_random=False))
def test_pairs_across_labels_are_those_of_all_pairs(texts: list[str], random_: random.Random):
    labels = [random_.choice("ab") for _ in texts]
    expected = [(i, j) for i in range(len(texts)) for j in range(i + 1, len(texts)) if labels[i] != labels[j] and similar(texts[i], texts[j], Fraction(8, 10))]
    assert near_duplicates_across(texts, labels) == expected


def test_pairs_across_labels_over_several_blocks_of_rows():
    texts = [f"alone{i} word{i} here{i}" for i in range(1500)]
    texts[3] = texts[1400] = "the very same five words"
    texts[700], texts[701] = "two neighbours of one label here", "two neighbours of one label here"
    labels = ["train" if i < 1000 else "test" for i in range(1500)]
    assert near_duplicates_across(texts, labels) == [(3, 1400)]


@pytest.mark.parametrize(
    ("paragraph", "sentence"),
    [("One here. Two there.", "One here."), ("One\n   here", "One here"), ("Is it? Yes!", "Is it?"), ("v1.2 stays whole. Next", "v1.2 stays whole."), ("", "")],
)
def test_first_sentence(paragraph: str, sentence: str):
    assert first_sentence(paragraph) == sentence


def test_words_of_any_script():
    assert words("Привіт, світе! Straße_2 naïve") == ["привіт", "світе", "strasse_2", "naïve"]


def test_stable_fraction_is_uniform_and_the_same_everywhere():
    values = [stable_fraction(str(i)) for i in range(4000)]
    assert all(0 <= value < 1 for value in values)
    assert sum(value < 0.45 for value in values) / 4000 == pytest.approx(0.45, abs=0.03)
    assert stable_fraction("python") == int(hashlib.sha256(b"python").hexdigest()[:14], 16) / 16**14


def test_digests(tmp_path: Path):
    assert digest_lines(["a", "b"]) != digest_lines(["ab"]) != digest_lines(["b", "a"])
    (tmp_path / "f").write_bytes(b"a\nb\n")
    assert file_digest(tmp_path / "f") == digest_lines(["a", "b"])
