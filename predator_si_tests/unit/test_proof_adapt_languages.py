"""Adaptation where nobody writes English: Ukrainian and Russian collections with human judgments, tiny models, everything else as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from predator_si.augment.generators.standard import standard_generators
from predator_si.control import Control
from predator_si.corpora.beir import import_beir
from predator_si.evaluate import PairScores
from predator_si.proof.adapt import Collection, Site, adapt, collection_of
from predator_si.proof.adapt.arms import Workshop
from predator_si.search.models import ModelStore
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder
from predator_si_tests.unit.test_proof_adapt import PLAN

SHARED = Path(__file__).parents[3] / "shared" / "data"
SMALL = replace(PLAN, examples=48, budget_minutes=20, test_queries=30, dev_queries=30, canary_queries=30, held_out=10)


def opened(name: str, folder: Path) -> Collection:
    corpus = import_beir(SHARED / name, folder / name)
    return collection_of(corpus, HybridIndex.build(corpus.documents(), HashingEmbedder()), max_queries=60)


@pytest.mark.parametrize(("name", "other", "letters"), [("man-uk", "xquad-ru", "іїєґ"), ("xquad-ru", "man-uk", "ыэъё")], ids=["Ukrainian", "Russian"])
def test_a_collection_that_is_not_english_is_learned_from_in_its_own_language(
    name: str, other: str, letters: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for needed in (name, other):
        if not (SHARED / needed).is_dir():
            pytest.skip(f"{needed} is not on this machine: the judged collections are not part of the project")
    given: dict[str, pl.DataFrame] = {}
    real = Workshop.train

    def noted(self: Workshop, named: str, groups: pl.DataFrame, *more: Any) -> Any:
        given[named] = groups
        return real(self, named, groups, *more)

    monkeypatch.setattr(Workshop, "train", noted)
    collection = opened(name, tmp_path)
    store = ModelStore(tmp_path / "models")
    texts = [*collection.documents["text"].to_list(), *collection.train["text"].to_list()]
    start = store.add(tiny_cross_encoder(tmp_path / "tiny", texts, 0, hidden=32), name="tiny", backend="torch-fp32", max_length=48)
    site = Site(store, PairScores(tmp_path / "scores.db"), Control(tmp_path / "control.db"), tmp_path / "run", name, "test", False)
    figures = adapt(collection, start, site, SMALL, canaries=[lambda: opened(other, tmp_path)], generators=standard_generators())
    assert len(given) == 3, "two mixes and the oracle"
    for named, groups in given.items():
        queries = groups["query"].unique()
        assert len(queries) >= 15 and queries.str.contains(r"\p{Cyrillic}").mean() > 0.9, named
        assert queries.str.contains(f"[{letters}]").mean() > 0.4, f"{named}: letters that the other language lacks"
    assert figures["decision"] in ("promoted", "rejected") and set(figures["canary"]) == {other}
    frame = pl.read_parquet(figures["per_query"])
    assert frame.height == figures["n_test_queries"] == 30 and (Path(figures["model"]) / "predator.json").is_file()
    base = frame["zero_shot_fused"].to_numpy()
    assert base.mean() > 0.2, "words of an inflected language are found"
    assert figures["model_digest"] != start and np.abs(frame["adapted"].to_numpy() - base).max() > 0, "something was learned"
