"""README's table says what the demo measured, and nothing where it measured nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predator_si.errors import BadInput
from predator_si.proof.readme import BEGIN, END, demo_table, main, with_table

FIGURES = {
    "state": "stable", "reason": "kept", "scale": "full", "cores": 2, "seed": 20, "seconds": 1012.4, "peak_rss_mb": 2711,
    "ndcg_before": 0.6994, "ndcg_after": 0.7411, "ndcg_gain_ci": [0.0204, 0.0631], "n_queries": 400,
    "p95_before_ms": 802.0, "p95_after_ms": 100.0, "cost_per_1k_before": 0.0080, "cost_per_1k_after": 0.0010,
    "requests": 1800, "failed_requests": 3,
    "drill": {"rolled_back": True, "requests": 100, "failed_requests": 0, "seconds_to_old_digest": 2.34},
}  # fmt: skip


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def test_every_number_is_the_measured_one():
    lines = demo_table(FIGURES).splitlines()
    rows = {cells(line)[0]: cells(line)[1:] for line in lines[2:7]}
    assert rows["NDCG@10"] == ["0.699", "0.741", "+0.042 [+0.020, +0.063]", "400 sealed queries"]
    assert rows["P95 of a search"] == ["802 ms", "100 ms", "8.0 times faster", "60 searches of each"]
    assert rows["Cost of 1,000 searches (estimated)"][:3] == ["$0.0080", "$0.0010", "-88%"]
    assert rows["Requests failed"][1] == "3 of 1800", "failures are not hidden"
    assert rows["A damaged model is pushed past the gates"][1:3] == ["taken back in 2.3 s", "0 of 100 requests failed"]
    assert "1012 s on 2 cores" in lines[-1] and "2.7 GB" in lines[-1]


def test_a_worse_answer_is_said_as_it_is():
    slower = demo_table({**FIGURES, "p95_after_ms": 1604.0, "ndcg_after": 0.65, "ndcg_gain_ci": [-0.07, -0.03]})
    assert "2.0 times slower" in slower and "-0.049 [-0.070, -0.030]" in slower
    assert "NOT taken back" in demo_table({**FIGURES, "drill": {**FIGURES["drill"], "rolled_back": False}})
    assert "unknown" in demo_table({**FIGURES, "cost_per_1k_after": None})


def test_a_demo_without_a_release_gives_no_table():
    with pytest.raises(BadInput, match=r"lack ndcg_after .*rejected: not proven better"):
        demo_table({**FIGURES, "ndcg_after": None, "state": "rejected", "reason": "not proven better"})


@pytest.mark.parametrize("text", ["", BEGIN, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}"])
def test_a_page_without_its_markers_is_left_alone(text: str):
    with pytest.raises(BadInput, match="are needed"):
        with_table(text, "| |")


def test_the_command_replaces_the_old_table_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    figures, page = tmp_path / "demo.json", tmp_path / "README.md"
    figures.write_text(json.dumps(FIGURES))
    page.write_text(f"# title\n{BEGIN}\nold\n{END}\nrest\n")
    assert main([str(figures), str(page)]) == 0
    once = page.read_text()
    assert once.startswith(f"# title\n{BEGIN}\n| |") and once.endswith(f"\n{END}\nrest\n") and "old" not in once
    assert main([str(figures), str(page)]) == 0 and page.read_text() == once
    figures.write_text("{")
    assert main([str(figures), str(page)]) == 2 and "error: " in capsys.readouterr().err
    assert page.read_text() == once


def test_the_repository_page_has_its_markers():
    readme = Path(__file__).resolve().parents[2] / "README.md"
    assert "table" in with_table(readme.read_text(encoding="utf-8"), "table")
