"""The whole data set over a small corpus and a first stage of the real one's shape: groups, yields, guard, manifest, files."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from predator_si.augment import Dataset, Filters, Guard, Sizes, build_dataset, dataset_id_of, read_manifest, update_manifest, write_dataset
from predator_si.augment.teacher import CrossEncoder, EnsembleTeacher
from predator_si.diagnose import tokens
from predator_si.errors import BadInput, Refused
from predator_si.records import DiagnosticReport, DistributionChange, RootCause, XaiInsights

TOPICS = ("tensor", "gradient", "matrix", "socket", "thread", "string", "regex", "calendar", "archive", "logger")


class WordOverlap:
    """A first stage that ranks by the share of common words."""

    def __init__(self, documents: pl.DataFrame) -> None:
        self.doc_ids = documents["doc_id"].to_list()
        self._texts = [f"{title}\n{text}" for title, text in documents.select("title", "text").iter_rows()]
        self._words = [set(tokens(text)) for text in self._texts]
        self.queries = 0

    def text(self, doc_id: str) -> str:
        return self._texts[self.doc_ids.index(doc_id)]

    def candidates(self, queries: list[str], depth: int) -> list[SimpleNamespace]:
        self.queries += len(queries)
        found = []
        for query in queries:
            asked = set(tokens(query))
            order = sorted(range(len(self.doc_ids)), key=lambda i: (-len(asked & self._words[i]), i))[:depth]
            found.append(SimpleNamespace(doc_ids=[self.doc_ids[i] for i in order], texts=[self._texts[i] for i in order]))
        return found


@pytest.fixture(scope="module")
def documents() -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = []
    for number in range(120):
        topic = TOPICS[number % 10]
        verbs = [f"{topic}{letter}{number}" for letter in "abcdef"]
        body = f"{verbs[0]} {verbs[1]} handles {topic} data. Uses {verbs[2]} {verbs[3]} and {verbs[4]}, {verbs[5]} for {rng.choice(TOPICS)} work."
        rows.append((f"d{number}", f"lib.{topic}.do{topic.title()}{number}", body, "shift" if number % 10 < 2 else "base"))
    return pl.DataFrame(rows, schema=["doc_id", "title", "text", "part"], orient="row")


@pytest.fixture(scope="module")
def log(documents: pl.DataFrame) -> pl.DataFrame:
    rows = []
    for number in range(0, 60):
        shown = [f"d{(number + i) % 120}" for i in range(10)]
        rows += [(f"q{number}", f"how to handle {TOPICS[number % 10]} number{number} case", shown[:1], shown, [45.0])] * 2
    return pl.DataFrame(rows, schema=["query_id", "text", "clicked", "impressions", "dwell"], orient="row")


def report(categories: list[str], words: list[str]) -> DiagnosticReport:
    return DiagnosticReport(
        cycle_id="si_2026_11_22_001",
        timestamp=datetime(2026, 11, 22, tzinfo=UTC),
        trigger="ndcg_at_10_down",
        current_value=0.5,
        baseline=0.6,
        delta=-0.1,
        root_cause_analysis=RootCause(type="domain_shift", affected_categories=categories, distribution_change=DistributionChange(new_tokens=[], coverage=0.9)),
        xai_insights=XaiInsights(low_coverage_tokens=words, importance_scores=dict.fromkeys(words, 0.5), suggested_action="augment"),
        recommended_actions=[{"type": "augment", "target_tokens": words, "estimated_examples": 500}],
    )


GUARD = Guard(["how to handle tensor number0 case", "unrelated sealed question"], {"d5", "d6"})
SIZES = Sizes(click_groups=40, document_groups=40)


def overlap(pairs: list[tuple[str, str]]) -> np.ndarray:
    return np.array([len(set(tokens(query)) & set(tokens(text))) for query, text in pairs], dtype=float)


def teacher(score: Callable[[list[tuple[str, str]]], np.ndarray] = overlap) -> EnsembleTeacher:
    return EnsembleTeacher([CrossEncoder(score)])


def build(documents: pl.DataFrame, log: pl.DataFrame, **changes: object) -> Dataset:
    arguments: dict = {"teacher": teacher(), "sizes": SIZES, "seed": 3, **changes}
    return build_dataset("si_2026_11_22_001", report(["shift"], ["tensor"]), log, documents, WordOverlap(documents), GUARD, **arguments)


@pytest.fixture(scope="module")
def dataset(documents: pl.DataFrame, log: pl.DataFrame) -> Dataset:
    return build(documents, log)


def test_every_group_has_one_positive_first_and_mixed_negatives(dataset: Dataset):
    for group in dataset.examples.partition_by("group_id", maintain_order=True):
        assert group["label"].to_list() == [1.0] + [0.0] * (group.height - 1)
        assert group["kind"][0] == "positive" and 3 <= group.height <= 6
        assert group["doc_id"].n_unique() == group.height
        assert group["query"].n_unique() == group["split"].n_unique() == 1
    kinds = dataset.statistics["examples_by_kind"]
    assert kinds["hard"] > 0 and kinds["medium"] > 0 and kinds["random"] > 0
    ranked = dataset.examples.filter(pl.col("kind").is_in(["hard", "medium"]))["first_stage_rank"]
    assert ranked.min() >= 3 and ranked.max() <= 30
    assert {"clicks", "title", "phrase"} <= set(dataset.examples["source"])


def test_clicked_documents_never_become_negatives(documents: pl.DataFrame, log: pl.DataFrame):
    both = log.with_columns(clicked=pl.col("impressions").list.head(2), dwell=pl.lit([45.0, 10.0]))
    examples = build(documents, both).examples.filter(pl.col("source") == "clicks")
    for group in examples.partition_by("group_id"):
        second = f"d{int(group['doc_id'][0][1:]) + 1}"
        assert second not in group["doc_id"].to_list()


def test_nothing_of_the_evaluation_gets_in(dataset: Dataset):
    assert not set(dataset.examples["query"]) & set(GUARD.eval_queries)
    generated = dataset.examples.filter((pl.col("source") != "clicks") & (pl.col("label") == 1.0))
    assert not set(generated["doc_id"]) & set(GUARD.eval_doc_ids)
    assert dataset.statistics["leakage"]["exact"] == 1
    assert dataset.statistics["documents"]["evaluation_documents_left_out"] == 2


def test_yields_fall_step_by_step_and_end_at_the_groups(dataset: Dataset):
    steps = list(dataset.statistics["yield"].values())
    for before, after in pairwise(steps):
        assert all(after[source] <= before[source] for source in before)
    assert steps[-1] == {**dict.fromkeys(steps[0], 0), **dataset.statistics["groups_by_source"]}
    assert steps[0]["clicks"] == 60


def test_weak_documents_are_preferred_up_to_their_share(dataset: Dataset, documents: pl.DataFrame):
    generated = dataset.examples.filter((pl.col("source") != "clicks") & (pl.col("label") == 1.0))
    share = generated["targeted"].mean()
    assert 0.3 <= share <= 0.5 < 1, "a fifth of the documents is of part shift, up to half of the seeds may be"
    parts = dict(documents.select("doc_id", "part").iter_rows())
    aimed = generated.filter(pl.col("targeted"))["doc_id"]
    assert np.mean([parts[doc] == "shift" for doc in aimed]) > 0.8


def test_the_teacher_scores_each_pair_and_false_negatives_go(documents: pl.DataFrame, log: pl.DataFrame, dataset: Dataset):
    for group in dataset.examples.partition_by("group_id", maintain_order=True)[:20]:
        raw = overlap(list(group.select("query", "text").iter_rows()))
        told = group["teacher_score"].to_numpy()
        assert np.all(np.sign(raw[:, None] - raw) == np.sign(np.round(told[:, None] - told, 9))), "the teacher's numbers order a group as its member does"
    without = build(documents, log, teacher=None)
    assert without.examples["teacher_score"].null_count() == without.examples.height and without.statistics["negatives_dropped"]["teacher"] == 0
    judged = build(documents, log, teacher=teacher(lambda pairs: overlap(pairs) + np.array([50.0 * ("archive" in text) for _, text in pairs])))
    assert judged.statistics["negatives_dropped"]["teacher"] > 0
    for group in judged.examples.partition_by("group_id", maintain_order=True):
        if "archive" not in group["text"][0]:
            assert not group["text"][1:].str.contains("archive").any()


def test_twins_of_the_positive_are_no_negatives(documents: pl.DataFrame, log: pl.DataFrame):
    twins = pl.concat([documents, documents.with_columns(doc_id=pl.col("doc_id") + "copy")])
    made = build(twins, log, teacher=None)
    for group in made.examples.partition_by("group_id"):
        assert group["doc_id"][0].removesuffix("copy") not in {doc.removesuffix("copy") for doc in group["doc_id"][1:]}
    assert made.statistics["negatives_dropped"]["same_text"] > 0


def test_same_seed_same_examples(documents: pl.DataFrame, log: pl.DataFrame, dataset: Dataset):
    assert build(documents, log).examples.equals(dataset.examples)
    assert not build(documents, log, seed=4).examples.equals(dataset.examples)


def test_documents_alone_suffice(documents: pl.DataFrame, log: pl.DataFrame):
    made = build(documents, log.clear())
    assert set(made.statistics["groups_by_source"]) <= {"title", "phrase", "crop"} and made.statistics["groups"] >= 20


def test_stop_is_obeyed_and_progress_reaches_the_end(documents: pl.DataFrame, log: pl.DataFrame):
    seen: list[tuple[int, int]] = []
    build(documents, log, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 0
    with pytest.raises(Refused, match="stopped"):
        build(documents, log, should_stop=lambda: True)


def test_bad_teacher_and_empty_result_are_named(documents: pl.DataFrame, log: pl.DataFrame):
    with pytest.raises(BadInput, match=r"teacher .* 0 of them finite"):
        build(documents, log, teacher=teacher(lambda pairs: np.full(len(pairs), np.nan)))
    with pytest.raises(BadInput, match="no training group is left; length took most"):
        build(documents, log, filters=Filters(words=(30, 40)))


def test_files_and_manifest_hold_every_key_of_the_contract(dataset: Dataset, tmp_path: Path):
    paths = write_dataset(tmp_path / "artifacts", dataset)
    assert pl.read_parquet(paths["parquet"]).equals(dataset.examples)
    assert pl.read_csv(paths["csv"]).height == dataset.examples.height
    manifest = read_manifest(paths["manifest"])
    assert {"dataset_id", "cycle_id", "created_at", "source", "method", "target_tokens", "statistics", "dvc", "mlflow"} <= set(manifest)
    assert manifest["dataset_id"] == "aug_2026_11_22_001" and manifest["target_tokens"] == ["tensor"]
    assert {"type", "trigger", "base_documents"} <= set(manifest["source"]) and {"path", "hash"} <= set(manifest["dvc"])
    assert {"total_examples", "avg_length", "diversity_score", "yield"} <= set(manifest["statistics"]) and {"run_id", "artifact_uri"} <= set(manifest["mlflow"])
    assert 0 < manifest["statistics"]["diversity_score"] <= 1
    update_manifest(paths["manifest"], dvc={"path": "x.dvc", "hash": "abc"})
    assert read_manifest(paths["manifest"])["dvc"] == {"path": "x.dvc", "hash": "abc"}
    assert [path.name for path in (tmp_path / "artifacts").glob("*.partial")] == []


def test_ids_and_broken_manifests_are_refused(tmp_path: Path):
    assert dataset_id_of("si_2026_01_02_007") == "aug_2026_01_02_007"
    with pytest.raises(BadInput, match="no cycle id"):
        dataset_id_of("cycle7")
    (tmp_path / "m.yaml").write_text("a: [")
    with pytest.raises(BadInput, match="not YAML"):
        read_manifest(tmp_path / "m.yaml")
