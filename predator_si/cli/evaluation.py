"""`eval`: any model on any corpus, query by query; beside it `eval replay` and `eval verdict` (``verdicts``)."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli import verdicts
from predator_si.cli.choices import settings_of
from predator_si.cli.corpus import open_corpus
from predator_si.cli.screen import progress, remark, say, show_json
from predator_si.errors import BadInput, Missing
from predator_si.settings import Settings

if TYPE_CHECKING:
    import polars as pl

    from predator_si.corpora import Corpus
    from predator_si.search.rerank import Reranker
    from predator_si.search.retrieve import HybridIndex

FIRST_STAGE = "first-stage"
_SEED = 20


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``, and those about verdicts below it."""
    group = typer.Typer(invoke_without_command=True)
    group.callback()(evaluate)
    verdicts.register(group)
    app.add_typer(group, name="eval")


def evaluate(
    context: typer.Context,
    corpus: Annotated[str | None, typer.Option(help="python-docs, the name of an imported corpus, or the folder of a built one. [required]")] = None,
    model: Annotated[str | None, typer.Option(help="sha256:..., champion, candidate, a fetched model's name, a folder, or first-stage. [required]")] = None,
    split: Annotated[str, typer.Option(help="train, dev or test.")] = "test",
    part: Annotated[str | None, typer.Option(help="base or shift; both when left out.")] = None,
    depth: Annotated[int, typer.Option(min=1, max=1000, help="Candidates that the model scores for each query.")] = 20,
    fusion_weight: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the first stage's score in the final one.")] = 0.0,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many queries, chosen by a stable hash.")] = None,
    backend: Annotated[str, typer.Option(help="For a model folder without a card: torch-fp32 or torch-bf16.")] = "torch-fp32",
    max_length: Annotated[int, typer.Option(min=8, max=512, help="For a model folder without a card: tokens of a pair.")] = 256,
    embedder: Annotated[str, typer.Option(help="The first stage's bi-encoder: a fetched model's name.")] = "all-MiniLM-L6-v2",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Measure a model on a corpus: NDCG@10 with its 95% interval, recall@20, MRR, and every query's scores as Parquet.

    Example: `predator-si eval --corpus python-docs --model ms-marco-MiniLM-L-12-v2 --split dev --json eval.json`
    """
    if context.invoked_subcommand is not None:
        return
    if corpus is None or model is None:
        raise typer.BadParameter(f"Missing option '--{'corpus' if corpus is None else 'model'}'.", context)

    from predator_si.evaluate import PairScores, evaluate_model
    from predator_si.provenance import provenance
    from predator_si.records import ServingConfig
    from predator_si.statistics import bootstrap_mean_interval

    settings = settings_of(context)
    settings.folders.ensure()
    collection = open_corpus(settings, corpus)
    queries = _queries(collection, split, part, limit)
    reranker = find_reranker(settings, model, backend, max_length)
    index = open_index(settings, collection, embedder)
    if split == "test":
        record_opening(settings, collection, reranker.digest, queries.height)
    config = ServingConfig(model=reranker.digest, depth=0 if model == FIRST_STAGE else depth, fusion_weight=fusion_weight)
    with progress(f"scoring {queries.height} queries") as report, PairScores(settings.folders.pair_scores) as scores:
        frame = evaluate_model(queries, collection.judgments(split, part), index.candidates, reranker, config, scores_cache=scores, on_progress=report)
    interval = bootstrap_mean_interval(frame["ndcg_at_10"].to_numpy(), seed=_SEED)
    target = _per_query_file(settings, json_file)
    target.parent.mkdir(parents=True, exist_ok=True)
    frame.write_parquet(target)
    figures: dict[str, Any] = {
        **provenance("full" if limit is None else "small", _SEED),
        "corpus": collection.folder.name,
        "split": split,
        "part": part,
        "model": reranker.digest,
        "depth": config.depth,
        "fusion_weight": config.fusion_weight,
        "ndcg_at_10": interval.estimate,
        "ci": [interval.low, interval.high],
        "recall_at_20": float(frame["recall_at_20"].to_numpy().mean()),
        "mrr": float(frame["rr_at_10"].to_numpy().mean()),
        "candidate_recall": float(frame["candidate_recall"].to_numpy().mean()),
        "n_queries": frame.height,
        "per_query": str(target),
    }
    if json_file is not None:
        show_json(figures, json_file)
    if json_file is None or str(json_file) != "-":
        say(f"NDCG@10   {interval.estimate:.4f}  (95% interval {interval.low:.4f} to {interval.high:.4f}, {frame.height} queries)")
        say(f"recall@20 {figures['recall_at_20']:.4f}   MRR@10 {figures['mrr']:.4f}   of the relevant, {figures['candidate_recall']:.4f} were candidates")
        say(f"per query: {target}")


def _queries(collection: Corpus, split: str, part: str | None, limit: int | None) -> pl.DataFrame:
    if split not in ("train", "dev", "test"):
        raise BadInput(f"--split {split!r}: there are train, dev and test.")
    if part not in (None, "base", "shift"):
        raise BadInput(f"--part {part!r}: there are base and shift.")
    from predator_si.corpora.text import stable_fraction

    queries = collection.queries(split, part)
    if limit is not None and limit < queries.height:
        chosen = sorted(queries["query_id"].to_list(), key=lambda query_id: stable_fraction(str(query_id)))[:limit]
        queries = queries.filter(queries["query_id"].is_in(chosen))
    if queries.height < 2:
        raise BadInput(f"corpus {collection.name!r} has {queries.height} queries in split {split!r}, part {part or 'any'}; an interval needs two.")
    return queries


def _per_query_file(settings: Settings, json_file: Path | None) -> Path:
    if json_file is not None and str(json_file) != "-":
        return json_file.with_suffix(".parquet")
    return settings.home / "evaluations" / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.parquet"


def record_opening(settings: Settings, collection: Corpus, digest: str, queries: int) -> None:
    """Every look at sealed queries costs some of their honesty: where this home keeps a ledger, the look is in it."""
    from predator_si.control.opening import is_there, open_control

    if not is_there(settings.folders):
        return
    from predator_si.cli.switch import actor

    payload = {"corpus": collection.folder.name, "model": digest, "queries": queries}
    open_control(settings.folders).append("test_queries_read", actor(), reason="predator-si eval --split test", payload=payload)
    remark("the test queries of this corpus were read; the ledger of this home says so")


class _FirstStage:
    """Stands where a reranker would when none is asked for; at depth 0 nothing reaches it."""

    digest = FIRST_STAGE

    def __init__(self) -> None:
        from predator_si.records import ModelCard

        self.card = ModelCard(name=FIRST_STAGE, digest=FIRST_STAGE, backend="torch-fp32", max_length=0)

    def score(self, query: str, texts: Any) -> Any:
        return self.score_pairs([(query, text) for text in texts])

    def score_pairs(self, pairs: Any) -> Any:
        import numpy as np

        if len(pairs):
            raise AssertionError("the first stage alone was asked for, and yet a pair was to be scored")
        return np.empty(0, np.float32)


def find_reranker(settings: Settings, reference: str, backend: str, max_length: int) -> Reranker:
    """The model that a person means; a folder without a card is taken into the model store first.

    Raises
    ------
    Missing
        Nothing of that name, or nothing released yet.
    BadInput
        A folder that holds no cross-encoder, or one that the store knows with another backend.
    """
    from predator_si.search.models import CARD, SOURCES, ModelStore, fetch_models
    from predator_si.search.rerank import load_reranker

    store = ModelStore(settings.folders.models)
    if reference == FIRST_STAGE:
        return _FirstStage()
    if reference in ("champion", "candidate"):
        return load_reranker(store.path(_released(settings, reference)))
    if reference.startswith("sha256:"):
        return load_reranker(store.path(reference))
    folder = Path(reference)
    if (folder / CARD).is_file():
        return load_reranker(folder)
    if not folder.is_dir():
        if reference not in SOURCES:
            raise Missing(f"no model {reference!r}: no such folder, and not one of {', '.join(SOURCES)}. `predator-si models list` shows what there is.")
        with progress(f"fetching {reference}") as report:
            folder = fetch_models(settings.cache, (reference,), report)[reference]
    _require_cross_encoder(folder)
    digest = store.add(folder, name=folder.name, backend=backend, max_length=max_length, origin={"folder": folder.name})
    card = store.card(digest)
    if (card.backend, card.max_length) != (backend, max_length):
        raise BadInput(f"{folder}: the store of this home has it with {card.backend} and {card.max_length} tokens; use --model {digest}, or another --home.")
    return load_reranker(store.path(digest))


def _released(settings: Settings, role: str) -> str:
    from predator_si.search.release_file import parse_release, read_bytes

    file = settings.folders.release_file(settings.contour)
    release = parse_release(read_bytes(file), str(file))
    digest = release.champion if role == "champion" else release.candidate
    if digest is None:
        raise Missing(f"no {role} is released in {settings.home} now; `predator-si status` shows what is.")
    return digest


def _require_cross_encoder(folder: Path) -> None:
    # A body without a trained head would be scored with random weights, and nobody would notice.
    try:
        architectures = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(f"{folder}: not a model folder (config.json: {error}).") from error
    if not any(str(name).endswith("ForSequenceClassification") for name in architectures or ()):
        raise BadInput(f"{folder}: {', '.join(map(str, architectures or ['?']))} is no cross-encoder: it has no trained head for scoring pairs.")


def model_folder(settings: Settings, model: str) -> Path:
    """The folder of a model that is named or fetched by its name, fetched now where it is not there.

    Raises
    ------
    BadInput
        Neither a folder nor the name of a known source.
    """
    from predator_si.search.models import SOURCES, fetch_models

    if Path(model).is_dir():
        return Path(model)
    if model not in SOURCES:
        raise BadInput(f"--model {model!r}: no such folder, and not one of {', '.join(SOURCES)}.")
    with progress(f"fetching {model}") as report:
        return fetch_models(settings.cache, (model,), report)[model]


def open_index(settings: Settings, collection: Corpus, embedder: str) -> HybridIndex:
    """The hybrid index of all documents of ``collection``, from the cache when it was built before."""
    from predator_si.search.models import fetch_models
    from predator_si.search.retrieve import HybridIndex, load_embedder

    with progress(f"fetching {embedder}") as report:
        encoder = load_embedder(fetch_models(settings.cache, (embedder,), report)[embedder])
    content = str(collection.manifest["sha256"]).removeprefix("sha256:")[:16]
    folder = settings.cache / "indexes" / f"{content}-{re.sub(r'[^A-Za-z0-9._-]', '-', encoder.name)}"
    if (folder / "index.json").is_file():
        return HybridIndex.load(folder, encoder)
    with progress(f"indexing {collection.name}") as report:
        index = HybridIndex.build(collection.documents(), encoder, report)
    index.save(folder)
    return index
