"""Adaptation: lessons and groups, how time is shared out, the gate, gap recovery, and a whole run with tiny models that may not look at labels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.augment.recipe import Proposal
from predator_si.augment.teacher import SoftLabels
from predator_si.control import Control
from predator_si.errors import BadInput
from predator_si.evaluate import PairScores
from predator_si.proof.adapt import Collection, Plan, Site, adapt, model_card, read_run, summarise, write_report
from predator_si.proof.adapt.arms import Workshop
from predator_si.proof.adapt.collection import needs
from predator_si.proof.adapt.gate import judge
from predator_si.proof.adapt.kept import run_folder
from predator_si.proof.adapt.plan import Sets, share_out
from predator_si.proof.adapt.summary import recovered
from predator_si.proof.adapt.teaching import Lesson, Question, apart_from, distilled_groups, held_out_set, supervised_groups
from predator_si.records import Interval
from predator_si.search.models import ModelStore
from predator_si.search.retrieve import Candidates, HybridIndex
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder

TOPICS = ("sorting", "parsing", "joining", "plotting", "caching", "merging", "training", "indexing")
KINDS = ("tables", "frames", "lists", "files", "models", "arrays")
PLAN = Plan(
    budget_minutes=5,
    depth=8,
    group_size=5,
    teacher_best=2,
    max_length=48,
    train_length=48,
    groups_per_step=4,
    backend="torch-fp32",
    held_out=20,
    learning_rate=2e-3,
)


class Titles:
    """Asks for each document by its title."""

    source = "title"

    def propose(self, material: Any, wanted: int, rng: np.random.Generator) -> Any:
        for doc_id, title in material.documents.head(wanted).select("doc_id", "title").iter_rows():
            yield Proposal(f"need {title} today", doc_id, self.source, "title", 1.0, False)


def lesson(scores: list[float], doc_id: str = "", confidence: float | None = 0.75) -> Lesson:
    ids = [f"d{at}" for at in range(len(scores))]
    ranks = np.arange(1, len(ids) + 1)
    found = Candidates(ids, [f"text {name}" for name in ids], 1.0 / (60.0 + ranks), ranks, ranks)
    return Lesson(Question("how to sort", "title" if doc_id else "log", "query", doc_id), found, SoftLabels(np.array(scores), {}, confidence))


def test_a_group_is_the_teachers_best_and_some_of_the_rest():
    scores = [0.1, 2.0, -1.0, 1.0, 0.5, -0.5, 0.0, -2.0]
    frame = distilled_groups([lesson(scores)], PLAN, 0)
    assert frame["doc_id"].to_list()[:2] == ["d1", "d3"] and frame.height == 5
    assert set(frame["doc_id"][2:]) <= {"d0", "d2", "d4", "d5", "d6", "d7"} and frame["doc_id"].n_unique() == 5
    assert frame["label"].to_list() == [1.0, 0.0, 0.0, 0.0, 0.0] and frame["weight"].to_list() == [0.75] * 5
    assert frame["teacher_score"].to_list()[:2] == [2.0, 1.0]
    assert frame.equals(distilled_groups([lesson(scores)], PLAN, 0)) and not frame.equals(distilled_groups([lesson(scores)], PLAN, 1))
    with pytest.raises(BadInput, match="no query is left"):
        distilled_groups([], PLAN, 0)


def test_a_lesson_that_is_shown_twice_comes_with_other_candidates_of_the_rest():
    once, twice = (distilled_groups([lesson([0.1, 2.0, -1.0, 1.0, 0.5, -0.5, 0.0, -2.0])], PLAN, 0, draws) for draws in (1, 2))
    first, second = twice.partition_by("group_id")
    assert first.equals(once) and second["doc_id"][:2].to_list() == ["d1", "d3"]
    assert set(first["doc_id"][2:]) != set(second["doc_id"][2:])


def test_a_collection_without_two_candidates_is_refused_in_words_that_say_so(world: dict[str, Any]):
    workshop = Workshop(world["store"], world["start"], replace(PLAN, backend="onnx-fp32"), world["root"] / "alone", PairScores(world["root"] / "alone.db"))
    alone = Candidates(["d0"], ["only this"], np.array([0.1]), np.array([1]), np.array([1]))
    with pytest.raises(BadInput, match="none of 2 queries has two candidates: there is nothing to rerank"):
        workshop.check_twin(["one", "two"], [alone, alone])


def test_held_out_labels_are_the_teachers_shares_or_the_document_a_query_was_made_from():
    queries, labels, found = held_out_set([lesson([1.0, 0.0, -9.0]), lesson([0.0, 5.0], doc_id="d0")])
    assert queries["query_id"].to_list() == ["h0", "h1"] and len(found) == 2
    own = labels.filter(pl.col("query_id") == "h0")
    assert own["doc_id"].to_list() == ["d0", "d1"] and own["relevance"].to_list() == pytest.approx([1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(1.5))], abs=1e-3)
    assert labels.filter(pl.col("query_id") == "h1").rows() == [("h1", "d0", 1.0)]


def test_the_rank_of_a_questions_own_document():
    assert lesson([0.3, 0.9, 0.1], doc_id="d0").own_rank == 2
    assert lesson([0.3, 0.9], doc_id="elsewhere").own_rank == 0


def test_questions_that_resemble_the_evaluation_stay_out():
    kept, dropped = apart_from(
        [
            Question("how to sort a table by two columns", "log", "query"),
            Question("cache the result", "log", "query"),
            Question("cache the result", "log", "query"),
        ],
        ["How to sort a table by two columns?"],
    )
    assert [question.text for question in kept] == ["cache the result"] and dropped == 1


def test_paraphrases_of_one_need_share_a_number():
    judged = pl.DataFrame({"query_id": ["a", "a", "b", "b", "c"], "doc_id": ["1", "2", "2", "1", "1"], "relevance": [1.0, 1.0, 2.0, 1.0, 1.0]})
    found = needs(pl.Series(["a", "b", "c", "x"]), judged)
    assert found[0] == found[1] and len(set(found)) == 3


def test_time_is_shared_between_training_and_judging():
    plan = Plan(canary_queries=100, test_queries=500)
    given: dict[str, Any] = {"trainings": 3, "stored": 6, "held_out": 100, "judged": Sets(200, (34, 300, 150), 1479)}
    seconds, used = share_out(plan, 1300.0, 75.0, **given)
    choosing = 6 * (12 + 100 * 20 / 75)
    assert 3 * seconds >= 0.5 * (1300 - choosing)
    assert 3 * seconds + choosing + used.seconds(20, 75.0) == pytest.approx(1300)
    assert used.seconds(20, 75.0) == pytest.approx((2 * used.dev + 2 * sum(used.canaries) + 3 * used.test) * 20 / 75)
    assert used.dev < 200 and used.canaries[0] == 30 and used.test < 500
    assert share_out(plan, 9000.0, 75.0, **given)[1] == Sets(200, (34, 100, 100), 500)
    with pytest.raises(BadInput, match="larger --budget-minutes"):
        share_out(plan, 200.0, 75.0, **given)


def test_judged_sets_shrink_with_the_time_but_not_below_what_an_interval_needs():
    sets = Sets(200, (20, 100), 500)
    assert sets.within(1e6, 20, 75.0) == sets and sets.within(-5.0, 20, 75.0) == Sets(30, (20, 30), 30)
    half = sets.within(0.5 * sets.seconds(20, 75.0), 20, 75.0)
    assert half == Sets(100, (20, 50), 250)


@pytest.mark.parametrize("wrong", [{"labels": "some"}, {"group_size": 30}, {"teacher_best": 0}, {"budget_minutes": 0}, {"examples": 2}])
def test_a_plan_that_cannot_be_meant_is_refused(wrong: dict[str, Any]):
    with pytest.raises(BadInput):
        Plan(**wrong)


def interval(estimate: float, half: float, n: int = 100) -> Interval:
    return Interval(estimate=estimate, low=estimate - half, high=estimate + half, n=n)


@pytest.mark.parametrize(
    ("dev", "canaries", "failed"),
    [
        (interval(0.02, 0.01), {"a": interval(0.0, 0.004)}, []),
        (interval(0.005, 0.012), {"a": interval(-0.004, 0.01), "b": interval(0.001, 0.01)}, []),
        (interval(0.02, 0.01, n=20), {"a": interval(0.0, 0.004)}, ["dev_sample"]),
        (interval(0.02, 0.04), {"a": interval(0.0, 0.004)}, ["dev_non_inferior"]),
        (interval(-0.001, 0.002), {"a": interval(0.0, 0.004)}, ["dev_gain"]),
        (interval(0.02, 0.01), {"a": interval(-0.012, 0.02), "b": interval(-0.001, 0.01)}, ["canary_loss"]),
        (interval(0.02, 0.01), {"a": interval(-0.01, 0.005), "b": interval(0.01, 0.01)}, ["no_canary_proven_to_lose"]),
        (interval(0.02, 0.01), {}, ["canary_loss"]),
    ],
)
def test_the_gate_rejects_for_each_reason(dev: Interval, canaries: dict[str, Interval], failed: list[str]):
    verdict = judge(dev, canaries)
    assert [rule["rule"] for rule in verdict.rules if not rule["held"]] == failed
    assert verdict.decision == ("rejected" if failed else "promoted")


def per_query(gain: float, gap: float, n: int = 200, noise: float = 0.05, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    base = rng.beta(4, 2, n)
    columns = {"zero_shot": base - 0.02, "zero_shot_fused": base, "adapted": base + rng.normal(gain, noise, n), "oracle": base + rng.normal(gap, noise, n)}
    return pl.DataFrame({"query_id": [str(at) for at in range(n)], **columns})


def test_gap_recovery_is_the_ratio_of_the_sums_over_collections_with_a_gap():
    frames = [per_query(0.02, 0.03, seed=1), per_query(0.01, 0.04, seed=2), per_query(-0.05, 0.0, seed=3)]
    found, why_not = recovered(frames)
    means = [[float((frame[arm] - frame["zero_shot_fused"]).to_numpy().mean()) for arm in ("adapted", "oracle")] for frame in frames[:2]]
    assert why_not is None and found is not None
    assert found.estimate == pytest.approx(sum(gain for gain, _ in means) / sum(gap for _, gap in means))
    assert found.low < found.estimate < found.high and found.n == 400, "the third collection has no gap and does not count"


def test_the_interval_of_gap_recovery_covers_as_often_as_it_says():
    hits = 0
    for seed in range(150):
        found, _ = recovered([per_query(0.02, 0.04, n=80, seed=2 * seed), per_query(0.02, 0.04, n=80, seed=2 * seed + 1)], resamples=500)
        hits += found is not None and found.low <= 0.5 <= found.high
    assert 0.89 <= hits / 150 <= 0.995


def test_no_gap_no_recovery():
    found, why_not = recovered([per_query(0.02, 0.0)])
    assert found is None and why_not is not None and "no gap" in why_not


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Documents on eight topics and six kinds, queries in other words, an untrained tiny model, and an index over hashed words."""
    root = tmp_path_factory.mktemp("adapt")
    rows = [(f"d{i}{j}", f"{topic} {kind}", f"The function {topic} works on {kind}. It is fast and safe for large {kind}, also when {topic} fails once.")
            for i, topic in enumerate(TOPICS) for j, kind in enumerate(KINDS)]  # fmt: skip
    documents = pl.DataFrame(rows, schema=["doc_id", "title", "text"], orient="row")
    asked = [(f"q{i}{j}{k}", f"{word} {topic} of my {kind}", f"d{i}{j}")
             for i, topic in enumerate(TOPICS) for j, kind in enumerate(KINDS) for k, word in enumerate(("quick", "broken", "explain"))]  # fmt: skip
    order = np.random.default_rng(0).permutation(len(asked))
    asked = [asked[at] for at in order]
    frame = pl.DataFrame([(q, text) for q, text, _ in asked], schema=["query_id", "text"], orient="row")
    judged = pl.DataFrame([(q, d, 1.0) for q, _, d in asked], schema=["query_id", "doc_id", "relevance"], orient="row")
    splits = {"train": frame[:70], "dev": frame[70:110], "test": frame[110:]}
    store = ModelStore(root / "models")
    folder = tiny_cross_encoder(root / "tiny", [" ".join(row) for row in rows] + frame["text"].to_list(), 0, hidden=32)
    start = store.add(folder, name="tiny", backend="torch-fp32", max_length=48)
    return {"root": root, "index": HybridIndex.build(documents, HashingEmbedder()), "documents": documents, "judged": judged, "splits": splits,
            "store": store, "start": start}  # fmt: skip


def run(
    world: dict[str, Any], labels: str, name: str, resumable: bool = False, plan: Plan = PLAN, **more: Any
) -> tuple[dict[str, Any], list[tuple[str, tuple[str, ...]]], Site]:
    """One run, and for each reading of judgments its split and what the ledger held then: counted outside of the code that is tested."""
    ledger = Control(world["root"] / f"{name}.db")
    reads: list[tuple[str, tuple[str, ...]]] = []

    def reading(split: str) -> pl.DataFrame:
        steps = tuple(record.action for record in ledger.records() if record.action.startswith("adaptation_"))
        reads.append((split, steps))
        queries = world["splits"][split]
        frame: pl.DataFrame = world["judged"].join(queries.select("query_id"), on="query_id", how="semi")
        return frame

    def collection(title: str, read: Callable[[str], pl.DataFrame]) -> Collection:
        return Collection(title, world["index"], world["documents"], **world["splits"], read_judgments=read)

    site = Site(world["store"], PairScores(world["root"] / "scores.db"), ledger, world["root"] / name, name, "test", resumable)
    other = collection("other", lambda split: world["judged"])
    facts = {"canaries": [lambda: other], "generators": [Titles()], **more}
    plan = replace(plan, labels=labels)
    try:
        figures = adapt(collection("toy", reading), world["start"], site, plan, **facts)
    except Enough:
        figures = {}
    return figures, reads, site


class Enough(Exception):
    """A test has seen what it came for."""


def until_training(text: str) -> None:
    if text.startswith("training"):
        raise Enough


@pytest.fixture(scope="module")
def unlabelled(world: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, tuple[str, ...]]], Site]:
    return run(world, "none", "none")


def test_without_labels_no_judgment_is_read_before_a_candidate_was_chosen_nor_any_but_dev_before_the_decision(unlabelled: Any):
    figures, reads, _ = unlabelled
    assert reads == [
        ("dev", ("adaptation_chosen",)),
        ("train", ("adaptation_chosen", "adaptation_decided")),
        ("test", ("adaptation_chosen", "adaptation_decided")),
    ]
    assert (figures["judged_dev_openings"], figures["test_openings"]) == (1, 1)


def test_the_same_watch_sees_a_run_that_does_read_train_labels(world: dict[str, Any]):
    _, reads, _ = run(world, "train", "train", tell=until_training)
    assert reads == [("train", ())], "or the test above could not fail"


def test_clicks_are_simulated_and_said_to_be(world: dict[str, Any]):
    said: list[str] = []

    def listen(text: str) -> None:
        said.append(text)
        until_training(text)

    _, reads, site = run(world, "clicks", "clicks", tell=listen)
    assert reads == [("train", ())] and any("simulated users" in text for text in said) and any("1 clicks" in text for text in said)
    assert [record.payload["purpose"] for record in site.ledger.records()] == ["click simulation"]


def test_the_figures_have_the_keys_of_the_contract_and_the_arms_share_what_they_must(unlabelled: Any):
    figures, *_ = unlabelled
    keys = "zero_shot zero_shot_fused adapted oracle oracle_ci gap_recovery gain_ci canary decision examples n_test_queries test_openings"
    keys += " judged_dev_openings seconds model scale cores versions seed"
    assert set(keys.split()) <= set(figures)
    frame = pl.read_parquet(figures["per_query"])
    assert frame.height == figures["n_test_queries"] == 34
    for arm in ("zero_shot", "zero_shot_fused", "adapted", "oracle"):
        assert figures[arm] == pytest.approx(frame[arm].to_numpy().mean())
    assert figures["gain"] == pytest.approx(figures["adapted"] - figures["zero_shot"])
    assert figures["gain_ci"][0] <= figures["gain"] <= figures["gain_ci"][1]
    assert figures["decision"] in ("promoted", "rejected") and set(figures["canary"]) == {"other"}
    assert (Path(figures["model"]) / "predator.json").is_file()
    assert 0 < figures["examples"] <= PLAN.examples and figures["pairs"] > 0
    assert len(figures["choice"]["standings"]) == 4, "two data mixes, each whole and averaged"
    assert sum(figures["phases"].values()) <= figures["seconds"] < 300


def test_sealed_queries_of_an_earlier_figure_stay_closed_and_too_few_others_are_refused(unlabelled: Any, world: dict[str, Any]):
    with pytest.raises(BadInput, match="without the first 10 fewer than 30 are left"):
        run(world, "none", "skipped-most", plan=replace(PLAN, test_skip=10))
    figures, *_ = run(world, "none", "skipped", plan=replace(PLAN, test_skip=4))
    earlier, later = (pl.read_parquet(one["per_query"])["query_id"].to_list() for one in (unlabelled[0], figures))
    assert later == earlier[4:]


def test_a_run_that_was_killed_goes_on_and_opens_nothing_twice(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    trained: list[str] = []
    real = Workshop.train

    def counted(self: Workshop, name: str, *given: Any) -> Any:
        trained.append(name)
        return real(self, name, *given)

    monkeypatch.setattr(Workshop, "train", counted)

    def until(word: str) -> Callable[[str], None]:
        def listen(text: str) -> None:
            if word in text:
                raise Enough

        return listen

    for stop, done in (("choosing among", 2), ("queries of other", 2), ("the sealed", 3)):
        figures, _, site = run(world, "none", "killed", resumable=True, tell=until(stop))
        assert figures == {} and len(trained) == done, f"killed at {stop}"
    said: list[str] = []
    figures, _, site = run(world, "none", "killed", resumable=True, tell=said.append)
    assert said[0].startswith("going on with killed") and len(set(trained)) == len(trained) == 3, "no training is done twice"
    records = site.ledger.records()
    opened = [(record.payload["purpose"], record.payload["corpus"]) for record in records if record.action == "judgments_opened"]
    assert sorted(opened) == [("canary", "other"), ("gate", "toy"), ("oracle", "toy"), ("test", "toy")]
    steps = [record.action for record in records if not record.action.startswith("judgments")]
    assert sorted(steps) == ["adaptation_chosen", "adaptation_decided", "sealed_test_opened"]
    assert (figures["judged_dev_openings"], figures["test_openings"], figures["test_openings_ever"]) == (1, 1, 1)
    assert figures["pairs"] > 0 and sum(figures["phases"].values()) <= figures["seconds"]


def test_a_folder_belongs_to_its_inputs_until_the_run_has_ended(tmp_path: Path):
    first, held = run_folder(tmp_path, "first", {"seed": 0})
    assert run_folder(tmp_path, "second", {"seed": 0})[0].name == "second", "somebody works in the first"
    os.close(held)
    again, held = run_folder(tmp_path, "third", {"seed": 0})
    assert again == first
    assert run_folder(tmp_path, "fourth", {"seed": 1})[0].name == "fourth"
    (first / "figures.json").write_text("{}")
    os.close(held)
    assert run_folder(tmp_path, "fifth", {"seed": 0})[0].name in ("second", "fifth")


def test_page_card_and_summary_of_a_run(unlabelled: Any, tmp_path: Path):
    import json

    figures, *_ = unlabelled
    page = write_report(figures, tmp_path / "report.html").read_text(encoding="utf-8")
    assert figures["decision"] in page and "data:image/png" in page and f"{figures['adapted']:.4f}" in model_card(figures)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(figures, default=str), encoding="utf-8")
    pooled = summarise([read_run(file), read_run(file)])
    assert pooled["gap_recovery"] == (pytest.approx(figures["gap_recovery"]) if figures["gap_recovery"] is not None else None)
    assert pooled["mean_fused_gain"] == pytest.approx(figures["fused_gain"]) and len(pooled["collections"]) == 2
    with pytest.raises(BadInput, match="different promises"):
        summarise([read_run(file), ({**figures, "labels": "clicks"}, pl.read_parquet(figures["per_query"]))])
    with pytest.raises(BadInput, match="not the figures"):
        read_run(tmp_path / "nothing.json")


def test_supervised_groups_have_positives_candidates_and_one_from_anywhere(world: dict[str, Any]):
    judged = world["judged"]
    frame = supervised_groups(world["splits"]["train"], judged, world["index"], PLAN, 0)
    relevant = dict(judged.select("query_id", "doc_id").iter_rows())
    texts = dict(world["splits"]["train"].select("text", "query_id").iter_rows())
    for (query,), group in frame.group_by("query"):
        assert group["label"].to_list()[0] == 1.0 and group["doc_id"][0] == relevant[texts[str(query)]]
        assert (group["label"] > 0).sum() == 1 and group["doc_id"].n_unique() == group.height <= 6
        assert (group.filter(pl.col("kind") == "hard")["first_stage_rank"] >= 3).all()
    with pytest.raises(BadInput, match="nothing supervised"):
        supervised_groups(world["splits"]["train"], judged.head(0), world["index"], PLAN, 0)
