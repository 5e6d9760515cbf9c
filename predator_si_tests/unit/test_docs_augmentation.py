"""docs/augmentation.md says what the code does: its sources, its steps, its keys, its limits."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from predator_si.augment.generators import llm
from predator_si.augment.llm_checks import REASONS
from predator_si.augment.recipe import SOURCES, Filters, Sizes
from predator_si.contour import ContourValues
from predator_si.contour_augment import LanguageModelWriter

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")


def test_every_source_is_described_with_its_module():
    rows = dict(re.findall(r"^\| `(\w+)` \| `([\w/.]+)` \|", TEXT, re.MULTILINE))
    assert set(rows) == set(SOURCES)
    for source, module in rows.items():
        assert f'source = "{source}"' in (ROOT / "predator_si" / "augment" / module).read_text(encoding="utf-8")


def test_every_module_that_it_names_is_there():
    named = set(re.findall(r"`((?:generators/)?\w+\.py)`", TEXT))
    assert len(named) > 10 and not [name for name in named if not (ROOT / "predator_si" / "augment" / name).is_file()]
    assert not [name for name in re.findall(r"`(predator_si[\w./]*\.py)`", TEXT) if not (ROOT / name).is_file()]


def test_the_steps_of_the_sieve_stand_in_their_order():
    code = (ROOT / "predator_si" / "augment" / "sieve.py").read_text(encoding="utf-8")
    steps = [step for pair in re.findall(r'_step\("(\w+)"|\.count\("(\w+)"', code) for step in pair if step not in ("", "proposed")]
    listed = [word for word in re.findall(r"`(\w+)`", TEXT[TEXT.index("## What a proposal must survive") :]) if word in steps]
    assert sorted(dict.fromkeys(listed), key=steps.index) == list(dict.fromkeys(listed)) and set(listed) == set(steps)


def test_its_values_are_a_contour_s_and_all_that_is_sent_is_named():
    block = re.search(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert block is not None
    said = ContourValues.model_validate(yaml.safe_load(block[1])["selfImprovement"]).augment.llm
    assert said.enabled and said.judge_model != said.model
    assert f"`examples` ({LanguageModelWriter().examples})" in TEXT


def test_its_numbers_are_the_code_s():
    assert f"{llm._SEED_LETTERS:,} characters of the document" in TEXT and f"{llm._NEIGHBOUR_LETTERS:,} of each neighbour" in TEXT
    assert llm._RUBBISH == 8 and "Eight malformed answers" in TEXT
    sizes, filters = Sizes(), Filters()
    assert sizes.negative_ranks == (3, 30) and "ranks 3 to 30" in TEXT and sizes.crop_share == 0.2 and "at most a fifth" in TEXT
    assert (filters.round_trip, filters.round_trip_targeted, filters.client_searches) == (10, 30, 3)
    assert "within 10, within 30" in TEXT and "three times at most" in TEXT


def test_every_reason_to_drop_a_written_query_is_explained():
    words = {
        "characters": "control characters",
        "length": "length",
        "personal": "personal data",
        "copy": "copied",
        "language": "script",
        "echo": "repetitions of the examples",
    }
    words |= {"markup": "markup", "address": "addresses"}
    assert set(words) == set(REASONS) and not [word for word in words.values() if word not in TEXT]
