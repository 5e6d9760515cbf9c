"""Whether a language model's grades may be used, and how its error enters an interval.

What belongs here: agreement with people, the refusal, the corrected mean. What must not: asking the model (``llm_judge``).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.errors import BadInput
from predator_si.monitor.judgments.judgment_set import JudgmentSet
from predator_si.records import Interval, Record
from predator_si.statistics import prediction_powered_mean

MIN_LABELS = 100
KAPPA_LIMIT = 0.4
"""The lower end of kappa's 95% interval must reach it: below lies what Landis and Koch (1977) call slight and fair."""
_GRADES = 4
_RESAMPLES = 1000
_LEAST_QUERIES = 30


class LLMCalibration(Record):
    """How a model's grades agree with people's on the same pairs.

    ``confusion[h][m]`` counts pairs that people graded ``h`` and the model ``m``. ``usable`` is the answer, ``reason`` why.
    """

    judge: str
    labels: int
    queries: int
    confusion: list[list[int]]
    agreement: float | None
    kappa: float | None
    kappa_low: float | None = None
    kappa_high: float | None = None
    bias: float | None = None
    """Mean of the model's grade minus people's, in grades: above 0 is a lenient judge."""
    usable: bool
    reason: str


def weighted_kappa(confusion: npt.ArrayLike) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968): 1 is full agreement, 0 what two independent judges with these margins reach.

    Not a number where both judges gave everything one grade.
    """
    table = np.asarray(confusion, np.float64)
    grades = np.arange(len(table))
    weights = (grades[:, None] - grades) ** 2
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    bottom = float((weights * expected).sum())
    return 1.0 - float((weights * table).sum()) / bottom if bottom > 0.0 else float("nan")


def calibrate(llm: JudgmentSet, human: JudgmentSet, *, min_labels: int = MIN_LABELS, kappa_limit: float = KAPPA_LIMIT, seed: int = 0) -> LLMCalibration:
    """Compare the model's grades with people's on the pairs that both judged.

    People's grades are brought to 0..3 and rounded; several people are averaged first. The interval of kappa resamples queries, since the pairs of one
    query are alike. The model may be used with ``min_labels`` pairs or more and the lower end of the interval at ``kappa_limit`` or above.

    Raises
    ------
    BadInput
        Labels of other origins than ``llm`` and ``human`` or ``feedback`` are among them.
    """
    strange = set(llm.counts) - {"llm"} | set(human.counts) - {"human"}
    if strange:
        raise BadInput(f"a language model is calibrated against people: labels of origin {', '.join(sorted(strange))} do not belong here.")
    judge = ", ".join(sorted({str(name) for name in llm.frame["judge"].unique().to_list()})) or "nobody"
    people = human.frame.group_by("query_id", "doc_id").agg(h=(pl.col("relevance") / pl.col("scale")).mean() * (_GRADES - 1))
    model = llm.frame.group_by("query_id", "doc_id").agg(m=(pl.col("relevance") / pl.col("scale")).mean() * (_GRADES - 1))
    both = people.join(model, on=["query_id", "doc_id"], how="inner").sort("query_id", "doc_id")
    h, m = (np.rint(both[name].to_numpy()).astype(np.int64) for name in ("h", "m"))
    confusion = _table(h, m)
    facts = {"judge": judge, "labels": both.height, "queries": both["query_id"].n_unique(), "confusion": confusion.astype(int).tolist()}
    if both.height < min_labels:
        reason = f"{both.height} pairs were graded by people and by the model, {min_labels} are needed"
        return LLMCalibration(**facts, agreement=None, kappa=None, usable=False, reason=reason)
    kappa = weighted_kappa(confusion)
    low, high = _interval(both["query_id"].rank("dense").cast(pl.Int64).to_numpy() - 1, h, m, seed)
    known = bool(np.isfinite([kappa, low, high]).all())
    usable = known and low >= kappa_limit
    shown = f"weighted kappa {kappa:.3f} [{low:.3f}, {high:.3f}] on {both.height} pairs" if known else "one grade was given to everything"
    return LLMCalibration(
        **facts,
        agreement=float((h == m).mean()),
        kappa=kappa if known else None,
        kappa_low=low if known else None,
        kappa_high=high if known else None,
        bias=float((m - h).mean()),
        usable=usable,
        reason=f"{shown}, the lower end must reach {kappa_limit:g}",
    )


def corrected_mean(human: Mapping[str, float], llm: Mapping[str, float], *, tuned: bool = True) -> Interval:
    """The mean of a per-query metric from the model's labels, its error measured on the queries that people judged too.

    Prediction-powered: see :func:`~predator_si.statistics.prediction_powered_mean`.

    Parameters
    ----------
    human
        The metric under people's labels, by query id.
    llm
        The metric under the model's labels, by query id; every query of ``human`` among them.

    Raises
    ------
    BadInput
        Fewer than thirty queries that both judged, fewer than two that only the model judged, or a query of ``human`` that ``llm`` lacks.
    """
    lacking = sorted(set(human) - set(llm))
    if lacking:
        raise BadInput(f"{len(lacking)} queries were judged by people and not by the model (the first is {lacking[0]}); grade them too.")
    if len(human) < _LEAST_QUERIES:
        raise BadInput(f"{len(human)} queries were judged by people and by the model, {_LEAST_QUERIES} are needed to know the model's error.")
    labelled = sorted(human)
    rest = [value for query_id, value in sorted(llm.items()) if query_id not in human]
    return prediction_powered_mean([human[q] for q in labelled], [llm[q] for q in labelled], rest, tuned=tuned)


def _table(h: npt.NDArray[np.int64], m: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.bincount(h * _GRADES + m, minlength=_GRADES**2).reshape(_GRADES, _GRADES)


def _interval(query: npt.NDArray[np.int64], h: npt.NDArray[np.int64], m: npt.NDArray[np.int64], seed: int) -> tuple[float, float]:
    """Percentile interval over resampled queries."""
    tables = np.zeros((int(query.max()) + 1, _GRADES**2))
    np.add.at(tables, (query, h * _GRADES + m), 1.0)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(tables), np.full(len(tables), 1.0 / len(tables)), size=_RESAMPLES)
    kappas = [weighted_kappa(flat.reshape(_GRADES, _GRADES)) for flat in drawn @ tables]
    low, high = np.quantile(kappas, [0.025, 0.975])
    return float(low), float(high)
