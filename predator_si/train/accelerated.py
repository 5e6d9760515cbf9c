"""The loop of ``fit`` in several processes, started by ``accelerate launch``: one per GPU in a GPU pod, or some on a processor.

What belongs here: starting the processes, the talk with them, and the place that they run in. What must not: the loop. Each process computes its share of the
groups of a step; gradients are summed, so the steps are those of one process but for rounding. The main process asks the starter whether to stop and how good
the weights are: the starter's callables stay where they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from predator_si.errors import BadInput, PredatorError, Refused, Unavailable
from predator_si.quiet import quiet_environment
from predator_si.search.models import ModelStore
from predator_si.train.fit import Judge, Score, Trained, fine_tune
from predator_si.train.folder_talk import FolderTalk
from predator_si.train.place import Place
from predator_si.train.recipe import TrainingRecipe

_KEY = "PREDATOR_SI_TRAINING_KEY"
_LOG_TAIL = 2_000
Talk: TypeAlias = "Connection[Any, Any] | FolderTalk"
STARTER, WORKER = "starter", "worker"
"""The two ends of a talk by folder."""
_LOOK, _EACH = 10.0, 10
"""By folder: seconds between looks whether to stop, and steps between words about progress."""
_PATIENCE = 1.0
"""Seconds between looks at whether the processes still live, while waiting for a word from them."""


class AccelerateTrainer:
    """``fit.fine_tune`` under ``accelerate launch``."""

    name = "accelerate"

    def __init__(self, processes: int | None = None) -> None:
        """``processes``: how many [default: one per GPU, or one on a processor]."""
        if processes is not None and processes < 1:
            raise BadInput(f"processes {processes}: training takes at least one.")
        self._processes = processes

    def train(
        self,
        store: ModelStore,
        start: str,
        examples: pl.DataFrame,
        recipe: TrainingRecipe,
        work: Path,
        *,
        name: str,
        earlier: pl.DataFrame | None = None,
        judge: Judge | None = None,
        should_stop: Callable[[], bool] = lambda: False,
        on_progress: Callable[[int, int], None] | None = None,
        on_loss: Callable[[int, float], None] | None = None,
    ) -> Trained:
        """See ``Trainer``. Unavailable when the processes end without a word; the checkpoint stays and the same run goes on from it."""
        store.path(start)
        work.mkdir(parents=True, exist_ok=True)
        # The training groups are in the clear: outside the work folder, and gone with the run.
        with tempfile.TemporaryDirectory(prefix="predator-si-training-") as scratch:
            folder = Path(scratch)
            examples.write_parquet(folder / "examples.parquet")
            if earlier is not None:
                earlier.write_parquet(folder / "earlier.parquet")
            (folder / "order.json").write_text(order_text(store, start, recipe, work, name, earlier=earlier is not None, judged=judge is not None))
            key = os.urandom(16)
            with Listener(str(folder / "talk"), "AF_UNIX", authkey=key) as listener, (folder / "log").open("wb") as log:
                child = subprocess.Popen(
                    [*launch_command(self._processes), str(folder)], stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                    env={**os.environ, **quiet_environment(offline=True), **environment(self._processes), _KEY: key.hex()},
                )  # fmt: skip
                try:
                    talk = _accept(listener, child)
                    answer = None if talk is None else serve(talk, lambda: child.poll() is None, judge, should_stop, on_progress, on_loss)
                finally:
                    _end(child)
            if answer is None:
                said = (folder / "log").read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
                raise Unavailable(
                    f"the training processes ended with code {child.returncode} before they were done; the checkpoint in {work.name} stays. They said: {said}"
                )
        return outcome(answer, self.name)


def environment(processes: int | None = None) -> dict[str, str]:
    """Where there is no GPU, processes share the processor's cores."""
    import torch

    if torch.cuda.is_available():
        return {}
    threads = str(max(1, (os.cpu_count() or 1) // (processes or 1)))
    return {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}


def launch_command(processes: int | None = None) -> list[str]:
    """The command that starts the processes; the folder with the order follows it. The same one in a GPU pod and on a processor."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    number = processes or max(1, gpus)
    words = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(number), "--num_machines", "1", "--mixed_precision", "no",
             "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    words += ["--multi_gpu"] if number > 1 else [] if gpus else ["--cpu"]  # without GPUs "multi_gpu" is several processes on the processor (environment)
    return [*words, "-m", "predator_si.train.accelerated"]


def order_text(store: ModelStore, start: str, recipe: TrainingRecipe, work: Path, name: str, *, earlier: bool, judged: bool) -> str:
    """What the processes read from ``order.json``, beside the training groups."""
    return json.dumps({
        "store": str(store.root.resolve()), "start": start, "recipe": recipe.model_dump(mode="json"), "work": str(work.resolve()), "name": name,
        "earlier": earlier, "judged": judged,
    })  # fmt: skip


def outcome(answer: dict[str, Any], trainer: str) -> Trained:
    """The last word of the processes as a record, or the error that it is."""
    if "error" in answer:
        raise {"Refused": Refused}.get(answer["error"], BadInput)(answer["message"])
    found = answer["trained"]
    found["candidates"] = {float(share): digest for share, digest in found["candidates"].items()}
    found["evaluations"] = [(int(step), float(value)) for step, value in found["evaluations"]]
    return Trained(**{**found, "trainer": trainer})


def serve(
    talk: Talk,
    alive: Callable[[], bool],
    judge: Judge | None,
    should_stop: Callable[[], bool],
    on_progress: Callable[[int, int], None] | None,
    on_loss: Callable[[int, float], None] | None,
) -> dict[str, Any] | None:
    """Answer what the main process asks until it is done; null when it ends without a word."""
    with contextlib.closing(talk):
        while True:
            said = _heard(talk, alive)
            if said is None or "trained" in said or "error" in said:
                return said
            if "step" in said:
                if on_progress:
                    on_progress(said["step"], said["steps"])
                if on_loss:
                    on_loss(said["step"] - 1, said["loss"])
            elif "judge" in said and judge is not None:
                _say(talk, {"value": float(judge(lambda pairs: _remote_scores(talk, alive, pairs)))})
            elif "stop" in said:
                _say(talk, {"stop": bool(should_stop())})


def _accept(listener: Listener, child: subprocess.Popen[bytes]) -> Connection[Any, Any] | None:
    socket = listener._listener._socket  # type: ignore[attr-defined]  # the class has no accept with a time limit
    socket.settimeout(_PATIENCE)
    while True:
        try:
            return listener.accept()
        except TimeoutError:
            if child.poll() is not None:
                return None


def _remote_scores(talk: Talk, alive: Callable[[], bool], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    _say(talk, {"score": [list(pair) for pair in pairs]})
    said = _heard(talk, alive)
    if said is None:
        raise Unavailable("the training processes ended while their weights were judged; the checkpoint stays, run it again.")
    return np.asarray(said["scores"], np.float32)


def _say(talk: Talk, what: dict[str, Any]) -> None:
    talk.send_bytes(json.dumps(what).encode())


def _heard(talk: Talk, alive: Callable[[], bool] | None) -> dict[str, Any] | None:
    try:
        while alive is not None and not talk.poll(_PATIENCE):
            if not alive() and not talk.poll(0):
                return None
        said: dict[str, Any] = json.loads(talk.recv_bytes())
    except (EOFError, ConnectionError):
        return None
    return said


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the launcher and what it started: they are one process group, ours."""
    import signal

    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            try:
                os.killpg(child.pid, number)
            except ProcessLookupError:
                return
        try:
            child.wait(timeout=20)
            if number is None:
                return
        except subprocess.TimeoutExpired:
            continue


class SharedPlace(Place):
    """One of the processes that ``accelerate launch`` started."""

    def __init__(self) -> None:
        from accelerate import Accelerator

        self._accelerator = Accelerator(mixed_precision="no")
        self.device = self._accelerator.device
        self.rank, self.ranks = self._accelerator.process_index, self._accelerator.num_processes

    def add_up(self, weights: Sequence[Any], loss: float) -> float:
        """See ``Place``: one sum over everything, laid end to end."""
        import torch

        if self.ranks == 1:
            return loss
        for weight in weights:
            if weight.grad is None:  # more processes than groups in the step
                weight.grad = torch.zeros_like(weight)
        flat = torch.cat([*(weight.grad.reshape(-1) for weight in weights), torch.tensor([loss], dtype=torch.float32, device=self.device)])
        flat = self._accelerator.reduce(flat, reduction="sum")
        start = 0
        for weight in weights:
            weight.grad.copy_(flat[start : start + weight.numel()].view_as(weight))
            start += weight.numel()
        return float(flat[-1])

    def told(self, values: Sequence[float]) -> list[float]:
        """See ``Place``."""
        if self.ranks == 1:
            return list(values)
        from accelerate.utils import broadcast_object_list

        found: list[float] = broadcast_object_list(list(values), from_process=0)
        return found


def _opened(folder: Path, shared: str | None) -> Talk:
    """The way to the starter: a socket beside the order, or a folder of a volume that both mount."""
    if shared is not None:
        return FolderTalk(Path(shared), WORKER, STARTER)
    return Client(str(folder / "talk"), "AF_UNIX", authkey=bytes.fromhex(os.environ[_KEY]))


def _work(folder: Path) -> None:
    """What each process does."""
    order = json.loads((folder / "order.json").read_text())
    place = SharedPlace()
    talk = _opened(folder, order.get("talk")) if place.main else None
    losses: list[float] = []
    looked = time.monotonic()

    def asked(what: dict[str, Any]) -> dict[str, Any]:
        assert talk is not None
        _say(talk, what)
        said = _heard(talk, None)
        if said is None:  # the starter was killed: nobody waits for this run
            raise SystemExit(1)
        return said

    def should_stop() -> bool:
        nonlocal looked
        if not isinstance(talk, FolderTalk):
            return talk is not None and bool(asked({"stop": None})["stop"])
        if time.monotonic() - looked < _LOOK:
            return False
        looked = time.monotonic()
        try:
            return talk.stopped()
        except EOFError as error:  # the run that asked for it is gone
            raise SystemExit(1) from error

    def judge(score: Score) -> float:
        said = asked({"judge": None})
        while "score" in said:
            said = asked({"scores": [float(value) for value in score([(query, text) for query, text in said["score"]])]})
        return float(said["value"])

    def on_loss(step: int, loss: float) -> None:
        losses.append(loss)

    def on_progress(step: int, steps: int) -> None:
        if talk is not None and (isinstance(talk, Connection) or step % _EACH == 0 or step == steps):
            _say(talk, {"step": step, "steps": steps, "loss": losses[-1]})

    try:
        trained = fine_tune(
            ModelStore(Path(order["store"])),
            order["start"],
            pl.read_parquet(folder / "examples.parquet"),
            TrainingRecipe.model_validate(order["recipe"]),
            Path(order["work"]),
            name=order["name"],
            earlier=pl.read_parquet(folder / "earlier.parquet") if order["earlier"] else None,
            judge=judge if order["judged"] else None,
            should_stop=should_stop,
            on_progress=on_progress,
            on_loss=on_loss,
            place=place,
        )
    except PredatorError as error:
        if talk is not None:
            _say(talk, {"error": type(error).__name__, "message": str(error)})
        return
    if talk is not None:
        _say(talk, {"trained": asdict(trained)})


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
