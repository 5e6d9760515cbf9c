"""A cycle's data whose making is killed, again and again, wherever it stands: the next run ends with the same bytes, one state and one chain of records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from predator_si.augment import DatasetRepo, read_manifest
from predator_si.corpora.text import file_digest
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.prepare import build_data
from predator_si.records import CycleState
from predator_si.search.index_versions import IndexVersions
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder
from predator_si.settings import Settings
from predator_si_tests.orchestration.test_steps_recipes import with_training
from predator_si_tests.support.generator_material import report
from predator_si_tests.support.platform import fake_model, open_cycle, prepare

KILLED = """
import os, signal, sys
from pathlib import Path
from predator_si.augment import versioning
from predator_si.control import Control
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps import prepare
from predator_si.settings import load_settings

home, values, cycle_id = sys.argv[1:]


def dying(real, when):
    def call(*given, **more):
        if when(given):
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*given, **more)
    return call


POINTS = {
    "between the files": (Path, "replace", lambda given: given[0].name == "augmented_dataset.csv.partial"),
    "before they are stored": (versioning.DatasetRepo, "_dvc", lambda given: given[1] == "push"),
    "before they have a version": (versioning.DatasetRepo, "_git", lambda given: given[1] == "tag" and given[2] == "-a"),
    "before the cycle knows": (Control, "transition", lambda given: True),
}
for name, (owner, method, when) in POINTS.items():  # each in a process of its own, which has imported everything and computed nothing
    child = os.fork()
    if child == 0:
        setattr(owner, method, dying(getattr(owner, method), when))
        prepare.build_data(Loop(load_settings("local", home=Path(home), values_file=Path(values), env={})), cycle_id)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), name, flush=True)
    if sys.stdin.readline() != "go on\\n":
        break
"""


@pytest.mark.live
def test_data_whose_making_was_killed_are_made_again_with_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    loop = Loop(with_training(settings, tmp_path, "{teacherSeconds: 0}"))
    prepare(loop, fake_model(loop, "champion"))
    IndexVersions(loop.home.index).publish(HybridIndex.build(loop.corpus.documents(), HashingEmbedder()))
    cycle_id = open_cycle(loop.control).cycle_id
    loop.save(cycle_id, "diagnostic_report.json", report())
    folder, repo = loop.artifacts(cycle_id), DatasetRepo.of(loop.home.path)
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(loop.home.path), str(tmp_path / "more.yaml"), cycle_id],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2], env=os.environ,
    )  # fmt: skip
    made: list[str] = []
    try:
        assert child.stdin is not None and child.stdout is not None
        for name in ("between the files", "before they are stored", "before they have a version", "before the cycle knows"):
            assert child.stdout.readline() == f"-9 {name}\n"
            assert loop.control.cycle(cycle_id).state is CycleState.OPENED, name
            made.append(file_digest(folder / "augmented_dataset.parquet"))
            assert (folder / "augmented_dataset.csv").exists() is (name != "between the files")
            assert bool(repo.versions()) is (name == "before the cycle knows"), name
            child.stdin.write("go on\n")
            child.stdin.flush()
    finally:
        child.kill()
        child.communicate()
    (repo.folder / ".git" / "index.lock").touch()  # what a Git that is killed while it writes leaves behind
    dataset = build_data(loop, cycle_id)
    assert {*made, file_digest(folder / "augmented_dataset.parquet")} == {made[0]}, "the same data, whatever was there before"
    assert not [path.name for path in folder.iterdir() if "partial" in path.name]
    cycle = loop.control.cycle(cycle_id)
    moves = [record for record in loop.control.records(50) if record.action == "cycle_prepared" or record.payload.get("dataset")]
    assert cycle.state is CycleState.PREPARED and len(moves) == 1 and loop.control.verify() == []
    newest = repo.listing()[-1]
    assert newest["dataset_id"] == dataset.dataset_id and set(repo.versions().values()) == {dataset.dataset_id}
    assert newest["hash"] == repo.hash_of(dataset.dataset_id) == read_manifest(folder / "dataset_manifest.yaml")["dvc"]["hash"]
    assert file_digest(repo.folder / dataset.dataset_id / "augmented_dataset.parquet") == made[0]
