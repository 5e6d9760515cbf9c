"""Which language a short text is in, by its script and its commonest words: a light guess without any model.

What belongs here: English, Ukrainian, Russian, and the script of everything else. What must not: comparing windows.

Measured on the queries of the judged collections (``test_monitor_drift.py`` holds it where they are present), called another language / not called
any: man-uk (176) 0 / 3.4%, xquad-ru (1,190) 0.3% / 1.1%, and of the English ones faq-docs (470) 0 / 0, stackfaq (1,249) 0 / 1.5%, cranfield (225) 0 / 3.1%,
scifact (1,109) 0 / 5.8%. Queries of two or three keywords are often not called any; what is compared is the mix, which such errors dilute on both sides alike.
"""

from __future__ import annotations

import unicodedata
from collections import Counter

from predator_si.corpora.words import tokens

_SCRIPTS = (
    "LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "BENGALI", "TAMIL", "THAI", "HANGUL", "HIRAGANA", "KATAKANA", "CJK", "GEORGIAN", "ARMENIAN",
)  # fmt: skip
"""First words of the names that Unicode gives letters."""
_UKRAINIAN, _RUSSIAN = frozenset("іїєґ"), frozenset("ыэёъ")
"""Letters that the other language does not write."""


def _listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


_WORDS = {
    "uk": _listed(
        "і й та в у на з із до що це як не для про за від або чи є як який яка яке які коли де хто чому так його її їх при по під над між через після перед"
        " має може бути можна також але якщо щоб цей ця цих без скільки якому якій був була було були ще вже лише тільки"
    ),
    "ru": _listed(
        "и в на с из до что это как не для про за от или ли есть какой какая какое какие когда где кто почему так его её их при по под над между через после"
        " перед имеет может быть можно также но если чтобы этот эта этих без сколько каком какой был была было были ещё уже только чем чего кого кому"
    ),
    # Words that German, Dutch or the Romance languages write as well (in, on, an, a, to, do, no, was ...) say nothing.
    "en": _listed(
        "the of for and or is are were be how what when where who why which with from by it its this that these those does did can"
        " my you your we not if into about than there their has have had will should would could after before between using use"
    ),
}
_ENGLISH_ENDINGS = ("ing", "ed", "ly", "ness", "ous", "ize", "ise", "ology", "ity")
_UKRAINIAN_ENDINGS = ("ння", "ття", "ість", "ться", "ого", "ому", "ати", "ити", "увати", "ів", "ій", "ські", "ський", "ська", "єш", "ють")
_RUSSIAN_ENDINGS = ("ние", "тие", "ость", "тся", "ать", "ить", "еть", "овать", "ого", "ому", "ов", "ый", "ая", "ое", "ые", "ий", "ский", "ская", "ются", "ет")


def script(text: str) -> str:
    """The script of most letters (``LATIN``, ``CYRILLIC`` ...), ``OTHER`` for one that is not listed, ``NONE`` where there is no letter."""
    found = Counter(_script_of(letter) for letter in text if letter.isalpha())
    return found.most_common(1)[0][0] if found else "NONE"


def language(text: str) -> str:
    """``en``, ``uk``, ``ru``, or the script in lower case where these cannot be told (``latin``, ``cyrillic``, ``greek``, ``none`` ...)."""
    kind = script(text)
    words = tokens(text)
    if kind == "LATIN":
        known = sum(word in _WORDS["en"] for word in words)
        shaped = sum(word.isascii() and len(word) > 4 and word.endswith(_ENGLISH_ENDINGS) for word in words)
        return "en" if known or shaped else "latin"
    if kind != "CYRILLIC":
        return kind.lower()
    letters = text.casefold()
    points = {
        "uk": 3.0 * sum(letter in _UKRAINIAN for letter in letters) + _points(words, "uk", _UKRAINIAN_ENDINGS),
        "ru": 3.0 * sum(letter in _RUSSIAN for letter in letters) + _points(words, "ru", _RUSSIAN_ENDINGS),
    }
    if points["uk"] == points["ru"]:
        return "cyrillic"
    return max(points, key=lambda name: points[name])


def language_mix(texts: list[str]) -> dict[str, int]:
    """How many of the texts are in which language, most first."""
    return dict(Counter(language(text) for text in texts).most_common())


def _points(words: list[str], name: str, endings: tuple[str, ...]) -> float:
    return sum(1.0 for word in words if word in _WORDS[name]) + sum(0.5 for word in words if len(word) > 3 and word.endswith(endings))


def _script_of(letter: str) -> str:
    first = unicodedata.name(letter, "OTHER").split(" ", 1)[0]
    return first if first in _SCRIPTS else "OTHER"
