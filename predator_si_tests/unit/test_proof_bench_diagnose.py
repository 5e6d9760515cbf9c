"""The bench's own parts: a real service in this process measures what was done to it, sites break where they should, the count is right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.diagnose import Levels
from predator_si.diagnose.tree import ask_branches, rank_causes
from predator_si.errors import BadInput, Missing
from predator_si.evaluate import PairScores
from predator_si.proof.bench_diagnose import confusion_table
from predator_si.proof.bench_diagnose.bench import BenchSizes, Played, bench_diagnose, count
from predator_si.proof.bench_diagnose.collections import DATA, Collection, data_folder
from predator_si.proof.bench_diagnose.faults import FAULTS, Calibration, Strength, calibrate, scenes
from predator_si.proof.bench_diagnose.models import RememberedEmbedder, RememberedReranker
from predator_si.proof.bench_diagnose.sites import Workshop
from predator_si.proof.bench_diagnose.windows import play
from predator_si.search.models import ModelStore
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder

WORDS = [
    f"{a}{b}" for a in ("sort", "read", "parse", "merge", "index", "split", "count") for b in ("list", "file", "tree", "text", "frame", "array", "axis", "set")
]
FAULT = {fault.name: fault for fault in FAULTS}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A collection of made-up documentation with hashed words for an embedder and an untrained tiny cross-encoder: nothing here says anything of quality."""
    rng = np.random.default_rng(2)
    rows = [(f"d{i}", "", " ".join(rng.choice(WORDS, size=14))) for i in range(260)]
    documents = pl.DataFrame(rows, schema=["doc_id", "title", "text"], orient="row").with_columns(part=pl.lit("base"))
    queries = [(f"q{i}", " ".join(rows[i][2].split()[1:6]), "late" if i % 9 == 0 else "base") for i in range(150)]
    late = [f"d{i}" for i in range(150) if i % 9 == 0]
    documents = documents.with_columns(part=pl.when(pl.col("doc_id").is_in(late)).then(pl.lit("late")).otherwise("part"))
    judgments = pl.DataFrame([(f"q{i}", f"d{i}", 1.0) for i in range(150)], schema=["query_id", "doc_id", "relevance"], orient="row")
    collection = Collection("made up", documents, pl.DataFrame(queries, schema=["query_id", "text", "part"], orient="row"), judgments, "english")
    folder = tmp_path_factory.mktemp("bench")
    embedder = RememberedEmbedder("hashing", folder, lambda: HashingEmbedder().encode)
    store = ModelStore(folder / "models")
    digest = store.add(tiny_cross_encoder(folder / "tiny", WORDS, 3, layers=1), name="tiny", backend="torch-fp32", max_length=32)
    model = RememberedReranker(store.path(digest), PairScores(folder / "pairs.db"))
    return Workshop(collection, {"english": embedder}, model, lambda noise: model, 5, weight=0.8)


def named(shop: Workshop, fault: str | None, strength: Strength | None, tmp_path: Path, seed: int = 3) -> tuple[list[str], str | None]:
    pair = scenes(shop, FAULT[fault] if fault else None, strength, seed, 0)
    windows = [play(scene, tmp_path / side, {}, seed) for scene, side in ((pair.reference, "then"), (pair.current, "now"))]
    causes, _ = rank_causes(ask_branches(windows[0], windows[1], Levels(), seed), "manual")
    return [f"{one['type']}:{one['detail']}" if one["detail"] else one["type"] for one in causes], pair.right


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1003, 1004])
@pytest.mark.parametrize(("fault", "level"), [("missing_documents", 0.11), ("error_burst", 0.14)])
def test_the_quick_form_names_what_was_planted(shop: Workshop, tmp_path: Path, fault: str, level: float, seed: int) -> None:
    causes, right = named(shop, fault, Strength(level, 0.06), tmp_path, seed)
    assert causes[0] == right


def test_the_service_measures_its_stages_by_the_clock_that_the_parts_move(shop: Workshop, tmp_path: Path) -> None:
    causes, right = named(shop, "slow_stage", Strength(None, float("nan")), tmp_path, seed=5)
    assert right == "latency:queue" and causes == [right]


def test_a_healthy_window_is_named_nothing(shop: Workshop, tmp_path: Path) -> None:
    assert named(shop, None, None, tmp_path) == ([], None)


def test_strength_is_chosen_by_its_measured_cost(shop: Workshop) -> None:
    chosen = calibrate(shop, FAULT["missing_documents"])
    assert chosen is not None and 0.03 <= chosen.cost <= 0.10
    base = shop.queries("base")
    healthy, broken = (shop.ndcg(site, base)["ndcg_at_10"].to_numpy().mean() for site in (shop.grown(), shop.shrunken(chosen.level)))
    assert healthy - broken == pytest.approx(chosen.cost)
    assert calibrate(shop, FAULT["english_embedder"]) is None, "there is no second language here"
    assert calibrate(shop, FAULT["shifted_domain"]) is None, "there is no other domain here"


def test_sites_break_what_they_say(shop: Workshop) -> None:
    sound = shop.grown().index
    query = shop.queries("base")["text"][0]
    one = sound.candidates([query], 20)[0]
    weighted = shop.legs_reweighted((0.0, 1.0)).index.candidates([query], 20)[0]
    assert weighted.doc_ids[:10] == (one.dense_ids or [])[:10] and weighted.lexical_ids == one.lexical_ids
    other = shop.tokeniser(1.0).index.candidates([query], 20)[0]
    assert other.dense_ids == one.dense_ids and other.lexical_ids != one.lexical_ids
    assert shop.truncated(1.0).index.documents()["text"].str.split(" ").list.len().max() == 8
    assert 0.02 < 1 - shop.shrunken(0.1).index.n_documents / sound.n_documents < 0.2


def test_the_count_and_its_confusion() -> None:
    calibration = Calibration({("slow_stage", "a"): Strength(None, float("nan"))})
    played = [
        Played("slow_stage", "a", 0, "latency:retrieve", ("latency:retrieve",), "p95_latency_ms", 0.5),
        Played("slow_stage", "a", 1, "latency:rerank", ("latency:queue", "latency:rerank"), "p95_latency_ms", 0.7),
        Played("slow_stage", "a", 2, "latency:queue", (), "none", None),
        Played("healthy", "a", 0, None, (), "none", 0.0),
        Played("healthy", "a", 1, None, ("domain_shift",), "none", 0.0),
    ]
    figures = count(played, [FAULT["slow_stage"]], calibration)
    assert (figures["n"], figures["healthy_windows"]) == (3, 2)
    assert (figures["top1"], figures["top2"], figures["false_alarm_rate"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3), 0.5)
    assert figures["confusion"] == {
        "slow_stage": {"latency:retrieve": 1, "latency:queue (another stage)": 1, "no alarm": 1},
        "healthy": {"no alarm": 1, "domain_shift": 1},
    }
    assert [one["seed"] for one in figures["wrong"]] == [1, 2, 1]
    assert "| slow_stage | `latency` | a | 1/3 | 2/3 | latency:queue (another stage) 1, no alarm 1 |" in confusion_table(figures)
    assert "| nothing (healthy) | no alarm | | 1/2 | | domain_shift 1 |" in confusion_table(figures)


def test_without_the_collections_the_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(DATA, str(tmp_path))
    with pytest.raises(Missing, match=f"{tmp_path}.*{DATA}"):
        data_folder()
    with pytest.raises(BadInput, match="faults nonsense"):
        bench_diagnose(tmp_path, BenchSizes(1, 0), only=("nonsense",))
