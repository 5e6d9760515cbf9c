"""``kill -9`` at every step that training takes on disk: the store never holds half a model, and the run that goes on ends with the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.live, pytest.mark.slow]

DRIVER = '''
"""Fork a run for every change on disk and kill it right before; then let another run go on. Torch is imported once; one thread, so that a fork is safe."""
import json, os, shutil, signal, sys
from pathlib import Path

import torch
from safetensors import torch as _
from transformers import AutoModelForSequenceClassification as _

torch.set_num_threads(1)
from predator_si.search.models import ModelStore, model_digest
from predator_si.train.fit import fine_tune
from predator_si.train.recipe import TrainingRecipe
from predator_si_tests.support.tiny_models import store_tiny, toy_examples

root = Path(sys.argv[1])
store, start = store_tiny(root / "base", seed=2, hidden=16)
recipe = TrainingRecipe(learning_rate=5e-3, epochs=0.34, groups_per_step=4, max_length=32, checkpoint_every=1, averages=(0.5,), evaluations=2)
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.copyfile", "os.chmod"}


def judge(score):
    return float(score([("how to sort", "the sort function and the join table, safe")])[0])


def run(folder, kill_at):
    """A forked run that is killed before its nth change on disk; null: none. How it ended."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event, arguments):
            nonlocal seen
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if (event in CHANGES or writes) and str(folder) in str(arguments[0]):
                seen += 1
                if seen == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            fine_tune(ModelStore(folder / "models"), start, toy_examples(), recipe, folder / "work", name="trained", judge=judge)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return os.waitpid(child, 0)[1]


def trained(folder):
    """Digests of all models beside the first, each of which must be whole."""
    models = ModelStore(folder / "models")
    found = [card.digest for card in models.cards() if card.digest != start]
    return sorted([digest, model_digest(models.path(digest)) == digest and (models.path(digest) / "tokenizer.json").is_file()] for digest in found)


def fresh(name):
    shutil.copytree(root / "base", root / name)
    return root / name


straight = fresh("straight")
assert run(straight, None) == 0
print(json.dumps({"kill_at": 0, "after": [], "ended": 0, "then": trained(straight)}), flush=True)
for kill_at in range(1, 200):
    folder = fresh(f"kill-{kill_at}")
    status = run(folder, kill_at)
    after = trained(folder)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    ended = run(folder, None) if killed else status
    print(json.dumps({"kill_at": kill_at if killed else None, "after": after, "ended": ended, "then": trained(folder)}), flush=True)
    shutil.rmtree(folder)
    if not killed:
        break
'''


def test_a_run_killed_at_any_change_on_disk_goes_on_to_the_same_bytes(tmp_path: Path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, str(tmp_path)], capture_output=True, text=True, cwd=Path(__file__).parents[2], env=environment, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    straight, *killed, whole = [json.loads(line) for line in done.stdout.splitlines()]
    models = straight["then"]
    assert len(models) == 2 and all(intact for _, intact in models), "the trained model and its average with the first one"
    assert whole["kill_at"] is None and whole["ended"] == 0 and whole["then"] == models, "the last one was not killed any more"
    assert len(killed) >= 15, "checkpoints, two stored models, the files that go afterwards"
    for one in killed:
        assert all(model in models for model in one["after"]), f"half a model is in the store after a kill at change {one['kill_at']}"
        assert one["ended"] == 0 and one["then"] == models, f"killed at change {one['kill_at']}, the run did not go on to the same bytes"
    assert {len(one["after"]) for one in killed} == {0, 1, 2}
