"""What counts as personal in a query, and what must be left alone."""

from __future__ import annotations

import re

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.privacy import redact, redact_column

DIGITS = st.text("0123456789", min_size=1, max_size=20)


@pytest.mark.parametrize(
    "text",
    [
        "numpy.float64", "RFC 2822", "python 3.11.7", "error 404", "2024-01-01 2024-12-31", "2024-01-02T03:04:05", "3.141592653589793", "1e-10",
        "0x7fffffffffff", "127.0.0.1:8080", "192.168.100.100", "range(1000, 2000, 3000, 4000)", "uuid 123e4567-e89b-12d3-a456-426614174000",
        "@property decorator", "a @ b", "x[0:10, 5:20]", "commit 3f2a9b1c4d5e", "port 5432", "df.iloc[100:200]", "sha256 of a file",
        "10 000 000 rows", "utf-8 vs cp1251", "версія 2.0.1", "C++17 / C++20", "int32_t x = 65536", "sum(1, 2, 3)", "id_123456789012",
        "12:30 - 14:45", "$1,234,567.89", "0.000000001", "1.000000000001",
    ],
)  # fmt: skip
def test_queries_about_code_are_left_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to ann.lee+news@mail.example.org now", "write to [email] now"), ("пошта олена@приклад.укр", "пошта [email]"), ("a＠b.com", "[email]"),
        ("+380 50 123-45-67", "[phone]"), ("тел. 050 123 45 67", "тел. [phone]"), ("0501234567", "[phone]"), ("(044) 123-4567", "[phone]"),
        ("380501234567", "[phone]"), ("00380501234567", "[phone]"), ("+1 (555) 123-4567", "[phone]"), ("call 555-123-4567 today", "call [phone] today"),
        ("+44 20 7946 0958", "[phone]"), ("+49 (0)30 901820", "[phone]"), ("4111 1111 1111 1111", "[card]"), ("card 378282246310005!", "card [card]!"),
        ("5555-5555-5555-4444", "[card]"), ("GB82 WEST 1234 5698 7654 32", "[iban]"), ("ua213223130000026007233566001", "[iban]"),
        ("DE89370400440532013000,", "[iban],"), ("ІПН 3184710691", "ІПН [number]"), ("номер123456789", "номер[number]"), ("123-45-6789", "[number]"),
        ("4111111111111112", "[number]"), ("0501234567 and a@b.io", "[phone] and [email]"),
    ],
)  # fmt: skip
def test_what_identifies_somebody_is_taken_out(text: str, left: str) -> None:
    assert redact(text) == left


@given(st.text(max_size=60))
@settings(max_examples=300, deadline=None)
def test_redacting_twice_is_redacting_once_and_a_column_is_its_texts(text: str) -> None:
    once = redact(text)
    assert redact(once) == once
    assert redact_column(pl.Series([text, None, "plain"], dtype=pl.String)).to_list() == [once, None, "plain"]


@given(st.lists(st.one_of(DIGITS, st.sampled_from([" ", "-", ".", "(", ")", "+", "@", "a@b.com", "UA", "GB82", "x", "ї", "[phone]", "00", "0"])), max_size=9))
@settings(max_examples=400, deadline=None)
def test_near_misses_are_idempotent_and_lose_no_other_character(parts: list[str]) -> None:
    text = "".join(parts)
    once = redact(text)
    assert redact(once) == once
    assert redact_column(pl.Series([text])).to_list() == [once]
    # what is left between the placeholders stands in the text, in this order
    pieces = re.escape(once)
    for name in ("email", "phone", "card", "iban", "number"):
        pieces = pieces.replace(re.escape(f"[{name}]"), r"(?:\[" + name + r"\]|[\s\S]+?)")
    assert re.fullmatch(pieces, text)


def luhn_digit(digits: str) -> str:
    """The check digit, computed by trial: an independent way to Luhn's sum."""
    table = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
    total = sum(table[int(d)] if at % 2 == 0 else int(d) for at, d in enumerate(reversed(digits)))
    return str(-total % 10)


@given(st.sampled_from("23456"), st.text("0123456789", min_size=11, max_size=17))
@settings(max_examples=200, deadline=None)
def test_every_valid_card_number_is_found_and_one_wrong_digit_is_no_card(first: str, others: str) -> None:
    digits = first + others
    check = luhn_digit(digits)
    assert redact(f"pay {digits}{check}") == "pay [card]"
    wrong = str((int(check) + 1) % 10)
    assert "[card]" not in redact(f"pay {digits}{wrong}")


@given(st.sampled_from(["UA", "DE", "GB", "PL"]), st.text("0123456789", min_size=14, max_size=25))
@settings(max_examples=150, deadline=None)
def test_every_valid_iban_is_found(country: str, account: str) -> None:
    number = int("".join(str(int(c, 36)) for c in account + country + "00"))
    iban = f"{country}{98 - number % 97:02d}{account}"
    grouped = " ".join(iban[at : at + 4] for at in range(0, len(iban), 4))
    assert redact(iban) == "[iban]" and redact(grouped) == "[iban]"
    broken = f"{country}{(98 - number % 97) % 96 + 2:02d}{account}"
    assert broken == iban or "[iban]" not in redact(broken)
