"""The tutorial and the short how-to pages say what the code says: the demo's lines, the parts of a trial's page, values that are accepted."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from predator_si.contour import ContourValues
from predator_si.home import Home
from predator_si.reports.pages import TRIAL_PAGE

ROOT = Path(__file__).resolve().parents[2]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def test_the_tutorial_names_the_demo_s_stages_in_their_order():
    code = (ROOT / "predator_si" / "proof" / "demo.py").read_text(encoding="utf-8")
    stages = re.findall(r'told\.stage\("([^"]+)"\)', code)
    jobs = re.findall(r'"cycle_\w+_job": "([^"]+)"', code)
    named = re.findall(r"^\| `([^`]+)` \|", page("tutorial.md"), re.MULTILINE)
    assert set(named) <= {*stages, *jobs} and len(named) > 15
    assert [name for name in named if name in jobs] == jobs
    drill = "drill: a damaged model is pushed past the gates"  # the drill stands above the cycle in the code, and runs after it
    apart = {drill, "more trial traffic, another look"}
    assert [name for name in named if name in stages and name != drill] == [name for name in stages if name not in apart] and named[-2] == drill
    assert "more trial traffic, another look" in page("tutorial.md")


def test_the_page_on_trials_names_the_parts_of_a_trial_s_page():
    code, text = (ROOT / "predator_si" / "reports" / "trial.py").read_text(encoding="utf-8"), page("trial.md")
    parts = re.findall(r'section\(\s*f?"(?:\{which\})?([^"{]+)"', code)
    assert len(set(parts)) >= 7 and not [part for part in parts if part not in text] and TRIAL_PAGE in text


def test_the_values_for_postgresql_are_accepted():
    (block,) = re.findall(r"```yaml\n(.*?)```", page("postgres.md"), re.DOTALL)
    found = ContourValues.model_validate(yaml.safe_load(block)["selfImprovement"])
    assert found.warehouse == "postgres" and found.sources.postgres is not None and found.sources.credentials["postgres"].password_env == "SHOP_DB_PASSWORD"


def test_what_lies_in_the_home_is_named(tmp_path: Path):
    home, text = Home(tmp_path), page("home.md")
    folders = {path.relative_to(tmp_path).parts[0] for path in (home.control_db, home.telemetry, home.events, home.models, home.artifacts, home.logs)}
    assert len(folders) > 4 and not [name for name in folders if f"`{name}" not in text]
