"""The classes of docs/extend.md are executed and keep their protocols."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from predator_si.augment.generators import standard
from predator_si.augment.recipe import SOURCES, Guard
from predator_si.train.recipe import TrainingRecipe
from predator_si.train.trainer import TRAINERS
from predator_si_tests.support.generator_material import documents, material
from predator_si_tests.support.tiny_models import store_tiny, toy_examples

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "extend.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def written(name: str) -> Any:
    """The class ``name`` as the page defines it."""
    (block,) = [block for block in re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL) if f"class {name}" in block]
    module = sys.modules["docs_extend"] = ModuleType("docs_extend")  # dataclasses look their module up
    exec(compile(block, "docs/extend.md", "exec"), module.__dict__)
    return getattr(module, name)


def test_the_source_reads_sets_aside_and_says_when_it_is_away(tmp_path: Path):
    file = tmp_path / "access.csv"
    file.write_text("id,time,query,ms,status\nq1,2026-11-23T11:50:00Z,red boots,41.5,200\nq2,2026-11-23T11:51:00Z,blue boots,-3,200\n")
    found = written("AccessLog")(file).read(NOW - timedelta(minutes=15), NOW)
    assert found.complete and found.frames["search"].select("query_id", "user_query", "latency_ms").rows() == [("q1", "red boots", 41.5)]
    assert found.refused["search"]["reason"].to_list() == ["negative latency: latency_ms -3.0 is not 0 or more"]
    assert (found.provenance.rows_good, found.provenance.rows_quarantined) == (1, 1)
    away = written("AccessLog")(tmp_path / "none.csv").read(NOW - timedelta(minutes=15), NOW)
    assert not away.complete and "No such file" in away.provenance.unknown[0] and not away.frames
    file.write_text("id,time,query,ms,status\n")
    assert written("AccessLog")(file).read(NOW - timedelta(minutes=15), NOW).complete


def test_the_generator_proposes_the_same_again_and_nothing_of_the_evaluation():
    kept = frozenset(documents()["doc_id"].to_list()[:40])
    given = material(guard=Guard([], kept))
    one, again = ([*written("FirstSentences")().propose(given, 12, np.random.default_rng(3))] for _ in range(2))
    assert len(one) == 12 and [proposal.query for proposal in one] == [proposal.query for proposal in again]
    assert not {proposal.doc_id for proposal in one} & kept and {proposal.source for proposal in one} <= set(SOURCES)
    assert hasattr(standard, "standard_generators")


def test_the_trainer_stores_a_model_that_learned_at_half_the_rate(tmp_path: Path):
    store, start = store_tiny(tmp_path, seed=2, hidden=32)
    recipe = TrainingRecipe(learning_rate=5e-3, epochs=1.0, groups_per_step=4, max_length=32, bf16=False)
    trained = written("Gentle")().train(store, start, toy_examples(), recipe, tmp_path / "work", name="gentle")
    assert trained.digest != start and store.path(trained.digest).is_dir()
    from predator_si.train.trainer import LeanTrainer

    halved = recipe.model_copy(update={"learning_rate": 2.5e-3})
    assert LeanTrainer().train(store, start, toy_examples(), halved, tmp_path / "other", name="gentle").digest == trained.digest
    assert "gentle" not in TRAINERS
