"""Judgments as Quepid's CSV files: read with every bad line named, written so that Quepid takes them back.

What belongs here: the three files that Quepid 8 writes, and their spelling. What must not: where judgments are kept (``store``).

- case ratings, ``query,docid,rating`` (``/api/export/ratings/<case>.csv``; also what its import asks for; older versions wrote ``doc_id``). A query that nobody
  rated has empty cells;
- book judgments, ``query,docid,<judge>,<judge>,...`` (``/api/books/<book>/judgements.csv``), a column for each judge, ``Anonymous`` where unknown;
- detailed case export, ``Team Name,Case Name,Case ID,Query Text,Doc ID,Doc Position,Title,Rating,<field>,...``.

Quepid writes a blank before a query that begins with ``-``, ``=``, ``+`` or ``@``, so that no spreadsheet takes it for a formula; so does the export here.
None of the CSV files carries the judges' explanations: a column whose name ends in ``explanation`` is left out, and said to be.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from predator_si.errors import BadInput
from predator_si.monitor.judgments.judgment_set import SCHEMA, JudgmentSet, Origin
from predator_si.privacy import redact

Format = Literal["case", "book", "detailed"]
_FORMULA = ("-", "=", "+", "@")


@dataclass(frozen=True)
class QuepidFile:
    """What a file said.

    Attributes
    ----------
    judgments
        All usable ratings; ``judge`` is the column's name in a book. Personal data in a query (addresses, phone numbers) are taken out.
    bad
        ``file:line: why``, one for each cell or line that could not be used.
    unrated
        Lines or cells without a rating.
    """

    judgments: JudgmentSet
    format: Format
    bad: tuple[str, ...]
    unrated: int
    left_out: tuple[str, ...]


def text_id(query: str) -> str:
    """Id of a query that is known by its text alone: the same text, whatever its case and blanks, has the same one."""
    return "text-" + hashlib.sha256(" ".join(query.lower().split()).encode()).hexdigest()[:16]


def read_quepid(path: Path, *, origin: Origin = "human", scale: float = 3.0, ids: Mapping[str, str] | None = None) -> QuepidFile:
    """The ratings in a file that Quepid wrote, or that follows its headers.

    Parameters
    ----------
    scale
        The highest grade of the scorer's scale; Quepid's own scorers have 3 (nDCG@10 and the like), 10 (detailed) or 1 (binary).
    ids
        Query id by query text, for queries that a corpus knows; others are named by :func:`text_id`.

    Raises
    ------
    BadInput
        The file cannot be read, is not UTF-8, has a header that is none of the three, or holds no usable rating.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise BadInput(f"{path}:{line}: not UTF-8 ({error.reason}); save the file as UTF-8.") from error
    rows = _rows(text)
    header_line, header = next(rows, (1, []))
    kind, query_at, doc_at, judges, left_out = _layout(path, header_line, header)
    found, bad, unrated = [], [], 0
    seen: dict[tuple[str, str, str | None], int] = {}
    for line, row in rows:
        where = f"{path.name}:{line}"
        if len(row) < 2 or len(row) > len(header):
            bad.append(f"{where}: {len(row)} fields, the header has {len(header)}")
            continue
        cells = [*(cell.strip() for cell in row), *[""] * (len(header) - len(row))]
        query, doc_id = cells[query_at], cells[doc_at]
        if not query:
            bad.append(f"{where}: no query")
            continue
        if not doc_id:
            if any(cells[at] for at, _ in judges):
                bad.append(f"{where}: a rating without a document")
            else:
                unrated += 1
            continue
        known = redact(query)
        query_id = (ids or {}).get(query) or text_id(known)
        for at, judge in judges:
            if not cells[at]:
                unrated += 1
                continue
            value = _grade(cells[at], scale)
            key = (query_id, doc_id, judge)
            if isinstance(value, str):
                bad.append(f"{where}: {value}")
            elif key in seen:
                bad.append(f"{where}: {query!r}, document {doc_id} was rated on line {seen[key]} already")
            else:
                seen[key] = line
                found.append((query_id, known, doc_id, value, scale, origin, judge))
    if not found:
        first = f"; the first bad line is {bad[0]}" if bad else ""
        raise BadInput(f"{path}: no usable rating in it ({unrated} unrated){first}.")
    return QuepidFile(JudgmentSet(pl.DataFrame(found, schema=SCHEMA, orient="row")), kind, tuple(bad), unrated, left_out)


def write_quepid(path: Path, judgments: JudgmentSet, *, book: bool = False, prefer: Sequence[str] | None = None) -> int:
    """Write judgments for Quepid; the number of lines below the header.

    A case file has one rating for each pair: judges are averaged, and several origins need ``prefer`` as in :meth:`JudgmentSet.resolved`. A book file
    has a column for each judge, or origin where no judge is named, so nothing is merged.

    Raises
    ------
    BadInput
        A judgment's query has no text, origins would be mixed, or the file cannot be written.
    """
    textless = judgments.frame.filter(pl.col("query").is_null())
    if textless.height:
        raise BadInput(f"{textless.height} judgments have no query text (the first is of {textless['query_id'][0]}), and Quepid knows queries by their text.")
    texts = judgments.frame.select("query_id", "query").unique("query_id", keep="first", maintain_order=True)
    if book:
        named = judgments.frame.with_columns(judge=pl.coalesce("judge", "origin"))
        if named.select("query_id", "doc_id", "judge").is_duplicated().any():
            raise BadInput("two origins share a judge's name, so a book would have two columns of that name; export one origin at a time.")
        wide = named.pivot("judge", index=["query_id", "doc_id"], values="relevance", aggregate_function="first")
    else:
        wide = judgments.resolved(prefer).frame.select("query_id", "doc_id", rating="relevance")
    wide = wide.join(texts, on="query_id", how="left").sort("query", "doc_id")
    judges = [name for name in wide.columns if name not in ("query_id", "doc_id", "query")]
    try:
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["query", "docid", *map(_safe, judges)])
            for row in wide.iter_rows(named=True):
                writer.writerow([_safe(row["query"]), row["doc_id"], *("" if row[judge] is None else f"{row[judge]:g}" for judge in judges)])
    except OSError as error:
        raise BadInput(f"{path}: cannot be written ({error.strerror}).") from error
    return wide.height


def _rows(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line (from 1, of the record's beginning) and cells of every record that is not empty."""
    reader, begins = csv.reader(io.StringIO(text, newline="")), 1
    for row in reader:
        if any(cell.strip() for cell in row):
            yield begins, row
        begins = reader.line_num + 1


def _layout(path: Path, line: int, header: list[str]) -> tuple[Format, int, int, list[tuple[int, str | None]], tuple[str, ...]]:
    names = [name.strip() for name in header]
    low = [name.lower().replace("_", "") for name in names]
    left_out = tuple(name for name in names if name.lower().endswith("explanation"))
    if low[:2] == ["query", "docid"]:
        others = [(at, name) for at, name in enumerate(names) if at >= 2 and name not in left_out]
        if [name.lower() for _, name in others] == ["rating"]:
            return "case", 0, 1, [(others[0][0], None)], left_out
        twice = [name for _, name in others if [n for _, n in others].count(name) > 1 or not name]
        if others and not twice:
            return "book", 0, 1, [(at, name) for at, name in others], left_out
        problem = f"judge columns {', '.join(map(repr, twice))} are unnamed or stand twice" if twice else "no column with ratings"
        raise BadInput(f"{path}:{line}: {problem}; a case has query,docid,rating, a book query,docid and a column for each judge.")
    if {"querytext", "docid", "rating"} <= {name.replace(" ", "") for name in low}:
        packed = [name.replace(" ", "") for name in low]
        return "detailed", packed.index("querytext"), packed.index("docid"), [(packed.index("rating"), None)], tuple(names[packed.index("rating") + 1 :])
    shown = ",".join(names) or "(empty)"
    raise BadInput(f"{path}:{line}: the header {shown} is none of Quepid's: query,docid,rating; query,docid,<judges>; or the detailed case export.")


def _grade(cell: str, scale: float) -> float | str:
    try:
        value = float(cell)
    except ValueError:
        return f"rating {cell!r} is not a number"
    if not math.isfinite(value) or not 0.0 <= value <= scale:
        return f"rating {cell} is outside 0..{scale:g}; name the scorer's scale with --scale"
    return value


def _safe(text: str) -> str:
    return f" {text}" if text.startswith(_FORMULA) else text
