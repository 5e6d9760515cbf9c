"""What the documents of an index are like, small enough for ``GET /info`` and for every snapshot.

What belongs here: counts and a fixed sample of an index' documents. What must not: opinions about them (``diagnose`` has those), texts.

The sample holds the documents whose id hashes lowest (a bottom-k sketch: Cohen and Kaplan, VLDB 2008). The same documents stand in the sample of every
generation as long as they are indexed, so two generations can be compared document by document without keeping either.
"""

from __future__ import annotations

import hashlib
from typing import Any

import polars as pl

WITNESSES = 400
"""Documents in the sample: a share of 5% missing is then known to about 1% (one standard error)."""
SCRIPTS = {"latin": r"\p{Latin}", "cyrillic": r"\p{Cyrillic}", "han": r"\p{Han}", "arabic": r"\p{Arabic}", "greek": r"\p{Greek}"}
_QUANTILES = (0.1, 0.5, 0.9)
DAMAGED = "\ufffd|[\u00c2\u00c3\u00d0\u00d1][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
"""A replacement character, or a UTF-8 lead byte of Latin or Cyrillic text read as Latin-1 or Windows-1252 and followed by a continuation byte: mojibake."""


def index_facts(documents: pl.DataFrame) -> dict[str, Any]:
    """Counts over all documents, and the sample.

    Parameters
    ----------
    documents
        Columns ``doc_id, title, text``.

    Returns
    -------
    dict
        ``documents`` (count), ``mean_length`` and ``length_quantiles`` {"0.1", "0.5", "0.9"} in characters, ``empty`` (documents without a character),
        ``damaged`` (documents with damaged characters) and ``damaged_characters`` (share of all characters, 0..1), ``scripts`` {script: share of letters},
        ``sampled_below`` (the highest hash in the sample; null when every document is in it) and ``sample`` {doc_id: [length, damaged, script]}.
    """
    if documents.is_empty():
        return {"documents": 0, "sample": {}, "sampled_below": None, "scripts": {}}
    text = pl.concat_str(pl.col("title").fill_null(""), pl.lit("\n"), pl.col("text").fill_null("")).str.strip_chars()
    counts = [text.str.count_matches(pattern).alias(name) for name, pattern in SCRIPTS.items()]
    frame = documents.select("doc_id", *counts, length=text.str.len_chars(), damaged=text.str.count_matches(DAMAGED))
    letters = {name: int(frame[name].sum()) for name in SCRIPTS}
    total, characters = sum(letters.values()), int(frame["length"].sum())
    hashed = sorted((witness_hash(doc_id), doc_id) for doc_id in frame["doc_id"].to_list())[:WITNESSES]
    chosen = frame.filter(pl.col("doc_id").is_in([doc_id for _, doc_id in hashed]))
    return {
        "documents": frame.height,
        "mean_length": characters / frame.height,
        "length_quantiles": {str(q): float(frame["length"].quantile(q) or 0.0) for q in _QUANTILES},
        "empty": int((frame["length"] == 0).sum()),
        "damaged": int((frame["damaged"] > 0).sum()),
        "damaged_characters": int(frame["damaged"].sum()) / max(characters, 1),
        "scripts": {name: count / total for name, count in letters.items() if count} if total else {},
        "sampled_below": hashed[-1][0] if frame.height > WITNESSES else None,
        "sample": {row["doc_id"]: [row["length"], row["damaged"], _script(row)] for row in chosen.iter_rows(named=True)},
    }


def witness_hash(doc_id: str) -> int:
    """Place of a document in the order of sampling: 52 bits of a hash of its id."""
    return int.from_bytes(hashlib.blake2b(doc_id.encode(), digest_size=8).digest(), "big") >> 12


def _script(row: dict[str, Any]) -> str | None:
    best = max(SCRIPTS, key=lambda name: row[name])
    return best if row[best] else None
