"""The cycle's page: says what is there, what is not, in both languages, without trusting any text."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from predator_si.errors import BadInput
from predator_si.records import (
    Answer,
    Criterion,
    Decision,
    Deployment,
    DiagnosticReport,
    DistributionChange,
    Evaluation,
    ExperimentResult,
    GateResult,
    HelmPatch,
    Holdout,
    Interval,
    LedgerRecord,
    Metric,
    Rollback,
    RootCause,
    SealedOpening,
    ServingConfig,
    Verdict,
    WatchResult,
    XaiInsights,
)
from predator_si.reports import ComparisonRow, check_manifest, manifest, write_cycle_report
from predator_si.reports.cycle import Section, number

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CYCLE = "si_2026_11_22_001"
OLD, NEW = ServingConfig(model="sha256:" + "a" * 64, depth=20), ServingConfig(model="sha256:" + "b" * 64, depth=20)
GATE = GateResult(
    criterion=Criterion(name="ndcg_superior", metric="ndcg_at_10", direction="min", threshold=0.0),
    answer=Answer.PASS,
    value=0.031,
    limit=0.0,
    n=420,
    reason="lower end above 0",
)


def records(weird: str = "") -> dict[str, Any]:
    metric = {"cost_per_1k_requests": 0.42, "error_rate": 0.0}

    def arm(factor: float) -> dict[str, Metric]:
        return {name: Metric(name=name, value=value * factor, n=160, source="price table x CPU seconds") for name, value in metric.items()}

    decision = {
        "cycle_id": CYCLE,
        "verdict": Verdict.PROMOTE,
        "gates": [GATE],
        "policy": "full",
        "approval_required": False,
        "champion": OLD,
        "challenger": NEW,
    }
    return {
        "diagnostic_report.json": DiagnosticReport(
            cycle_id=CYCLE,
            timestamp=NOW,
            trigger="ndcg_at_10_down",
            current_value=0.5,
            baseline=0.6,
            delta=-0.1,
            root_cause_analysis=RootCause(
                type="domain_shift",
                affected_categories=[f"torch{weird}"],
                distribution_change=DistributionChange(new_tokens=[{"token": f"tensor{weird}", "count": 3, "df": 1}], coverage=0.91),
            ),
            xai_insights=XaiInsights(low_coverage_tokens=[], importance_scores={}, suggested_action="augment"),
            recommended_actions=[{"type": "augment"}],
            misses={"queries": 400, "retrieval_misses": 31},
            weak_tokens=[{"name": f"grad{weird}", "n": 20, "mean": 0.3, "deficit": 0.2, "q_value": 0.01, "affected": True}],
        ),
        "evaluation.json": Evaluation(
            cycle_id=CYCLE,
            champion=OLD,
            challenger=NEW,
            corpus="python-docs",
            split="test",
            n_queries=420,
            ndcg_champion=0.512,
            ndcg_challenger=0.543,
            ndcg_difference=Interval(estimate=0.031, low=0.012, high=0.05, p_value=0.0004, n=420),
            slices=[{"name": "torch", "n": 200, "champion": 0.4, "challenger": 0.47, "difference": {"low": 0.03, "high": 0.11}}],
            latency={"champion": {"p95_ms": 1240.0, "n": 100}, "challenger": {"p95_ms": 210.0, "n": 100}},
            power="this set of 420 queries can resolve 2.4 points of NDCG@10 (one-sided 0.05, power 80%)",
            holdout=Holdout(
                opening=SealedOpening(opening=7, period="2026-11", candidate=3, rotation=1), block=1, blocks=2, pool=900, level=0.0015, told=0.512, rose=True
            ),
            created_at=NOW,
        ),
        "ab_test_results.json": ExperimentResult(
            cycle_id=CYCLE,
            mode="ab",
            started_at=NOW,
            ended_at=NOW,
            requests={"champion": 160, "candidate": 40},
            simulated=True,
            arms={"champion": arm(1.0), "candidate": arm(0.3)},
            guardrails=[GATE],
            sample_ratio_p=0.6,
            verdict=Verdict.PROMOTE,
            reason=f"guardrails hold{weird}",
        ),
        "decision-trial.json": Decision(stage="trial", reason="fine", created_at=NOW, **decision),
        "decision-promote.json": Decision(stage="promote", reason=f"superior{weird}", created_at=NOW, **decision),
        "deployment.json": Deployment(
            cycle_id=CYCLE,
            stage="promote",
            commit="c" * 40,
            expected_digest=NEW.model,
            served_digest=NEW.model,
            confirmed=True,
            seconds=3.2,
            reason="confirmed",
            created_at=NOW,
        ),
        "watch.json": WatchResult(
            cycle_id=CYCLE,
            checks=[{"check": 1, "ok": True, "p95_ms": 211.0}],
            requests=200,
            failed_requests=0,
            answer="keep",
            gates=[],
            reason="stable",
            created_at=NOW,
        ),
    }


def fill(folder: Path, weird: str = "", leave_out: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, record in records(weird).items():
        if name not in leave_out:
            (folder / name).write_text(record.to_json())
    patch = HelmPatch(
        cycle_id=CYCLE,
        stage="promote",
        file="release-local.yaml",
        changes={"reranker.champion": NEW.model},
        reverse={"reranker.champion": OLD.model},
        created_at=NOW,
    )
    (folder / "helm_patch.yaml").write_text(yaml.safe_dump(json.loads(patch.model_dump_json())))
    steps = {"proposed": {"clicks": 300, "title": 900}, "round_trip": {"clicks": 290, "title": 500}}
    (folder / "dataset_manifest.yaml").write_text(
        yaml.safe_dump(
            {
                "dataset_id": "aug_2026_11_22_001",
                "method": "clicks and titles",
                "statistics": {"total_examples": 4740, "yield": steps},
                "dvc": {"hash": "abc.dir"},
            }
        )
    )
    pl.DataFrame({"query_id": ["a", "b"], "ndcg_champion": [0.5, 0.5], "ndcg_challenger": [0.6, None]}).write_parquet(folder / "evaluation_per_query.parquet")
    return folder


class Page(HTMLParser):
    """Text and tags of a page; refuses tags that do not close in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text, self.tags, self.addresses = "", [], []
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in {"src", "href", "srcset"}]
        if tag not in {"meta", "img", "source"}:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_a_whole_cycle_tells_its_story(tmp_path: Path):
    ledger = [
        LedgerRecord(seq=1, timestamp=NOW, action="cycle_opened", actor="loop", cycle_id=CYCLE, reason="NDCG fell", previous_hash="0" * 64, hash="f" * 64)
    ]
    path = write_cycle_report(fill(tmp_path / CYCLE), "Cycle", ledger=ledger, latencies={"champion": [1200.0, 1100.0], "challenger": [200.0]})
    page = Page(path)
    for text in (
        "Released and stable",
        "0.512",
        "0.543",
        "+0.031",
        "1,240 ms",
        "210 ms",
        "\N{MINUS SIGN}83.1%",
        "0.420 USD",
        "0.126 USD",
        "domain_shift",
        "tensor",
    ):
        assert text in page.text, text
    for text in (
        "can resolve 2.4 points",
        "candidate 3 of 2026-11, block 2 of 2",
        "raised by this challenger",
        "ndcg_superior",
        "lower end above 0",
        "of 160",
        "of 200",
        "cycle_opened",
        "round_trip",
        "reranker.champion",
        "simulated traffic",
        "4,740",
    ):
        assert text in page.text, text
    assert page.tags.count("img") == page.tags.count("source") == 3
    assert "Not there" not in page.text
    assert path.stat().st_size < 600_000


def test_nothing_outside_is_loaded_and_no_script_runs(tmp_path: Path):
    page = Page(write_cycle_report(fill(tmp_path / CYCLE), "Cycle"))
    assert "script" not in page.tags
    assert all(address.startswith("data:image/png;base64,") or re.fullmatch(r"[\w.%-]+", address) for address in page.addresses)


def test_hostile_text_stays_text(tmp_path: Path):
    weird = '<script>alert(1)</script><img src=x onerror="x">&amp;'
    path = write_cycle_report(fill(tmp_path / CYCLE, weird=weird), f"Title {weird}", sections=[Section(weird, weird, (weird,), ((weird,),))])
    page = Page(path)
    assert "script" not in page.tags and "x" not in page.addresses
    assert page.text.count(weird) >= 8


def test_missing_and_broken_files_are_named(tmp_path: Path):
    folder = fill(tmp_path / CYCLE, leave_out=("ab_test_results.json", "watch.json", "deployment.json", "decision-promote.json"))
    (folder / "evaluation.json").write_text('{"cycle_id": 1}')
    (folder / "evaluation_per_query.parquet").write_bytes(b"junk")
    text = Page(write_cycle_report(folder, "Cycle")).text
    for name in ("ab_test_results.json", "watch.json", "deployment.json", "decision-promote.json", "evaluation.json"):
        assert name in text
    assert "Not there" in text and "broken" in text and "not a Evaluation" in text and "unknown" in text and "Unfinished" in text


def test_an_empty_folder_gives_a_page_and_no_folder_an_error(tmp_path: Path):
    assert "Unfinished" in Page(write_cycle_report(tmp_path, "Cycle")).text
    with pytest.raises(BadInput, match="no such folder"):
        write_cycle_report(tmp_path / "absent", "Cycle")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"decision-promote.json": {"verdict": Verdict.REJECT}}, "Rejected: nothing was promoted"),
        ({"decision-promote.json": {"verdict": Verdict.INCONCLUSIVE}}, "Inconclusive: nothing was promoted"),
        ({"decision-promote.json": {"approval_required": True}}, "Waiting for approval"),
        ({"deployment.json": {"confirmed": False}}, "Not released: the service did not confirm it"),
        ({"watch.json": {"answer": "continue"}}, "Released, being watched"),
    ],
)
def test_outcome_follows_the_newest_artifact(tmp_path: Path, change: dict[str, Any], expected: str):
    folder = fill(tmp_path / CYCLE, leave_out=("deployment.json", "watch.json") if "decision-promote.json" in change else ())
    for name, update in change.items():
        (folder / name).write_text(records()[name].model_copy(update=update).to_json())
    assert expected in Page(write_cycle_report(folder, "Cycle")).text


def test_rollback_and_drill_are_said(tmp_path: Path):
    folder = fill(tmp_path / CYCLE)
    back = Rollback(
        cycle_id=CYCLE,
        reason="NDCG fell",
        from_digest=NEW.model,
        to_digest=OLD.model,
        commit="d" * 40,
        verified=True,
        seconds=2.0,
        denied=[NEW.model],
        created_at=NOW,
    )
    (folder / "rollback.json").write_text(back.to_json())
    (folder / "decision-promote.json").write_text(records()["decision-promote.json"].model_copy(update={"drill": True}).to_json())
    text = Page(write_cycle_report(folder, "Cycle")).text
    assert "Rolled back" in text and "drill" in text


def test_ukrainian_headings(tmp_path: Path):
    path = write_cycle_report(fill(tmp_path / CYCLE), "Цикл", lang="uk")
    text = Page(path).text
    assert 'lang="uk"' in path.read_text(encoding="utf-8")
    for heading in ("Що змінилося", "Якість ранжування, NDCG@10", "Чому: діагноз", "Пороги якості", "Випущено, працює стабільно", "Файли"):
        assert heading in text


def test_given_rows_replace_the_derived_ones(tmp_path: Path):
    rows = [ComparisonRow("NDCG", 0.5, None), ComparisonRow("P95", 900.0, 1000.0, "ms", "down")]
    path = write_cycle_report(fill(tmp_path / CYCLE), "Cycle", summary=rows)
    assert "Ranking quality" not in Page(path).text and '<span class="bad">+100 ms' in path.read_text(encoding="utf-8")


def test_an_interval_around_zero_is_no_improvement():
    assert ComparisonRow("x", 0.5, 0.51, interval=(-0.01, 0.03)).improved is None
    assert ComparisonRow("x", 0.5, 0.51, interval=(0.001, 0.03)).improved is True
    assert ComparisonRow("x", 3, 0, better="down", before_of=100, after_of=200).difference is None


def test_numbers_for_people():
    assert [number(value, "?") for value in (None, 0.0, 12.0, 0.0312, 1.5, 12.34, 1234.5, -0.5)] == [
        "?",
        "0",
        "12",
        "0.031",
        "1.50",
        "12.3",
        "1,234",
        "\N{MINUS SIGN}0.500",
    ]


def test_manifest_finds_every_change(tmp_path: Path):
    folder = fill(tmp_path / CYCLE)
    write_cycle_report(folder, "Cycle")
    content = json.loads(manifest(folder).read_text())
    assert content["cycle_id"] == CYCLE and "report.html" in content["files"] and "manifest.json" not in content["files"]
    assert check_manifest(folder) == []
    (folder / "watch.json").write_text("{}")
    (folder / "helm_patch.yaml").unlink()
    (folder / "new.txt").write_text("x")
    assert check_manifest(folder) == ["changed: watch.json", "gone: helm_patch.yaml", "added: new.txt"]
    (folder / "manifest.json").write_text("[]")
    with pytest.raises(BadInput, match="not a manifest"):
        check_manifest(folder)
