"""Whether a trial may be judged at all: split, exposure, models, labels, order, freshness, who asked.

What belongs here: checks of the trial's own data. What must not: any metric, any verdict. A failed check means that no number of the trial can be
believed, good or bad: the trial is held with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal

import numpy as np
import polars as pl

from predator_si.monitor.traffic import ANSWERED, FAILED
from predator_si.records import Answer, Criterion, GateResult
from predator_si.search.events import EventFrames
from predator_si.statistics.counts import sample_ratio_log_e
from predator_si.statistics.design import DEFAULT_DESIGN, Design
from predator_si.statistics.evidence import always_valid_p

SAMPLE_RATIO_ALPHA = DEFAULT_DESIGN.sample_ratio_alpha
"""Chance that an intended split is ever called broken, however often one looks, where a contour says nothing else."""
TOLERATED_SHARE = 0.02
"""Of clients seen in both arms, of requests answered by a third model or under the other arm's name, of lost events: a swap in progress leaves a few."""
BUSIEST_CLIENT = 0.25
"""Share of all requests from which one client is a program and not a person."""
_BUSY_FROM = 50
"""Requests below which the busiest client says nothing."""
CLOCK_TOLERANCE = timedelta(seconds=60)
"""How far a writer's events may be out of order: requests that overlap end in another order than they began."""
STALE_AFTER = timedelta(hours=1)
"""Since the newest event; or a tenth of the trial, where that is longer."""


def quality_checks(
    events: EventFrames,
    champion: str,
    challenger: str,
    *,
    split: float,
    window: tuple[datetime, datetime],
    now: datetime,
    same_model: bool = False,
    design: Design = DEFAULT_DESIGN,
) -> list[GateResult]:
    """All checks of a trial's window, in a fixed order.

    Parameters
    ----------
    events
        Of the window; probes and twins' answers are left out here.
    champion, challenger
        Digests; with ``same_model`` one digest, and the variant tells the arms apart.
    split
        The challenger's intended share of the clients, 0..1 exclusive.
    """
    people = asked_by_people(events.search)
    arms = people.with_columns(arm=_arm(champion, challenger, same_model), client=pl.coalesce("client_id", "query_id"))
    return [
        _sample_ratio(arms, split, design),
        _single_exposure(arms),
        _models(arms),
        _labels(arms, champion, challenger, same_model),
        _duplicates(people),
        order_check(people),
        losses_check(events.lost, people.height),
        busiest_check(arms.filter(pl.col("arm").is_not_null() & (ANSWERED | FAILED))["client"]),
        _freshness(people, window, now),
    ]


def asked_by_people(search: pl.DataFrame) -> pl.DataFrame:
    """Requests that one of the two arms was to answer: no probe, no twin's answer, no merged list."""
    return search.filter(~pl.col("probe") & pl.col("stands_for").is_null() & pl.col("variant").fill_null("champion").is_in(["champion", "candidate"]))


def sample_ratio_path(first_seen: pl.Series, split: float, strength: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Log evidence against the split after each new client; ``first_seen`` says of each, in order, whether it is the challenger's."""
    theirs = first_seen.to_numpy().astype(np.int64).cumsum()
    counts = np.stack([np.arange(1, theirs.size + 1) - theirs, theirs], axis=-1)
    return sample_ratio_log_e(counts, [1.0 - split, split], strength=strength)


def new_clients(arms: pl.DataFrame) -> pl.Series:
    """Of each client, in the order of its first request, whether the challenger served it then."""
    served = arms.filter(pl.col("arm").is_not_null())
    return served.unique("client", keep="first", maintain_order=True)["arm"] == "challenger"


def within_limits(checks: Sequence[tuple[str, float | None, float, str, str]], n: int) -> list[GateResult]:
    """Gates of checks that are a number and its limit.

    Parameters
    ----------
    checks
        Name, value (null: unknown), limit, what was found, and what it means when the limit is passed.
    """
    found = []
    for name, value, most, told, harm in checks:
        answer = Answer.UNKNOWN if value is None else Answer.FAIL if value > most else Answer.PASS
        found.append(_gate(name, name, most, "max", answer, value, n, f"{told}; {harm}" if answer is Answer.FAIL else told))
    return found


def _arm(champion: str, challenger: str, same_model: bool) -> pl.Expr:
    """As ``champion_traffic`` assigns them: by digest; a failed request that names no model by the variant it names."""
    named = pl.col("variant").fill_null("champion")
    by_name = pl.when(named == "candidate").then(pl.lit("challenger")).otherwise(pl.lit("champion"))
    if same_model:
        return pl.when((pl.col("model_digest") == champion) | pl.col("model_digest").is_null()).then(by_name)
    return (
        pl.when(pl.col("model_digest") == champion).then(pl.lit("champion"))
        .when(pl.col("model_digest") == challenger).then(pl.lit("challenger"))
        .when(pl.col("model_digest").is_null()).then(by_name)
    )  # fmt: skip


def _gate(name: str, metric: str, limit: float, direction: Literal["min", "max"], answer: Answer, value: float | None, n: int, reason: str) -> GateResult:
    criterion = Criterion(name=name, metric=metric, direction=direction, threshold=limit)
    return GateResult(criterion=criterion, answer=answer, value=value, limit=limit, n=n, reason=reason)


def _sample_ratio(arms: pl.DataFrame, split: float, design: Design) -> GateResult:
    theirs, limit = new_clients(arms), design.sample_ratio_alpha
    n, got = theirs.len(), int(theirs.sum())
    if n == 0:
        return _gate("sample_ratio", "sample_ratio_p", limit, "min", Answer.UNKNOWN, None, 0, "no client was served by either model")
    # Ville's inequality: the inverse of the largest evidence so far is a p-value at every look.
    p = float(always_valid_p(sample_ratio_path(theirs, split, design.sample_ratio_strength))[-1])
    told = f"the challenger got {got / n:.1%} of {n} clients, intended {split:.1%} (sample-ratio p={p:.2g}, at any look)"
    if p < limit:
        return _gate("sample_ratio", "sample_ratio_p", limit, "min", Answer.FAIL, p, n, f"{told}; find out why before trusting any number")
    return _gate("sample_ratio", "sample_ratio_p", limit, "min", Answer.PASS, p, n, told)


def _share(name: str, bad: int, n: int, words: str, harm: str) -> GateResult:
    share = bad / n if n else 0.0
    answer = Answer.FAIL if share > TOLERATED_SHARE else Answer.PASS
    told = f"{bad} of {n} {words}" + (f"; {harm}" if answer is Answer.FAIL else "")
    return _gate(name, f"{name}_share", TOLERATED_SHARE, "max", answer, share, n, told)


def _single_exposure(arms: pl.DataFrame) -> GateResult:
    per_client = arms.filter(pl.col("arm").is_not_null()).group_by("client").agg(pl.col("arm").n_unique() > 1)
    return _share("exposure", int(per_client["arm"].sum()), per_client.height, "clients were served by both models", "assignment is not sticky")


def _models(arms: pl.DataFrame) -> GateResult:
    other = arms.filter(pl.col("arm").is_null()).height
    return _share("models", other, arms.height, "requests were answered by a third model", "the release changed during the trial")


def _labels(arms: pl.DataFrame, champion: str, challenger: str, same_model: bool) -> GateResult:
    if same_model:
        return _gate("labels", "labels_share", TOLERATED_SHARE, "max", Answer.NOT_APPLICABLE, None, 0, "one model with two settings: the label is the arm")
    named = arms.filter(pl.col("variant").is_not_null() & pl.col("model_digest").is_in([champion, challenger]))
    wrong = named.filter((pl.col("model_digest") == champion) != (pl.col("variant") == "champion")).height
    return _share("labels", wrong, named.height, "requests carry the name of the other arm", "a variant was given to another model during the trial")


def _duplicates(people: pl.DataFrame) -> GateResult:
    twice = people.height - people["query_id"].n_unique()
    answer = Answer.FAIL if twice else Answer.PASS
    told = f"{twice} of {people.height} requests were recorded twice" + ("; the reader keeps one of each, so somebody else made this frame" if twice else "")
    return _gate("duplicates", "duplicated_requests", 0.0, "max", answer, float(twice), people.height, told)


def order_check(recorded: pl.DataFrame) -> GateResult:
    """Whether events of one kind (``timestamp``, ``writer``, ``seq``) carry times in the order in which their writers numbered them."""
    numbered = recorded.filter(pl.col("seq").is_not_null() & pl.col("writer").is_not_null()).sort("writer", "seq")
    limit = CLOCK_TOLERANCE.total_seconds()
    if not numbered.height:
        return _gate("order", "clock_back_seconds", limit, "max", Answer.NOT_APPLICABLE, None, 0, "the events carry no numbers to compare with their times")
    back = numbered.select((pl.col("timestamp").cum_max().over("writer") - pl.col("timestamp")).dt.total_microseconds().max() / 1e6).item() or 0.0
    told = f"the latest event is {back:.0f} s older than one its writer had written before"
    if back > limit:
        return _gate(
            "order", "clock_back_seconds", limit, "max", Answer.FAIL, back, numbered.height, f"{told}; a clock went backwards, or events were reordered"
        )
    return _gate("order", "clock_back_seconds", limit, "max", Answer.PASS, back, numbered.height, "events are in the order in which they were written")


def losses_check(lost: int, n: int) -> GateResult:
    """Whether few enough events are missing beside the ``n`` that are there."""
    return _share("losses", lost, n + lost, "events were issued and are stored nowhere", "who is missing may be who was harmed")


def busiest_check(clients: pl.Series) -> GateResult:
    """Whether no client sent more requests than people do; ``clients`` has one entry a request, nobody's among them as null."""
    n = clients.len()
    if n < _BUSY_FROM:
        return _gate("busiest_client", "busiest_client_share", BUSIEST_CLIENT, "max", Answer.PASS, None, n, f"{n} requests, too few to call anybody busy")
    named = clients.drop_nulls()
    share = int(named.value_counts()["count"].max()) / n if named.len() else 0.0  # type: ignore[arg-type]
    told = f"the busiest client sent {share:.1%} of {n} requests"
    if share > BUSIEST_CLIENT:
        return _gate("busiest_client", "busiest_client_share", BUSIEST_CLIENT, "max", Answer.FAIL, share, n, f"{told}; that is a program, leave it out first")
    return _gate("busiest_client", "busiest_client_share", BUSIEST_CLIENT, "max", Answer.PASS, share, n, told)


def _freshness(people: pl.DataFrame, window: tuple[datetime, datetime], now: datetime) -> GateResult:
    limit = max(STALE_AFTER, (window[1] - window[0]) / 10)
    newest = people["timestamp"].max()
    if not isinstance(newest, datetime):
        return _gate("freshness", "newest_event_age_seconds", limit.total_seconds(), "max", Answer.UNKNOWN, None, 0, "there is no event")
    age = now - newest
    told = f"the newest event is {age.total_seconds():.0f} s old"
    answer = Answer.FAIL if age > limit else Answer.PASS
    told += f", at most {limit.total_seconds():.0f} s are judged; the data are stale" if answer is Answer.FAIL else ""
    return _gate("freshness", "newest_event_age_seconds", limit.total_seconds(), "max", answer, age.total_seconds(), people.height, told)
