"""Fail when a test was skipped for a reason that nobody wrote down.

Usage: ``python .ci/check_skips.py junit.xml .ci/allowed_skips.txt``. Each line of the list is a regular expression for a reason; ``#`` starts a
comment. Also fails when no test ran at all.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


def allowed_patterns(listing: Path) -> list[re.Pattern[str]]:
    """The reasons that are known, as patterns."""
    lines = (line.split("#", 1)[0].strip() for line in listing.read_text(encoding="utf-8").splitlines())
    return [re.compile(line) for line in lines if line]


def unlisted_skips(report: Path, listing: Path) -> tuple[int, list[str]]:
    """How many tests ran, and the skipped ones whose reason is on no line of the list."""
    patterns = allowed_patterns(listing)
    ran, unlisted = 0, []
    for case in ElementTree.parse(report).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is None:
            ran += 1
            continue
        reason = f"{skipped.get('message', '')} {skipped.text or ''}".strip()
        if not any(pattern.search(reason) for pattern in patterns):
            unlisted.append(f"{case.get('classname')}.{case.get('name')}: {skipped.get('message') or reason}")
    return ran, unlisted


def main() -> int:
    """Read the report named on the command line."""
    report, listing = Path(sys.argv[1]), Path(sys.argv[2])
    ran, unlisted = unlisted_skips(report, listing)
    for line in unlisted:
        sys.stdout.write(f"skipped for an unlisted reason: {line}\n")
    if ran == 0:
        sys.stdout.write(f"{report}: no test ran\n")
    return 1 if unlisted or ran == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
