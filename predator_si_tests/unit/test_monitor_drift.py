"""The quality report: evidently's own numbers, one self-contained file, no drift where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from predator_si.errors import BadInput, Unavailable
from predator_si.monitor.drift import describe_requests, write_quality_report
from predator_si_tests.support.windows import frames, search


def requests(seed, n=80, slow=1.0, text="read a file"):
    rng = np.random.default_rng(seed)
    rows = [search(i, latency_ms=float(slow * rng.lognormal(4, 0.4)), user_query=f"{text} {'x' * int(rng.integers(1, 9))}", rerank_ms=None) for i in range(n)]
    return frames(rows).search


def test_descriptors_by_hand():
    row = describe_requests(frames([search(0, user_query="np.sum  of 2 axes")]).search).row(0, named=True)
    assert (row["query_characters"], row["query_words"], row["results"]) == (17.0, 4.0, 10.0)
    assert row["mean_word_length"] == pytest.approx((6 + 2 + 1 + 4) / 4)
    assert row["non_letter_share"] == pytest.approx(2 / 17)  # the dot and the 2
    assert (row["top_score"], row["score_margin"]) == (10.0, 1.0)
    empty = describe_requests(frames([search(0, user_query="", results=[])]).search).row(0, named=True)
    assert empty["top_score"] is None and empty["query_words"] == 0.0


@pytest.mark.slow
def test_report_finds_the_drifted_columns_and_only_them(tmp_path):
    path = tmp_path / "new" / "quality.html"
    summary = write_quality_report(requests(0), requests(1, slow=2.0, text="transformers.AutoModel 4bit quantisation"), path)
    assert {"latency_ms", "query_characters", "non_letter_share"} <= set(summary["drifted_columns"])
    assert "rerank_ms" in summary["left_out"] and summary["report"] == "quality.html"
    text = path.read_text()
    assert "<html" in text and "latency_ms" in text and not list(path.parent.glob("*.tmp"))
    same = write_quality_report(requests(0), requests(2), path)
    assert same["drifted_columns"] == [] and {column["column"] for column in same["columns"]} >= {"latency_ms", "top_score"}


def test_too_few_requests_and_an_unwritable_folder_are_refused(tmp_path):
    with pytest.raises(BadInput, match="current window has 5"):
        write_quality_report(requests(0), requests(0, n=5), tmp_path / "x.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot be written"):
        write_quality_report(requests(0), requests(1), tmp_path / "file" / "x.html")
