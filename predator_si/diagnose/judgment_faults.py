"""Did the service get worse at all, or only what it is judged by: labels that changed, clicks of a few clients, queries of another domain.

What belongs here: answers from labels, clicks and query texts of both windows. What must not: the service's parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from predator_si.corpora.vocabulary import new_vocabulary
from predator_si.diagnose.data_faults import gains
from predator_si.diagnose.ranking_faults import Paired
from predator_si.diagnose.window import Finding, Window, at_least, ndcg, one_sided, unknown

if TYPE_CHECKING:
    from predator_si.diagnose.tree import Levels

_LEAST = 20
_FRESH = 0.05
_CORRECTED = 0.01
"""Share of the judged queries whose labels ordinary corrections touch between two windows."""
_SPAM_SHARE, _SPAM_RATE = 0.05, 3.0


def label_noise(paired: Paired, current: Window, levels: Levels, seed: int) -> Finding:
    """The current rankings, scored by the labels of then and of now."""
    now = gains(current)
    judged = [i for i, query_id in enumerate(paired.queries) if query_id in now]
    if len(judged) < _LEAST:
        return unknown("judgment_artefact", "label_noise", f"{len(judged)} queries are judged in both windows; at least {_LEAST} are needed")
    rankings = [paired.now[i]["result_ids"] for i in judged]
    old, new = [paired.gains[i] for i in judged], [now[paired.queries[i]] for i in judged]
    differences = np.array([ndcg(r, a) - ndcg(r, b) for r, a, b in zip(rankings, old, new, strict=True)])
    changed = sum(dict(a) != dict(b) for a, b in zip(old, new, strict=True))
    p_other, p_worse = at_least(changed, len(judged), _CORRECTED), one_sided(differences, seed + 5)
    return Finding(
        "judgment_artefact",
        "label_noise",
        "yes" if p_other <= levels.each and p_worse <= levels.changed and differences.mean() >= levels.loss else "no",
        float(differences.mean()),
        max(p_other, p_worse),
        len(judged),
        f"binomial of changed queries against {_CORRECTED:g}, and sign flips of NDCG@10 of the current rankings under both windows' labels",
        {"queries_with_other_labels": changed, "drop_under_the_reference_labels": paired.drop},
    )


def click_spam(reference: Window, current: Window, paired: Paired | None, levels: Levels) -> Finding:
    """A few clients whose clicks per search no ordinary client makes, and the click metrics with and without them."""
    from scipy.stats import poisson

    if any(window.events is None or window.actions is None for window in (reference, current)):
        return unknown("judgment_artefact", "click_spam", "clicks of both windows are not known")
    sides = [_clients(window) for window in (reference, current)]
    then, now = sides
    if then is None or now is None or then["clicks"].sum() < _LEAST or now["clicks"].sum() < _LEAST:
        return unknown("judgment_artefact", "click_spam", f"fewer than {_LEAST} clicks, or no client ids, in one of the windows")
    rate = float(then["clicks"].sum()) / float(then["searches"].sum())
    spread = max(1.0, _dispersion(then, rate))
    clients = now.with_columns(
        p_value=pl.Series(poisson.sf(now["clicks"].to_numpy() / spread - 1.0, rate * now["searches"].to_numpy() / spread)),
        ratio=pl.col("clicks") / (rate * pl.col("searches")),
    )
    # Bonferroni over the clients: one of thousands is always the busiest.
    odd = clients.filter((pl.col("p_value") * clients.height <= levels.each) & (pl.col("ratio") >= _SPAM_RATE))
    total = float(now["clicks"].sum())
    share = float(odd["clicks"].sum()) / total
    rest = now.filter(~pl.col("client").is_in(odd["client"].to_list()))
    moved = total / float(now["searches"].sum())
    without = float(rest["clicks"].sum()) / max(1.0, float(rest["searches"].sum()))
    stayed = None if paired is None or len(paired.queries) < _LEAST else paired.drop < levels.loss
    p_value = min(1.0, min(odd["p_value"].to_list()) * clients.height) if odd.height else 1.0
    return Finding(
        "judgment_artefact",
        "click_spam",
        "yes" if odd.height and share >= _SPAM_SHARE else "no",
        abs(moved - without) if odd.height else 0.0,
        p_value,
        clients.height,
        "Poisson tail of each client's clicks, over-dispersion and number of clients allowed for",
        {
            "odd_clients": odd.height,
            "of_clients": clients.height,
            "share_of_clicks": share,
            "clicks_per_search_reference": rate,
            "clicks_per_search_current": moved,
            "clicks_per_search_without_them": without,
            "probes_stayed": stayed,
        },
    )


def _clients(window: Window) -> pl.DataFrame | None:
    """``client, searches, clicks`` of a window; null without client ids."""
    assert window.events is not None and window.actions is not None
    searches = window.events.filter(pl.col("client_id").is_not_null()) if "client_id" in window.events.columns else None
    if searches is None or searches.is_empty():
        return None
    clicks = window.actions.filter(pl.col("action_name") == "click").select("query_id", "object_id").unique()
    counted = searches.select("query_id", client="client_id").join(clicks.group_by("query_id").len(), on="query_id", how="left")
    return counted.group_by("client").agg(searches=pl.len(), clicks=pl.col("len").fill_null(0).sum()).sort("client")


def _dispersion(clients: pl.DataFrame, rate: float) -> float:
    """Pearson's statistic over its degrees of freedom: how much more clients differ than Poisson counts would (McCullagh and Nelder 1989, section 6.2)."""
    expected = rate * clients["searches"].to_numpy()
    return float((((clients["clicks"].to_numpy() - expected) ** 2) / np.maximum(expected, 1e-9)).sum() / max(clients.height - 1, 1))


def shifted_domain(reference: Window, current: Window, paired: Paired, levels: Levels, seed: int, indexed: Sequence[str] | None) -> Finding:
    """New words in the queries, and probes that are new since the reference and worse than the old ones, although their documents are indexed."""
    from predator_si.statistics import welch

    known, relevant = set(reference.probes["query_id"].to_list()), gains(current)
    asked = [*reference.queries, *reference.probes["text"].to_list()]
    told = [text for query_id, text in current.probes.select("query_id", "text").iter_rows() if query_id not in known]
    # The words of the new queries, not of the whole log: in it they drown among the old ones. Without new queries the log is all there is.
    vocabulary = new_vocabulary(asked, told or current.queries)
    if vocabulary.new_rate is None or vocabulary.p_value is None:
        return unknown("domain_shift", "", vocabulary.reason or "query texts of one window are not known")
    there = None if indexed is None else set(indexed)
    rows = [(q, float(v)) for q, v in current.probes.select("query_id", "ndcg_at_10").drop_nulls().iter_rows() if q in relevant]
    fresh = np.array([v for q, v in rows if q not in known and (there is None or any(doc in there for doc in relevant[q]))])
    old = np.array([v for q, v in rows if q in known])
    words = {"new_token_rate": vocabulary.new_rate, "expected_new_token_rate": vocabulary.expected_new_rate, "rate_p_value": vocabulary.p_value}
    if len(fresh) < 5 or len(old) < _LEAST:
        if len(fresh) / max(len(rows), 1) < _FRESH:
            return Finding("domain_shift", "", "no", 0.0, 1.0, len(rows), "share of new queries", {**words, "new_queries": len(fresh)})
        return unknown("domain_shift", "", f"{len(fresh)} new and {len(old)} old judged queries; at least 5 and {_LEAST} are needed", **words)
    difference = welch(fresh, old)
    p_worse = (difference.p_value or 1.0) / 2.0 if difference.estimate > 0 else 1.0
    share = len(fresh) / len(rows)
    loss = share * difference.estimate
    hit = share >= _FRESH and vocabulary.p_value <= levels.shift and p_worse <= levels.shift and loss >= levels.loss
    evidence = {
        **words,
        "new_queries": len(fresh),
        "share_of_new": share,
        "ndcg_new": float(fresh.mean()),
        "ndcg_old": float(old.mean()),
        "drop_of_old": paired.drop,
        "p_worse": p_worse,
    }
    return Finding(
        "domain_shift",
        "",
        "yes" if hit else "no",
        loss,
        max(vocabulary.p_value, p_worse),
        len(rows),
        "new words by z-test and Welch's test of new against old queries",
        evidence,
    )
