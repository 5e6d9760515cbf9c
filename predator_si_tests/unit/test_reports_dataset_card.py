"""The card of a data set: one page that loads nothing, with the numbers of the manifest and no word of a person."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from predator_si.augment import Dataset, dataset_card
from predator_si.augment.card import NOT_SHOWN, losses
from predator_si.errors import BadInput
from predator_si.reports.dataset_card import render_dataset_card, write_dataset_card
from predator_si.reports.dataset_plots import counted_bars, word_counts

SECRET = "how do I tell Petro about the merger"
STEPS = {"proposed": {"clicks": 9, "title": 20}, "round_trip": {"clicks": 9, "title": 12}, "personal": {"clicks": 8, "title": 12}}


@pytest.fixture
def dataset() -> Dataset:
    rows = []
    for group, (source, query, doc) in enumerate(
        [("clicks", SECRET, "secret-page"), ("title", "sort <b>values</b> olena.k@example.com", "d1"), ("title", "plot dates", "d2")]
    ):
        rows.append((group, query, doc, f"text of {doc} call +380 44 123 45 67", 1.0, 0.5, source, source, "positive", 1, 1.0, False, "train"))
        rows.append((group, query, f"near-{doc}", "other text", 0.0, -0.5, source, source, "hard", 4, 1.0, False, "train"))
    columns = ["group_id", "query", "doc_id", "text", "label", "teacher_score", "source", "method", "kind", "first_stage_rank", "weight", "targeted", "split"]
    statistics = {
        "groups": 3, "total_examples": 6, "targeted_groups": 0, "groups_by_source": {"clicks": 1, "title": 2}, "examples_by_kind": {"hard": 3, "positive": 3},
        "negatives_mined_by_leg": {"fused": 2, "dense": 1}, "diversity_score": 0.9, "cluster_entropy": 0.75, "groups_by_cluster": {"0": 1, "1": 1},
        "yield": STEPS, "leakage": {"exact": 2}, "teacher": "1 cross-encoder", "seed": 3,
    }  # fmt: skip
    manifest = {
        "dataset_id": "aug_2026_11_22_001", "cycle_id": "si_2026_11_22_001", "created_at": "2026-11-22T10:00:00+00:00", "method": "titles",
        "source": {"type": "clicks+title", "trigger": "ndcg_at_10_down", "base_documents": 50}, "statistics": statistics,
        "dvc": {"path": "aug.dvc", "hash": "abc.dir"}, "generators": [{"source": "title", "name": "Structure", "version": "1"}],
    }  # fmt: skip
    return Dataset("aug_2026_11_22_001", pl.DataFrame(rows, schema=columns, orient="row"), statistics, manifest, {})


def test_nobody_can_be_recognised(dataset: Dataset):
    html = render_dataset_card(dataset_card(dataset))
    for secret in (SECRET, "Petro", "secret-page", "olena", "380 44"):
        assert secret not in html
    assert NOT_SHOWN in html and "[email]" in html and "[phone]" in html
    assert "&lt;b&gt;values" in html and "<b>values" not in html


def test_the_page_holds_the_numbers_and_loads_nothing(dataset: Dataset, tmp_path: Path):
    path = write_dataset_card(tmp_path, dataset_card(dataset))
    html = path.read_text(encoding="utf-8")
    for fact in ("aug_2026_11_22_001", "abc.dir", "1 cross-encoder", "0.750", "0.900", "round_trip", "exact 2", "Structure"):
        assert fact in html
    assert "<script" not in html and not re.findall(r'(?:src|href)="(?!data:)', html)
    assert html.count("data:image/png;base64,") == 8, "four plots in two themes"
    assert [file.name for file in tmp_path.iterdir()] == ["dataset_card.html"]


def test_losses_are_what_each_step_took_of_what_came():
    assert losses(STEPS) == [("round_trip", "title", 8, 20), ("personal", "clicks", 1, 9)]


def test_examples_are_drawn_by_the_seed(dataset: Dataset):
    assert dataset_card(dataset, 1).examples == dataset_card(dataset, 1).examples
    assert len(dataset_card(dataset, 1).examples) == 2


def test_plots_of_nothing_are_refused():
    with pytest.raises(BadInput, match="nothing was counted"):
        counted_bars({}, "groups")
    with pytest.raises(BadInput, match="no text to measure"):
        word_counts({"title": []}, "words")
    assert word_counts({"title": [3, 5, 5]}, "words")[:4] == b"\x89PNG"
