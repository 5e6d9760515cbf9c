"""`make test` itself: what fails twice fails, what was only disturbed is named, and nothing else is forgiven."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PASSES = "def test_passes():\n    pass\n"
FAILS = "def test_fails():\n    raise AssertionError('always')\n"
DISTURBED = """
from pathlib import Path

def test_disturbed():
    seen = Path(__file__).with_suffix(".seen")
    if not seen.exists():
        seen.touch()
        raise AssertionError("only once")
"""
ENDS = "import os\n\ndef test_ends():\n    os._exit(3)\n"


def run(tmp_path: Path, beside: str, alone: str) -> tuple[int, str]:
    """Exit code and words of the target on a tree of two tests."""
    tests = tmp_path / "predator_si_tests"
    (tests / "live").mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = predator_si_tests\n")
    (tests / "test_beside.py").write_text(beside)
    (tests / "live" / "test_alone.py").write_text(alone)
    command = ["make", "-s", "-f", str(ROOT / "Makefile"), "-o", "setup", f"BIN={Path(sys.executable).parent}", "ARGS=", "REPORTS=", "test"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTEST"))}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("place", ["beside", "alone"])
def test_a_test_that_was_disturbed_is_run_again_and_named(tmp_path: Path, place: str) -> None:
    code, said = run(tmp_path, *((DISTURBED, PASSES) if place == "beside" else (PASSES, DISTURBED)))
    assert code == 0, said
    again = said.split("once more and alone")[1]
    assert "PASSED" in again and "test_disturbed" in again and "test_passes" not in again


@pytest.mark.parametrize(("beside", "alone", "again"), [(FAILS, PASSES, True), (PASSES, FAILS, True), (PASSES, ENDS, False), (DISTURBED, ENDS, False)])
def test_what_fails_twice_or_ends_the_run_fails(tmp_path: Path, beside: str, alone: str, again: bool) -> None:
    code, said = run(tmp_path, beside, alone)
    assert code != 0 and ("once more and alone" in said) is again, said


def test_where_nothing_fails_nothing_is_run_again(tmp_path: Path) -> None:
    code, said = run(tmp_path, PASSES, PASSES)
    assert code == 0 and "once more" not in said, said
