"""H2O LLM Studio as a second trainer: it learns the grades with a causal language model, and our loop distils that model into the cross-encoder.

What belongs here: the files that pass between the two (data as CSV, ``cfg.yaml``, ``flags.json``, predictions as CSV) and the process. What must not: its code,
or any import of it: H2O LLM Studio needs Python 3.10, an NVIDIA GPU and an environment of its own, and its checkpoints are pickles, which this project never
loads. What it learned comes back as numbers.

The names of the settings were read from H2O LLM Studio 1.14.9, commit a4971c1 of 2026-03-09 (Apache-2.0), problem type ``text_causal_regression_modeling``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.errors import BadInput, Missing, Refused, Unavailable
from predator_si.search.models import ModelStore
from predator_si.train.fit import Judge, Trained, data_digest, fine_tune
from predator_si.train.groups import Group, check, read_groups
from predator_si.train.recipe import TEACHER_LOSSES, TrainingRecipe

PROBLEM = "text_causal_regression_modeling"
KEYS: dict[str, str] = {
    "": "experiment_name output_directory llm_backbone problem_type dataset tokenizer architecture training augmentation prediction environment logging",
    "dataset": "personalize chatbot_name chatbot_author train_dataframe validation_strategy validation_dataframe validation_size data_sample "
    "data_sample_choice system_column prompt_column prompt_column_separator answer_column parent_id_column id_column text_system_start text_prompt_start "
    "text_answer_separator add_eos_token_to_system add_eos_token_to_prompt add_eos_token_to_answer limit_chained_samples mask_prompt_labels "
    "only_last_answer num_classes add_prompt_answer_tokens",
    "tokenizer": "max_length add_prompt_answer_tokens padding_quantile tokenizer_kwargs",
    "architecture": "pretrained backbone_dtype gradient_checkpointing intermediate_dropout pretrained_weights",
    "training": "loss_function optimizer learning_rate differential_learning_rate_layers differential_learning_rate freeze_layers attention_implementation "
    "batch_size drop_last_batch epochs schedule min_learning_rate_ratio warmup_epochs weight_decay gradient_clip grad_accumulation lora use_dora lora_r "
    "lora_alpha lora_dropout use_rslora lora_target_modules lora_unfreeze_layers save_checkpoint evaluation_epochs evaluate_before_training "
    "train_validation_data",
    "augmentation": "token_mask_probability skip_parent_probability random_parent_probability neftune_noise_alpha",
    "prediction": "metric batch_size_inference",
    "environment": "gpus mixed_precision mixed_precision_dtype compile_model use_deepspeed deepspeed_method deepspeed_allgather_bucket_size "
    "deepspeed_reduce_bucket_size deepspeed_stage3_prefetch_bucket_size deepspeed_stage3_param_persistence_threshold find_unused_parameters trust_remote_code "
    "huggingface_branch number_of_workers seed",
    "logging": "log_step_size log_all_ranks logger neptune_project wandb_project wandb_entity",
}
"""Names that a ``cfg.yaml`` may have, by section; "" is the top. H2O LLM Studio only warns of others, so that a misspelt one would have no effect."""
_FLAGS, _PREDICTIONS, _ANSWER = "flags.json", "validation_predictions.csv", "answer"
_CLIP = 1e-3
"""Predicted grades are taken as probabilities between this and one minus this."""
_GRACE = 20.0
_LOG_TAIL = 2_000


@dataclass(frozen=True)
class Studio:
    """An installation of H2O LLM Studio.

    Attributes
    ----------
    folder
        Its checkout: the command runs there.
    backbone
        The language model to tune: a Hugging Face name or a folder.
    command
        What runs its ``train.py`` in its own environment; ``-Y cfg.yaml`` is added. For several GPUs: ``("bash", "distributed_train.sh", "2")``.
    gpus
        Numbers of the GPUs.
    """

    folder: Path
    backbone: str
    command: tuple[str, ...] = ("uv", "run", "python", "llm_studio/train.py")
    gpus: tuple[str, ...] = ("0",)


class H2OTrainer:
    """Tunes a language model in H2O LLM Studio, takes its grades of every pair, and distils them into ``start`` with the lean loop."""

    name = "h2o"

    def __init__(self, studio: Studio) -> None:
        self._studio = studio

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
        """See ``Trainer``; Missing without an installation, Unavailable when H2O LLM Studio fails. The budget counts for each of the two trainings.

        The recipe's loss is "distil" unless it is another one on a teacher's scores: log-odds of the predicted grades.
        """
        labelled = recipe.model_copy(update={"loss": "bce"})
        groups = read_groups(examples, labelled)
        check(store, start, groups, labelled)
        grades = self._grades(groups, recipe, work / "h2o", name, should_stop)
        clipped = np.clip(grades, _CLIP, 1 - _CLIP)
        scores = np.log(clipped / (1 - clipped))
        rows = [
            (number, group.query, text, label, group.weight)
            for number, group in enumerate(groups)
            for text, label in zip(group.texts, group.labels, strict=True)
        ]
        taught = pl.DataFrame(rows, schema=["group_id", "query", "text", "label", "weight"], orient="row").with_columns(teacher_score=pl.Series(scores))
        student = recipe if recipe.loss in TEACHER_LOSSES else recipe.model_copy(update={"loss": "distil"})
        trained = fine_tune(
            store, start, taught, student, work, name=name, earlier=earlier, judge=judge, should_stop=should_stop, on_progress=on_progress, on_loss=on_loss
        )  # fmt: skip
        return Trained(**{**vars(trained), "trainer": self.name})

    def _grades(self, groups: Sequence[Group], recipe: TrainingRecipe, work: Path, name: str, should_stop: Callable[[], bool]) -> np.ndarray:
        """One predicted grade per pair: kept ones where the same data were graded under the same settings."""
        work.mkdir(parents=True, exist_ok=True)
        run, kept = work / "run", work / "grades.json"  # the run's files hold queries in the clear: they go with it
        shutil.rmtree(run, ignore_errors=True)
        try:
            config = write_files(self._studio, groups, recipe, run, name)
            facts = {"data": data_digest(groups), "config": config.read_text(encoding="utf-8")}
            if kept.is_file() and (found := json.loads(kept.read_text())).get("facts") == facts:
                return np.asarray(found["grades"])
            launch(self._studio, config, run, work / "h2o.log", recipe.budget_seconds, should_stop)
            grades = read_grades(run / "output" / _PREDICTIONS, sum(len(group.texts) for group in groups))
        finally:
            shutil.rmtree(run, ignore_errors=True)
        kept.write_text(json.dumps({"facts": facts, "grades": grades.tolist()}) + "\n")
        return grades


def write_files(studio: Studio, groups: Sequence[Group], recipe: TrainingRecipe, work: Path, name: str) -> Path:
    """Write ``pairs.csv`` (columns ``pair, prompt, answer``) and ``cfg.yaml`` to ``work``; returns the latter's path.

    The same pairs are training and validation data: the predictions of the validation are what is wanted, the language model is not judged by them.
    """
    import yaml

    work.mkdir(parents=True, exist_ok=True)
    pairs = [(group.query, text, float(label)) for group in groups for text, label in zip(group.texts, group.labels, strict=True)]
    rows = {"pair": range(len(pairs)), "prompt": [_prompt(query, text) for query, text, _ in pairs], _ANSWER: [label for _, _, label in pairs]}
    data = (work / "pairs.csv").resolve()
    pl.DataFrame(rows).write_csv(data, quote_style="non_numeric")
    settings = {
        "experiment_name": "".join(letter if letter.isalnum() else "-" for letter in name),
        "output_directory": str((work / "output").resolve()),
        "llm_backbone": studio.backbone,
        "problem_type": PROBLEM,
        "dataset": {
            "train_dataframe": str(data), "validation_strategy": "custom", "validation_dataframe": str(data), "data_sample": 1.0, "prompt_column": ["prompt"],
            "answer_column": [_ANSWER], "system_column": "None", "parent_id_column": "None", "num_classes": 1, "text_prompt_start": "",
            "text_answer_separator": "",
        },
        "tokenizer": {"max_length": 32 * math.ceil(recipe.max_length / 32)},
        "architecture": {"backbone_dtype": "bfloat16", "gradient_checkpointing": True},
        "training": {
            "loss_function": "MSELoss", "optimizer": "AdamW", "learning_rate": 1e-4, "batch_size": recipe.groups_per_step,
            "epochs": max(1, round(recipe.epochs)), "schedule": "Cosine", "warmup_epochs": min(1.0, recipe.warmup * recipe.epochs),
            "weight_decay": recipe.weight_decay, "gradient_clip": recipe.clip, "lora": True, "drop_last_batch": False, "save_checkpoint": "last",
            "evaluation_epochs": 1.0,
        },
        "prediction": {"metric": "MSE", "batch_size_inference": 0},
        "environment": {
            "gpus": list(studio.gpus), "mixed_precision": True, "mixed_precision_dtype": "bfloat16", "seed": recipe.seed, "trust_remote_code": False,
            "number_of_workers": 4,
        },
        "logging": {"logger": "None"},
    }  # fmt: skip
    check_settings(settings)
    path = work / "cfg.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return path


def check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that H2O LLM Studio does not know.

    Raises
    ------
    BadInput
        An unknown name, or a section that is none.
    """
    for section, names in KEYS.items():
        found = settings if not section else settings.get(section, {})
        if not isinstance(found, dict):
            raise BadInput(f"cfg.yaml: {section} is a section of settings, not {found!r}.")
        unknown = sorted(set(found) - set(names.split()))
        if unknown:
            raise BadInput(f"cfg.yaml: {section or 'the top'} has no {', '.join(unknown)} in H2O LLM Studio 1.14.9; it would be ignored. Correct the name.")


def launch(studio: Studio, config: Path, run: Path, log: Path, seconds: float | None, should_stop: Callable[[], bool]) -> None:
    """Run H2O LLM Studio on ``config`` and wait until ``run``/output/flags.json says that it is finished; its words go to ``log``.

    Raises
    ------
    Missing
        The command or the folder does not exist.
    Refused
        ``should_stop`` said so; the process is ended.
    Unavailable
        It ended without being finished, or ``seconds`` were over.
    """
    environment = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")}
    began = time.monotonic()
    with log.open("wb") as stream:
        try:
            child = subprocess.Popen(
                [*studio.command, "-Y", str(config.resolve())], cwd=studio.folder, env=environment, stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise Missing(f"H2O LLM Studio cannot be started in {studio.folder} ({error}). Install it there; see docs/training.md.") from error
        try:
            while child.poll() is None:
                if should_stop():
                    raise Refused("training in H2O LLM Studio was told to stop; nothing was stored, the run begins again.")
                if seconds is not None and time.monotonic() - began > seconds:
                    raise Unavailable(f"H2O LLM Studio was not finished after {seconds:.0f} seconds; nothing was stored. Give it more time, or less data.")
                time.sleep(0.2)
        finally:
            _end(child)
    status, info = _status(run / "output")
    if child.returncode != 0 or status != "finished":
        said = log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
        raise Unavailable(f"H2O LLM Studio ended with code {child.returncode}, status {status!r} ({info}): nothing was stored. It said: {said}")


def read_grades(path: Path, pairs: int) -> np.ndarray:
    """Predicted grades in the order of the pairs.

    Raises
    ------
    BadInput
        The file is missing, lacks a pair, or has a prediction that is not a number.
    """
    try:
        found = pl.read_csv(path, columns=["pair", f"pred_{_ANSWER}"], schema_overrides={f"pred_{_ANSWER}": pl.String})
        grades = found.select("pair", pl.col(f"pred_{_ANSWER}").cast(pl.Float64, strict=False)).sort("pair")
    except (OSError, pl.exceptions.PolarsError) as error:
        raise BadInput(f"{path}: no predictions of H2O LLM Studio ({str(error).splitlines()[0]}). Look at its log beside it.") from error
    if grades["pair"].to_list() != list(range(pairs)):
        raise BadInput(f"{path}: predictions for {grades.height} pairs, {pairs} were asked for, each once. Look at the log beside it.")
    values = grades[f"pred_{_ANSWER}"].to_numpy()
    if not np.isfinite(values.astype(np.float64)).all():
        raise BadInput(f"{path}: a prediction that is not a number. Look at the log beside it.")
    return values


def _prompt(query: str, text: str) -> str:
    return " ".join(f"Query: {query} Document: {text}".split())  # one line: the file is read line by line


def _status(output: Path) -> tuple[str, str]:
    """``status`` and ``info`` of ``flags.json``; "none" where it is not there or torn."""
    try:
        flags = json.loads((output / _FLAGS).read_text(encoding="utf-8"))
        return str(flags.get("status", "none")), str(flags.get("info", ""))
    except (OSError, ValueError, AttributeError):
        return "none", ""


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the process and what it started: they are one process group, ours."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            return
        os.killpg(child.pid, number)
        try:
            child.wait(timeout=_GRACE)
        except subprocess.TimeoutExpired:
            continue
