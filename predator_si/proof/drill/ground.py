"""A small real platform to break: a home of its own, a trained tiny champion, the processes, and clients that search all the while.

What belongs here: making it, and looking at it. What must not: breaking it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from predator_si.errors import BadInput, PredatorError, Unavailable
from predator_si.orchestration.delivery import reconcile_command
from predator_si.orchestration.loop import Loop, LoopPlan
from predator_si.proof.drill import invariants, lane
from predator_si.proof.drill.corpus import write_toy_corpus
from predator_si.proof.drill.load import Load
from predator_si.proof.drill.processes import Processes, free_port, wait_until
from predator_si.quiet import quiet_environment
from predator_si.records import CycleState, ServingConfig, utc_now
from predator_si.release.patch import apply_patch, make_patch
from predator_si.settings import DEMO_SCALES, DemoScale, Ports, Settings, load_settings

if TYPE_CHECKING:
    from predator_si.orchestration.tracking import MlflowTracker

Say = Callable[[str], None]
LENGTH = 64
"""Tokens of a pair."""
_MARK = "drill-home.json"
_UNTAUGHT = "tiny"
_CLICKED = 150
"""Searches with simulated clicks before a cycle of the whole road: what it learns from."""
_PEOPLE = 15.0
"""Searches a second of people who click."""
_OTHER_SEEDS = 1_000_003
"""Past every seed that a drill counts with."""
_KNOWS = 0.9
"""NDCG@10 on dev queries that the champion must reach: a model that guesses could not be told from a damaged one."""


def drill_scale(seed: int) -> DemoScale:
    """As little work as lets the watch tell a damaged model from a good one, and a champion that guesses learn from clicks."""
    changes = {
        "seed": seed, "depth": 8, "fusion_weight": 0.2, "champion_length": LENGTH, "max_length": LENGTH, "dev_queries": 30, "test_queries": 60,
        "watch_requests": 40, "watch_checks": 4, "watch_probes": 40, "drill_requests": 40, "resamples": 1000, "hurries": True,
        "probe_queries": 60, "click_groups": 60, "document_groups": 20, "negatives": 4, "learning_rate": 3e-3, "epochs": 12.0, "train_seconds": 900.0,
        "trial_requests": 200, "latency_requests": 60, "explain_seconds": 4.0,
    }  # fmt: skip
    return DEMO_SCALES["small"].model_copy(update=changes)


class Ground:
    """A home with a champion that knows its sixty documents, and what runs in it.

    Parameters
    ----------
    home
        Folder of the home, made by :meth:`prepare`.
    """

    def __init__(self, home: Path, cache: Path, seed: int) -> None:
        base = load_settings("local", home=home, env={"PREDATOR_SI_CACHE": str(cache)})
        search, dagster, mlflow, api = _distinct_ports(4)
        ports = Ports(search=search, dagster=dagster, mlflow=mlflow, api=api)
        self.settings: Settings = base.model_copy(update={"ports": ports, "search_url": f"http://127.0.0.1:{search}"})
        self.loop = Loop(self.settings)
        self.seed = seed
        self.environment = {**os.environ, **quiet_environment(offline=True), **self.settings.environment(), "OMP_NUM_THREADS": "1"}
        self.processes = Processes(self.loop.home.logs, self.environment)
        self.champion = self.loop.serving().model if self.loop.home.gitops_bare.exists() else ""
        self._tracker: MlflowTracker | None = None

    # ------------------------------------------------------------------ making it

    @classmethod
    def prepare(cls, home: Path, cache: Path, seed: int, say: Say = lambda text: None) -> Ground:
        """A fresh ground in ``home``; an earlier drill's home there is removed, anything else is not touched.

        Raises
        ------
        BadInput
            ``home`` is somebody else's folder.
        Unavailable
            The tiny champion did not learn its collection.
        """
        if home.exists() and any(home.iterdir()):
            if not (home / _MARK).is_file():
                raise BadInput(f"{home}: not the home of an earlier drill, so it is not removed. Choose another folder with --out.")
            shutil.rmtree(home)
        home.mkdir(parents=True, exist_ok=True)
        (home / _MARK).write_text(json.dumps({"seed": seed, "made_at": utc_now().isoformat()}) + "\n")
        ground = cls(home, cache, seed)
        ground._fill(say)
        return ground

    def _fill(self, say: Say) -> None:
        from predator_si.proof.prepare import build_first_index, register_champion
        from predator_si.release.deny import SEED_DENY
        from predator_si.release.gitops import GitOpsRepo
        from predator_si.release.release_file import DENY_FILE, seed_release
        from predator_si.search.tiny import HashingEmbedder

        loop, scale = self.loop, drill_scale(self.seed)
        loop.home.ensure()
        corpus = write_toy_corpus(loop.home.corpus / "toy", self.seed)
        embedder = HashingEmbedder().save(loop.home.path / "embedder")
        (loop.home.path / "plan.json").write_text(LoopPlan(corpus=corpus, embedder=embedder, scale=scale, prepared_at=utc_now()).to_json())
        say("a tiny champion learns its sixty documents")
        self.champion = self._train(scale)
        serving = ServingConfig(model=self.champion, depth=scale.depth, fusion_weight=scale.fusion_weight)
        GitOpsRepo.init_bare(loop.home.gitops_bare, {loop.release_name: seed_release(serving, loop.contour), DENY_FILE: SEED_DENY})
        loop.control.append("seeded", "drill", None, f"champion {serving.model}", serving.model_dump())
        build_first_index(loop, part=None)
        self._must_know(scale)
        register_champion(loop)

    def _train(self, scale: DemoScale) -> str:
        """A two-layer cross-encoder from a seed, taught by the judged train queries: their four documents, one of them relevant."""
        from predator_si.search.tiny import tiny_cross_encoder
        from predator_si.train.export import export
        from predator_si.train.fit import fine_tune
        from predator_si.train.recipe import TrainingRecipe

        loop = self.loop
        documents = loop.corpus.documents()
        folder = tiny_cross_encoder(loop.home.path / "tiny", documents["text"].to_list(), self.seed, layers=2, hidden=32, max_length=2 * LENGTH)
        start = loop.models.add(folder, name=_UNTAUGHT, backend="torch-fp32", max_length=LENGTH)
        recipe = TrainingRecipe(learning_rate=3e-3, epochs=8.0, max_length=LENGTH, seed=self.seed, bf16=False)
        trained = fine_tune(loop.models, start, self._groups(documents), recipe, loop.home.path / "training", name="drill: champion")
        return export(loop.models, trained.digest, "torch-fp32", LENGTH)

    def _groups(self, documents: pl.DataFrame) -> pl.DataFrame:
        """Each train query with the documents of its topic."""
        corpus = self.loop.corpus
        topics = documents.select("doc_id", text=pl.format("{}\n{}", "title", "text"), topic=pl.col("doc_id").str.split("-").list.first())
        judged = corpus.judgments(split="train").select("query_id", "doc_id", label="relevance")
        asked = corpus.queries(split="train").select("query_id", query="text", topic=pl.col("query_id").str.split("-").list.get(1))
        rows = asked.join(topics, on="topic").join(judged, on=["query_id", "doc_id"], how="left").with_columns(pl.col("label").fill_null(0.0))
        return rows.sort("query_id", "doc_id").select(pl.col("query_id").alias("group_id"), "query", "text", "label")

    def _must_know(self, scale: DemoScale) -> None:
        from predator_si.evaluate import evaluate_model
        from predator_si.search.rerank import load_reranker

        corpus, loop = self.loop.corpus, self.loop
        config = loop.serving()
        found = evaluate_model(
            corpus.queries(split="dev"), corpus.judgments(split="dev"), loop.index().candidates, load_reranker(loop.models.path(self.champion)), config
        )
        mean = float(np.mean(found["ndcg_at_10"].drop_nulls().to_numpy()))
        if not mean >= _KNOWS:
            raise Unavailable(
                f"the tiny champion of seed {self.seed} has an NDCG@10 of {mean:.3f} on its own collection, {_KNOWS} is needed. Try another --seed."
            )

    def untaught(self) -> str:
        """The champion before it was taught anything: it guesses, so that a cycle has something to win; its digest."""
        from predator_si.train.export import export

        raw = next(card for card in self.loop.models.cards() if card.name == _UNTAUGHT)
        return export(self.loop.models, raw.digest, "torch-fp32", LENGTH)

    def sibling(self, seed: int) -> str:
        """A model of other bytes that ranks as the champion does: every weight off by a thousandth; its digest."""
        import torch
        from safetensors.torch import load_file, save_file

        source = self.loop.models.path(self.champion)
        generator = torch.Generator().manual_seed(seed)
        with tempfile.TemporaryDirectory(dir=self.loop.home.path) as scratch:
            folder = Path(scratch) / "model"
            shutil.copytree(source, folder)
            (folder / "predator.json").unlink()
            weights = {
                name: value * (1.0 + 1e-3 * torch.randn(value.shape, generator=generator)) if value.is_floating_point() else value
                for name, value in load_file(folder / "model.safetensors").items()
            }
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "backend": "torch-fp32", "max_length": str(LENGTH)})
            return self.loop.models.add(folder, name=f"drill: sibling {seed}", backend="torch-fp32", max_length=LENGTH, origin={"drill": True, "seed": seed})

    def damaged(self, seed: int) -> str:
        """A damaged copy of the champion (``train.damage``): it loads, answers, and puts the relevant last; its digest.

        A seed that damaged one on this ground already gives way to the next free one: what was taken back before is denied, and could not be released.
        """
        from predator_si.train.damage import DAMAGED, damage

        used = {card.origin.get("seed") for card in self.loop.models.cards() if card.name == DAMAGED}
        while seed in used:
            seed += _OTHER_SEEDS
        return damage(self.loop.models, self.champion, seed, LENGTH)

    @property
    def tracker(self) -> MlflowTracker:
        """The registry of this home: real MLflow."""
        if self._tracker is None:
            self._tracker = self.new_tracker()
        return self._tracker

    def new_tracker(self) -> MlflowTracker:
        """The registry opened once more, as another process would."""
        from predator_si.orchestration.tracking import MlflowTracker

        return MlflowTracker(self.loop.home)

    def close_run(self, run: str) -> None:
        """Call the training of a worker that is gone failed, as the platform's failure sensor does."""
        self.tracker.close_runs(run, "FAILED")

    def follow(self) -> None:
        """Bring the registry's aliases after Git, as the loop's next step would: for commits that a drill made as a person."""
        from predator_si.orchestration.steps import aliases

        aliases.follow(self.loop, self.tracker)

    def by_hand(self, commits: Collection[str] = ()) -> frozenset[str]:
        """These commits and those that earlier drills on this ground made as a person; they are remembered."""
        known = frozenset(self.loop.control.get_note("drill/by-hand") or ()) | frozenset(commits)
        if commits:
            self.loop.control.set_note("drill/by-hand", sorted(known))
        return known

    def make_champion(self, digest: str) -> str:
        """Make a model the champion as a person would, by a commit that no cycle knows; the commit."""
        name = self.loop.release_name

        def change(files: Mapping[str, str]) -> Mapping[str, str]:
            patch = make_patch(files[name], {"reranker.champion": digest}, cycle_id="si_2000_01_01_001", stage="promote", file=name)
            return {name: apply_patch(files[name], patch)}

        made = self.loop.repo.change(change, f"drill: {digest[7:19]} serves") or self.loop.repo.head()
        self.by_hand({made})
        return made

    def crown(self, digest: str) -> None:
        """See that a model is the champion for Git, service and registry: by hand, where it is not."""
        if self.loop.serving().model != digest:
            self.make_champion(digest)
        self.wait_settled()
        self.follow()

    def clear(self) -> None:
        """After a violation: end what it left open and put the champion back by hand, so that the next repetition begins on firm ground."""
        active = self.loop.control.active_cycle(self.loop.contour)
        if active is not None:
            self.loop.control.transition(active.cycle_id, CycleState.FAILED, "left open by a violation of this drill", "drill")
        self.crown(self.champion)

    def open_road(self, seed: int) -> str:
        """A champion that guesses serves, people search and click, and a cycle is opened for it (``lane.open_road``); its id."""
        from predator_si.search.traffic import replay

        self.crown(self.untaught())
        replay(self.settings.search_url, self.loop.corpus, "shift", n=_CLICKED, seed=seed, concurrency=2)
        return lane.open_road(self.loop)

    # ------------------------------------------------------------------ running it

    @contextmanager
    def running(self, clients: int = 2) -> Iterator[Load]:
        """Reconciler and search service as ``predator-si up`` starts them, and clients that search until the block ends."""
        try:
            for name, (command, ready) in self.commands().items():
                self.processes.start(name, command, ready)
            queries = self.loop.corpus.queries(split="train")["text"].to_list()
            with Load(self.settings.search_url, queries, clients) as load:
                load.wait_for(self.loop.serving().model, 0.0, 60.0)
                yield load
        finally:
            self.processes.end_all()

    @contextmanager
    def people(self) -> Iterator[None]:
        """Simulated people who search and click until the block ends: a trial that nobody clicks in proves nothing. They bear with a service that is down."""
        from predator_si.search.traffic import replay

        over = threading.Event()

        def search() -> None:
            seed = self.seed
            while not over.is_set():
                seed += 1
                with suppress(PredatorError):
                    replay(self.settings.search_url, self.loop.corpus, "shift", rate=_PEOPLE, n=1_000, concurrency=4, seed=seed, should_stop=over.is_set)

        thread = threading.Thread(target=search, name="people", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(90)

    def impatient(self, seconds: float) -> Settings:
        """The settings with so long for a commit to come into force, in place of the contour's minutes."""
        values = self.settings.values
        short = values.model_copy(update={"deploy": values.deploy.model_copy(update={"timeout": timedelta(seconds=seconds)})})
        return self.settings.model_copy(update={"values": short})

    def commands(self) -> dict[str, tuple[list[str], Callable[[], bool]]]:
        """Reconciler and search service, in the order of their start: the command, and whether it works."""
        words = ["--home", str(self.loop.home.path), "--contour", self.loop.contour, "--port", str(self.settings.ports.search), "--threads", "1"]
        return {
            "reconciler": (reconcile_command(self.settings), self.in_force),
            "search": ([sys.executable, "-m", "predator_si.search", *words], self.answers),
        }

    def in_force(self) -> bool:
        """Whether the reconciler has applied the branch's head; the repository itself is asked, since a worker that stands at its push holds the clone."""
        from predator_si.release.deployer import STATUS_FILE, SyncStatus

        path = self.loop.home.applied / STATUS_FILE
        return path.is_file() and SyncStatus.read(path).applied_revision == invariants.head_of(self.loop.home.gitops_bare)

    def answers(self) -> bool:
        """Whether the search service says what it serves."""
        try:
            self.loop.info()
        except Unavailable:
            return False
        return True

    def look(self, *, history: bool = True) -> list[str]:
        """What does not hold (``invariants``), now that the dust has settled."""
        return invariants.look(self.loop, tracker=self.tracker, history=history, by_hand=self.by_hand())

    def wait_settled(self, seconds: float = 60.0) -> None:
        """Wait until the branch's head is applied and the service serves it.

        Raises
        ------
        Unavailable
            That does not happen.
        """

        def settled() -> bool:
            if not self.in_force():
                return False
            try:
                variants = self.loop.info()["variants"]
            except Unavailable:
                return False
            from predator_si.release.release_file import parse_release

            release = parse_release(self.loop.release_text(), self.loop.release_name).reranker
            candidate = variants["candidate"]["model_sha"] if variants["candidate"] else None
            return bool(variants["champion"]["model_sha"] == release.champion and candidate == release.candidate)

        wait_until(settled, seconds, "the service and the reconciler following Git's head", every=0.1)


def _distinct_ports(n: int) -> list[int]:
    found: set[int] = set()
    while len(found) < n:
        found.add(free_port())
    return list(found)
