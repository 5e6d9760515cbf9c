"""The page about explanations: its example gives what the page shows."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "explanations.md"


def test_the_example_prints_what_the_page_shows():
    text = PAGE.read_text(encoding="utf-8")
    code, shown = (re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL).group(1) for kind in ("python", "text"))
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compile(code, str(PAGE), "exec"), {})
    assert printed.getvalue().strip() == shown.strip()


def test_every_module_that_it_names_exists():
    text = PAGE.read_text(encoding="utf-8")
    names = re.findall(r"`(\w+\.py)`", text)
    folders = [PAGE.parents[1] / "predator_si" / "diagnose", PAGE.parents[1] / "predator_si_tests" / "unit"]
    assert len(names) > 8 and not [name for name in names if not any((folder / name).is_file() for folder in folders)]
