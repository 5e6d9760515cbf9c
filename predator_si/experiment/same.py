"""A/A: the trial's own verdict on traffic that one model served, split at random as a trial splits it and looked at as often. What is called harm there is a
false alarm.

What belongs here: replaying stored traffic through ``judge_ab`` itself, and counting. What must not: another way of judging.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from pydantic import Field

from predator_si.errors import BadInput
from predator_si.experiment.evidence import anonymise
from predator_si.experiment.guardrails import default_guardrails
from predator_si.experiment.plan import GROWTH
from predator_si.experiment.quality import asked_by_people
from predator_si.experiment.verdict import judge_ab
from predator_si.records import Record, Verdict
from predator_si.search.events import EventFrames
from predator_si.statistics.design import DEFAULT_DESIGN, Design

Progress = Callable[[int, int], None]


class SameReplay(Record):
    """``aa_replay.json``: what the trial's rule says of a model against itself, over many random splits of the same traffic.

    The splits share their traffic, so their answers depend on each other: the interval is that of independent ones and only says how far ``splits`` reaches.
    """

    contour: str
    digest: str
    window_start: datetime
    window_end: datetime
    created_at: datetime
    requests: int = Field(ge=0)
    clients: int = Field(ge=0)
    splits: int = Field(ge=1)
    looks: int = Field(default=0, ge=0)
    """Judgements in all: each split is looked at while its traffic grows, until a trial would have ended."""
    share: float
    rejected: int = Field(ge=0)
    invalid: int = Field(ge=0)
    promoted: int = Field(ge=0)
    """As not worse than itself, which it is not."""
    false_alarm_rate: float
    """Rejected or invalid, of all splits."""
    false_alarm_upper: float
    """Exact upper 95% bound of it (Clopper and Pearson 1934)."""
    promised: float
    """What the levels of the guardrails, the slices and the sample-ratio check sum to."""
    reasons: tuple[str, ...] = ()
    """Of the first false alarms."""

    @property
    def holds(self) -> bool:
        """Whether so many false alarms are no surprise under what was promised."""
        from scipy.stats import binom

        return bool(binom.sf(self.rejected + self.invalid - 1, self.splits, self.promised) > 0.01)


def replay_same(
    events: EventFrames,
    digest: str,
    *,
    window_start: datetime,
    window_end: datetime,
    now: datetime,
    contour: str = "local",
    share: float = 0.2,
    splits: int = 100,
    min_sample: int = 200,
    seed: int = 0,
    design: Design = DEFAULT_DESIGN,
    on_progress: Progress | None = None,
) -> SameReplay:
    """Judge stored traffic of one model as if its clients had been on trial, ``splits`` times, each at growing parts of the traffic until a verdict ends it.

    Parameters
    ----------
    events
        Of a window in which ``digest`` was the only champion; requests that another model answered are left out.
    share
        Of the clients that play the challenger's.

    Raises
    ------
    BadInput
        Fewer requests than ``min_sample``: a trial would not have been judged either.
    """
    plain = anonymise(events, window_start, window_end)
    mine = asked_by_people(plain.search).filter(pl.col("model_digest") == digest).with_columns(_client=pl.coalesce("client_id", "query_id"))
    if mine.height < min_sample:
        raise BadInput(f"A/A replay: {mine.height} requests of {digest[:19]} in the window, {min_sample} are needed. Take a longer window.")
    clients = mine["_client"].unique(maintain_order=True)
    rng, verdicts, reasons, looks = np.random.default_rng(seed), [], [], 0
    ends = [*(mine["timestamp"][size - 1] + timedelta(microseconds=1) for size in growing(min_sample, mine.height)[:-1]), window_end]
    for number in range(splits):
        theirs = pl.DataFrame({"_client": clients, "_theirs": rng.random(clients.len()) < share})
        variant = pl.when("_theirs").then(pl.lit("candidate")).otherwise(pl.lit("champion"))
        search = mine.join(theirs, on="_client", how="left", maintain_order="left").with_columns(variant=variant).drop("_client", "_theirs")
        split = replace(plain, search=search)
        for end in ends:
            common: dict[str, Any] = {"window_start": window_start, "window_end": end, "now": end, "contour": contour, "min_sample": min_sample}
            found = judge_ab(split, digest, digest, cycle_id="A/A", split=share, same_model=True, design=design, **common)
            looks += 1
            if found.verdict is not Verdict.INCONCLUSIVE or found.reason.startswith("invalid"):
                break
        verdicts.append("invalid" if found.reason.startswith("invalid") else found.verdict.value)
        if verdicts[-1] in ("invalid", Verdict.REJECT.value):
            reasons.append(found.reason)
        if on_progress is not None:
            on_progress(number + 1, splits)
    rejected, invalid = verdicts.count(Verdict.REJECT.value), verdicts.count("invalid")
    return SameReplay(
        contour=contour,
        digest=digest,
        window_start=window_start,
        window_end=window_end,
        created_at=now,
        requests=mine.height,
        clients=clients.len(),
        splits=splits,
        looks=looks,
        share=share,
        rejected=rejected,
        invalid=invalid,
        promoted=verdicts.count(Verdict.PROMOTE.value),
        false_alarm_rate=(rejected + invalid) / splits,
        false_alarm_upper=_upper(rejected + invalid, splits),
        promised=design.harm_alpha * (len(default_guardrails(contour)) + 1) + design.sample_ratio_alpha,
        reasons=tuple(reasons[:5]),
    )


def growing(least: int, most: int) -> list[int]:
    """Requests at which a trial of ``most`` is looked at: at its minimum, then whenever there are ``GROWTH`` times as many, and at the end."""
    found = [least]
    while found[-1] * GROWTH < most:
        found.append(-int(-GROWTH * found[-1] // 1))
    return [*found, most] if found[-1] < most else found


def _upper(bad: int, n: int) -> float:
    from scipy.special import betaincinv

    return 1.0 if bad == n else float(betaincinv(bad + 1, n - bad, 0.95))
