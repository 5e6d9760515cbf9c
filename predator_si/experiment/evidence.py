"""What a trial's verdict is computed from, as one file that gives the same verdict again.

What belongs here: events of the trial without words and without clients, to Parquet and back, with their sha256. What must not: any judgement.

The copy names nobody: query text and sessions are left out, requests and clients are numbered in the order in which they first appear. So an
erased client's keys and events can go, and the verdict can still be recomputed.
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path, PurePosixPath

import polars as pl

from predator_si.errors import BadInput, Missing, Refused
from predator_si.search.events import KIND_SCHEMA, QUARANTINE_SCHEMA, EventFrames, conform

FILES = {kind: f"experiment_{kind}.parquet" for kind in KIND_SCHEMA}
"""Kind of event -> name of its file beside the verdict."""
_LOSSES = {"writer": pl.String, "kind": pl.String, "lost": pl.Int64}
_WORDS = ("user_query", "session_id")


def anonymise(events: EventFrames, start: datetime, end: datetime) -> EventFrames:
    """The events with ``start <= timestamp < end`` in the order of time, without words; requests and clients are numbers. Doing it again changes nothing.

    Rows of one time keep an order that does not depend on how they were read: by writer, number and name of the request. A second row of one
    request stays: duplicates are the judge's to see.
    """
    inside = pl.col("timestamp").is_between(start, end, closed="left")
    search = _in_order(events.search.filter(inside))
    others = {"exposure": _in_order(events.exposures.filter(inside)), "shadow": _in_order(events.shadows.filter(inside))}
    requests = _numbers(pl.concat([search["query_id"], *(frame["query_id"] for frame in others.values())]), "r")
    clients = _numbers(search["client_id"].drop_nulls(), "c")
    actions = _in_order(events.actions.filter(pl.col("query_id").is_in(search["query_id"].unique().to_list())))
    named = {kind: _numbered(frame, requests, clients) for kind, frame in {"search": search, "action": actions, **others}.items()}
    return EventFrames(
        named["search"], named["action"], pl.DataFrame(schema=QUARANTINE_SCHEMA), events.lost, pl.DataFrame(schema=_LOSSES), events.unknown,
        exposures=named["exposure"], shadows=named["shadow"],
    )  # fmt: skip


def write_evidence(root: Path, events: EventFrames, folder: str = "") -> dict[str, str]:
    """Write anonymised events into ``folder`` below ``root``: path from there -> sha256. Kinds without an event have no file."""
    found = {}
    target = Path(root) / folder
    target.mkdir(parents=True, exist_ok=True)
    for kind, frame in {"search": events.search, **_others(events)}.items():
        path = target / FILES[kind]
        if not frame.height and kind not in ("search", "action"):
            path.unlink(missing_ok=True)
            continue
        partial = path.with_name(f".{path.name}.partial")
        frame.write_parquet(partial, compression="zstd")
        partial.replace(path)
        found[path.relative_to(root).as_posix()] = file_sha256(path)
    return found


def read_evidence(root: Path, expected: dict[str, str], *, lost: int = 0) -> EventFrames:
    """The events that a verdict was computed from.

    Parameters
    ----------
    expected
        Path below ``root`` -> sha256, as the verdict names them.
    lost
        Events that were issued and are stored nowhere, as counted when the evidence was written.

    Raises
    ------
    Missing
        A file is not there.
    Refused
        A file is not the one that the verdict was computed from.
    BadInput
        A file is not Parquet with the columns of events, or the verdict names a file that is no evidence.
    """
    by_kind = {kind: name for kind, file in FILES.items() for name in expected if PurePosixPath(name).name == file}
    strange = set(expected) - set(by_kind.values()) or {name for name in expected if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts}
    if strange or "search" not in by_kind:
        raise BadInput(f"{root}: the verdict's evidence is {sorted(expected)}; {FILES['search']} and files beside it were expected. Judge the trial again.")
    frames = {
        kind: _read(Path(root) / by_kind[kind], expected[by_kind[kind]], kind) if kind in by_kind else pl.DataFrame(schema=schema)
        for kind, schema in KIND_SCHEMA.items()
    }
    return EventFrames(
        frames["search"], frames["action"], pl.DataFrame(schema=QUARANTINE_SCHEMA), lost, pl.DataFrame(schema=_LOSSES),
        exposures=frames["exposure"], shadows=frames["shadow"],
    )  # fmt: skip


def _read(path: Path, sha256: str, kind: str) -> pl.DataFrame:
    if file_sha256(path) != sha256:
        raise Refused(f"{path} is not the file that the verdict was computed from (its sha256 differs). Restore it, or judge the trial again.")
    try:
        return conform(pl.read_parquet(path), kind)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise BadInput(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}). Restore it, or judge the trial again.") from error


def _others(events: EventFrames) -> dict[str, pl.DataFrame]:
    """Frames beside the searches, by kind."""
    return {"action": events.actions, "exposure": events.exposures, "shadow": events.shadows}


def _in_order(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.sort("timestamp", "writer", "seq", "query_id", maintain_order=True, nulls_last=True)


def _numbered(frame: pl.DataFrame, requests: dict[str, str], clients: dict[str, str]) -> pl.DataFrame:
    changes = [pl.lit(None, pl.String).alias(name) for name in _WORDS if name in frame.columns]
    for name, numbers in (("query_id", requests), ("client_id", clients)):
        if name in frame.columns:
            given = pl.col(name).replace_strict(numbers, default=None, return_dtype=pl.String) if numbers else pl.lit(None, pl.String)
            changes.append(given.alias(name))
    return frame.with_columns(changes)


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex.

    Raises
    ------
    Missing
        It cannot be read.
    """
    try:
        with Path(path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise Missing(f"{path}: cannot be read ({error.strerror}); it is evidence of a verdict. Judge the trial again, or restore the file.") from error


def _numbers(values: pl.Series, letter: str) -> dict[str, str]:
    """Name -> number by first appearance, of one width: their order as text is that of their appearance."""
    return {str(value): f"{letter}{number:09d}" for number, value in enumerate(values.unique(maintain_order=True).to_list(), start=1)}
