"""The cycle's data with and without the home's teacher: whether the contour gave it time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import prepare
from predator_si.settings import Settings
from predator_si_tests.orchestration.test_steps_recipes import home, with_training


@pytest.mark.parametrize(("seconds", "taught"), [(0, False), (120, True)])
def test_the_teacher_gets_the_time_that_the_contour_gives(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int, taught: bool
) -> None:
    loop = home(with_training(settings, tmp_path, f"{{teacherSeconds: {seconds}}}"))
    seen: dict[str, Any] = {}

    class Stop(Exception):
        pass

    def build(*arguments: Any, **more: Any) -> None:
        seen.update(teacher=arguments[6], budget=more["budget"], log_groups=arguments[7].log_groups)
        raise Stop

    monkeypatch.setattr(prepare, "build_dataset", build)
    monkeypatch.setattr(prepare, "query_log", lambda loop: pl.DataFrame({"text": []}, schema={"text": pl.String}))
    monkeypatch.setattr(prepare.DiagnosticReport, "read", lambda path: None)
    with pytest.raises(Stop):
        prepare.build_data(Loop(loop.settings), "si_2026_11_23_001")
    if not taught:
        assert seen == {"teacher": None, "budget": None, "log_groups": 0}
        return
    assert seen["budget"].seconds == seconds and seen["log_groups"] > 0
    queries = loop.corpus.queries(split="train", part="shift")["text"].to_list()[:3]
    found = loop.index().candidates(queries, 8)
    scores = seen["teacher"].score(queries, [one.doc_ids for one in found], [one.texts for one in found])
    assert [len(one) for one in scores] == [8, 8, 8] and {"dense", "lexical", "cross-encoder"} <= set(seen["teacher"].members)
