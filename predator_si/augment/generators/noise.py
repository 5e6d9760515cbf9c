"""How people misspell and rename things, learned from the query log, and put on a share of the generated queries.

What belongs here: pairs of spellings, edits by character, words that replace each other. What must not: any list of typos or synonyms of some language; the
rare spellings themselves leave no trace but counts of single characters, so that nobody's words are repeated.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice, pairwise
from weakref import WeakKeyDictionary

import numpy as np
import polars as pl

from predator_si.augment.generators.seeds import seeds_of
from predator_si.augment.generators.templates import LEAST_CLIENTS, LEAST_QUERIES, shared_terms
from predator_si.augment.generators.terms import joined, term_lists, unspaced_script
from predator_si.augment.material import Generator, Material
from predator_si.augment.recipe import Proposal

Edit = tuple[str, str, str]
"""(kind, what was meant, what was written): ``("substitute", "a", "e")``, ``("transpose", "ie", "ei")``, ``("delete", "ll", "l")``, ``("insert", "l", "ll")``;
of a deletion or an insertion the letter before is kept (``^`` at the beginning of a word)."""
_SHORT, _LONG, _LONGEST = 4, 7, 24
_RATIO = 5
"""The common spelling is so many times more frequent than the rare one."""
_SMOOTHING = 0.05
_ALPHABET = 64
_SUPPORT, _SUPPORT_DOCUMENTS = 3, 2
_LOOKED_AT = 50
_EXCHANGED = 3
_SLOT = 4
"""More words than this in one place of a query are what is asked for, not names of one thing."""


@dataclass(frozen=True)
class Noise:
    """What was learned.

    Attributes
    ----------
    typo_rate
        Share of the log's searches with a known misspelling, 0..1.
    edits
        How often each edit was made.
    alphabet
        Characters of the log's words, by frequency: smoothing may choose any.
    synonyms
        Word -> (word that replaces it, support), most supported first.
    known
        Words that are right: a typo must not become one.
    misspellings
        How many pairs of spellings were found.
    """

    typo_rate: float = 0.0
    edits: Mapping[Edit, int] = field(default_factory=dict)
    alphabet: tuple[str, ...] = ()
    synonyms: Mapping[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    misspellings: int = 0

    def typo(self, word: str, rng: np.random.Generator) -> str | None:
        """The word with one learned edit, drawn by its smoothed probability; null where the word is short, has a digit, or only becomes other right words.

        The channel is that of Kernighan, Church and Gale (1990): an edit's weight is how often it was seen plus ``_SMOOTHING``; edits that were never seen in
        a log with few typos are drawn, but seldom.
        """
        if not self.edits or len(word) < _SHORT or not word.isalpha() or unspaced_script(word):
            return None
        options: dict[str, float] = defaultdict(float)
        for form, weight in _options(word, self.alphabet, self.edits):
            options[form] += weight
        written = [form for form in options if form not in self.known and form != word]
        if not written:
            return None
        weights = np.array([options[form] for form in written])
        return str(written[int(rng.choice(len(written), p=weights / weights.sum()))])

    def synonym(self, word: str, rng: np.random.Generator) -> str | None:
        """A word that people use instead, drawn by support; null where none is known."""
        others = self.synonyms.get(word)
        if not others:
            return None
        support = np.array([count for _, count in others], dtype=np.float64)
        return others[int(rng.choice(len(others), p=support / support.sum()))][0]

    def applied(self, query: str, rng: np.random.Generator, share: float) -> tuple[str, str]:
        """The query as somebody else would have typed it, and what was done: ``+synonym``, ``+typo``, or nothing, as mostly.

        One word is replaced by its synonym in at most ``share`` of the queries; one is misspelt as often as people do, in at most ``share``.
        """
        words, done = term_lists([query])[0], ""
        renamed, typed = rng.random() < share, rng.random() < min(self.typo_rate, share)
        for wanted, change, name in ((renamed, self.synonym, "+synonym"), (typed, self.typo, "+typo")):
            if wanted:
                for at in rng.permutation(len(words)).tolist():
                    other = change(words[at], rng)
                    if other is not None and other not in words:
                        words[at], done = other, done + name
                        break
        return (joined(words), done) if done else (query, "")


class Noisy:
    """Another generator's queries, some of them with learned noise; the method then ends in ``+typo`` or ``+synonym``.

    Parameters
    ----------
    share
        At most so many queries are changed by typos, and as many by synonyms.
    least_clients
        See ``learn_noise``.
    """

    def __init__(self, inner: Generator, share: float = 0.1, *, least_clients: int = LEAST_CLIENTS) -> None:
        self.inner, self.share, self.least_clients = inner, share, least_clients
        self.source = inner.source
        self.counts: dict[str, int] = {}

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """See ``material.Generator``."""
        noise, own = noise_of(material, self.least_clients), rng.spawn(1)[0]
        self.counts = {"changed": 0, "misspellings_learned": noise.misspellings, "words_with_synonyms": len(noise.synonyms)}
        for proposal in self.inner.propose(material, wanted, rng):
            proposal.query, done = noise.applied(proposal.query, own, self.share)
            proposal.method += done
            self.counts["changed"] += bool(done)
            yield proposal


_KNOWN: WeakKeyDictionary[Material, dict[int, Noise]] = WeakKeyDictionary()


def noise_of(material: Material, least_clients: int = LEAST_CLIENTS) -> Noise:
    """The noise of a material's log, learned once for as long as the material lives."""
    found = _KNOWN.setdefault(material, {})
    if least_clients not in found:
        found[least_clients] = learn_noise(material.log, seeds_of(material).terms.df, least_clients=least_clients)
    return found[least_clients]


def learn_noise(log: pl.DataFrame, documents: Mapping[str, int], *, least_queries: int = LEAST_QUERIES, least_clients: int = LEAST_CLIENTS) -> Noise:
    """Typos and synonyms of a query log.

    A misspelling is a word that stands in no document and is rare in the log, within one edit (two in words of seven letters or more; Damerau 1964, optimal
    string alignment), the first and the last letter being right since prefixes and endings are grammar, of a word at least five times as frequent that
    documents or enough queries have, where both stand in queries that are otherwise equal or share half of their other words, or in consecutive queries of one
    client. A synonym stands in place of the other in otherwise equal queries that led to clicks on the same document, three times and for two documents at
    least; only words of enough queries (and clients) take part.

    Parameters
    ----------
    log
        ``text``, and where known ``clicked`` (document ids) and ``client_id``; oldest first.
    documents
        In how many documents each term stands.
    """
    if log.is_empty() or "text" not in log.columns:
        return Noise()
    known_clients = "client_id" in log.columns
    columns = ["text", *(["client_id"] if known_clients else [])]
    rows = log.select(columns).drop_nulls("text")
    tokens = dict(zip(rows["text"].unique(maintain_order=True), term_lists(rows["text"].unique(maintain_order=True).to_list()), strict=True))
    searches: Counter[str] = Counter()
    for text, count in rows.group_by("text", maintain_order=True).len().iter_rows():
        for word in set(tokens[text]):
            searches[word] += count
    askers: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for text, client in rows.with_columns(client_id=pl.col("client_id") if known_clients else pl.lit(None, pl.String)).select("text", "client_id").iter_rows():
        askers[tuple(tokens[text])] |= {client} if client is not None else set()
    shared = shared_terms(askers, least_queries, least_clients if known_clients else 0, least_share=0.0)
    pairs = _misspellings(askers, searches, shared, documents, _consecutive(rows, tokens) if known_clients else ())
    edits: Counter[Edit] = Counter()
    for (written, meant), count in pairs.items():
        for edit in alignment(meant, written) or ():
            edits[edit] += count
    wrong = {written for written, _ in pairs}
    faulty = sum(count for text, count in rows.group_by("text").len().iter_rows() if not wrong.isdisjoint(tokens[text]))
    letters: Counter[str] = Counter()
    for word, count in searches.items():
        if word.isalpha() and not unspaced_script(word):
            letters.update(dict.fromkeys(word, count))
    return Noise(
        typo_rate=faulty / rows.height,
        edits=dict(edits),
        alphabet=tuple(sorted(letters, key=lambda character: (-letters[character], character))[:_ALPHABET]),
        synonyms=_synonyms(log, tokens, shared, wrong),
        known=frozenset(documents) | shared,
        misspellings=len(pairs),
    )


def alignment(meant: str, written: str) -> list[Edit] | None:
    """The fewest edits that turn one word into the other, at most two; null where more are needed (optimal string alignment, Damerau 1964)."""
    n, m = len(meant), len(written)
    if abs(n - m) > 2:
        return None
    cost = np.zeros((n + 1, m + 1), dtype=np.int64)
    cost[:, 0], cost[0, :] = np.arange(n + 1), np.arange(m + 1)
    for i in range(1, n + 1):
        for j in range(1, m + 1):
            best = min(cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + (meant[i - 1] != written[j - 1]))
            if _swapped(meant, written, i, j):
                best = min(best, cost[i - 2, j - 2] + 1)
            cost[i, j] = best
    if cost[n, m] > 2:
        return None
    edits: list[Edit] = []
    i, j = n, m
    while i or j:
        before = meant[i - 2] if i > 1 else "^"
        if i and j and meant[i - 1] == written[j - 1] and cost[i, j] == cost[i - 1, j - 1]:
            i, j = i - 1, j - 1
        elif _swapped(meant, written, i, j) and cost[i, j] == cost[i - 2, j - 2] + 1:
            edits.append(("transpose", meant[i - 2 : i], written[j - 2 : j]))
            i, j = i - 2, j - 2
        elif i and j and cost[i, j] == cost[i - 1, j - 1] + 1:
            edits.append(("substitute", meant[i - 1], written[j - 1]))
            i, j = i - 1, j - 1
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            edits.append(("delete", before + meant[i - 1], before))
            i -= 1
        else:
            last = meant[i - 1] if i else "^"
            edits.append(("insert", last, last + written[j - 1]))
            j -= 1
    return edits[::-1]


def _swapped(meant: str, written: str, i: int, j: int) -> bool:
    return i > 1 and j > 1 and meant[i - 1] == written[j - 2] and meant[i - 2] == written[j - 1] and meant[i - 1] != meant[i - 2]


def _options(word: str, alphabet: tuple[str, ...], edits: Mapping[Edit, int]) -> Iterator[tuple[str, float]]:
    """Every word one edit away with that edit's smoothed weight; unseen characters only from the alphabet."""
    each = _SMOOTHING / max(len(alphabet), 1)
    for at, letter in enumerate(word):
        before = word[at - 1] if at else "^"
        yield word[:at] + word[at + 1 :], edits.get(("delete", before + letter, before), 0) + _SMOOTHING
        for other in alphabet:
            yield word[:at] + other + word[at + 1 :], edits.get(("substitute", letter, other), 0) + each
            yield word[: at + 1] + other + word[at + 1 :], edits.get(("insert", letter, letter + other), 0) + each
        if at and before != letter:
            yield word[: at - 1] + letter + before + word[at + 1 :], edits.get(("transpose", before + letter, letter + before), 0) + _SMOOTHING


def _misspellings(
    askers: Mapping[tuple[str, ...], set[str]],
    searches: Mapping[str, int],
    shared: frozenset[str],
    documents: Mapping[str, int],
    following: Iterable[tuple[str, str]],
) -> dict[tuple[str, str], int]:
    """(written, meant) -> searches with what was written."""
    rare = [
        word for word, n in searches.items() if _SHORT <= len(word) <= _LONGEST and word.isalpha() and not documents.get(word, 0) and not unspaced_script(word)
    ]
    by_form: dict[str, list[str]] = defaultdict(list)
    for word in rare:
        for form in _deletions(word):
            by_form[form].append(word)
    others: dict[str, dict[frozenset[str], None]] = defaultdict(dict)
    for query in askers:
        for word in query:
            others[word][frozenset(query) - {word}] = None
    after = set(following)
    found: dict[tuple[str, str], int] = {}
    for meant in sorted(word for word in searches if _SHORT <= len(word) <= _LONGEST and word.isalpha() and (documents.get(word, 0) or word in shared)):
        for written in sorted({word for form in _deletions(meant) for word in by_form.get(form, ())} - {meant}):
            if searches[meant] >= _RATIO * searches[written] and (meant[0], meant[-1]) == (written[0], written[-1]):
                edits = alignment(meant, written)
                near = edits is not None and len(edits) <= (2 if min(len(meant), len(written)) >= _LONG else 1)
                if near and ((written, meant) in after or (meant, written) in after or _alike(others[written], others[meant])):
                    found[(written, meant)] = searches[written]
    best: dict[str, tuple[str, str]] = {}
    for pair in found:  # a spelling is a misspelling of one word: of the most frequent
        if pair[0] not in best or searches[pair[1]] > searches[best[pair[0]][1]]:
            best[pair[0]] = pair
    return {pair: found[pair] for pair in best.values()}


def _alike(one: Mapping[frozenset[str], None], other: Mapping[frozenset[str], None]) -> bool:
    """Whether two words stand in queries that are otherwise equal, or share half of their other words (looking at some of very many)."""
    if any(rest in other for rest in one):
        return True
    return any(2 * len(a & b) >= len(a | b) for a in islice(one, _LOOKED_AT) for b in islice(other, 4 * _LOOKED_AT) if a and b)


def _deletions(word: str) -> set[str]:
    """The word with up to one letter left out, two in a long one: words that share a form are within a few edits (symmetric delete)."""
    once = {word[:at] + word[at + 1 :] for at in range(len(word))}
    twice = {form[:at] + form[at + 1 :] for form in once for at in range(len(form))} if len(word) >= _LONG - 1 else set[str]()
    return {word} | once | twice


def _consecutive(rows: pl.DataFrame, tokens: Mapping[str, list[str]]) -> set[tuple[str, str]]:
    """(word of a query, word of the same client's next one) where at most three words were exchanged."""
    pairs: set[tuple[str, str]] = set()
    for texts in rows.drop_nulls("client_id").group_by("client_id", maintain_order=True).agg("text")["text"].to_list():
        for first, second in pairwise(texts):
            gone, come = set(tokens[first]) - set(tokens[second]), set(tokens[second]) - set(tokens[first])
            if max(len(gone), len(come)) <= _EXCHANGED:
                pairs |= {(one, other) for one in gone for other in come}
    return pairs


def _synonyms(log: pl.DataFrame, tokens: Mapping[str, list[str]], shared: frozenset[str], wrong: set[str]) -> dict[str, tuple[tuple[str, int], ...]]:
    if "clicked" not in log.columns or not isinstance(log.schema["clicked"], pl.List):
        return {}
    clicks = (
        log.select("text", "clicked").filter(pl.col("text").is_not_null() & (pl.col("clicked").list.len() > 0)).explode("clicked").unique(maintain_order=True)
    )
    places: dict[tuple[str, frozenset[str]], set[str]] = defaultdict(set)
    for text, doc_id in clicks.iter_rows():
        words = frozenset(tokens[text])
        for word in words & shared:
            if len(words) > 1 and word not in wrong and len(word) > 1 and any(character.isalpha() for character in word):
                places[(doc_id, words - {word})].add(word)
    support: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[str]] = defaultdict(set)
    for (doc_id, _), forms in places.items():
        if 1 < len(forms) <= _SLOT:
            for one in forms:
                for other in forms - {one}:
                    support[(one, other)] += 1
                    where[(one, other)].add(doc_id)
    found: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for (one, other), count in support.items():
        if count >= _SUPPORT and len(where[(one, other)]) >= _SUPPORT_DOCUMENTS:
            found[one].append((other, count))
    return {word: tuple(sorted(others, key=lambda item: (-item[1], item[0]))) for word, others in sorted(found.items())}
