"""Frames of search and action events on their way into and out of a store.

What belongs here: which columns are personal and what is put in their place. What must not: how text is sealed (``vault``), where frames come from.
"""

from __future__ import annotations

from datetime import date

import polars as pl

from predator_si.errors import BadInput
from predator_si.privacy.redaction import redact_column
from predator_si.privacy.segments import SEGMENTS, segments
from predator_si.privacy.vault import CLIENT, SESSION, TOKEN, Vault

QUERY, CLIENT_ID, SESSION_ID = "user_query", "client_id", "session_id"
_EPOCH = date(1970, 1, 1).toordinal()


def protect(frame: pl.DataFrame, vault: Vault, *, stored: bool = False) -> pl.DataFrame:
    """The frame as it may be stored: ``user_query`` redacted and sealed, ``client_id`` and ``session_id`` hashed; columns that are not there are not asked for.

    Where the frame has columns for segments of the query (``segments.SEGMENTS``), those of the readable texts are filled in.

    All keys are durable when this returns. Nulls stay null.

    Parameters
    ----------
    frame
        Search events (``user_query`` needs ``timestamp`` beside it, with a time zone) or action events.
    stored
        The frame comes from a store, where some values are protected already: those stay. Never for what a client has just sent, since anybody can write
        something that looks like a token.

    Raises
    ------
    BadInput
        ``user_query`` without ``timestamp``.
    Unavailable
        The vault cannot be written: nothing may be stored.
    """
    for name, pattern, hashed in ((CLIENT_ID, CLIENT, vault.client_hash), (SESSION_ID, SESSION, vault.session_hash)):
        if name in frame.columns and frame[name].null_count() < frame.height:
            raw = frame[name].cast(pl.String).unique().drop_nulls()
            if stored:
                raw = raw.filter(~raw.str.contains(pattern))
            names = raw.to_list()
            frame = frame.with_columns(pl.col(name).cast(pl.String).replace(names, [hashed(one) for one in names]))
    if QUERY in frame.columns:
        texts, plain = _redacted(frame, stored)
        frame = frame.with_columns(_kept(frame, texts.filter(plain), plain.arg_true(), vault)).with_columns(_sealed(frame, texts, plain.arg_true(), vault))
    vault.sync()
    return frame


def open_text(frame: pl.DataFrame, vault: Vault | None) -> pl.DataFrame:
    """The frame with ``user_query`` readable; null where the text was erased, has expired, or there is no vault. Plain text of an old store stays as it is."""
    sealed = frame[QUERY].str.contains(TOKEN).fill_null(False)
    if not sealed.any():
        return frame
    rows = sealed.arg_true()
    texts = vault.open(frame[QUERY].gather(rows).to_list()) if vault is not None else [None] * len(rows)
    return frame.with_columns(frame[QUERY].scatter(rows, pl.Series(texts, dtype=pl.String)))


def _redacted(frame: pl.DataFrame, stored: bool) -> tuple[pl.Series, pl.Series]:
    """The texts as they may be sealed, and which of them are readable; of a store the sealed ones stay as they are."""
    if "timestamp" not in frame.columns:
        raise BadInput(f"a frame with {QUERY} needs timestamp, which says under which key it is sealed; there are {', '.join(frame.columns)}. Add the column.")
    texts = frame[QUERY].cast(pl.String)
    plain = texts.is_not_null()
    if stored:
        plain &= ~texts.str.contains(TOKEN).fill_null(False)
    rows = plain.arg_true()
    return texts.scatter(rows, redact_column(texts.gather(rows))), plain


def _days(frame: pl.DataFrame, rows: pl.Series) -> pl.Series:
    """The UTC days (``date.toordinal``) of some rows."""
    return frame["timestamp"].gather(rows).dt.convert_time_zone("UTC").dt.epoch("d").cast(pl.Int64) + _EPOCH


def _kept(frame: pl.DataFrame, texts: pl.Series, rows: pl.Series, vault: Vault) -> list[pl.Series]:
    """What is kept of readable texts in the clear, in the columns that the frame has for it."""
    wanted = [name for name in SEGMENTS if name in frame.columns]
    if not wanted or rows.is_empty():
        return []
    found = segments(texts, vault, _days(frame, rows))
    return [frame[name].cast(SEGMENTS[name]).scatter(rows, found[name]) for name in wanted]


def _sealed(frame: pl.DataFrame, texts: pl.Series, rows: pl.Series, vault: Vault) -> pl.Series:
    days = _days(frame, rows).to_list()
    clients = frame[CLIENT_ID].gather(rows).to_list() if CLIENT_ID in frame.columns else [None] * len(rows)
    return texts.scatter(rows, vault.seal_all(texts.gather(rows).to_list(), clients, days))
