"""The documentation's site: every page has its place, every link its target, and the generated pages say all that the code has."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from predator_si.monitor.triggers import TRIGGERS
from predator_si.reference import PAGES, command_page, metrics_page, records_page, settings_page
from predator_si.reference.command_line import commands as shown_commands
from predator_si.reference.keys import chart_page, comments, keys
from predator_si.reference.markdown import cell, in_words, prose
from predator_si.reference.nouns import meanings, prometheus_names, record_classes
from predator_si.reference.site import fetched_from_elsewhere, first_page, on_page_markdown
from predator_si.settings import CHART
from predator_si.signals import SIGNALS
from predator_si_tests.unit.test_cli import commands

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def leaves(node: object) -> list[str]:
    if isinstance(node, str):
        return [node]
    return [leaf for below in (node.values() if isinstance(node, dict) else node) for leaf in leaves(below)]


def test_every_page_has_one_place():
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    placed = leaves(SITE["nav"])
    assert sorted(placed) == sorted(written | set(PAGES) | {"index.md"})


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.name)
def test_every_link_leads_somewhere(page: Path):
    """`make docs` asks the same of the site; this is of the files, as a reader of the repository meets them."""
    for target in re.findall(r"\]\(((?!https?:|mailto:)[^)\s]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        found = page if not name else (page.parent / name).resolve()
        generated = DOCS in found.parents and str(found.relative_to(DOCS)) in PAGES
        assert found.exists() or generated, f"{page.name}: {target}"
        if anchor and not generated:
            titles = re.findall(r"^#+ (.+)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}, f"{page.name}: {target}"


def test_nothing_is_fetched_from_elsewhere():
    assert SITE["theme"]["font"] is False and "extra_javascript" not in SITE and "analytics" not in str(SITE)
    bad = '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" href="//fonts.example/a.css"><img alt="a" src=https://example.org/a.png>'
    assert len(fetched_from_elsewhere(bad)) == 3
    good = '<link rel="canonical" href="https://example.org/"><script src="assets/a.js"></script><a href="https://example.org">x</a>'
    assert fetched_from_elsewhere(good) == []


def test_a_strict_build_refuses_what_is_broken(tmp_path: Path):
    pytest.importorskip("mkdocs")
    recipe = re.search(r"-m (mkdocs build [^#\n]*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert recipe is not None
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    (tmp_path / "predator_si").symlink_to(ROOT / "predator_si")
    (tmp_path / "docs" / "orphan.md").write_text("# Nobody's\n")
    with (tmp_path / "docs" / "trial.md").open("a", encoding="utf-8") as page:
        page.write('[a](nowhere.md) [b](deploy.md#nothing-here) <img src="https://example.org/a.png">\n')
    words = recipe[1].replace("$(ARGS)", "--site-dir site").split()
    answer = subprocess.run([sys.executable, "-m", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    said = answer.stdout + answer.stderr
    assert answer.returncode == 1, said
    assert not [word for word in ("orphan.md", "nowhere.md", "#nothing-here", "fetched from another machine") if word not in said], said
    assert "Aborted with 4 warnings" in said


def test_the_first_page_is_the_readme_with_the_site_s_links():
    page = first_page()
    assert page.startswith("# predator_si") and "](docs/" not in page and "](deploy/" not in page and "](permission.md)" in page


def test_a_fence_s_second_word_is_for_tests_only():
    assert on_page_markdown("```bash cluster\nls\n```\n") == "```bash\nls\n```\n"


# ------------------------------------------------------------------ generated


def test_every_key_of_a_contour_is_there_with_its_default_and_meaning():
    page, found = settings_page(), {key.path: key for key in keys()}

    def paths(tree: dict, above: str):
        for name, below in tree.items():
            if above == "selfImprovement.qualityGates":
                continue
            yield f"{above}.{name}"
            if isinstance(below, dict):
                yield from paths(below, f"{above}.{name}")

    block = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))["selfImprovement"]
    written = set(paths(block, "selfImprovement"))
    assert len(written) > 100 and written <= set(found), written - set(found)
    tops = [path for path in found if path.count(".") > 1 or not found[path].group]
    assert not [path for path in tops if f"| `{path.removeprefix('selfImprovement.')}` |" not in page]
    assert not [path for path, key in found.items() if not key.meaning], "say it below the field, or beside the key in values.yaml"
    assert (found["selfImprovement.cycleInterval"].local, found["selfImprovement.cycleInterval"].common) == ("`1h`", "`4h`")
    assert found["selfImprovement.watch.requests"].local == "`60`" and found["selfImprovement.watch.requests"].common == "`null`"
    assert found["selfImprovement.features.abSplitRatio"].type == "number (more than 0, at most 0.5)"


def test_comments_of_a_values_file_are_read_with_their_keys(tmp_path: Path):
    file = tmp_path / "values.yaml"
    file.write_text('a:   # group\n  # more of it\n  b: "x # y"   # of b\n  c: 1\n# of nobody\nd: 2  # of d\n')
    assert comments(file) == {"a": "group more of it", "a.b": "of b", "d": "of d"}


def test_every_key_of_the_chart_is_there():
    page, common = chart_page(), yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert not [name for name in common if name != "selfImprovement" and not re.search(rf"^\| `{name}[.`]", page, re.MULTILINE)]


def test_every_command_and_option_is_there():
    page = command_page()
    assert {words for words, _ in shown_commands()} == set(commands())
    for words, command in shown_commands():
        part = page[page.index(f"\n## {' '.join(words)}\n") :].split("\n## ", 2)[1]
        assert "Example:" in part, words
        assert not [
            name
            for one in command.params
            if one.name != "help" and not getattr(one, "hidden", False)
            for name in one.opts
            if name.startswith("--") and name not in part
        ]


def test_every_field_of_every_record_is_there():
    page = records_page()
    for one in record_classes():
        part = page[page.index(f"\n## {one.__name__}\n") :].split("\n## ", 2)[1]
        assert not [name for name in one.model_fields if f"| `{name}` |" not in part], one.__name__
        assert not [name for name in one.model_fields if not meanings(one).get(name)], f"{one.__name__}: a docstring below each field says what it means"


def test_every_metric_trigger_and_gauge_is_there():
    page = metrics_page()
    assert not [name for name in SIGNALS if f"| `{name}` |" not in page]
    assert not [rule.type for rule in TRIGGERS if f"| `{rule.type}` |" not in page] and "None" not in page
    assert {"predator_si_quality_value", "predator_si_quality_gate", "predator_si_quality_lost_events"} <= {name for name, _ in prometheus_names()}


def test_words_for_types_and_cells():
    assert in_words(tuple[int, ...] | None) == "list of whole number or null" and in_words(dict[str, float]) == "text -> number"
    assert cell("a | `<b>`\n <c>") == "a \\| `<b>` &lt;c>"
    assert prose("First ``x``.\n\n    Parameters\n    ----------\n    a\n        b\n") == "First `x`."
