"""A training that fails in a cycle, by weights that are not numbers or a full disk: one clear message, no model in store or registry, and the cycle goes on."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import numpy as np
import pytest

from predator_si.errors import BadInput
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import improve
from predator_si.records import CycleState
from predator_si.settings import Settings
from predator_si.train.tracking import NullTracker
from predator_si_tests.orchestration.test_steps_recipes import home
from predator_si_tests.orchestration.test_steps_trainer import ready


@pytest.fixture
def loop(settings: Settings) -> Loop:
    """The toy home, with a training long enough for two checkpoints."""
    found = home(settings)
    scale = found.plan.scale.model_copy(update={"epochs": 7.0, "groups_per_step": 8})
    (found.home.path / "plan.json").write_text(found.plan.model_copy(update={"scale": scale}).to_json())
    return Loop(settings)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """Full from the step of a training on that a test names."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield Disk(before[1])
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Disk:
    """Files end at a size as on a full disk: no byte beyond. The index of the control database's log, which reading maps, is below it; a checkpoint is not."""

    def __init__(self, hard: int) -> None:
        self._hard = hard
        self.full_at = 0

    def on_progress(self, done: int, total: int) -> None:
        if done == (self.full_at or total):
            resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, self._hard))

    def empty(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, self._hard))


def nothing_was_kept(loop: Loop, cycle_id: str, tracker: NullTracker, before: set[str]) -> None:
    assert {card.digest for card in loop.models.cards()} == before and not list(loop.models.root.glob(".adding-*"))
    assert tracker.versions == {} and tracker.aliases() == {} and [run.status for run in tracker.runs.values()] == ["FAILED"]
    assert not (loop.artifacts(cycle_id) / "training.json").exists() and not list(loop.artifacts(cycle_id).glob("mlflow_run_*"))
    assert loop.control.cycle(cycle_id).state is CycleState.OPENED


def goes_on(loop: Loop, cycle_id: str, tracker: NullTracker) -> improve.TrainingResult:
    found = improve.train_model(loop, cycle_id, tracker)
    assert found.digest in loop.models and list(tracker.versions) == [found.digest] and tracker.runs[found.tracker_run].status == "FINISHED"
    return found


def test_a_loss_that_is_not_a_number_ends_the_training_and_the_cycle_trains_from_sound_weights_later(loop: Loop) -> None:
    from safetensors.numpy import load_file, save_file

    sound = loop.serving().model
    folder = loop.home.path / "tiny"
    state = dict(load_file(str(folder / "model.safetensors")))
    state["classifier.bias"][:] = np.nan
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})
    sick = loop.models.add(folder, name="sick", backend="torch-fp32", max_length=48)
    text = loop.release_text()
    loop.repo.change(lambda files: {loop.release_name: text.replace(sound, sick)}, "released by hand")
    cycle_id, tracker = ready(loop), NullTracker()
    with pytest.raises(BadInput, match=r"the loss is nan at step 1: nothing was stored\. Lower learning_rate"):
        improve.train_model(loop, cycle_id, tracker)
    nothing_was_kept(loop, cycle_id, tracker, {sound, sick})
    loop.repo.change(lambda files: {loop.release_name: text}, "taken back")
    assert goes_on(loop, cycle_id, tracker).start == sound


def test_a_disk_that_is_full_at_a_checkpoint_ends_the_training_and_the_next_run_goes_on_from_the_one_before(loop: Loop, disk: Disk) -> None:
    champion, cycle_id, tracker = loop.serving().model, ready(loop), NullTracker()
    disk.full_at = 30
    with pytest.raises(BadInput, match=r"(?s)training: the checkpoint cannot be written .*Free some space and run the cycle again"):
        improve.train_model(loop, cycle_id, tracker, disk.on_progress)
    disk.empty()
    nothing_was_kept(loop, cycle_id, tracker, {champion})
    assert goes_on(loop, cycle_id, tracker).resumed_from == 25


def test_a_disk_that_is_full_when_the_model_is_stored_leaves_no_half_model(loop: Loop, disk: Disk) -> None:
    champion, cycle_id, tracker = loop.serving().model, ready(loop), NullTracker()
    with pytest.raises(BadInput, match="cannot be written"):
        improve.train_model(loop, cycle_id, tracker, disk.on_progress)
    disk.empty()
    nothing_was_kept(loop, cycle_id, tracker, {champion})
    goes_on(loop, cycle_id, tracker)
