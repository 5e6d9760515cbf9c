"""`bench augment --ablate` on a small collection: tiny models really trained on each arm, compared on dev queries, the test split never opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from predator_si.proof.augment_ablation import AblationPlan, ablate, tables
from predator_si.proof.bench_augment import ablation_arms, bench_augment, sizes_for
from predator_si.train.recipe import TrainingRecipe
from predator_si_tests.support.augment_ground import small_ground
from predator_si_tests.support.tiny_models import store_tiny

pytestmark = [pytest.mark.live, pytest.mark.slow]


def test_arms_leave_out_what_they_say_and_all_are_compared_on_the_same_queries(tmp_path: Path):
    store, start = store_tiny(tmp_path)
    place = small_ground(tmp_path / "small")
    recipe = TrainingRecipe(loss="listwise", learning_rate=1e-3, max_length=16, epochs=0.2)
    opened: list[str] = []
    taken = next(name.removeprefix("without filter ") for name, source, _ in ablation_arms(place.build(sizes_for(480), 2)) if source is None)
    watched = replace(place, corpus=Counting(place.corpus, opened))
    found = ablate(
        watched,
        store,
        start,
        recipe,
        AblationPlan(examples=480, dev_queries=12, depth=5, minutes=10.0, seed=2, only=("title", taken)),
    )
    names = [row["name"] for row in found["arms"]]
    assert names[0] == "all" and {"without title", f"without filter {taken}"} <= set(names) and "without phrase" not in names
    assert found["left_out"] == [] and found["n_queries"] == 12 and set(opened) == {"dev"}
    for row in found["arms"]:
        assert row["gain"] == pytest.approx(row["ndcg"] - found["start_ndcg"], abs=1e-9) and row["gain_ci"][0] <= row["gain"] <= row["gain_ci"][1]
    whole = found["arms"][0]
    for row in found["arms"][1:]:
        assert row["worth"] == pytest.approx(whole["ndcg"] - row["ndcg"], abs=1e-9)
    groups = [row["groups"] for row in found["curve"]]
    assert groups == sorted(groups) and len(groups) == 4 and groups[-1] == whole["groups"]
    text = tables({**bench_augment(place, 120, 2), "ablation": found})
    assert text.count("| without ") == len(names) - 1 and "dev queries" in text


class Counting:
    """A corpus that writes down whose judgments are read."""

    def __init__(self, corpus: object, opened: list[str]) -> None:
        self._corpus, self._opened = corpus, opened

    def judgments(self, split: str | None = None, part: str | None = None) -> pl.DataFrame:
        self._opened.append(str(split))
        return self._corpus.judgments(split, part)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._corpus, name)
