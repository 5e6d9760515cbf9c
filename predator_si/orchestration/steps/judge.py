"""Labels and propensities of this home, brought up to date; what they add to a snapshot.

What belongs here: reading and writing around the pure functions of ``monitor.judgments``. What must not: estimates, gates.

::

    <home>/judgments/position_bias.json    examination propensities, fitted once a day on the newest week
    <home>/judgments/<name>.parquet        judgment sets by name: imported ones, and ``clicks`` and ``feedback`` of this home's own users
    <home>/judgments/llm.db                grades of the language model, and what it cost
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import polars as pl

from predator_si.errors import PredatorError
from predator_si.language_model import Budget
from predator_si.monitor.intake import read_window, with_results
from predator_si.monitor.judgments import (
    PROBED_SPLIT,
    SCHEMA,
    Feedback,
    JudgmentSet,
    JudgmentStore,
    LLMEndpoint,
    LLMJudge,
    PositionBias,
    best_position_bias,
    calibrate,
    click_judgments,
    click_metrics,
    corrected_mean,
    feedback_judgments,
    impressions,
    judged_scores,
    text_id,
    votes_of,
)
from predator_si.monitor.probes import ProbeResult
from predator_si.monitor.traffic import champion_traffic
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import references
from predator_si.privacy import open_text
from predator_si.records import Metric, MetricsSnapshot, utc_now
from predator_si.search.events import EventFrames
from predator_si.search.personal import existing_vault

_WINDOW = timedelta(days=7)
_REFIT = timedelta(days=1)
_RETRY = timedelta(hours=1)
"""While nothing is known, more often."""
_REQUESTS = 100_000
"""Requests that a fit and the click metrics of one window look at: a million impressions."""
OWN_SETS = ("clicks", "feedback")
"""Sets that this step writes; imported ones have other names."""


@dataclass(frozen=True)
class Judged:
    """The labels of a home.

    Attributes
    ----------
    counts
        Labels by origin, the corpus's own among them.
    sets
        Labels by set and origin.
    bias
        Propensities, or why there are none.
    feedback
        Votes of the newest week and their conflicts; null where it was not yet time to look again.
    """

    counts: dict[str, int]
    sets: dict[str, dict[str, int]]
    bias: PositionBias
    feedback: Feedback | None


def refresh(loop: Loop, now: datetime | None = None) -> Judged:
    """Where they are a day old: fit the propensities, write the click and feedback labels of the newest week. Count all labels by origin."""
    now = now or utc_now()
    store, bias, votes = JudgmentStore(loop.home.judgments), known_bias(loop), None
    if bias is None or _due(bias, now):
        searches, actions, start = _week(loop, now)
        shown = impressions(searches, actions)
        bias = best_position_bias(shown, window=(start, now), fitted_at=now, simulated=bool(searches["simulated"].any()))
        least = loop.settings.values.privacy.min_clients
        votes = feedback_judgments(votes_of(searches, actions), min_clients=max(least, 2))
        store.save("clicks", click_judgments(shown, bias, min_clients=least))
        # People's words stay in the vault: the labels know a query by its hash.
        store.save("feedback", JudgmentSet(votes.judgments.frame.with_columns(query=pl.lit(None))))
        references.write(loop.home.judgments / "position_bias.json", bias)
    sets = {"corpus": {corpus_origin(loop): loop.corpus.judgments().height}} | {name: store.load(name).counts for name in store.names()}
    counts: dict[str, int] = {}
    for found in sets.values():
        for origin, n in found.items():
            counts[origin] = counts.get(origin, 0) + n
    return Judged(counts, sets, bias, votes)


def known_bias(loop: Loop) -> PositionBias | None:
    """The propensities of this home, null before they were ever fitted."""
    path = loop.home.judgments / "position_bias.json"
    return PositionBias.read(path) if path.is_file() else None


def corpus_origin(loop: Loop) -> str:
    """Who judged the corpus: the docstrings themselves, or people."""
    return "docstring" if loop.corpus.name == "python-docs" else "human"


def add_judged(loop: Loop, snapshot: MetricsSnapshot, events: EventFrames, probes: ProbeResult | None) -> MetricsSnapshot:
    """The snapshot with click metrics under fitted propensities, and with the language model's where the contour has one.

    Of a large window a sample of requests is looked at, and the source says so.

    Where propensities are unknown the assumed ones stay, and the source says why.
    """
    metrics = dict(snapshot.metrics)
    window = {"window_start": snapshot.window_start, "window_end": snapshot.window_end}
    bias = known_bias(loop)
    if bias is not None and bias.weights(10) is not None:
        people = events.search.filter(~pl.col("probe"))
        some = people.sample(_REQUESTS, seed=0) if people.height > _REQUESTS else people
        frames = replace(events, search=with_results(loop.home.telemetry, some))
        traffic = champion_traffic(frames, snapshot.window_start, snapshot.window_end, snapshot.champion)
        of = f", {some.height} of {people.height} requests" if some.height < people.height else ""
        clicked = click_metrics(traffic, bias, snapshot.created_at)
        metrics |= {one.name: one.model_copy(update=window | {"source": one.source + of}) for one in clicked}
    elif (assumed := metrics.get("ndcg_at_10_clicks")) is not None:
        why = "propensities were not fitted yet" if bias is None else bias.reason or next(one.reason for one in bias.positions if one.reason) or "unknown"
        metrics[assumed.name] = assumed.model_copy(update={"source": f"{assumed.source}, assumed: {why}"})
    if loop.settings.values.llm_judge.enabled:
        found = llm_metric(loop, probes, snapshot.created_at)
        metrics[found.name] = found if found.window_start is not None else found.model_copy(update=window)
    return snapshot.model_copy(update={"metrics": metrics})


def llm_metric(loop: Loop, probes: ProbeResult | None, now: datetime) -> Metric:
    """``ndcg_at_10_llm``: NDCG@10 of the probes under the language model's grades, corrected by the queries that people judged.

    Only probes are graded: the first ten results and what the corpus knows to be relevant. Nothing is asked beyond the contour's budget.
    """
    said, name = loop.settings.values.llm_judge, "ndcg_at_10_llm"
    source = f"judged by {said.model}"
    if probes is None:
        return Metric(name=name, value=None, source=source, reason="no judged probes were sent in this window")
    assert said.base_url is not None and said.model is not None  # an enabled judge has both
    endpoint = LLMEndpoint(said.base_url, said.model, said.key_env, usd_per_million_in=said.usd_per_million_in, usd_per_million_out=said.usd_per_million_out)
    human = _human(loop)
    ranked = probes.per_query.filter(pl.col("error").is_null()).select("query_id", "text", doc_id=pl.col("result_ids").list.head(10))
    run = ranked.filter(pl.col("doc_id").list.len() > 0).with_columns(rank=pl.int_ranges(1, pl.col("doc_id").list.len() + 1)).explode("doc_id", "rank")
    pairs = _pairs(loop, run, human)
    active = loop.control.active_cycle(loop.contour)
    cycle = active.cycle_id if active is not None else f"day {now:%Y-%m-%d}"
    try:
        grading = LLMJudge(endpoint, loop.home.judgments / "llm.db").grade(
            pairs, Budget(said.usd_per_cycle, said.tokens_per_cycle), cycle, most=said.questions_per_tick
        )
        known = calibrate(grading.judgments, human, kappa_limit=said.kappa)
        source += f", {grading.judgments.height} grades, {grading.malformed} malformed, {grading.unjudged} not asked; {known.reason}"
        if not known.usable:
            return Metric(name=name, value=None, source=source, reason=f"the judge is not used: {known.reason}")
        whole = pairs.join(grading.judgments.frame.select("query_id", "doc_id", _graded=pl.lit(True)), on=["query_id", "doc_id"], how="left")
        complete = whole.group_by("query_id").agg(pl.col("_graded").fill_null(False).all()).filter(pl.col("_graded")).select("query_id")
        scored = run.join(complete, on="query_id", how="semi").select("query_id", "doc_id", "rank")
        by_llm, _ = judged_scores(scored, grading.judgments.only("llm"), ["nDCG@10"])
        by_people, _ = judged_scores(scored, JudgmentSet(human.frame.join(complete, on="query_id", how="semi")), ["nDCG@10"])
        interval = corrected_mean(_values(by_people), _values(by_llm.join(complete, on="query_id", how="semi")))
    except PredatorError as error:
        return Metric(name=name, value=None, source=source, reason=str(error))
    return Metric(
        name=name,
        value=interval.estimate,
        ci_low=interval.low,
        ci_high=interval.high,
        n=interval.n,
        source=f"{source}; corrected by {by_people.height} queries that people judged (prediction-powered)",
        window_start=probes.started_at,
        window_end=probes.ended_at,
        age_seconds=max(0.0, (now - probes.ended_at).total_seconds()),
    )


def _values(scores: pl.DataFrame) -> dict[str, float]:
    return dict(scores.select("query_id", "nDCG@10").drop_nulls().iter_rows())


def _human(loop: Loop) -> JudgmentSet:
    """People's labels of dev queries, on 0..3: imported sets, and the corpus's own where people made it. Of several for one pair the mean.

    A set that was imported without a corpus knows its queries by their text.
    """
    store, queries = JudgmentStore(loop.home.judgments), loop.corpus.queries(split=PROBED_SPLIT)
    known = {text_id(text): query_id for query_id, text in queries.select("query_id", "text").iter_rows()}
    found = [store.load(name).only("human").frame for name in store.names() if name not in OWN_SETS]
    if corpus_origin(loop) == "human":
        found.append(JudgmentSet.of(loop.corpus.judgments(split=PROBED_SPLIT), "human").frame)
    merged = pl.concat([pl.DataFrame(schema=SCHEMA), *found]).with_columns(pl.col("query_id").replace(known))
    graded = merged.group_by("query_id", "doc_id", maintain_order=True).agg(relevance=(pl.col("relevance") / pl.col("scale")).mean() * 3.0)
    return JudgmentSet.of(graded.join(queries.select("query_id"), on="query_id", how="semi"), "human", scale=3.0)


def _pairs(loop: Loop, run: pl.DataFrame, human: JudgmentSet) -> pl.DataFrame:
    """What the model is asked about: shown and known relevant documents, queries that people judged first."""
    texts = run.select("query_id", query="text").unique("query_id", keep="first", maintain_order=True)
    relevant = loop.corpus.judgments(split=PROBED_SPLIT).filter(pl.col("relevance") > 0).select("query_id", "doc_id").join(texts, on="query_id", how="semi")
    judged = human.frame.select("query_id", "doc_id").join(texts, on="query_id", how="semi")
    wanted = pl.concat([run.select("query_id", "doc_id"), relevant, judged]).unique(maintain_order=True)
    documents = loop.corpus.documents().select("doc_id", document=pl.concat_str([pl.col("title").fill_null(""), pl.col("text").fill_null("")], separator="\n"))
    people = human.frame.select("query_id", _people=pl.lit(True)).unique()
    joined = wanted.join(texts, on="query_id").join(documents, on="doc_id").join(people, on="query_id", how="left", maintain_order="left")
    return joined.sort(pl.col("_people").is_null(), "query_id", "doc_id").select("query_id", "query", "doc_id", "document")


def _due(bias: PositionBias, now: datetime) -> bool:
    return bias.fitted_at is None or now - bias.fitted_at >= (_REFIT if bias.weights(10) is not None else _RETRY)


def _week(loop: Loop, now: datetime) -> tuple[pl.DataFrame, pl.DataFrame, datetime]:
    """People's answered searches with readable text, newest days first until there are enough; their actions; since when."""
    searches: list[pl.DataFrame] = []
    actions: list[pl.DataFrame] = []
    end = now
    while end > now - _WINDOW and sum(one.height for one in searches) < _REQUESTS:
        day = read_window(loop.home.telemetry, end - timedelta(days=1), end)
        people = day.search.filter(~pl.col("probe") & (pl.col("status") == 200))
        searches.append(people)
        actions.append(day.actions.join(people.select("query_id"), on="query_id", how="semi"))
        end -= timedelta(days=1)
    found = pl.concat(searches).sort("timestamp").tail(_REQUESTS)
    return open_text(found, existing_vault(loop.home.path)), pl.concat(actions), end
