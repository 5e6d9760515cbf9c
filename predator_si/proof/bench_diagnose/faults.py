"""The faults, how strong each must be on each collection, and the scenes they are played in.

What belongs here: what is broken and what the right answer is. What must not: the diagnosis; nothing of this module reaches it but what a service would tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from predator_si.proof.bench_diagnose.sites import TURNED, Site, Workshop
from predator_si.proof.bench_diagnose.windows import Crowd, Scene, Weather

LEAST, MOST, AIM = 0.03, 0.10, 0.065
"""Points of NDCG@10 that a planted fault may cost, and the cost that the strength nearest to it is chosen for."""
PROBES, SEARCHES = 130, 300
_PILOT = 40
_SECOND = (0.1, 0.15, 0.2, 0.3, 0.4)
_STAGES = ("retrieve", "rerank", "queue")
SLOW = {
    "retrieve": Weather(retrieve_factor=3.5),
    "rerank": Weather(rerank_factor=4.0, share=0.4),
    "queue": Weather(concurrency=2),
}


@dataclass(frozen=True)
class Fault:
    """A fault: the cause that is right, the strengths to choose from, and how a site shows it.

    ``site`` is null where the site stays healthy and something else changes; ``part`` names the queries whose share the strength is.
    """

    name: str
    right: str
    levels: tuple[Any, ...]
    site: Callable[[Workshop, Any], Site] | None = None
    part: str | None = None


FAULTS: tuple[Fault, ...] = (
    Fault("english_embedder", "retrieval_miss:dense", _SECOND, lambda shop, _: shop.english_embedder(), "second"),
    Fault("tokeniser_break", "retrieval_miss:lexical", (0.05, 0.08, 0.11, 0.15, 0.3), lambda shop, share: shop.tokeniser(share)),
    Fault(
        "leg_weights",
        "retrieval_miss:fusion",
        ((1.0, 0.05), (0.05, 1.0)),
        lambda shop, weights: shop.legs_reweighted(weights),
    ),
    Fault("fusion_weight", "rerank_miss:fusion_weight", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), lambda shop, weight: shop.reweighted(weight)),
    Fault("damaged_reranker", "rerank_miss:reranker", (0.25, 0.4, TURNED), lambda shop, noise: shop.damaged_reranker(noise)),
    Fault("missing_documents", "data_fault:shrunken_index", (0.05, 0.08, 0.11, 0.15, 0.2), lambda shop, share: shop.shrunken(share)),
    Fault("truncated_documents", "data_fault:truncated_documents", (0.1, 0.25, 0.5, 1.0), lambda shop, share: shop.truncated(share)),
    Fault("wrong_encoding", "data_fault:encoding", (0.06, 0.12, 0.25, 0.5), lambda shop, share: shop.mojibake(share)),
    Fault("stale_index", "data_fault:stale_index", (0.05, 0.08, 0.1, 0.12, 0.14), lambda shop, _: shop.before(), "late"),
    Fault("shifted_domain", "domain_shift", (0.1, 0.15, 0.2, 0.25, 0.3), lambda shop, _: shop.shifted(), "shift"),
    Fault("judgment_noise", "judgment_artefact:label_noise", (0.05, 0.08, 0.12, 0.16, 0.2)),
    Fault("click_spam", "judgment_artefact:click_spam", (8,)),
    Fault("slow_stage", "latency", _STAGES),
    Fault("error_burst", "service_fault:errors", (0.05, 0.07, 0.1, 0.14, 0.18)),
)


@dataclass(frozen=True)
class Strength:
    """How strong a fault is on a collection, and what that costs over all its queries (points of NDCG@10)."""

    level: Any
    cost: float


def calibrate(shop: Workshop, fault: Fault) -> Strength | None:
    """The strength whose cost is nearest to the aim and within bounds; null where none is, or where the collection has no such part.

    Parts in another language need a second language, a new domain one that is harder: not every fault can hurt every collection.
    """
    bilingual = shop.queries("second").height > 0
    if bilingual != (fault.part == "second"):
        return None
    if fault.name in ("slow_stage", "click_spam"):
        return Strength(None, float("nan"))
    base = shop.queries("base")
    healthy = shop.ndcg(shop.grown(), shop.queries("base", "second"))
    level_now = float(healthy.join(base, on="query_id", how="semi")["ndcg_at_10"].to_numpy().mean())
    costs: list[Strength] = []
    if fault.part is not None:
        queries = shop.queries(fault.part)
        if queries.height < 8:
            return None
        site = fault.site(shop, None) if fault.site else shop.grown()
        there = float(shop.ndcg(site, queries)["ndcg_at_10"].to_numpy().mean())
        if fault.part == "shift":
            per_query, rest = level_now - there, 0.0
        else:
            sound = float(shop.ndcg(shop.grown(), queries)["ndcg_at_10"].to_numpy().mean())
            per_query = sound - there
            rest = level_now - float(shop.ndcg(site, base)["ndcg_at_10"].to_numpy().mean()) if fault.part == "second" else 0.0
        costs = [Strength(share, share * per_query + (1.0 - share) * rest) for share in fault.levels if share * PROBES <= 1.5 * queries.height]
    elif fault.name in ("judgment_noise", "error_burst"):
        costs = [Strength(share, share * level_now) for share in fault.levels]
    elif fault.site is not None:
        # Another model scores every pair anew: a pilot tells its cost well enough to choose among three strengths.
        asked = base.head(_PILOT) if fault.name == "damaged_reranker" else base
        sound = float(healthy.join(asked, on="query_id", how="semi")["ndcg_at_10"].to_numpy().mean())
        for level in fault.levels:
            site = fault.site(shop, level)
            costs.append(Strength(level, sound - float(shop.ndcg(site, asked)["ndcg_at_10"].to_numpy().mean())))
            enough = LEAST <= costs[-1].cost <= MOST if fault.name == "leg_weights" else costs[-1].cost > AIM
            if enough and fault.name != "fusion_weight":
                break  # stronger ones cost scoring only
    within = [one for one in costs if LEAST <= one.cost <= MOST]
    return min(within, key=lambda one: abs(one.cost - AIM)) if within else None


@dataclass(frozen=True)
class Scenes:
    """A reference window's scene and its current one, with the right answer (null: healthy)."""

    reference: Scene
    current: Scene
    right: str | None
    site_key: tuple[str, str]
    """Which sites the two are served with: candidates are remembered under it."""


def scenes(shop: Workshop, fault: Fault | None, strength: Strength | None, seed: int, variant: int) -> Scenes:
    """The two scenes of one seed. ``variant`` chooses the frozen probes; windows that share it share a reference window."""
    rng = np.random.default_rng([seed, variant, 7])
    before = reference_scene(shop, variant, _share_of_second(fault, strength))
    late = shop.queries("late")
    n = before.probes.height
    extra = [_some(late, int(rng.integers(0, max(2, round(0.06 * n)))), rng)]
    site, key = shop.grown(), "grown"
    weather, crowd, judgments = Weather(noise=0.05), Crowd(), shop.collection.judgments
    version, age = before.version + 1, timedelta(minutes=5)
    if fault is None and rng.random() < 0.5:
        site, key = shop.shrunken(0.004), "trimmed"  # ordinary deletions
    if fault is not None and strength is not None:
        if fault.site is not None:
            site, key = fault.site(shop, strength.level), f"{fault.name} {strength.level}"
        if fault.part in ("late", "shift"):
            share = float(strength.level)
            extra.append(_some(shop.queries(fault.part), round(n * share / (1.0 - share)), rng))
            extra = extra[1:] if fault.part == "late" else extra
        if fault.name == "stale_index":
            version, age = before.version, before.age + timedelta(hours=1)
        if fault.name == "judgment_noise":
            judgments = _mislabelled(judgments, before.probes, float(strength.level), site, rng)
        if fault.name == "error_burst":
            half = seed % 2 == 0
            weather = replace(weather, **({"retrieve_fails": strength.level} if half else {"rerank_fails": strength.level}))
        if fault.name == "slow_stage":
            weather = replace(SLOW[_STAGES[seed % len(_STAGES)]], noise=weather.noise)
        if fault.name == "click_spam":
            crowd = Crowd(clients=3, searches=8 + int(rng.integers(0, 5)), clicks=int(rng.integers(3, 7)))
    if judgments is shop.collection.judgments and rng.random() < 0.3:
        judgments = _mislabelled(judgments, before.probes, 0.005, site, rng)  # an ordinary correction
    probes = pl.concat([before.probes, *extra]).unique("query_id", maintain_order=True)
    current = Scene(
        site=site,
        probes=probes,
        judgments=judgments,
        truth=shop.collection.judgments,
        people=_people(probes, rng),
        searches=SEARCHES,
        version=version,
        age=age,
        weather=weather,
        crowd=crowd,
    )
    return Scenes(before, current, _right(fault, seed), ("before", key))


def reference_scene(shop: Workshop, variant: int, second: float) -> Scene:
    """The healthy window before."""
    rng = np.random.default_rng([variant, 11])
    base, other = shop.queries("base"), shop.queries("second")
    n = min(PROBES, round(0.9 * base.height))
    probes = _some(base, n, rng)
    if second:
        probes = pl.concat([probes, _some(other, round(n * second / (1.0 - second)), rng)])
    judgments = shop.collection.judgments
    return Scene(shop.before(), probes, judgments, judgments, _people(probes, rng), SEARCHES, version=3 + variant, age=timedelta(minutes=30))


def _share_of_second(fault: Fault | None, strength: Strength | None) -> float:
    return float(strength.level) if fault is not None and strength is not None and fault.part == "second" else 0.0


def _right(fault: Fault | None, seed: int) -> str | None:
    if fault is None:
        return None
    return f"latency:{_STAGES[seed % len(_STAGES)]}" if fault.name == "slow_stage" else fault.right


def _some(queries: pl.DataFrame, n: int, rng: np.random.Generator) -> pl.DataFrame:
    chosen = rng.permutation(queries.height)[: max(0, n)]
    return queries[np.sort(chosen).tolist()] if len(chosen) else queries.clear()


def _people(probes: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    """What people ask: the same kinds of queries, some of them twice as often as in other weeks."""
    weights = np.where(rng.random(probes.height) < 0.5, 1.0, 2.0)
    drawn: Sequence[int] = rng.choice(probes.height, size=2 * SEARCHES, p=weights / weights.sum()).tolist()
    return probes[drawn]


def _mislabelled(judgments: pl.DataFrame, probes: pl.DataFrame, share: float, site: Site, rng: np.random.Generator) -> pl.DataFrame:
    """For a share of the probes the relevant documents are others, taken at random from the index: a broken join of labels, a tired judge."""
    asked = probes["query_id"].to_list()
    hit = {asked[place] for place in rng.permutation(len(asked))[: max(1, round(share * len(asked)))].tolist()}
    ids = site.index.documents()["doc_id"].to_list()
    moved = judgments.filter(pl.col("query_id").is_in(list(hit)))
    others = [ids[place] for place in rng.integers(len(ids), size=moved.height).tolist()]
    wrong = moved.with_columns(doc_id=pl.Series(others, dtype=pl.String)).unique(["query_id", "doc_id"], maintain_order=True)
    return pl.concat([judgments.filter(~pl.col("query_id").is_in(list(hit))), wrong])


@dataclass
class Calibration:
    """What every fault costs where, filled collection by collection."""

    strengths: dict[tuple[str, str], Strength] = field(default_factory=dict)

    def collections(self, fault: str) -> list[str]:
        """Where a fault can be planted."""
        return [collection for name, collection in self.strengths if name == fault]
