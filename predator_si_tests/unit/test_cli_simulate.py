"""`simulate` at the command line: figures as JSON, a contour's settings tried, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from predator_si.cli.simulate import _keep
from predator_si.proof.simulate import run
from predator_si.reports.characteristics import STORED
from predator_si_tests.support.command_line import CommandLine
from predator_si_tests.unit.test_proof_simulate import TINY, written

LOOSE = "selfImprovement:\n  experiment:\n    design:\n      ndcg_alpha: 0.4\n"


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setattr(run, "SMALL", dataclasses.replace(TINY, deployments=80, regressions=4, improvements=4, horizon=100))
    written(tmp_path / "tables")
    return CommandLine(tmp_path / "home", capsys)


def test_the_contour_s_own_settings_pass_and_are_kept_for_the_ui(cli: CommandLine, tmp_path: Path):
    answer = cli("simulate", "--scale", "small", "--tables", tmp_path / "tables", "--json", "-", "--plots", tmp_path / "plots")
    assert answer.code == 0, answer.err
    assert answer.json["scale"] == "small" and answer.json["contour"] == "local" and answer.json["broken"] == []
    assert json.loads((cli.home / STORED).read_text()) == answer.json
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == ["simulate-detection.svg", "simulate-errors.svg", "simulate-loop.svg"]


def test_settings_that_allow_more_errors_than_promised_are_warned_of(cli: CommandLine, tmp_path: Path):
    file = tmp_path / "values-mine.yaml"
    file.write_text(LOOSE)
    answer = cli("simulate", "--scale", "small", "--tables", tmp_path / "tables", "--contour", file)
    assert answer.code == 1
    assert "WARNING: the probability of a false rollback of a deployment is at least" in answer.err
    assert "false rollback" in answer.out and "mann_whitney" in answer.out and "A trial in local (ab 20%)" in answer.out
    assert "these settings are a draft" in answer.err and not (cli.home / STORED).exists(), "what the UI shows is about the settings in force"


def test_a_small_run_does_not_take_the_place_of_a_full_one(tmp_path: Path):
    path = tmp_path / "simulate.json"
    full, small = {"scale": "full", "contour": "local"}, {"scale": "small", "contour": "local"}
    for found, kept in ((small, small), (full, full), (small, full), (small | {"contour": "edge-oracle"}, small | {"contour": "edge-oracle"})):
        _keep(found, path, draft=False)
        assert json.loads(path.read_text()) == kept
    _keep(full, path, draft=True)
    assert json.loads(path.read_text())["contour"] == "edge-oracle"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--scale", "huge"), "full and small"),
        (("--corpus", "scifact"), "--measure"),
        (("--contour", "nowhere.yaml"), "no such file"),
        (("--tables", "nowhere"), "missing"),
    ],
)
def test_wrong_use_is_named(cli: CommandLine, words: tuple[str, ...], said: str):
    answer = cli("simulate", *words)
    assert answer.code == 2 and said in answer.err
