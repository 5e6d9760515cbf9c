"""`bench train`: our training loop beside ``CrossEncoderTrainer`` with its defaults, on the same pairs.

What belongs here: data, clocks, and the figures of CONTRACT.md section 7. What must not: a loop of its own; both arms are trainers of ``train``.

Each arm trains in a process of its own. They take turns, some steps at a time, so that whatever else the machine does hits both. Same groups, loss, length,
pairs per step, number of steps, learning rate and schedule; the rest is each trainer's own: batches by length and bf16 where the chip has it here; random
batches, fp32 and dropout there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from predator_si.corpora import Corpus
from predator_si.errors import BadInput, Unavailable
from predator_si.provenance import provenance
from predator_si.quiet import quiet_environment
from predator_si.search.models import ModelStore
from predator_si.search.retrieve import HybridIndex
from predator_si.train.recipe import TrainingRecipe

ARMS = ("lean", "sentence-transformers")
_RANKS = (3, 30)
_HARD, _RANDOM = 4, 1
_TURN = 2
_DEPTH = 20
_PACKAGES = ("sentence-transformers", "transformers", "torch", "accelerate")
Tell = Callable[[str], None]
OnProgress = Callable[[int, int], None]


def bench_train(
    corpus: Corpus,
    index: HybridIndex,
    model: Path,
    *,
    steps: int = 40,
    groups_per_step: int = 8,
    max_length: int = 128,
    loss: str = "bce",
    learning_rate: float = 2e-5,
    dev_queries: int = 100,
    seed: int = 0,
    tell: Tell = lambda _: None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Train twice and compare pairs per second and NDCG@10 on dev queries.

    Parameters
    ----------
    model
        Folder of a torch cross-encoder.
    loss
        One on labels. "bce" is the framework's default.
    dev_queries
        Judged dev queries, ranked to depth 20; 0 leaves the NDCG out (null).

    Returns
    -------
    dict
        The keys of CONTRACT.md section 7, row ``bench train``, and more beside them. The first step of each arm is not timed.

    Raises
    ------
    BadInput
        Too few judged training queries, or fewer than three steps.
    Unavailable
        An arm ended without an answer.
    """
    from predator_si.search.rerank import chip_has_bf16

    if steps < 3:
        raise BadInput(f"--steps {steps}: the first is not timed, so at least three are needed.")
    examples = training_groups(corpus, index, steps * groups_per_step, seed)
    recipe = TrainingRecipe(
        loss=loss, learning_rate=learning_rate, groups_per_step=groups_per_step, max_length=max_length, seed=seed, checkpoint_every=10**6, epochs=1.0
    )
    with tempfile.TemporaryDirectory(prefix="predator-si-bench-") as scratch:
        folder = Path(scratch)
        store = ModelStore(folder / "models")
        start = store.add(model, name=model.name, backend="torch-fp32", max_length=max_length, origin={"folder": model.name})
        examples.write_parquet(folder / "examples.parquet")
        tell(f"{examples.height:,} pairs in {steps} steps, at most {max_length} tokens each, {loss} loss; both arms by turns")
        arms = _by_turns(folder, start, recipe, steps, on_progress)
        for name, arm in arms.items():
            tell(f"{name}: {arm['pairs_per_second']:.1f} pairs/s")
        quality = _quality(corpus, index, store, {"start": start} | {name: arm["digest"] for name, arm in arms.items()}, max_length, dev_queries, seed, tell)
    ours, reference = arms["lean"], arms["sentence-transformers"]
    return {
        **provenance("full" if steps >= 40 else "small", seed),
        "pairs_per_second": ours["pairs_per_second"],
        "reference_pairs_per_second": reference["pairs_per_second"],
        "ratio": ours["pairs_per_second"] / reference["pairs_per_second"],
        "dev_ndcg": quality["lean"],
        "reference_dev_ndcg": quality["sentence-transformers"],
        "start_dev_ndcg": quality["start"],
        "dev_difference_ci": quality["interval"],
        "dev_queries": quality["queries"],
        "bf16": ours["bf16"],
        "chip_has_bf16": chip_has_bf16(),
        "tokens_per_second": ours["tokens_per_second"],
        "reference_tokens_per_second": reference["tokens_per_second"],
        "device": ours["device"],
        "bf16_peak_share": ours["peak_share"],
        "bf16_peak_share_unknown_because": ours["unknown"],
        "final_loss": ours["final_loss"],
        "reference_final_loss": reference["final_loss"],
        "loss": loss,
        "max_length": max_length,
        "pairs_per_step": groups_per_step * (1 + _HARD + _RANDOM),
        "mean_tokens": ours["mean_tokens"],
        "steps": steps,
        "seconds_per_turn": {name: arm["turns"] for name, arm in arms.items()},
        "packages": _versions(),
    }


def training_groups(corpus: Corpus, index: HybridIndex, wanted: int, seed: int) -> pl.DataFrame:
    """``wanted`` groups of a judged training query: its best document, four from ranks 3 to 30 of the first stage and one at random, none of them relevant.

    Raises
    ------
    BadInput
        Too few judged training queries.
    """
    rng = np.random.default_rng(seed)
    relevant: dict[str, dict[str, float]] = {}
    for query_id, doc_id, relevance in corpus.judgments(split="train").select("query_id", "doc_id", "relevance").iter_rows():
        if relevance > 0 and doc_id in index:
            relevant.setdefault(query_id, {})[doc_id] = relevance
    queries = corpus.queries(split="train").filter(pl.col("query_id").is_in(list(relevant)))
    queries = queries.sample(min(queries.height, 2 * wanted), seed=seed, shuffle=True)
    everything = index.documents()["doc_id"].to_list()
    rows: list[tuple[int, str, str, float]] = []
    made = 0
    for query_id, query, candidates in zip(queries["query_id"], queries["text"], index.candidates(queries["text"].to_list(), _RANKS[1]), strict=True):
        known = relevant[query_id]
        hard = [doc_id for doc_id in candidates.doc_ids[_RANKS[0] - 1 :] if doc_id not in known]
        if len(hard) < _HARD or made == wanted:
            continue
        chosen = [hard[place] for place in rng.choice(len(hard), _HARD, replace=False)]
        while len(chosen) < _HARD + _RANDOM:
            doc_id = everything[int(rng.integers(len(everything)))]
            if doc_id not in known and doc_id not in chosen:
                chosen.append(doc_id)
        best = max(known, key=lambda doc_id: (known[doc_id], doc_id))
        rows += [(made, query, index.text(doc_id), float(place == 0)) for place, doc_id in enumerate([best, *chosen])]
        made += 1
    if made < wanted:
        raise BadInput(f"corpus {corpus.name!r} gives {made} training groups, {wanted} are needed. Ask for fewer --steps or a larger corpus.")
    return pl.DataFrame(rows, schema=["group_id", "query", "text", "label"], orient="row")


def _by_turns(folder: Path, start: str, recipe: TrainingRecipe, steps: int, on_progress: OnProgress | None) -> dict[str, dict[str, Any]]:
    """Both arms, a few steps of each in turn; what each says at the end."""
    children: dict[str, subprocess.Popen[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    try:
        for name in ARMS:
            order = json.dumps({"arm": name, "folder": str(folder), "start": start, "recipe": recipe.model_dump(mode="json")})
            with (folder / f"{name}.log").open("wb") as log:
                children[name] = subprocess.Popen(
                    [sys.executable, "-m", "predator_si.proof.bench_train", order], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                    env={**os.environ, **quiet_environment(offline=True)},
                )  # fmt: skip
            _word(children[name], folder / f"{name}.log")  # loaded, and waiting for its first turn
        done = dict.fromkeys(ARMS, 0)
        while len(found) < len(ARMS):
            for name in [name for name in ARMS if name not in found]:
                _go(children[name])
                said = _word(children[name], folder / f"{name}.log")
                if "digest" in said:
                    found[name] = said
                else:
                    done[name] = said["step"]
                if on_progress:
                    on_progress(sum(done.values()), steps * len(ARMS))
    finally:
        for child in children.values():
            if child.poll() is None:
                child.kill()
            child.communicate()
    return found


def _go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go\n")
    child.stdin.flush()


def _word(child: subprocess.Popen[str], log: Path) -> dict[str, Any]:
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith('{"bench"'):
            said: dict[str, Any] = json.loads(line)
            return said
    raise Unavailable(f"an arm of the bench ended with code {child.wait()} before it was done. It said: {log.read_text(errors='replace')[-1000:]}")


def _arm(order: dict[str, Any]) -> None:
    """One arm, in its own process: waits for a word after every turn, and counts only the seconds between."""
    from predator_si.train.groups import EncodedPairs, read_groups
    from predator_si.train.throughput import throughput
    from predator_si.train.trainer import trainer_named

    folder, recipe = Path(order["folder"]), TrainingRecipe.model_validate(order["recipe"])
    store, examples = ModelStore(folder / "models"), pl.read_parquet(folder / "examples.parquet")
    pairs_per_step = recipe.groups_per_step * (1 + _HARD + _RANDOM)
    turns: list[float] = []
    timed = 0
    clock = 0.0

    def wait(**said: Any) -> None:
        print(json.dumps({"bench": order["arm"], **said}), flush=True)  # noqa: T201  the parent reads it
        if not sys.stdin.readline():
            raise SystemExit("the bench that started this arm is gone")

    def on_progress(step: int, steps: int) -> None:
        nonlocal clock, timed
        now = time.perf_counter()
        if step > 1:
            turns[-1] += now - clock
            timed += 1
        if (step == 1 or (step - 1) % _TURN == 0) and step < steps:
            wait(step=step)
            turns.append(0.0)
        clock = time.perf_counter()

    wait(step=0)
    trained = trainer_named(order["arm"]).train(
        store, order["start"], examples, recipe, folder / order["arm"], name=order["arm"], on_progress=on_progress
    )  # fmt: skip
    encoded = EncodedPairs(store.path(order["start"]), read_groups(examples, recipe), recipe.max_length)
    seconds = sum(turns)
    rate = timed * pairs_per_step / seconds
    mean = float(encoded.lengths.mean())
    done = replace(trained, tokens=round(timed * pairs_per_step * mean), pairs=timed * pairs_per_step, seconds=seconds)
    speed = throughput(done, store.path(order["start"]))
    said = {"pairs_per_second": rate, "tokens_per_second": rate * mean, "mean_tokens": mean, "peak_share": speed.peak_share, "unknown": speed.unknown}
    wait(digest=trained.digest, **said, device=trained.device, bf16=trained.bf16, turns=turns, final_loss=float(np.mean(trained.losses[-10:])))


def _quality(
    corpus: Corpus, index: HybridIndex, store: ModelStore, digests: dict[str, str], max_length: int, dev_queries: int, seed: int, tell: Tell
) -> dict[str, Any]:
    """NDCG@10 of each model on the same judged dev queries, scored by the same backend, and the interval of ours minus the framework's."""
    if not dev_queries:
        return {**dict.fromkeys((*digests, "interval")), "queries": 0}
    from predator_si.evaluate import evaluate_model
    from predator_si.records import ServingConfig
    from predator_si.search.rerank import load_reranker, reference_backend
    from predator_si.statistics import bootstrap_mean_interval
    from predator_si.train.export import export

    judgments = corpus.judgments(split="dev")
    queries = corpus.queries(split="dev").join(judgments.filter(pl.col("relevance") > 0).select("query_id").unique(), on="query_id", how="semi")
    queries = queries.sort("query_id").sample(min(dev_queries, queries.height), seed=seed, shuffle=True)
    frames = {}
    for name, digest in digests.items():
        fast = export(store, digest, reference_backend(), max_length)
        frames[name] = evaluate_model(
            queries, judgments, index.candidates, load_reranker(store.path(fast)), ServingConfig(model=fast, depth=min(_DEPTH, index.n_documents))
        ).sort("query_id")
        tell(f"{name}: NDCG@10 {float(frames[name]['ndcg_at_10'].to_numpy().mean()):.4f} on {queries.height} dev queries")
    difference = (frames["lean"]["ndcg_at_10"] - frames["sentence-transformers"]["ndcg_at_10"]).to_numpy()
    interval = bootstrap_mean_interval(difference, seed=seed)
    means: dict[str, Any] = {name: float(frame["ndcg_at_10"].to_numpy().mean()) for name, frame in frames.items()}
    return {**means, "interval": [interval.low, interval.high], "queries": queries.height}


def _versions() -> dict[str, str]:
    import importlib.metadata

    return {name: importlib.metadata.version(name) for name in _PACKAGES}


if __name__ == "__main__":
    _arm(json.loads(sys.argv[1]))
