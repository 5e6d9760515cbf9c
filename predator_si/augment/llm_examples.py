"""Which of people's queries may be shown to a language model as examples: only what many asked, never the evaluation's, never with personal data.

What belongs here: that choice. What must not: prompts, endpoints. These few queries are the only words of people that ever leave for a generator.
"""

from __future__ import annotations

from collections.abc import Container

import polars as pl

from predator_si.augment.minhash import NearDuplicates, character_shingles
from predator_si.augment.recipe import Filters, Guard
from predator_si.corpora.words import token_lists
from predator_si.privacy import redact

_WORDS, _LETTERS = (2, 20), 200


def shared_queries(log: pl.DataFrame, guard: Guard, least: int, weak: Container[str] = frozenset(), weak_documents: Container[str] = frozenset()) -> list[str]:
    """Queries that at least ``least`` different clients asked: those of the weak slice first, then the most asked.

    A query is of the weak slice when it has a word of ``weak``, or when one of ``weak_documents`` was clicked for it.

    The whole query must have been asked so often, word by word (k-anonymity; Sweeney 2002, with ``least`` as k); a spelling is shown only when that many used
    it, else the bare words. A query that holds personal data is left out rather than blanked. A query that resembles one of the evaluation's is left out.

    Parameters
    ----------
    log
        ``text``, ``client_id`` and optionally ``clicked``. Without ``client_id`` nobody can say how many asked: there are no examples. Rows without a client
        do not count.
    guard
        The evaluation's queries.
    least
        Clients, at least 2: one client's query is that client's.
    """
    if log.is_empty() or "client_id" not in log.columns:
        return []
    keys = pl.Series([" ".join(words) for words in token_lists(log["text"].to_list())], dtype=pl.String)
    rows = log.select("text", "client_id", key=keys).drop_nulls().unique().filter(pl.col("key") != "")
    clients = rows.group_by("key").agg(clients=pl.col("client_id").n_unique()).filter(pl.col("clients") >= max(least, 2))
    spelled = rows.group_by("key", "text").agg(users=pl.col("client_id").n_unique()).filter(pl.col("users") >= max(least, 2))
    best = spelled.sort(["users", "text"], descending=[True, False]).unique("key", keep="first", maintain_order=True)
    found = (
        clients.join(best, on="key", how="left").select("key", "clients", text=pl.coalesce("text", "key")).sort(["clients", "key"], descending=[True, False])
    )
    sealed = NearDuplicates(Filters().leak_similarity)
    sealed.add_all(character_shingles(list(guard.eval_queries)))
    near = sealed.similar(character_shingles(found["text"].to_list()))
    clicked: dict[str, list[str]] = {}
    if "clicked" in log.columns:
        answers = log.select("clicked", key=keys).filter(pl.col("key").is_in(found["key"].to_list()) & (pl.col("clicked").list.len() > 0))
        clicked = dict(answers.explode("clicked").group_by("key").agg(pl.col("clicked").unique()).iter_rows())
    chosen = [
        (text, any(word in weak for word in key.split()) or any(doc_id in weak_documents for doc_id in clicked.get(key, ())))
        for (key, text), close in zip(found.select("key", "text").iter_rows(), near, strict=True)
        if not close and _WORDS[0] <= len(key.split()) <= _WORDS[1] and len(text) <= _LETTERS and redact(text) == text and redact(key) == key
    ]
    return [text for text, of_slice in sorted(chosen, key=lambda one: not one[1])]
