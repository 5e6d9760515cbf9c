"""From requests, actions and judgments to an aggregate: the one way that metrics of traffic are computed.

What belongs here: which requests count as what, and the numbers of each. What must not: files (``parts``), names and intervals of metrics (``snapshot``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.measures import Measure
from predator_si.measures.lists import match
from predator_si.measures.ranking import require
from predator_si.measures.scoring import Hits, Ints, Pool, score
from predator_si.monitor.aggregate import Aggregate, Cell, CellKey, Latencies
from predator_si.monitor.totals import Floats, Keys, Totals
from predator_si.monitor.traffic import ANSWERED, FAILED

MEASURES = ("nDCG@10", "nDCG(exp)@10", "R@20", "P@10", "RR@10", "AP", "ERR@20", "RBP(p=0.8)", "RBPres(p=0.8)", "judged@10")
"""What judged requests are measured by unless asked otherwise."""
CLICK_DEPTH = 10
JUDGED_DEPTH = 10
_NEIGHBOURS = 32
"""Up to so many judgments of one request comparing each with the next ones is cheaper than sorting them all."""
COLUMNS = (
    "query_id",
    "timestamp",
    "client_id",
    "variant",
    "model_digest",
    "status",
    "latency_ms",
    "cpu_seconds",
    "simulated",
    "probe",
    "stands_for",
    "degraded",
)
"""What is read of a search event besides its documents."""
_KIND = pl.when("probe").then(pl.lit("probe")).when(pl.col("stands_for").is_not_null()).then(pl.lit("twin")).otherwise(pl.lit("person"))


@dataclass(frozen=True)
class Plan:
    """How requests are measured.

    Attributes
    ----------
    measures
        Of judged requests.
    min_relevance, graded
        As in :func:`~predator_si.measures.per_query`.
    clustered
        Whether the judged requests of one client are one unit of the interval; false resamples queries.
    eta
        Position bias of clicks, see :func:`~predator_si.monitor.clicks.click_quality`.
    segment
        Column of the events that splits them; null keeps them together.
    """

    measures: tuple[str, ...] = MEASURES
    min_relevance: float = 1.0
    graded: bool = True
    clustered: bool = True
    eta: float = 1.0
    segment: str | None = None


@dataclass(frozen=True)
class Requests:
    """Some requests and the documents that each was answered with, best first, one request's after the other's."""

    frame: pl.DataFrame
    lengths: Ints
    documents: pl.Series

    @cached_property
    def hashes(self) -> npt.NDArray[np.uint64]:
        """Of the documents."""
        return self.documents.hash().to_numpy()

    @classmethod
    def of(cls, events: pl.DataFrame, segment: str | None = None) -> Requests:
        """From search events with their ``results``."""
        lists = events["results"]
        lengths = lists.list.len().fill_null(0).cast(pl.Int64)
        documents = lists.filter(lengths > 0).explode().struct.field("object_id")
        return cls(events.select(*COLUMNS, *([segment] if segment else [])), lengths.to_numpy(), documents)


@dataclass(frozen=True)
class Known:
    """Requests by id: ``query_id`` and ``row``, the number of each. Their hashes are sorted once, however many pieces are looked up in them."""

    frame: pl.DataFrame

    @cached_property
    def _sorted(self) -> tuple[npt.NDArray[np.uint64], Ints]:
        hashes = self.frame["query_id"].hash().to_numpy()
        order = np.argsort(hashes)
        return hashes[order], order

    @cached_property
    def _collide(self) -> bool:
        hashes = self._sorted[0]
        return bool((hashes[1:] == hashes[:-1]).any())

    def rows_of(self, named: pl.Series, hashes: npt.NDArray[np.uint64]) -> Ints:
        """``row`` of each named request, -1 where it is not known: found by hash, confirmed letter by letter, and by letters alone should hashes collide."""
        known, order = self._sorted
        found = np.full(len(named), -1, np.int64)
        if not known.size:
            return found
        if not self._collide:
            place = np.minimum(np.searchsorted(known, hashes), known.size - 1)
            head = np.flatnonzero(known[place] == hashes)
            at = order[place[head]]
            if (named.gather(pl.Series(head)) == self.frame["query_id"].gather(pl.Series(at))).all():
                found[head] = self.frame["row"].to_numpy()[at]
                return found
        joined = pl.DataFrame({"query_id": named}).join(self.frame, on="query_id", how="left", maintain_order="left")
        return joined["row"].cast(pl.Int64).fill_null(-1).to_numpy()


@dataclass(frozen=True)
class Attached:
    """Rows that belong to requests, sorted by ``row``, the number of the request."""

    row: Ints
    frame: pl.DataFrame

    @classmethod
    def to(cls, requests: Known, frame: pl.DataFrame) -> tuple[Attached, pl.Series]:
        """The rows of ``frame`` whose ``query_id`` is among ``requests``, and the other ids that ``frame`` names, hashed.

        Ids in ``frame`` mostly stand in runs, so only the head of each run is looked up; runs are told apart by 64-bit hashes.
        """
        ids = frame["query_id"]
        if frame.is_empty():
            return cls(np.empty(0, np.int64), frame.drop("query_id")), pl.Series([], dtype=pl.UInt64)
        hashes = ids.hash().to_numpy()
        heads = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
        named = ids.gather(pl.Series(heads))
        found = requests.rows_of(named, hashes[heads])
        others = named.filter(pl.Series(found < 0)).unique().hash()
        row = np.repeat(found, np.diff(np.append(heads, frame.height)))
        rest = frame.drop("query_id")
        if len(others):
            rest, row = rest.filter(pl.Series(row >= 0)), row[row >= 0]
        return cls(row, rest).sorted(), others

    def sorted(self) -> Attached:
        """The same rows by number of their request."""
        if not (self.row[1:] < self.row[:-1]).any():
            return self
        order = np.argsort(self.row, kind="stable")
        return Attached(self.row[order], self.frame.select(pl.all().gather(pl.Series(order))))

    def only(self, chosen: pl.Expr, *columns: str) -> Attached:
        """The rows that an expression chooses, with some of their columns."""
        mask = self.frame.select(chosen.fill_null(value=False)).to_series()
        return Attached(self.row[mask.to_numpy()], self.frame.filter(mask).select(columns))

    def between(self, first: int, last: int) -> Attached:
        """The rows of the requests ``first <= number < last``, counted from ``first``."""
        low, high = np.searchsorted(self.row, [first, last])
        return Attached(self.row[low:high] - first, self.frame.slice(int(low), int(high - low)))

    def renumbered(self, number: Ints) -> Attached:
        """The same rows after their requests got new numbers, in the same order."""
        return Attached(number[self.row], self.frame)


@dataclass(frozen=True)
class Evidence:
    """What is known about requests besides themselves: clicks (``object_id``), ratings (``value``, ``timestamp``, ``key`` of the client), which actions were
    simulated, and judgments (``doc_id``, ``relevance``), null where none were given.
    """

    clicks: Attached
    ratings: Attached
    simulated: Attached
    judgments: Attached | None
    missing: int

    @classmethod
    def of(cls, requests: pl.DataFrame, actions: pl.DataFrame, judgments: Sequence[Callable[[], pl.DataFrame]] | None, workers: int = 1) -> Evidence:
        """Attach actions and judgments to ``requests`` (``query_id``, ``row``); judgments are read in pieces, ``workers`` at a time, whose ids are let go then.

        Raises
        ------
        BadInput
            Judgments lack a column, have empty relevances, or are of more than one origin.
        """
        missing, judged, known = 0, None, Known(requests)
        if judgments is not None:
            with ThreadPoolExecutor(max_workers=workers) as pool:
                pieces = list(pool.map(lambda read: _attached(known, read()), judgments))
            parts, unknown = [part for part, _, _ in pieces], [pl.Series([], dtype=pl.UInt64), *(others for _, others, _ in pieces)]
            origins = set[str]().union(*(named for _, _, named in pieces))
            if len(origins) > 1:
                raise BadInput(f"judgments of {len(origins)} origins ({', '.join(map(str, origins))}) are never mixed silently; choose one.")
            missing = pl.concat(unknown).n_unique()
            judged = Attached(np.concatenate([part.row for part in parts]), pl.concat([part.frame for part in parts])).sorted() if parts else None
        named = actions.select("query_id", "action_name", "object_id", "value", "timestamp", "simulated", key=pl.coalesce("client_id", "query_id"))
        attached, _ = Attached.to(known, named)
        clicks = attached.only((pl.col("action_name") == "click") & pl.col("object_id").is_not_null(), "object_id")
        ratings = attached.only(pl.col("action_name") == "rating", "value", "timestamp", "key")
        simulated = attached.only(pl.col("simulated"), "simulated")
        return cls(clicks, ratings, simulated, judged, missing)

    def between(self, first: int, last: int) -> Evidence:
        """The evidence of the requests ``first <= number < last``."""
        clicks, ratings, simulated = (part.between(first, last) for part in (self.clicks, self.ratings, self.simulated))
        return Evidence(clicks, ratings, simulated, None if self.judgments is None else self.judgments.between(first, last), 0)

    def renumbered(self, number: Ints) -> Evidence:
        """The same evidence after the requests got new numbers, in the same order."""
        clicks, ratings, simulated = (part.renumbered(number) for part in (self.clicks, self.ratings, self.simulated))
        return Evidence(clicks, ratings, simulated, None if self.judgments is None else self.judgments.renumbered(number), 0)


def _attached(known: Known, judgments: pl.DataFrame) -> tuple[Attached, pl.Series, set[str]]:
    """One piece of judgments with the origins that it names."""
    require(judgments, "judgments", ["query_id", "doc_id", "relevance"])
    origins = set(judgments["origin"].unique().to_list()) if "origin" in judgments.columns else set()
    return *Attached.to(known, judgments.select("query_id", "doc_id", pl.col("relevance").cast(pl.Float64))), origins


def tally(requests: Requests, evidence: Evidence, plan: Plan) -> Aggregate:
    """The aggregate of some requests.

    Raises
    ------
    BadInput
        A document is judged twice for one request, or a measure is unknown.
    """
    frame = requests.frame
    if frame.is_empty():
        return Aggregate({}, {"events": 0}, plan.eta)
    segment = pl.lit(None, pl.String) if plan.segment is None else pl.col(plan.segment).cast(pl.String)
    flags = frame.select(
        pl.struct("model_digest", "variant", kind=_KIND, segment=segment).alias("cell"),
        answered=ANSWERED & ~pl.col("degraded"),
        served=ANSWERED | FAILED,
        failed=FAILED,
        timed=(ANSWERED | FAILED) & pl.col("cpu_seconds").is_not_null(),
        simulated="simulated",
    )
    numbers: dict[str, npt.NDArray[Any]] = {name: flags[name].fill_null(value=False).to_numpy() for name in flags.columns[1:]}
    found = _Found(
        numbers
        | {
            "latency": frame["latency_ms"].to_numpy(),
            "cpu": frame["cpu_seconds"].fill_null(0.0).to_numpy(),
            "time": frame["timestamp"].to_physical().to_numpy(),
        },
        Keys.of(frame["client_id"]),
        _clicked(requests, evidence.clicks, plan.eta),
        None if evidence.judgments is None else _judged(requests, evidence.judgments, plan),
        evidence,
        plan,
    )
    codes = flags["cell"].hash().to_numpy()
    _, first, code = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(code, kind="stable")
    bounds = np.searchsorted(code[order], np.arange(first.size + 1))
    keys = [CellKey(**row) for row in flags["cell"].gather(pl.Series(first)).to_list()]
    cells = {key: found.cell(order[bounds[i] : bounds[i + 1]]) for i, key in enumerate(keys)}
    return Aggregate(cells, {"events": frame.height}, plan.eta)


@dataclass(frozen=True)
class _Judged:
    scores: dict[str, Floats]
    known: npt.NDArray[np.bool_]
    documents: Ints
    unjudged: Ints
    repeated: Ints


@dataclass(frozen=True)
class _Found:
    """Arrays over all requests of a batch, from which cells are cut."""

    numbers: dict[str, npt.NDArray[Any]]
    clients: Keys
    clicked: tuple[Floats, Floats]
    judged: _Judged | None
    evidence: Evidence
    plan: Plan

    def cell(self, at: Ints) -> Cell:
        own = {name: array[at] for name, array in self.numbers.items()}
        answered, served, timed = at[own["answered"]], at[own["served"]], at[own["timed"]]
        counts = {name: int(own[name].sum()) for name in ("answered", "served", "failed", "simulated")} | {"requests": at.size}
        latency = self.numbers["latency"][answered]
        latency = latency[~np.isnan(latency)]  # UBI has no field for it: another service's searches may come without
        families = {"latency": Totals.of([latency], ["latency_ms"])} if latency.size else {}
        if timed.size:
            families["cpu"] = Totals.of([self.numbers["cpu"][timed]], ["cpu_seconds"])
        newest = {name: self._latest(chosen) for name, chosen in (("answered", answered), ("served", served), ("timed", timed)) if chosen.size}
        if answered.size:
            value, clicked = (array[answered] for array in self.clicked)
            families["clicks"] = Totals.of([value, clicked], ["value", "clicked"], self.clients.at(answered))
            counts["clicked"] = int(clicked.sum())
        mine = np.zeros(self.numbers["time"].size, bool)
        mine[at] = True
        counts["clicks"] = int(mine[self.evidence.clicks.row].sum())
        self._add_ratings(mine, counts, newest, families)
        if self.judged is not None:
            self._add_judged(answered, counts, families)
        return Cell(counts, newest, families, Latencies.of(latency))

    def _latest(self, at: Ints) -> datetime:
        moment: Any = pl.Series([int(self.numbers["time"][at].max())]).cast(pl.Datetime("us", "UTC")).item()
        return moment  # type: ignore[no-any-return]

    def _add_ratings(self, mine: npt.NDArray[np.bool_], counts: dict[str, int], newest: dict[str, datetime], families: dict[str, Totals]) -> None:
        ratings, simulated = self.evidence.ratings, self.evidence.simulated
        counts["simulated"] += int(mine[simulated.row].sum())
        if not ratings.row.size:
            return
        own = ratings.frame.filter(pl.Series(mine[ratings.row]))
        usable = own.filter(pl.col("value").is_between(1.0, 5.0))
        counts |= {"bad_ratings": own.height - usable.height, "ratings": usable.height}
        if usable.height:
            value = usable["value"].to_numpy()
            promoter = (value >= 4.5).astype(np.float64) - (value < 3.5)
            families["ratings"] = Totals.of([value, promoter], ["rating", "promoter"], usable["key"])
            latest: Any = usable["timestamp"].max()
            newest["rated"] = latest

    def _add_judged(self, answered: Ints, counts: dict[str, int], families: dict[str, Totals]) -> None:
        judged = self.judged
        assert judged is not None
        own = answered[judged.known[answered]]
        counts |= {"judged": own.size, "unjudged_requests": answered.size - own.size}
        counts |= {"documents": int(judged.documents[own].sum()), "unjudged_documents": int(judged.unjudged[own].sum())}
        counts["repeated"] = int(judged.repeated[own].sum())
        if own.size:
            keys = self.clients.at(own) if self.plan.clustered else None
            families["judged"] = Totals.of([array[own] for array in judged.scores.values()], list(judged.scores), keys)


def _clicked(requests: Requests, clicks: Attached, eta: float) -> tuple[Floats, Floats]:
    """Inverse-propensity DCG@10 of each request's clicks, and whether it has one; what was not shown does not count."""
    n = requests.frame.height
    if not clicks.row.size:
        return np.zeros(n), np.zeros(n)
    pool = Pool(clicks.row, np.ones(clicks.row.size))
    hits = match(requests.lengths, requests.documents, pool, clicks.frame["object_id"], requests.hashes).hits
    within = hits.position <= CLICK_DEPTH
    row, place = np.divmod(np.unique(hits.row[within] * (CLICK_DEPTH + 1) + hits.position[within]), CLICK_DEPTH + 1)  # a document once per request
    position = place.astype(np.float64)
    value = np.bincount(row, weights=position**eta / np.log2(position + 1.0), minlength=n).astype(np.float64)
    return value, (np.bincount(row, minlength=n) > 0).astype(np.float64)


def _judged(requests: Requests, judgments: Attached, plan: Plan) -> _Judged:
    n, row = requests.frame.height, judgments.row
    documents, relevance = judgments.frame["doc_id"], judgments.frame["relevance"].to_numpy()
    hashes = documents.hash().to_numpy()
    _refuse_doubles(requests, row, documents, hashes)
    if not plan.graded:
        relevance = (relevance >= plan.min_relevance).astype(np.float64)
    pool = Pool(row, relevance)
    found = match(requests.lengths, requests.documents, pool, documents, requests.hashes, hashes)
    measures = [Measure.parse(name) for name in plan.measures]
    scores = score(found.hits, pool, requests.lengths, measures, plan.min_relevance if plan.graded else 1.0)
    known = np.bincount(row, minlength=n) > 0
    shown = np.minimum(requests.lengths, JUDGED_DEPTH)
    first: Hits = found.hits
    covered = np.bincount(first.row[first.position <= JUDGED_DEPTH], minlength=n)
    return _Judged(scores, known, shown, shown - covered, np.bincount(found.repeated, minlength=n))


def _refuse_doubles(requests: Requests, row: Ints, documents: pl.Series, hashes: npt.NDArray[np.uint64]) -> None:
    most = int(np.bincount(row).max(initial=0)) if row.size else 0
    if most <= _NEIGHBOURS:  # a request's judgments stand together
        suspected = any(bool(((hashes[step:] == hashes[:-step]) & (row[step:] == row[:-step])).any()) for step in range(1, most))
    else:
        keyed = np.sort(hashes ^ (row.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)))
        suspected = bool((keyed[1:] == keyed[:-1]).any())
    if not suspected:
        return
    pairs = pl.DataFrame({"row": row, "doc_id": documents})
    doubled = pairs.filter(pl.struct("row", "doc_id").is_duplicated())
    if doubled.height:
        at, document = doubled.row(0)
        raise BadInput(f"judgments: document {document!r} is judged twice for request {requests.frame['query_id'][at]!r}; keep one judgment of each pair.")


def aggregate_frames(requests: pl.DataFrame, actions: pl.DataFrame, plan: Plan | None = None, judgments: pl.DataFrame | None = None) -> Aggregate:
    """The aggregate of events that lie in memory; a request counts once.

    Parameters
    ----------
    requests, actions
        With the columns of ``SEARCH_SCHEMA`` and ``ACTION_SCHEMA``.
    judgments
        ``query_id`` (of the request), ``doc_id``, ``relevance``; of one origin.

    Raises
    ------
    BadInput
        As :func:`tally`.
    """
    plan = plan or Plan()
    once = requests.unique("query_id", keep="first", maintain_order=True) if requests["query_id"].is_duplicated().any() else requests
    evidence = Evidence.of(once.select("query_id").with_row_index("row"), actions, None if judgments is None else [lambda: judgments])
    found = tally(Requests.of(once, plan.segment), evidence, plan)
    return Aggregate(found.cells, {**found.counts, "repeated": requests.height - once.height, "missing": evidence.missing}, plan.eta)
