"""`adapt`: documents and a query log in, a promoted or rejected reranker out.

What belongs here: finding corpora, models and canaries, and printing the figures. What must not: any step of the adaptation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from predator_si.cli.choices import settings_of
from predator_si.cli.corpus import built, open_corpus
from predator_si.cli.evaluation import find_reranker, open_index
from predator_si.cli.screen import progress, remark, say, show_json, show_table, stages
from predator_si.errors import BadInput, Missing
from predator_si.settings import Settings

if TYPE_CHECKING:
    from predator_si.augment.material import Generator
    from predator_si.augment.teacher import BiEncoder
    from predator_si.corpora import Corpus
    from predator_si.proof.adapt import Collection, Plan
    from predator_si.search.models import ModelStore

MODEL = "ms-marco-MiniLM-L-12-v2"


def register(app: typer.Typer) -> None:
    """Put the command of this module into ``app``."""
    app.command("adapt")(adapt)


def adapt(
    context: typer.Context,
    files: Annotated[list[Path] | None, typer.Argument(help="With --summary: the JSON files of finished runs.")] = None,
    corpus: Annotated[list[str] | None, typer.Option(help="python-docs, an imported corpus, or a folder (built, or BEIR); may be given several times.")] = None,
    labels: Annotated[str, typer.Option(help="What may be learned from: none (query texts), clicks (simulated), train (judgments).")] = "none",
    model: Annotated[str, typer.Option(help="Where to start: sha256:..., champion, a fetched model's name, or a model folder.")] = MODEL,
    budget_minutes: Annotated[float, typer.Option(min=0.1, help="For each corpus, the supervised oracle and the sealed test included.")] = 25.0,
    examples: Annotated[int, typer.Option(min=8, help="Training queries at most; the time may allow fewer.")] = 1_000,
    part: Annotated[str | None, typer.Option(help="base or shift [default: shift where the corpus has one].")] = None,
    depth: Annotated[int, typer.Option(min=8, max=1000, help="Candidates that are scored for each query.")] = 20,
    fusion_weight: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Share of the first stage in the fused arms [default: 0.2].")] = None,
    max_length: Annotated[int, typer.Option(min=8, max=512, help="Tokens of a pair.")] = 192,
    learning_rate: Annotated[float | None, typer.Option(min=1e-7, max=1e-2, help="Of distillation [default: 1e-4].")] = None,
    max_queries: Annotated[int | None, typer.Option(min=10, help="At most so many queries of each split: a quick look, not a figure.")] = None,
    test_skip: Annotated[int, typer.Option(min=0, help="Leave the first so many sealed queries closed: an earlier figure was made with them.")] = 0,
    canary: Annotated[list[str] | None, typer.Option(help="A collection that must not lose; may be given several times [default: the others at hand].")] = None,
    embedder: Annotated[str, typer.Option(help="The first stage's bi-encoder: a fetched model's name.")] = "all-MiniLM-L6-v2",
    backend: Annotated[str | None, typer.Option(help="What scores: openvino-bf16, torch-fp32, ... [default: this chip's reference backend].")] = None,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn.")] = 0,
    summary: Annotated[bool, typer.Option("--summary", help="Pool finished runs: gap recovery with its interval.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the figures here as JSON; - is standard output.")] = None,
) -> None:
    """Adapt a reranker to a corpus, and compare it with zero-shot and with what labels would have given, on sealed queries.

    Exit code 0: promoted; 1: rejected (with several corpora: none was promoted).

    Example: `predator-si adapt --corpus scifact --labels none --json adapt.json`

    Example: `predator-si adapt --summary adapt-*.json --json summary.json`
    """
    from predator_si.proof.adapt import Plan, read_run, summarise

    if summary:
        figures = summarise([read_run(file) for file in files or ()])
        _show_summary(figures, json_file)
        return
    if files:
        raise BadInput(f"{files[0]}: files are read with --summary only; name what to adapt to with --corpus.")
    if not corpus:
        raise BadInput("nothing to adapt to: give --corpus, or --summary and the files of finished runs.")
    facts = {
        "labels": labels,
        "examples": examples,
        "budget_minutes": budget_minutes,
        "depth": depth,
        "max_length": max_length,
        "backend": backend,
        "test_skip": test_skip,
        "seed": seed,
    }
    given = {name: value for name, value in (("fusion_weight", fusion_weight), ("learning_rate", learning_rate)) if value is not None}
    plan = Plan(**facts, **given)  # type: ignore[arg-type]
    settings = settings_of(context)
    settings.folders.ensure()
    opened = {name: _open(settings, name) for name in corpus}
    others = _canaries(settings, list(opened.values()), canary)
    runs = []
    for collection in opened.values():
        runs.append(_run(settings, collection, others, plan, model, part, max_queries, embedder))
        _show(runs[-1], json_file)
    if len(runs) == 1:
        answer = runs[0]
    else:
        pooled = summarise([read_run(Path(run["per_query"]).with_name("figures.json")) for run in runs])
        answer = {**pooled, "runs": runs}
        if str(json_file) != "-":
            _show_summary(pooled, None)
    if json_file is not None:
        show_json(answer, json_file)
    if not any(run["decision"] == "promoted" for run in runs):
        raise typer.Exit(1)


def _run(
    settings: Settings, corpus: Corpus, others: Sequence[tuple[str, Callable[[str], Collection]]], plan: Plan, model: str, part: str | None,
    max_queries: int | None, embedder: str,
) -> dict[str, Any]:  # fmt: skip
    from predator_si.cli.switch import actor
    from predator_si.control import Control
    from predator_si.control.opening import is_there, open_control
    from predator_si.evaluate import PairScores
    from predator_si.proof.adapt import Clock, Site, collection_of, model_card, write_report
    from predator_si.proof.adapt import adapt as run_adapt
    from predator_si.proof.adapt.kept import run_folder
    from predator_si.search.models import ModelStore

    clock = Clock(60.0 * plan.budget_minutes)
    store = ModelStore(settings.folders.models)
    start = _start(settings, store, model, plan.max_length)
    with clock.phase("index"):
        index = open_index(settings, corpus, embedder)
        collection = collection_of(corpus, index, part=part, max_queries=max_queries)
    home = settings.home / "adapt"
    generators, encoders = _generators(), _bi_encoders(settings, index.embedder.name)
    facts = {
        "corpus": corpus.name, "index": index.fingerprint, "part": part, "max_queries": max_queries, "plan": asdict(plan), "start": start,
        "canaries": [name for name, _ in others], "generators": [one.source for one in generators], "teachers": [one.name for one in encoders],
    }  # fmt: skip
    folder, held = run_folder(home, f"adapt_{corpus.name}_{datetime.now(UTC):%Y%m%dT%H%M%S}", facts)
    run_id = folder.name
    ledger = open_control(settings.folders) if is_there(settings.folders) else Control(_made(home) / "ledger.db")
    elsewhere = [partial(opening, embedder) for name, opening in others if name != corpus.name]
    if "base" in corpus.queries()["part"].unique().to_list() and collection.name.endswith(" shift"):
        elsewhere.insert(0, partial(collection_of, corpus, index, part="base", max_queries=max_queries))
    with stages() as (tell, report), PairScores(settings.folders.pair_scores) as scores:
        site = Site(store, scores, ledger, folder, run_id, actor(), resumable=True)
        figures = run_adapt(
            collection, start, site, plan, canaries=elsewhere, generators=generators, bi_encoders=encoders,
            clock=clock, tell=tell, on_progress=report,
        )  # fmt: skip
    figures |= {"scale": "full" if max_queries is None else "small", "report": str(write_report(figures, site.folder / "report.html"))}
    (site.folder / "model_card.md").write_text(model_card(figures), encoding="utf-8")
    show_json(figures, site.folder / "figures.json")
    os.close(held)
    remark("the test queries of this corpus were read once; the ledger says so")
    return figures


def _generators() -> list[Generator]:
    """Those that make queries up; crops are filler, and there is no lack of documents to ask about."""
    from predator_si.augment.generators.phrases import Phrases
    from predator_si.augment.generators.structure import Structure
    from predator_si.augment.generators.templates import Templates

    return [Structure(), Templates(), Phrases()]


def _bi_encoders(settings: Settings, own: str) -> list[BiEncoder]:
    """The optional teachers, fetched like any other model; where they cannot be had the ensemble goes without, and says so."""
    from predator_si.augment.teacher_models import installed_bi_encoders
    from predator_si.search.models import SOURCES, fetch_models

    for name in [name for name, source in SOURCES.items() if source.get("teacher")]:
        try:
            with progress(f"fetching {name}") as report:
                fetch_models(settings.cache, (name,), report)
        except Missing as error:
            remark(f"the teacher goes without {name}: {error}")
    return installed_bi_encoders(settings.cache, own)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _start(settings: Settings, store: ModelStore, model: str, max_length: int) -> str:
    """Digest of the torch weights behind a reference, in the store of this home."""
    from predator_si.search.models import SOURCES, fetch_models, model_digest

    folder = Path(model)
    if model in SOURCES:
        folder = fetch_models(settings.cache, (model,))[model]
    if folder.is_dir() and (digest := model_digest(folder)) in store:
        return digest
    reranker = find_reranker(settings, model, "torch-fp32", max_length)
    digest = reranker.digest
    if digest not in store:
        digest = store.add(folder, name=reranker.card.name, backend=reranker.card.backend, max_length=reranker.card.max_length, origin={"folder": folder.name})
    card = store.card(digest)
    source = digest if card.backend.startswith("torch") else card.source_digest
    if source is None or source not in store:
        raise Missing(f"the torch weights behind {digest} ({source}) are not in the model store, so nothing can be trained from it. Name a torch model.")
    return source


def _open(settings: Settings, reference: str) -> Corpus:
    """A corpus as for every command; a BEIR folder that was not imported yet is imported first, once."""
    from predator_si.corpora import import_beir, load_corpus
    from predator_si.corpora.text import digest_lines, file_digest

    folder = Path(reference)
    if folder.is_dir() and not (folder / "manifest.json").is_file():
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name.startswith(("corpus", "queries", "qrels", "train", "dev", "test")))
        content = digest_lines(f"{path.relative_to(folder)} {file_digest(path)}" for path in files)
        target = settings.cache / "imported" / f"{folder.resolve().name}-{content[:16]}"
        return load_corpus(target) if (target / "manifest.json").is_file() else import_beir(folder, target)
    return open_corpus(settings, reference)


def _canaries(settings: Settings, adapted: Sequence[Corpus], named: Sequence[str] | None) -> list[tuple[str, Callable[[str], Collection]]]:
    """(name, opening by the embedder's name): the corpora named, else every other one of this home and the judged ones beside the checkout."""
    from predator_si.proof.bench_diagnose.collections import data_folder

    if named:
        found = {corpus.name: corpus for corpus in (_open(settings, name) for name in named)}
    else:
        found = {corpus.name: corpus for corpus in (*_newest(built(settings)), *adapted)}
        try:
            data = data_folder()
        except Missing:
            data = None
        for name in ENGLISH if data is not None else ():
            if name not in found and data is not None:
                found[name] = _open(settings, str(data / name))
    return [(name, _opening(settings, corpus)) for name, corpus in found.items()]


ENGLISH = ("cranfield", "faq-docs", "scifact", "stackfaq")
"""Judged collections that an English reranker can be held to."""


def _newest(corpora: Sequence[Corpus]) -> list[Corpus]:
    """Corpora that can be a canary: those with dev queries, and of the built-in corpus' many sizes the largest."""
    usable = [corpus for corpus in corpora if corpus.queries("dev").height >= 2]
    documents = [corpus for corpus in usable if corpus.name.startswith("python-docs")]
    largest = max(documents, key=lambda corpus: int(corpus.manifest["counts"]["documents"]), default=None)
    return [corpus for corpus in usable if corpus not in documents or corpus is largest]


def _opening(settings: Settings, corpus: Corpus) -> Callable[[str], Collection]:
    def opening(embedder: str) -> Collection:
        from predator_si.proof.adapt import collection_of

        return collection_of(corpus, open_index(settings, corpus, embedder))

    return opening


def _show(figures: dict[str, Any], json_file: Path | None) -> None:
    if json_file is not None and str(json_file) == "-":
        return
    rows = [(name.replace("_", " "), f"{figures[name]:.4f}", "{:.4f} to {:.4f}".format(*figures["arms_ci"][name])) for name in figures["arms_ci"]]
    show_table(f"{figures['corpus']}, {figures['n_test_queries']} sealed queries", ("arm", "NDCG@10", "95% interval"), rows, "")
    low, high = figures["gain_ci"]
    recovery = figures["gap_recovery"]
    say(f"{figures['decision']}: {figures['reason']}")
    said = figures["gap_recovery_unknown_because"] if recovery is None else f"{recovery:.0%} of what labels would have given"
    say(f"adapted less zero-shot {figures['gain']:+.4f} [{low:+.4f}, {high:+.4f}]; gap recovery: {said}; {figures['seconds'] / 60:.1f} minutes")
    say(f"{figures['power']}; page: {figures['report']}")


def _show_summary(figures: dict[str, Any], json_file: Path | None) -> None:
    if json_file is not None:
        show_json(figures, json_file)
        if str(json_file) == "-":
            return
    rows = [
        (row["corpus"], *(f"{row[arm]:.4f}" for arm in ("zero_shot", "zero_shot_fused", "adapted", "oracle")), row["decision"])
        for row in figures["collections"]
    ]
    show_table("", ("corpus", "zero-shot", "fused", "adapted", "oracle", ""), rows, "")
    recovery = figures["gap_recovery"]
    if recovery is None:
        say(f"gap recovery: {figures['gap_recovery_unknown_because']}")
    else:
        low, high = figures["gap_recovery_ci"]
        say(f"gap recovery {recovery:.0%} [{low:.0%}, {high:.0%}] over {', '.join(figures['gap_recovery_over'])}")
