"""One window of one service: a real ``SearchService`` in this process answers probes and people, records its events, and is asked what it runs on.

What belongs here: traffic, delays and failures put in from outside, and reading back what the service measured. What must not: which fault is played (the
numbers here do not say), the diagnosis.

The cross-encoder's scores come from the store, so the service would answer in microseconds, and a busy machine would add more than any fault. Index and
reranker therefore move the clock that the service reads by as long as a small service would work; the service measures its stages and its queue by itself.
Probes and people take the same way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from predator_si.diagnose import Window
from predator_si.errors import BadInput
from predator_si.monitor import measure_window
from predator_si.monitor.probes import answer_row, scored_probes
from predator_si.proof.bench_diagnose.sites import K, Site
from predator_si.records import ActionEvent, ModelCard, utc_now
from predator_si.search.app import describe
from predator_si.search.clicks import ClickModel
from predator_si.search.events import read_events
from predator_si.search.payloads import SearchRequest
from predator_si.search.retrieve import Candidates
from predator_si.search.service import SearchFailed, SearchService

RETRIEVE_SECONDS, RERANK_SECONDS = 0.001, 0.002
_SPREAD = 0.3


@dataclass(frozen=True)
class Weather:
    """What happens to the service from outside. Factors multiply a stage's time for ``share`` of the requests; rates are chances that a stage raises."""

    retrieve_factor: float = 1.0
    rerank_factor: float = 1.0
    share: float = 1.0
    retrieve_fails: float = 0.0
    rerank_fails: float = 0.0
    concurrency: int = 1
    noise: float = 0.05
    """Standard deviation of the whole window's log time: two windows of one machine are never alike."""


@dataclass(frozen=True)
class Crowd:
    """Clients beside the ordinary ones: each searches so often and clicks so many of the results, whatever they are."""

    clients: int = 0
    searches: int = 0
    clicks: int = 0


@dataclass(frozen=True)
class Scene:
    """Everything that a window is played from."""

    site: Site
    probes: pl.DataFrame
    judgments: pl.DataFrame
    truth: pl.DataFrame
    """What people find relevant: the collection's own labels, whatever the judges say."""
    people: pl.DataFrame
    searches: int
    version: int
    age: timedelta = timedelta(minutes=5)
    weather: Weather = field(default_factory=Weather)
    crowd: Crowd = field(default_factory=Crowd)


class _Clock:
    """Seconds that pass only when somebody works."""

    def __init__(self) -> None:
        self._now = 1.0

    def __call__(self) -> float:
        return self._now

    def work(self, seconds: float, factor: float, share: float, rng: np.random.Generator) -> None:
        slow = factor if factor != 1.0 and rng.random() < share else 1.0
        self._now += seconds * slow * float(np.exp(_SPREAD * rng.standard_normal()))


class _Index:
    """Candidates known beforehand, given after a while, or a failure."""

    def __init__(self, site: Site, known: dict[str, Candidates], weather: Weather, rng: np.random.Generator, clock: _Clock, pace: float) -> None:
        self._index, self._known, self._weather, self._rng, self._clock, self._pace = site.index, known, weather, rng, clock, pace
        self._depth = max(K, site.depth)
        self.fingerprint = site.index.fingerprint

    @property
    def n_documents(self) -> int:
        """How many documents can be found."""
        return int(self._index.n_documents)

    def candidates(self, queries: Sequence[str], depth: int) -> list[Candidates]:
        """The index' own candidates."""
        self._clock.work(RETRIEVE_SECONDS * self._pace, self._weather.retrieve_factor, self._weather.share, self._rng)
        if self._rng.random() < self._weather.retrieve_fails:
            raise OSError("index segment could not be read")
        for query in queries:
            if query not in self._known:
                self._known[query] = self._index.candidates([query], self._depth)[0]
        return [self._known[query] for query in queries]

    def title(self, doc_id: str) -> str:
        """Title of a document."""
        return str(self._index.title(doc_id))

    def documents(self) -> pl.DataFrame:
        """Columns doc_id, title, text."""
        frame: pl.DataFrame = self._index.documents()
        return frame

    def updated(self, upserts: pl.DataFrame, deletes: Sequence[str] = ()) -> _Index:
        """No document arrives while a window is played."""
        raise BadInput("an index of a played window takes no documents; change its site before the window is played.")

    def save(self, folder: Path) -> None:
        """Nothing is saved."""
        raise BadInput("an index of a played window is not saved; save that of its site.")


class _Reranker:
    """The site's reranker after a while, or a failure."""

    def __init__(self, site: Site, weather: Weather, rng: np.random.Generator, clock: _Clock, pace: float) -> None:
        self._model, self._weather, self._rng, self._clock, self._pace = site.model, weather, rng, clock, pace
        self.card, self.digest = site.model.card, site.model.digest

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Logits of one query against several texts."""
        if query == "warm up":
            return np.zeros(len(texts), np.float32)
        self._clock.work(RERANK_SECONDS * self._pace, self._weather.rerank_factor, self._weather.share, self._rng)
        if self._rng.random() < self._weather.rerank_fails:
            raise RuntimeError("out of memory")
        return self._model.score(query, texts)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> npt.NDArray[np.float32]:
        """Logits of pairs."""
        return self._model.score_pairs(pairs)


class _OneModel:
    """The store of the only model there is."""

    def __init__(self, folder: Path, card: ModelCard) -> None:
        self._folder, self._card = folder, card

    def path(self, digest: str) -> Path:
        return self._folder

    def card(self, digest: str) -> ModelCard:
        return self._card

    def twin(self, digest: str) -> str | None:
        return None


def play(scene: Scene, home: Path, known: dict[str, Candidates], seed: int) -> Window:
    """The window that the service measured.

    Parameters
    ----------
    home
        An empty folder.
    known
        Candidates of the site's index by query, filled as queries come.
    """
    rng = np.random.default_rng(seed)
    clock = _Clock()
    site, pace = scene.site, float(np.exp(scene.weather.noise * rng.standard_normal()))
    version = home / "service" / "index" / str(scene.version)
    version.mkdir(parents=True)
    (version.parent / "current").write_text(f"{scene.version}\n")
    built = (utc_now() - scene.age).timestamp()
    os.utime(version, (built, built))
    (home / "applied").mkdir()
    release = {
        "reranker": {"champion": site.model.digest, "depth": site.depth},
        "fusion": {"weights": {"rerank": 1.0 - site.weight, "firstStage": site.weight}},
    }
    (home / "applied" / "release-local.yaml").write_text(json.dumps(release))
    index, model = _Index(site, known, scene.weather, rng, clock, pace), _Reranker(site, scene.weather, rng, clock, pace)
    start = utc_now()
    with _quiet():
        service = SearchService(
            home,
            contour="local",
            load_index=lambda _: index,
            load_reranker=lambda _: model,
            models=_OneModel(home, site.model.card),
            clock=clock,
        )
        service.spool.start()
        try:
            rows = asyncio.run(_visit(service, scene, rng))
            service.spool.flush()
            told = describe(service)
            told["index"]["facts"] = service.served.facts
        finally:
            service.stop()
    end = utc_now() + timedelta(milliseconds=1)
    events = read_events(home / "service" / "events", start, end)
    asked = scored_probes("in process", rows, scene.judgments, k=K, variant=None, started=start, ended=end)
    snapshot = measure_window(
        events, start, end, end, champion=site.model.digest, contour="local", probes=asked, ingest=told["ingest"], snapshot_id=f"local-{scene.version}-{seed}"
    )
    people = events.search.filter(~pl.col("probe"))
    return Window(
        snapshot=snapshot,
        probes=asked.per_query,
        judgments=scene.judgments,
        events=people,
        actions=events.actions,
        index=told["index"],
        indexed_ids=tuple(index.documents()["doc_id"].to_list()),
        queries=tuple(people["user_query"].drop_nulls().to_list()),
    )


async def _visit(service: SearchService, scene: Scene, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for query_id, text in scene.probes.select("query_id", "text").iter_rows():
        try:
            answer = await service.search(SearchRequest(query=text, k=K, probe=True, explain=True))
            rows.append(answer_row(query_id, text, answer, answer["took_ms"]))
        except SearchFailed as error:
            rows.append(answer_row(query_id, text, None, error=f"HTTP {error.status}"))
    grades: dict[str, dict[str, float]] = {}
    for query_id, doc_id, relevance in scene.truth.iter_rows():
        grades.setdefault(query_id, {})[doc_id] = relevance
    user = ClickModel(max_grade=max(1.0, float(scene.truth["relevance"].cast(pl.Float64).to_numpy().max())))
    turns = _turns(scene, rng)
    gate = asyncio.Semaphore(scene.weather.concurrency)

    async def turn(query_id: str, text: str, client: str, clicks: int) -> None:
        async with gate:
            try:
                answer = await service.search(SearchRequest(query=text, k=10, client_id=client))
            except SearchFailed:
                return
            shown = [result["object_id"] for result in answer["results"]]
            if clicks:
                places = sorted(rng.choice(len(shown), size=min(clicks, len(shown)), replace=False).tolist())
            else:
                places = [click.position - 1 for click in user.clicks(shown, grades.get(query_id, {}), rng)]
            service.record([_click(answer["query_id"], shown[place], place + 1, client) for place in places])

    await asyncio.gather(*(turn(*one) for one in turns))
    return rows


def _turns(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str, str, int]]:
    """Query, text, client and clicks-at-any-rate of each search, in random order. Some clients search often, most seldom."""
    asked = scene.people.select("query_id", "text").rows()
    clients = rng.zipf(1.8, size=scene.searches).clip(1, 60)
    turns = [(*asked[rng.integers(len(asked))], f"c{client}", 0) for client in clients.tolist()]
    crowd = scene.crowd
    turns += [(*asked[rng.integers(len(asked))], f"x{number % crowd.clients}", crowd.clicks) for number in range(crowd.clients * crowd.searches)]
    order: list[int] = rng.permutation(len(turns)).tolist()
    return [turns[place] for place in order]


def _click(query_id: str, object_id: str, position: int, client: str) -> ActionEvent:
    return ActionEvent(query_id=query_id, timestamp=utc_now(), action_name="click", object_id=object_id, position=position, client_id=client)


@contextmanager
def _quiet() -> Iterator[None]:
    """Failures put in on purpose are not worth a stack trace each."""
    loggers: Mapping[str, int] = {name: logging.getLogger(name).level for name in ("predator_si.search.service", "predator_si.search.ranking")}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
