"""The bench: every fault on its collections, seed by seed, healthy windows beside them, and the count.

What belongs here: the order of work and the figures. What must not: faults, windows, tests.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from predator_si.diagnose import Window, diagnose
from predator_si.errors import BadInput
from predator_si.evaluate import PairScores
from predator_si.proof.bench_diagnose.collections import Collection, data_folder, load_collections
from predator_si.proof.bench_diagnose.faults import FAULTS, Calibration, Fault, Scenes, calibrate, scenes
from predator_si.proof.bench_diagnose.models import RememberedReranker, english_embedder, multilingual_embedder
from predator_si.proof.bench_diagnose.sites import TURNED, Workshop
from predator_si.proof.bench_diagnose.windows import play
from predator_si.provenance import provenance
from predator_si.records import DiagnosticReport, Trigger
from predator_si.search.retrieve import Candidates
from predator_si.statistics import wilson

QUERIES, DOCUMENTS, DEPTH, MAX_LENGTH = 160, 1000, 8, 128
VARIANTS = 5
PLACES = 4
"""Collections that a fault is planted in: every collection has its turn, and the model's time stays bounded."""
_WEIGHTS = (0.0, 0.2, 0.4, 0.6, 0.8)
_HEALTHY = "healthy"
_NOTHING = "no alarm"
Tell = Callable[[str], None]


@dataclass(frozen=True)
class BenchSizes:
    """How much is played: seeds per fault, healthy windows, the first seed (development has its own seeds)."""

    seeds: int = 20
    healthy: int = 200
    first_seed: int = 0


@dataclass(frozen=True)
class Played:
    """One diagnosed window: what was planted, what was named."""

    fault: str
    collection: str
    seed: int
    right: str | None
    named: tuple[str, ...]
    trigger: str
    cost: float | None


def bench_diagnose(cache: Path, sizes: BenchSizes, tell: Tell = lambda _: None, only: Sequence[str] = ()) -> dict[str, Any]:
    """Plant every fault, diagnose, count.

    Parameters
    ----------
    cache
        Vectors, pair scores and models are kept in ``bench-diagnose`` below it; a second run computes none of them.
    only
        Names of faults; all when empty.

    Returns
    -------
    dict
        ``n, faults, top1, top2, false_alarm_rate, healthy_windows, confusion`` with intervals and what each fault cost.

    Raises
    ------
    Missing
        The judged collections are not there.
    BadInput
        A name in ``only`` is no fault.
    """
    started = time.monotonic()
    wanted = [fault for fault in FAULTS if not only or fault.name in only]
    if not wanted or (only and len(wanted) != len(set(only))):
        raise BadInput(f"faults {', '.join(only)}: there are {', '.join(fault.name for fault in FAULTS)}.")
    folder = cache / "bench-diagnose"
    shops = open_shops(load_collections(data_folder(), folder, queries=QUERIES, documents=DOCUMENTS), cache, folder)
    calibration = Calibration()
    for shop in shops.values():
        prepare(shop, tell)
    for number, fault in enumerate(wanted):
        for name in _order(list(shops), number):
            strength = calibrate(shops[name], fault) if len(calibration.collections(fault.name)) < PLACES else None
            if strength is not None:
                calibration.strengths[fault.name, name] = strength
        chosen = {place: calibration.strengths[fault.name, place] for place in calibration.collections(fault.name)}
        told = ", ".join(f"{place} {one.level} ({one.cost:.3f})" for place, one in chosen.items())
        tell(f"{fault.name}: {told or 'hurts no collection enough'}; {time.monotonic() - started:.0f} s")
    prepared = time.monotonic() - started
    played = Player(shops, calibration).all(wanted, sizes, tell)
    figures = count(played, wanted, calibration)
    computed = sum(shop.model.computed for shop in shops.values())
    return {
        **provenance("full" if sizes.seeds >= 20 and sizes.healthy >= 200 and not only else "small", sizes.first_seed),
        **figures,
        "seeds": sizes.seeds,
        "collections": list(shops),
        "queries_per_collection": QUERIES,
        "documents_per_collection": DOCUMENTS,
        "depth": DEPTH,
        "pairs_computed_now": computed,
        "seconds": time.monotonic() - started,
        "seconds_preparing": prepared,
    }


def _order(names: list[str], number: int) -> list[str]:
    """The collections from another one on for each fault."""
    start = 2 * number % len(names)
    return names[start:] + names[:start]


def open_shops(collections: Sequence[Collection], cache: Path, folder: Path) -> dict[str, Workshop]:
    """A workshop for each collection, all on the same models."""
    from predator_si.search.models import ModelStore, fetch_models
    from predator_si.search.rerank import reference_backend
    from predator_si.train.export import export

    fetched = fetch_models(cache, ("ms-marco-MiniLM-L-12-v2", "all-MiniLM-L6-v2"))
    store, scores = ModelStore(folder / "models"), PairScores(folder / "pair_scores.db")
    source = store.add(fetched["ms-marco-MiniLM-L-12-v2"], name="ms-marco-MiniLM-L-12-v2", backend="torch-fp32", max_length=MAX_LENGTH)
    backend = reference_backend()
    made = [card.digest for card in store.cards() if (card.source_digest, card.backend, card.max_length) == (source, backend, MAX_LENGTH)]
    exported = made[0] if made else export(store, source, backend, MAX_LENGTH)
    sound = RememberedReranker(store.path(exported), scores)
    broken: dict[float, RememberedReranker] = {}

    def damaged(noise: float) -> RememberedReranker:
        if noise not in broken:
            broken[noise] = RememberedReranker(store.path(damaged_model(store, source, noise)), scores)
        return broken[noise]

    embedders = {"english": english_embedder(folder, fetched["all-MiniLM-L6-v2"]), "multilingual": multilingual_embedder(folder)}
    return {one.name: Workshop(one, embedders, sound, damaged, DEPTH) for one in collections}


def damaged_model(store: Any, source: str, noise: float) -> str:
    """Digest of the reranker with every encoder weight off by ``noise`` of itself, or with its head turned, made once."""
    import shutil

    import torch
    from transformers import AutoModelForSequenceClassification

    from predator_si.search.rerank import reference_backend
    from predator_si.train.export import export

    name = "head turned" if noise == TURNED else f"damaged by {noise:g}"
    for card in store.cards():
        if card.name.startswith(f"{name} ") and card.backend.startswith("openvino"):
            return str(card.digest)
    model = AutoModelForSequenceClassification.from_pretrained(str(store.path(source)), num_labels=1, local_files_only=True, use_safetensors=True)
    generator = torch.Generator().manual_seed(20)
    with torch.no_grad():
        for parameter in model.base_model.encoder.parameters() if noise != TURNED else ():
            parameter.mul_(1.0 + noise * torch.randn(parameter.shape, generator=generator))
        if noise == TURNED:
            model.classifier.weight.neg_()
            model.classifier.bias.neg_()
    with tempfile.TemporaryDirectory(dir=store.root) as scratch:
        model.save_pretrained(scratch, safe_serialization=True)
        for file in store.path(source).iterdir():
            if file.name.startswith(("tokenizer", "special_tokens", "vocab")):
                shutil.copy2(file, Path(scratch) / file.name)
        broken = store.add(Path(scratch), name=name, backend="torch-fp32", max_length=MAX_LENGTH, base=source)
    return export(store, broken, reference_backend(), MAX_LENGTH)


def prepare(shop: Workshop, tell: Tell) -> None:
    """Score what the healthy sites need and choose the fusion weight that suits the collection."""
    from dataclasses import replace

    queries = shop.queries("base", "late", "second")
    site = shop.grown()
    shop.warm(site, queries)
    means = {weight: float(shop.ndcg(replace(site, weight=weight), queries)["ndcg_at_10"].to_numpy().mean()) for weight in _WEIGHTS}
    shop.weight = max(means, key=lambda weight: means[weight])
    tell(f"{shop.collection.name}: fusion weight {shop.weight:g}, NDCG@10 {means[shop.weight]:.3f} over {queries.height} queries")


class Player:
    """Plays scenes and diagnoses them; reference windows are played once for each collection, share and variant."""

    def __init__(self, shops: dict[str, Workshop], calibration: Calibration) -> None:
        self._shops, self._calibration = shops, calibration
        self._references: dict[tuple[str, int, int], Window] = {}
        self._known: dict[tuple[str, str], dict[str, Candidates]] = {}

    def all(self, faults: Sequence[Fault], sizes: BenchSizes, tell: Tell) -> list[Played]:
        """Every fault for every seed, then the healthy windows."""
        played: list[Played] = []
        for fault in faults:
            places = self._calibration.collections(fault.name)
            begun, right = time.monotonic(), 0
            for seed in range(sizes.first_seed, sizes.first_seed + sizes.seeds):
                if places:
                    played.append(self.one(fault, places[seed % len(places)], seed))
                    right += played[-1].named[:1] == (played[-1].right,)
            tell(f"{fault.name}: first in {right} of {sizes.seeds if places else 0} on {len(places)} collections; {time.monotonic() - begun:.0f} s")
        places = [name for name, shop in self._shops.items() if not shop.queries("second").height]
        for seed in range(sizes.first_seed, sizes.first_seed + sizes.healthy):
            played.append(self.one(None, places[seed % len(places)], seed))
        alarms = sum(bool(one.named) for one in played if one.fault == _HEALTHY)
        tell(f"healthy: {alarms} alarms in {sizes.healthy} windows")
        return played

    def one(self, fault: Fault | None, collection: str, seed: int) -> Played:
        """One window, diagnosed."""
        shop = self._shops[collection]
        strength = None if fault is None else self._calibration.strengths[fault.name, collection]
        variant = seed % VARIANTS + 100 * (seed // 1000)  # development seeds have references of their own
        pair = scenes(shop, fault, strength, seed, variant)
        reference = self._reference(shop, pair, variant)
        current = self._play(pair.current, collection, pair.site_key[1], 1_000_003 * (seed + 1) + FAULTS.index(fault) if fault else 7_000_003 * (seed + 1))
        trigger = trigger_of(reference, current)
        report = self._diagnose(shop, reference, current, trigger, seed)
        causes = report.root_cause_analysis.causes
        named = tuple(f"{one['type']}:{one['detail']}" if one["detail"] else str(one["type"]) for one in causes)
        return Played(fault.name if fault else _HEALTHY, collection, seed, pair.right, named, trigger.metric, _cost(reference, current, trigger.metric))

    def _reference(self, shop: Workshop, pair: Scenes, variant: int) -> Window:
        key = (shop.collection.name, variant, pair.reference.probes.height)
        if key not in self._references:
            self._references[key] = self._play(pair.reference, shop.collection.name, pair.site_key[0], variant)
        return self._references[key]

    def _play(self, scene: Any, collection: str, site: str, seed: int) -> Window:
        with tempfile.TemporaryDirectory() as home:
            return play(scene, Path(home), self._known.setdefault((collection, site), {}), seed)

    def _diagnose(self, shop: Workshop, reference: Window, current: Window, trigger: Trigger, seed: int) -> DiagnosticReport:
        return diagnose(
            "si_2026_01_01_001",
            trigger,
            current.snapshot,
            current.probes,
            current.judgments,
            reference.queries,
            current.queries,
            None,
            {},
            seed,
            events=current.events,
            indexed_ids=current.indexed_ids,
            depth=DEPTH,
            # A loop keeps the facts of its reference window's index, not the ids of all its documents.
            reference=Window(
                reference.snapshot, reference.probes, reference.judgments, reference.events, reference.actions, reference.index, None, reference.queries
            ),
            actions=current.actions,
            index=current.index,
        )


def trigger_of(reference: Window, current: Window) -> Trigger:
    """The first gate of the local contour's kind that fails, by both windows' snapshots; ``manual`` where none does and a person asks."""

    def value(window: Window, name: str) -> float | None:
        metric = window.snapshot.metrics.get(name)
        return None if metric is None else metric.value

    rules = (("error_rate", 0.01, "above"), ("p95_latency_ms", 0.3, "rise"), ("ndcg_at_10", -0.03, "drop"), ("click_through", 0.1, "move"))
    for name, limit, kind in rules:
        now, then = value(current, name), value(reference, name)
        if now is None or then is None:
            continue
        change = (now - then) / then if then else 0.0
        fails = {"above": now > limit, "rise": change > limit, "drop": change < limit, "move": abs(change) > limit}[kind]
        if fails:
            return Trigger(type=f"{name}_{kind}", metric=name, value=now, baseline=then, delta=now - then, actions=("diagnose",), reason=f"{change:+.1%}")
    return Trigger(type="manual", metric="none", value=None, baseline=None, delta=None, actions=("diagnose",), reason="a person asked")


def _cost(reference: Window, current: Window, metric: str) -> float | None:
    """What the window shows of the fault in its own metric: points, or the relative rise of latency."""
    name = metric if metric != "none" else "ndcg_at_10"
    now, then = current.snapshot.metrics[name].value, reference.snapshot.metrics[name].value
    if now is None or then is None:
        return None
    return (now - then) / then if "latency" in name else now - then


def count(played: Sequence[Played], faults: Sequence[Fault], calibration: Calibration) -> dict[str, Any]:
    """The figures of CONTRACT.md section 7, with Wilson intervals, the confusion matrix by fault, and what each fault cost."""
    planted = [one for one in played if one.fault != _HEALTHY]
    healthy = [one for one in played if one.fault == _HEALTHY]
    confusion: dict[str, dict[str, int]] = {}
    for one in played:
        row = confusion.setdefault(one.fault, {})
        named = one.named[0] if one.named else _NOTHING
        if named.startswith("latency:") and (one.right or "").startswith("latency:") and named != one.right:
            named = f"{named} (another stage)"
        row[named] = row.get(named, 0) + 1
    per_fault = {}
    for fault in faults:
        mine = [one for one in planted if one.fault == fault.name]
        costs = {place: calibration.strengths[fault.name, place] for place in calibration.collections(fault.name)}
        seen = [one.cost for one in mine if one.cost is not None]
        per_fault[fault.name] = {
            "right": fault.right,
            "windows": len(mine),
            "first": sum(one.named[:1] == (one.right,) for one in mine),
            "in_top_two": sum(one.right in one.named[:2] for one in mine),
            "triggers": {metric: sum(one.trigger == metric for one in mine) for metric in sorted({one.trigger for one in mine})},
            "seen_in_the_trigger_metric": float(np.mean(seen)) if seen else None,
            "cost": {
                place: {"strength": json.loads(json.dumps(strength.level)), "ndcg": None if strength.cost != strength.cost else strength.cost}
                for place, strength in costs.items()
            },
        }
    first = sum(one.named[:1] == (one.right,) for one in planted)
    two = sum(one.right in one.named[:2] for one in planted)
    alarms = sum(bool(one.named) for one in healthy)
    return {
        "n": len(planted),
        "faults": [fault.name for fault in faults],
        "top1": first / len(planted) if planted else None,
        "top1_ci": _interval(first, len(planted)),
        "top2": two / len(planted) if planted else None,
        "top2_ci": _interval(two, len(planted)),
        "false_alarm_rate": alarms / len(healthy) if healthy else None,
        "false_alarm_ci": _interval(alarms, len(healthy)),
        "healthy_windows": len(healthy),
        "confusion": confusion,
        "per_fault": per_fault,
        "wrong": [
            {"fault": one.fault, "collection": one.collection, "seed": one.seed, "right": one.right, "named": list(one.named)}
            for one in played
            if one.named[:1] != ((one.right,) if one.right else ())
        ],
    }


def _interval(hits: int, n: int) -> list[float] | None:
    if not n:
        return None
    found = wilson(hits, n)
    return [found.low, found.high]
