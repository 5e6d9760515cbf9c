"""Taking personal data out of a text: e-mail addresses, phone numbers, bank accounts, payment cards, long numbers.

What belongs here: what counts as personal in free text, and its placeholder. What must not: keys, files, where the text came from.

Queries about code are full of numbers, so a rule must see a checksum or a shape, not only digits: cards pass Luhn's check (ISO/IEC 7812-1), accounts the
modulus 97 of ISO 13616, phone numbers have a ``+``, a trunk 0 or the usual grouping. What is left are runs of nine digits or more (tax and identity numbers),
unless they are the fraction of a decimal, part of a Latin identifier or of a UUID. A name or a street is not recognised: that is what the sealing is for.
"""

from __future__ import annotations

import re
import traceback

import polars as pl

EMAIL, PHONE, CARD, IBAN, NUMBER = "[email]", "[phone]", "[card]", "[iban]", "[number]"

_SUSPECT = r"[@＠]|\d(?:\D{0,3}\d){7}|[A-Za-z]{2}\d{2}[ ]?[A-Za-z0-9]{4}"
"""Every text that some rule below changes matches this; it needs no look-around, so Polars can ask it of a column."""
_MAY_HOLD = re.compile(_SUSPECT)

_EMAIL = re.compile(r"[\w.+%\-]+[@＠](?:[\w\-]+\.)+[^\W\d_]{2,}")
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ ]?[A-Za-z0-9]{4}){2,7}(?:[ ]?[A-Za-z0-9]{1,3})?(?![A-Za-z0-9])")
_CARD = re.compile(r"(?<![\w.])(?=[2-6])(?:\d{4}([ \-])\d{4}\1\d{4}\1\d{4}(?:\1\d{1,3})?|\d{4}([ \-])\d{6}\2\d{4,5}|\d{13,19})(?!\w|\.\d)")
"""Payment cards begin with 2 to 6 (major industry identifiers of ISO/IEC 7812-1) and have 13 to 19 digits, alone or in the groups that are printed on them."""
_START, _END = r"(?<!\w)(?<!\d[.,\-])", r"(?!\w|[.,]\d)"
_PHONE = re.compile(
    "|".join(
        (
            r"[+＋][ ]?\(?\d(?:[ ().\-]{0,2}\d){7,14}(?!\d)",  # E.164: at most 15 digits
            _START + r"00(?:[ ().\-]{0,2}[1-9])(?:[ ().\-]{0,2}\d){7,13}" + _END,  # the international prefix dialled
            _START + r"380[ \-]?\(?\d{2}\)?(?:[ \-]?\d){7}" + _END,  # Ukraine without the plus
            _START + r"(?:\(0\d{2}\)|0\d{2})(?:[ .\-]?\d{3}[ .\-]?\d{2}[ .\-]?\d{2}|[ .\-]?\d{3}[ .\-]?\d{4})" + _END,  # Ukraine, national
            r"(?<![\w(])(?<!\d[.,\-])(?:\(\d{3}\)[ ]?|\d{3}[ .\-])\d{3}[ .\-]\d{4}" + _END,  # North America
        )
    )
)
_LONG = re.compile(r"(?<![A-Za-z_\d])(?<!\d[.,])(?<![0-9A-Fa-f]{4}-)(?:\d{9,}|\d{3}-\d{2}-\d{4})(?![A-Za-z_\d])")


def redact(text: str) -> str:
    """The text with a placeholder in place of each e-mail address, phone number, IBAN, payment card and long number.

    Idempotent: ``redact(redact(text)) == redact(text)``. Nothing else of the text changes.
    """
    if not _MAY_HOLD.search(text):
        return text
    while True:  # a placeholder is a new border, beside which another rule may now fit; each round removes digits or an @, so this ends
        found = _once(text)
        if found == text:
            return text
        text = found


def redact_column(texts: pl.Series) -> pl.Series:
    """``redact`` for each text of a column, null for null; only rows that may hold something are looked at one by one."""
    suspect = texts.str.contains(_SUSPECT).fill_null(False)
    if not suspect.any():
        return texts
    rows = suspect.arg_true()
    return texts.scatter(rows, [redact(text) for text in texts.gather(rows).to_list()])


def trace(error: BaseException) -> str:
    """Where an error came from, for a log: types and frames of the chain without any message, since messages quote what was being worked on."""
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(lines) < 100:
        frames = [f"  {frame.filename}, line {frame.lineno}, in {frame.name}" for frame in traceback.extract_tb(cause.__traceback__)]
        lines = [*frames, f"{type(cause).__module__}.{type(cause).__qualname__} (its message is not logged: it may quote a query)", *lines]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "\n".join(lines)


def _once(text: str) -> str:
    text = _EMAIL.sub(EMAIL, text)
    text = _IBAN.sub(lambda match: IBAN if _is_iban(match[0]) else match[0], text)
    text = _CARD.sub(lambda match: CARD if _passes_luhn(match[0]) else match[0], text)
    text = _PHONE.sub(PHONE, text)
    return _LONG.sub(NUMBER, text)


def _passes_luhn(text: str) -> bool:
    """Luhn's check of ISO/IEC 7812-1, annex B: from the right every second digit is doubled, the digits' sum is a multiple of ten."""
    digits = [int(character) for character in reversed(text) if character.isdigit()]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


def _is_iban(text: str) -> bool:
    """ISO 13616: the first four characters moved to the end, letters as 10 to 35, the number is 1 modulo 97."""
    plain = text.replace(" ", "").upper()
    return 15 <= len(plain) <= 34 and int("".join(str(int(character, 36)) for character in plain[4:] + plain[:4])) % 97 == 1
