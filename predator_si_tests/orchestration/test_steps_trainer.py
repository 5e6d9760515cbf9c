"""Who trains a cycle: the contour's trainer, or H2O LLM Studio where the contour switches it on; and that nothing half-made is left where it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from predator_si.errors import Missing, Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import improve, recipes
from predator_si.records import CycleState
from predator_si.settings import Settings, load_settings
from predator_si.train.h2o import H2OTrainer
from predator_si.train.tracking import NullTracker
from predator_si_tests.orchestration.test_steps_recipes import examples, home
from predator_si_tests.support.platform import open_cycle
from predator_si_tests.unit.test_train_h2o import STAND_IN


def switched(settings: Settings, tmp_path: Path, text: str) -> Loop:
    """The same home under a contour with this ``h2oStudio`` block."""
    file = tmp_path / "h2o.yaml"
    file.write_text(f"selfImprovement:\n  h2oStudio: {text}\n")
    return Loop(load_settings("local", home=settings.home, values_file=file, env={}))


def ready(loop: Loop, actor: str = "test") -> str:
    """A cycle with its training data."""
    cycle_id = open_cycle(loop.control, actor).cycle_id
    examples(loop).write_parquet(loop.artifacts(cycle_id) / "augmented_dataset.parquet")
    (loop.artifacts(cycle_id) / "dataset_manifest.yaml").write_text("dataset_id: aug_2026_11_23_001\n")
    return cycle_id


def test_the_contour_says_which_cycles_it_trains(settings: Settings, tmp_path: Path) -> None:
    plain = home(settings)
    by_hand = ready(plain)
    assert recipes.trainer_of(plain, by_hand).name == "lean"
    on = switched(settings, tmp_path, "{enabled: true, folder: /opt/studio, backbone: some/model, command: [python, train.py], gpus: ['0', '1']}")
    trainer = recipes.trainer_of(on, by_hand)
    assert isinstance(trainer, H2OTrainer)
    assert (trainer._studio.folder, trainer._studio.command, trainer._studio.gpus) == (Path("/opt/studio"), ("python", "train.py"), ("0", "1"))
    on.control.transition(by_hand, CycleState.FAILED, "a test", "test")
    by_itself = ready(plain, "quality_gate_sensor")
    assert recipes.trainer_of(on, by_itself).name == "lean", "only cycles that a person opened"
    both = switched(settings, tmp_path, "{enabled: true, autoTriggerTraining: true, folder: /opt/studio, backbone: some/model}")
    assert recipes.trainer_of(both, by_itself).name == "h2o"
    off = switched(settings, tmp_path, "{enabled: false, autoTriggerTraining: true, folder: /opt/studio, backbone: some/model}")
    assert recipes.trainer_of(off, by_itself).name == "lean"


@pytest.mark.live
def test_a_cycle_is_trained_with_the_grades_of_the_outside_process(settings: Settings, tmp_path: Path) -> None:
    home(settings)
    studio = tmp_path / "studio"
    studio.mkdir()
    (studio / "train.py").write_text(STAND_IN.replace('"safe" in prompt', '"verified" in prompt'))
    (studio / "how").write_text("well")
    loop = switched(settings, tmp_path, f"{{enabled: true, folder: {studio}, backbone: some/model, command: [{sys.executable}, train.py]}}")
    cycle_id, tracker = ready(loop), NullTracker()
    found = improve.train_model(loop, cycle_id, tracker)
    assert found.trainer == "h2o" and found.digest in loop.models and (studio / "starts").read_text() == "start\n"
    assert loop.models.card(found.digest).origin["recipe"]["loss"] == "distil"


@pytest.mark.parametrize(
    ("block", "error", "says"),
    [
        ("{enabled: true}", Missing, "h2oStudio.folder and h2oStudio.backbone"),
        ("{enabled: true, folder: /nowhere/studio, backbone: some/model}", Missing, "cannot be started in /nowhere/studio.*docs/training.md"),
        ("{enabled: true, folder: /, backbone: some/model, command: ['false']}", Unavailable, "ended with code 1"),
    ],
    ids=["not told where", "not there", "it fails"],
)
def test_where_it_cannot_train_the_run_says_why_and_leaves_no_model(settings: Settings, tmp_path: Path, block: str, error: type[Exception], says: str) -> None:
    home(settings)
    loop = switched(settings, tmp_path, block)
    cycle_id, tracker, before = ready(loop), NullTracker(), len(loop.models.cards())
    with pytest.raises(error, match=f"(?s){says}"):
        improve.train_model(loop, cycle_id, tracker)
    assert len(loop.models.cards()) == before and tracker.aliases() == {}
    assert not (loop.artifacts(cycle_id) / "training.json").exists() and loop.control.cycle(cycle_id).state is CycleState.OPENED
