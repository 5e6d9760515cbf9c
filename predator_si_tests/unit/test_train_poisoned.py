"""Poisoned training data: clicks of one client, and labels the wrong way round. Whatever is trained on them must not pass the gate that lets models out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.augment import Filters, Guard, Sizes, build_dataset
from predator_si.evaluate import compare
from predator_si.records import Decision, ServingConfig, Verdict
from predator_si.release.decide import decide_trial
from predator_si.search.models import ModelStore
from predator_si.search.rerank import load_reranker
from predator_si.search.retrieve import Candidates
from predator_si.search.tiny import tiny_cross_encoder
from predator_si.train.fit import fine_tune
from predator_si.train.recipe import TrainingRecipe
from predator_si_tests.support.generator_material import report
from predator_si_tests.support.tiny_models import TOPICS, toy_texts

ASKED, JUDGED, PAGES = 40, 36, 6
RECIPE = TrainingRecipe(learning_rate=5e-3, epochs=3.0, groups_per_step=4, max_length=32, checkpoint_every=1_000)


@dataclass(frozen=True)
class World:
    """Each query has six pages about it; the one that people want says ``safe``, and stands third."""

    queries: list[str]
    documents: pl.DataFrame

    @property
    def doc_ids(self) -> list[str]:
        return self.documents["doc_id"].to_list()

    def text(self, doc_id: str) -> str:
        return str(self.documents["text"][self.doc_ids.index(doc_id)])

    def candidates(self, queries: list[str], depth: int) -> list[Candidates]:
        found = []
        for query in queries:
            ids = [f"{self.queries.index(query)}-{page}" for page in range(PAGES)][:depth]
            ranks = np.arange(1, len(ids) + 1)
            found.append(Candidates(ids, [self.text(doc_id) for doc_id in ids], 1.0 / (60.0 + ranks), ranks, ranks))
        return found


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    names = ["".join(rng.choice(list("bcdfgklmnprstvz"), 7)) for _ in range(ASKED + JUDGED)]
    queries = [f"how to {TOPICS[number % 8]} {name}" for number, name in enumerate(names)]
    rows = [
        (f"{number}-{page}", "", f"the {TOPICS[number % 8]} function and the {rng.choice(TOPICS)} table {name}, {'safe' if page == 2 else 'fast'}")
        for number, name in enumerate(names)
        for page in range(PAGES)
    ]
    return World(queries, pl.DataFrame(rows, schema=["doc_id", "title", "text"], orient="row"))


def searches(world: World, client: Callable[[int], str | None], page: int, times: int = 1) -> list[tuple[str, list[str], list[str], list[float], str | None]]:
    """Searches for all queries of the log, ``times`` each, by ``client(number)``, who reads this page for a minute."""
    shown = [[f"{number}-{place}" for place in range(PAGES)] for number in range(ASKED)]
    return [(world.queries[number], [shown[number][page]], shown[number], [60.0], client(number)) for number in range(ASKED) for _ in range(times)]


def dataset(world: World, rows: list[tuple[str, list[str], list[str], list[float], str | None]]) -> pl.DataFrame:
    """Training groups from a click log through the real pipeline, without a teacher."""
    log = pl.DataFrame(rows, schema=["text", "clicked", "impressions", "dwell", "client_id"], orient="row", schema_overrides={"client_id": pl.String})
    sizes = Sizes(click_groups=ASKED, document_groups=0, negative_ranks=(1, PAGES), candidate_negatives=3, random_negatives=1, validation_share=0.0)
    guard = Guard(world.queries[ASKED:], frozenset())
    return build_dataset("si_2026_11_22_001", report(), log, world.documents, world, guard, None, sizes).examples


def honest(world: World) -> list[tuple[str, list[str], list[str], list[float], str | None]]:
    return [row for name in "ab" for row in searches(world, lambda number, name=name: f"{name}{number % 9}", 2)]


@pytest.fixture(scope="module")
def lab(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelStore, str, str, pl.DataFrame]:
    """A store with an untrained model and with one that learned from honest people, and the data it learned from."""
    root = tmp_path_factory.mktemp("lab")
    store = ModelStore(root / "models")
    folder = tiny_cross_encoder(root / "tiny", [*toy_texts(), *world.documents["text"].to_list()[:60]], 2, layers=2, hidden=32, max_length=128)
    start = store.add(folder, name="tiny", backend="torch-fp32", max_length=64)
    clean = dataset(world, honest(world))
    return store, start, fine_tune(store, start, clean, RECIPE, root / "work", name="champion").digest, clean


def judge(world: World, store: ModelStore, champion: str, challenger: str) -> Decision:
    """The decision of the loop's own rules over judged queries that nobody trained on."""
    numbers = range(ASKED, ASKED + JUDGED)
    queries = pl.DataFrame({"query_id": [str(number) for number in numbers], "text": world.queries[ASKED:]})
    judgments = pl.DataFrame({"query_id": queries["query_id"], "doc_id": [f"{number}-2" for number in numbers], "relevance": [1.0] * JUDGED})
    sides = [load_reranker(store.path(digest)) for digest in (champion, challenger)]
    configs = ServingConfig(model=champion, depth=PAGES), ServingConfig(model=challenger, depth=PAGES)
    evaluation, _ = compare("toy", "test", queries, judgments, world.candidates, *sides, configs, cycle_id="si_2026_11_22_001", resamples=2_000)
    return decide_trial(evaluation, trigger="ndcg_at_10_down", policy="full")


def flipped(examples: pl.DataFrame, share: float, seed: int = 0) -> pl.DataFrame:
    """In so many groups the positive and one negative change their labels."""
    groups = examples["group_id"].unique(maintain_order=True).to_list()
    chosen = np.random.default_rng(seed).permutation(groups)[: round(share * len(groups))].tolist()
    place = pl.int_range(pl.len()).over("group_id")
    return examples.with_columns(label=pl.when(pl.col("group_id").is_in(chosen) & (place < 2)).then(1.0 - pl.col("label")).otherwise("label"))


def train(lab: tuple[ModelStore, str, str, pl.DataFrame], start: str, examples: pl.DataFrame, work: Path) -> str:
    return fine_tune(lab[0], start, examples, RECIPE, work, name="challenger").digest


def test_the_gate_lets_honest_data_through(world: World, lab: tuple[ModelStore, str, str, pl.DataFrame]):
    """Else the refusals below would prove nothing."""
    store, start, champion, clean = lab
    assert clean.filter(pl.col("label") == 1.0)["doc_id"].str.ends_with("-2").all() and clean["group_id"].n_unique() >= 0.9 * ASKED
    assert judge(world, store, start, champion).verdict is Verdict.PROMOTE


def taught(examples: pl.DataFrame) -> pl.DataFrame:
    """The same groups with a teacher who puts what the label says first."""
    return examples.with_columns(teacher_score=3.0 * pl.col("label") - 0.1 * pl.int_range(pl.len()).over("group_id"))


@pytest.mark.parametrize("loss", ["listwise", "distil"])
@pytest.mark.parametrize(("share", "verdicts"), [(0.1, {Verdict.INCONCLUSIVE, Verdict.REJECT}), (1.0, {Verdict.REJECT})])
def test_labels_and_teachers_the_wrong_way_round_are_not_promoted(
    world: World, lab: tuple[ModelStore, str, str, pl.DataFrame], tmp_path: Path, share: float, verdicts: set[Verdict], loss: str
):
    store, _, champion, clean = lab
    recipe = RECIPE.model_copy(update={"loss": loss})
    trained = fine_tune(store, champion, taught(flipped(clean, share)), recipe, tmp_path / "work", name="challenger").digest
    decision = judge(world, store, champion, trained)
    assert decision.verdict in verdicts, decision.reason


@pytest.mark.parametrize("loss", ["listwise", "distil"])
def test_a_tenth_of_wrong_lessons_is_promoted_only_where_the_model_is_better_all_the_same(
    world: World, lab: tuple[ModelStore, str, str, pl.DataFrame], tmp_path: Path, loss: str
):
    """Over a model that knows nothing: what nine tenths teach outweighs the rest, and what all teach wrongly does not."""
    store, start, _, clean = lab
    recipe = RECIPE.model_copy(update={"loss": loss})
    few, all_wrong = (fine_tune(store, start, taught(flipped(clean, share)), recipe, tmp_path / str(share), name="challenger").digest for share in (0.1, 1.0))
    assert judge(world, store, start, few).verdict is Verdict.PROMOTE
    assert judge(world, store, start, all_wrong).verdict is not Verdict.PROMOTE


def test_one_client_cannot_outvote_the_others(world: World, lab: tuple[ModelStore, str, str, pl.DataFrame], tmp_path: Path):
    """Twenty clicks of one client on a wrong page of every query, against two honest ones: few wrong positives come of it, and no promotion."""
    store, _, champion, _ = lab
    examples = dataset(world, honest(world) + searches(world, lambda number: "spammer", 4, times=20))
    wrong = 1.0 - examples.filter(pl.col("label") == 1.0)["doc_id"].str.ends_with("-2").mean()
    fair = Filters()
    assert 0 < round(wrong * ASKED) <= math.ceil(fair.client_least / fair.client_searches), "no more queries than one client's share of clicks reaches"
    decision = judge(world, store, champion, train(lab, champion, examples, tmp_path / "work"))
    assert decision.verdict is not Verdict.PROMOTE, decision.reason


def test_spam_that_cannot_be_told_from_people_spoils_the_data_and_the_gate_stops_it(
    world: World, lab: tuple[ModelStore, str, str, pl.DataFrame], tmp_path: Path
):
    """Without client ids (or with as many as there are clicks) nothing tells spam from people: then the evaluation has to."""
    store, _, champion, _ = lab
    examples = dataset(world, honest(world) + searches(world, lambda number: None, 4, times=20))
    wrong = 1.0 - examples.filter(pl.col("label") == 1.0)["doc_id"].str.ends_with("-2").mean()
    assert wrong >= 0.9
    decision = judge(world, store, champion, train(lab, champion, examples, tmp_path / "work"))
    assert decision.verdict is Verdict.REJECT, decision.reason
