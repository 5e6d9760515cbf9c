"""The deny list: what it forbids, what it must never forbid, and how it is written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
import yaml as pyyaml
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.errors import BadInput, Refused
from predator_si.records import ModelCard
from predator_si.release.deny import SEED_DENY, DenyEntry, add_denied, check_allowed, deny_entries, find_denied, is_denied, parse_deny
from predator_si.search.release_file import parse_denied as service_parse

AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
A, B, C, D = (f"sha256:{letter * 64}" for letter in "abcd")


def _card(digest: str, source: str | None = None) -> ModelCard:
    return ModelCard(name="m", digest=digest, backend="onnx-int8", max_length=256, source_digest=source)


def _entry(digest: str, source: str | None = None, reason: str = "worse: NDCG -0.2") -> DenyEntry:
    return DenyEntry(digest=digest, sourceDigest=source, cycle="si_2026_11_22_001", reason=reason, at=AT)


def test_the_artifact_its_weights_and_other_products_of_the_weights_are_denied() -> None:
    entries = [_entry(A, source=B)]
    assert find_denied(entries, _card(A)) == entries[0]
    assert is_denied(entries, _card(B))
    assert is_denied(entries, _card(C, source=B))
    assert is_denied(entries, [D, B])
    assert not is_denied(entries, _card(C, source=D))
    assert not is_denied([_entry(A)], _card(C))  # two unknown sources are not the same source
    with pytest.raises(Refused, match=r"deny list.*si_2026_11_22_001.*NDCG -0\.2"):
        check_allowed(entries, _card(C, source=B))


def _denial(card: ModelCard, *keep: ModelCard) -> list[DenyEntry]:
    return deny_entries(card, cycle_id="si_2026_11_22_001", reason="slow", at=AT, keep=keep)


@pytest.mark.parametrize(
    ("card", "keep", "source"),
    [
        (_card(B, source=C), _card(A, source=A), C),
        (_card(B, source=B), _card(A), None),  # made from nothing else
        (_card(B, source=A), _card(A, source=A), None),  # a bad quantisation of the model to return to
        (_card(B, source=C), _card(D, source=C), None),  # ... or of the weights behind it
    ],
)
def test_denying_a_model_never_denies_the_one_to_return_to(card: ModelCard, keep: ModelCard, source: str | None) -> None:
    (entry,) = _denial(card, keep)
    assert (entry.digest, entry.source_digest) == (card.digest, source)
    assert is_denied([entry], card)
    assert not is_denied([entry], keep)


def test_the_weights_behind_the_model_to_return_to_cannot_be_denied() -> None:
    assert _denial(_card(C), _card(D, source=C)) == []
    assert _denial(_card(D), _card(D)) == []


def test_entries_are_added_once_and_comments_stay() -> None:
    text = add_denied(SEED_DENY, [_entry(A, B)])
    assert parse_deny(text) == [_entry(A, B)]
    assert pyyaml.safe_load(text)["denied"][0] == {
        "digest": A,
        "sourceDigest": B,
        "contour": None,
        "cycle": "si_2026_11_22_001",
        "reason": "worse: NDCG -0.2",
        "at": "2026-11-22T12:00:00Z",
    }
    assert [line for line in text.splitlines() if line.startswith("#")] == [line for line in SEED_DENY.splitlines() if line.startswith("#")]
    assert add_denied(text, [_entry(A, B, reason="other words"), _entry(A)]) == text
    more = add_denied(text, [_entry(C), _entry(C)])
    assert parse_deny(more) == [_entry(A, B), _entry(C)]
    assert add_denied(text, []) == text


def test_hand_written_entries_are_read() -> None:
    text = f"denied:\n  # by hand\n  - digest: {A}\n    reason: smells\n    at: 2026-11-22T14:00:00+02:00\n"
    (entry,) = parse_deny(text)
    assert (entry.at, entry.source_digest, entry.cycle) == (AT, None, None)
    assert "# by hand" in add_denied(text, [_entry(C)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty or not a mapping"),
        ("denied: nothing\n", "line 1: denied"),
        (f"denied:\n  - digest: {A}\n    at: 2026-11-22T12:00:00Z\n", "line 2: denied.0.reason"),
        (f"denied:\n  - digest: {A[:-1]}\n    reason: r\n    at: 2026-11-22T12:00:00Z\n", "line 2: denied.0.digest"),
        (f"denied:\n  - digest: {A}\n    reason: r\n    at: then\n", "line 4: denied.0.at"),
        ("denyed: []\n", "line 1"),
    ],
)
def test_a_deny_list_that_cannot_be_read_allows_nothing(text: str, said: str) -> None:
    with pytest.raises(BadInput, match=r"deny\.yaml") as caught:
        parse_deny(text)
    assert said in str(caught.value)


DIGESTS = st.sampled_from([A, B, C, D])
REASONS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(_entry, DIGESTS, st.none() | DIGESTS, REASONS), max_size=5), st.lists(st.tuples(DIGESTS, st.none() | DIGESTS), max_size=4))
def test_what_was_added_is_denied_whatever_its_reason_says(entries: list[DenyEntry], asked: list[tuple[str, str | None]]) -> None:
    text = SEED_DENY
    for entry in entries:
        text = add_denied(text, [entry])
    read = parse_deny(text)
    assert pyyaml.safe_load(text)["denied"] == [entry.model_dump(mode="json", by_alias=True) for entry in read]
    as_the_service_reads_it = service_parse(text.encode(), "deny.yaml")
    for digest, source in asked:
        assert is_denied(read, _card(digest, source)) == is_denied(entries, _card(digest, source))
        assert is_denied(read, _card(digest, source)) == (as_the_service_reads_it.reason_against(digest, source) is not None)
