"""docs/gitops.md says what the code does: its tests exist, its keys are settings, its trailers are those of a commit."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from predator_si.contour_deploy import Deploy, GitOps
from predator_si.records import Decision, ServingConfig, Verdict, utc_now
from predator_si.release.deploy import evidence_hash, verdict_trailers

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "gitops.md").read_text(encoding="utf-8")


def test_every_test_that_it_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    defined = set(
        re.findall(r"^def (test_\w+)\(", "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "predator_si_tests").rglob("test_*.py")), re.M)
    )
    assert len(named) > 15 and named <= defined, named - defined
    modules = (ROOT / "predator_si_tests" / "unit").glob("test_release_threads_*.py")
    threads = set(re.findall(r"^def (test_[a-z_]*(?:\d+|faq|flywheel)\w*)\(", "\n".join(path.read_text(encoding="utf-8") for path in modules), re.M))
    assert len(threads) > 15
    assert threads <= named, f"not in the table: {threads - named}"


def test_its_examples_are_settings() -> None:
    blocks = [yaml.safe_load(block)["selfImprovement"] for block in re.findall(r"```yaml\n(.*?)```", TEXT, re.S)]
    assert [*blocks[0], *blocks[1]] == ["gitops", "deploy"]
    assert GitOps.model_validate(blocks[0]["gitops"]).signing_key and Deploy.model_validate(blocks[1]["deploy"]).kind == "argocd"


def test_its_trailers_are_those_of_a_decision() -> None:
    model = "sha256:" + "a" * 64
    decision = Decision(
        cycle_id="si_2026_11_23_001", stage="promote", verdict=Verdict.PROMOTE, gates=[], policy="full", approval_required=True, approved_by="api:olena",
        champion=ServingConfig(model=model, depth=20), challenger=ServingConfig(model=model, depth=20), evidence={"b": "2", "a": "1"}, reason="r",
        created_at=utc_now(),
    )  # fmt: skip
    shown = re.findall(r"^Predator-([A-Za-z-]+): ", TEXT, re.M)
    assert shown == ["Cycle", "Stage", "Contour", *verdict_trailers(decision)]
    assert evidence_hash(decision) == evidence_hash(decision.model_copy(update={"evidence": {"a": "1", "b": "2"}, "reason": "other words"}))
    assert evidence_hash(decision) != evidence_hash(decision.model_copy(update={"evidence": {"a": "1", "b": "3"}}))
    waiting = decision.model_copy(update={"approved_by": None, "drill": True})
    assert "Approved-By" not in verdict_trailers(waiting) and verdict_trailers(waiting)["Drill"] == "yes"
