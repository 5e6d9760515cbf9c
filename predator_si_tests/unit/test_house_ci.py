"""CI's own check: an unlisted skip fails, and so does a run without tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = Path(__file__).resolve().parents[2] / ".ci" / "check_skips.py"
CASES = {
    "passed": "<testcase classname='a' name='b'/>",
    "listed": "<testcase classname='a' name='c'><skipped message='no chromium here'>x.py:1: no chromium here</skipped></testcase>",
    "unlisted": "<testcase classname='a' name='d'><skipped message='flaky'>x.py:1: flaky</skipped></testcase>",
}


@pytest.mark.parametrize(
    ("cases", "code", "says"),
    [(("passed",), 0, ""), (("passed", "listed"), 0, ""), (("passed", "unlisted"), 1, "a.d: flaky"), (("listed",), 1, "no test ran"), ((), 1, "no test ran")],
)
def test_only_listed_reasons_may_skip(tmp_path: Path, cases: tuple[str, ...], code: int, says: str):
    report, listing = tmp_path / "junit.xml", tmp_path / "allowed.txt"
    report.write_text(f"<testsuites><testsuite>{''.join(CASES[case] for case in cases)}</testsuite></testsuites>", encoding="utf-8")
    listing.write_text("# comment\nno chromium\\b  # because\n", encoding="utf-8")
    answer = subprocess.run([sys.executable, str(CHECK), str(report), str(listing)], capture_output=True, text=True)
    assert answer.returncode == code and says in answer.stdout
