"""Whether a query is in a language of its document or of the people who ask: by script and by letters, without a list of languages.

What belongs here: scripts and letters of texts. What must not: any one language's words.

This tells English from Ukrainian, and Ukrainian from Russian or French from English where a word has a letter that the other lacks. Two languages written in
the same letters (Dutch and English) are not told apart.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from predator_si.corpora.words import token_lists

_MAIN_SHARE = 1 / 3
"""A script is one of a text's main ones when it has this share of the letters."""
_SEEN = 3
"""A letter belongs to the alphabet of the material when it occurs so often."""
_CHARACTERS = 4_000
_TOGETHER = {"HIRAGANA": "CJK", "KATAKANA": "CJK", "HANGUL": "CJK", "BOPOMOFO": "CJK"}
_SCRIPT_OF: dict[str, str] = {}


def script_of(letter: str) -> str:
    """The first word of a letter's Unicode name, such as LATIN or CYRILLIC; the scripts that East Asian texts mix are one."""
    found = _SCRIPT_OF.get(letter)
    if found is None:
        name = unicodedata.name(letter, "UNKNOWN").partition(" ")[0]
        found = _SCRIPT_OF[letter] = _TOGETHER.get(name, name)
    return found


def main_scripts(text: str) -> frozenset[str]:
    """Scripts with a third of the letters of the text's beginning or more; none without letters."""
    counts = Counter(text[:_CHARACTERS])
    letters: Counter[str] = Counter()
    for character, count in counts.items():
        if character.isalpha():
            letters[script_of(character)] += count
    total = letters.total()
    return frozenset(script for script, count in letters.items() if count >= _MAIN_SHARE * total)


class Languages:
    """What the material is written in.

    Parameters
    ----------
    texts
        Of documents: a sample will do. Its letters outside ASCII are the alphabet.
    queries
        Of the log: their words, letters and main scripts are welcome in any query.
    """

    def __init__(self, texts: Iterable[str], queries: Sequence[str]) -> None:
        letters: Counter[str] = Counter()
        for text in (*texts, *queries):
            letters.update(text[:_CHARACTERS].casefold())
        self._alphabet = frozenset(letter for letter, count in letters.items() if count >= _SEEN and letter.isalpha() and not letter.isascii())
        self._asked = frozenset(word for words in token_lists(queries) for word in words)
        self._asked_in = main_scripts(" ".join(query[:200] for query in queries[:1_000]))

    def foreign_share(self, query: Sequence[str], document: frozenset[str], scripts: frozenset[str]) -> float:
        """Share of a query's words that are foreign, 0..1.

        A word is foreign that stands neither in the document nor in the log, and is either of a script that is no main one of the document or of the log, or
        has a letter outside ASCII that the material does not use.

        Parameters
        ----------
        query
            Its words.
        document, scripts
            Words and main scripts of its document; a document without letters has no say.
        """
        if not query:
            return 0.0
        welcome = scripts | self._asked_in
        foreign = 0
        for word in query:
            if word in document or word in self._asked:
                continue
            letters = [letter for letter in word if letter.isalpha()]
            other_script = bool(welcome) and any(script_of(letter) not in welcome for letter in letters)
            other_letter = any(not letter.isascii() and script_of(letter) != "CJK" and letter not in self._alphabet for letter in letters)
            foreign += other_script or other_letter
        return foreign / len(query)
