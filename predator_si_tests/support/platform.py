"""A prepared home, and the machines of one, inside a test's own process: a corpus of sixty documents, a seeded repository, the reconciler and the
search service in threads.

The control database, the Git repository, the reconciler, the HTTP service, the event spool and every step are the real ones.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from predator_si.control import Control
from predator_si.orchestration.loop import Loop, LoopPlan
from predator_si.proof.drill.corpus import TOPICS as TOPICS
from predator_si.proof.drill.corpus import write_toy_corpus as write_toy_corpus
from predator_si.records import Baseline, Cycle, Metric, MetricsSnapshot, ModelCard, ServingConfig, Trigger, utc_now
from predator_si.release.deny import DENY_FILE, SEED_DENY
from predator_si.release.gitops import GitOpsRepo
from predator_si.release.reconcile import LocalReconciler
from predator_si.release.release_file import seed_release
from predator_si.search.tiny import HashingEmbedder
from predator_si.settings import DEMO_SCALES, DemoScale, Ports, Settings
from predator_si_tests.support.waiting import free_port, wait_until


def tiny_scale(**changes: Any) -> DemoScale:
    """As little work as lets every gate be judged."""
    small = {
        "depth": 8,
        "fusion_weight": 0.2,
        "probe_queries": 60,
        "dev_queries": 30,
        "test_queries": 60,
        "click_groups": 60,
        "document_groups": 20,
        "negatives": 4,
        "epochs": 12.0,
        "train_seconds": 900.0,  # never the limit: with one the learning rate follows the clock, and the weights would depend on the load
        "trial_requests": 120,
        "watch_requests": 40,
        "watch_probes": 40,
        "drill_requests": 40,
        "latency_requests": 60,
        "resamples": 1000,
        "hurries": True,
    }
    return DEMO_SCALES["small"].model_copy(update=small | changes)


def on_free_port(settings: Settings) -> Settings:
    """The settings with the search service on a port that was free a moment ago."""
    port = free_port()
    return settings.model_copy(update={"ports": Ports(search=port), "search_url": f"http://127.0.0.1:{port}"})


def prepare(loop: Loop, champion: str, scale: DemoScale | None = None, corpus: Path | None = None, prepared_at: datetime | None = None) -> Loop:
    """What ``proof.prepare`` leaves behind, for a champion that is in the store: plan, embedder, seeded repository."""
    scale = scale or tiny_scale()
    embedder = HashingEmbedder().save(loop.home.path / "embedder")
    folder = corpus or write_toy_corpus(loop.home.corpus / "toy")
    plan = LoopPlan(corpus=folder, embedder=embedder, scale=scale, prepared_at=prepared_at or utc_now() - timedelta(minutes=10))
    (loop.home.path / "plan.json").write_text(plan.to_json())
    serving = ServingConfig(model=champion, depth=scale.depth, fusion_weight=scale.fusion_weight)
    GitOpsRepo.init_bare(loop.home.gitops_bare, {loop.release_name: seed_release(serving, loop.contour), DENY_FILE: SEED_DENY})
    return loop


def fake_model(loop: Loop, name: str, behaviour: str = "keep", source_digest: str | None = None, **weights: Any) -> str:
    """A model of ``search_fakes`` in the loop's store; its digest."""
    from predator_si_tests.support.search_fakes import FakeHome

    return FakeHome(loop.home.path).model(name, behaviour, source_digest, **weights)


def ndcg_trigger(**changes: Any) -> Trigger:
    """A drop of NDCG."""
    facts: dict[str, Any] = {"type": "ndcg_at_10_down", "metric": "ndcg_at_10", "value": 0.4, "baseline": 0.6, "delta": -0.2, "actions": ("retrain_reranker",)}
    return Trigger(**facts | {"reason": "ndcg_at_10 0.4 misses >= 0.58"} | changes)


def open_cycle(control: Control, actor: str = "test", **changes: Any) -> Cycle:
    """A cycle for a drop of NDCG; by the actor ``drill`` it is one."""
    return control.open_cycle("local", ndcg_trigger(**changes), actor, "a test wants it")


def write_snapshot(loop: Loop, champion: str, created_at: datetime | None = None, values: Mapping[str, float | None] | None = None) -> MetricsSnapshot:
    """A healthy snapshot whose metrics are ``values`` where given; null makes one unknown."""
    at = created_at or utc_now()
    known: dict[str, float | None] = {
        "ndcg_at_10": 0.6, "recall_at_20": 0.9, "avg_latency_ms": 50.0, "p95_latency_ms": 90.0, "error_rate": 0.0, "cost_per_1k_requests": 0.01,
        "etl_lag_seconds": 0.0, "index_errors": 0.0,
    }  # fmt: skip
    known |= values or {}
    metrics = {
        name: Metric(
            name=name,
            value=value,
            n=0 if value is None else 200,
            ci_low=None if value is None else value * 0.98,
            ci_high=None if value is None else value * 1.02,
            source="a test",
            age_seconds=None if value is None else 1.0,
            reason="nobody measured it" if value is None else None,
        )
        for name, value in known.items()
    }
    snapshot = MetricsSnapshot(
        snapshot_id=f"{loop.contour}-{at:%Y%m%dT%H%M%S%f}", contour=loop.contour, created_at=at, window_start=at - timedelta(minutes=15), window_end=at,
        champion=champion, metrics=metrics,
    )  # fmt: skip
    loop.home.snapshots.mkdir(parents=True, exist_ok=True)
    (loop.home.snapshots / f"{snapshot.snapshot_id}.json").write_text(snapshot.to_json())
    return snapshot


def write_baseline(loop: Loop, champion: str, **values: float) -> Baseline:
    """The baseline of a champion."""
    known = {"ndcg_at_10": 0.6, "recall_at_20": 0.9} | values
    found = Baseline(champion=champion, created_at=utc_now(), windows=1, values=known)
    (loop.home.path / "baseline.json").write_text(found.to_json())
    return found


@contextmanager
def machines(loop: Loop, **service: Any) -> Iterator[Any]:
    """The reconciler and the search service of a home, in threads; gives the service's application.

    Parameters
    ----------
    service
        As ``search.app.create_app`` takes it: ``load_reranker``, ``load_index`` and so on.
    """
    import uvicorn

    from predator_si.search.app import create_app

    home = loop.home
    reconciler = LocalReconciler(home.gitops_bare, home.reconcile, home.applied, loop.contour, home.models)
    status = reconciler.tick()
    assert status.synced, status.error
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(0.05):
            reconciler.tick()

    following = threading.Thread(target=follow, name="reconciler")
    following.start()
    server: uvicorn.Server | None = None
    serving: threading.Thread | None = None
    try:
        app = create_app(home.path, contour=loop.contour, **{"poll_seconds": 0.05, "flush_seconds": 0.1} | service)
        server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=loop.settings.ports.search, log_config=None, access_log=False))
        serving = threading.Thread(target=server.run, name="search service")
        serving.start()
        wait_until(lambda: server.started, 30, "the search service")
        yield app
    finally:
        if server is not None and serving is not None:
            server.should_exit = True
            serving.join(30)
        stop.set()
        following.join(30)


class Slowed:
    """A reranker that takes its time, as a large one on a small machine does: what makes one arm slower whatever else the machine is doing."""

    def __init__(self, inner: Any, seconds: float) -> None:
        self._inner, self._seconds = inner, seconds
        self.digest, self.card = inner.digest, inner.card

    def score(self, query: str, texts: Any) -> Any:
        """The inner model's scores, later."""
        time.sleep(self._seconds)
        return self._inner.score(query, texts)

    def score_pairs(self, pairs: Any) -> Any:
        """The inner model's scores."""
        return self._inner.score_pairs(pairs)


def slow_torch(seconds: float) -> Callable[[Path], Any]:
    """Loads a model folder; fp32 torch weights answer ``seconds`` later, exported ones at once."""
    from predator_si.search.rerank import load_reranker

    def load(folder: Path) -> Any:
        found = load_reranker(folder)
        return Slowed(found, seconds) if found.card.backend == "torch-fp32" else found

    return load


# --------------------------------------------------------------------------- rerankers that know one word


class WordReranker:
    """Likes or dislikes texts with the word ``verified``, as far as its weights say; the rest is a guess that depends on the weights' name."""

    def __init__(self, digest: str, card: ModelCard, name: str, likes: float, seconds: float, per_text: float = 0.0) -> None:
        self.digest, self.card = digest, card
        self._name, self._likes, self._seconds, self._per_text = name, likes, seconds, per_text

    def score(self, query: str, texts: Sequence[str]) -> np.ndarray:
        """Scores in the order of the texts, after the time that the weights name."""
        time.sleep(self._seconds + self._per_text * len(texts))
        return self.score_pairs([(query, text) for text in texts])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> np.ndarray:
        """The same without the wait."""
        return np.array([self._likes * ("verified" in text) + self._guess(f"{query} {text}") for query, text in pairs], np.float32)

    def _guess(self, text: str) -> float:
        return hashlib.sha256(f"{self._name} {text}".encode()).digest()[0] / 255.0


def word_model(loop: Loop, name: str, likes: float, seconds: float = 0.0, source_digest: str | None = None, **weights: float) -> str:
    """A ``WordReranker`` in the loop's store; its digest, which is that of its real bytes."""
    folder = loop.home.path / "incoming" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_text(json.dumps({"name": name, "likes": likes, "seconds": seconds, **weights}))
    return loop.models.add(folder, name=name, backend="torch-fp32", max_length=128, source_digest=source_digest)


def load_word_reranker(folder: Path) -> WordReranker:
    """The model in a folder of the store."""
    from predator_si.search.models import model_digest

    return WordReranker(model_digest(folder), ModelCard.read(folder / "predator.json"), **json.loads((folder / "model.safetensors").read_text()))
