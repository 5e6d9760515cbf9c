"""Indexes that a cycle may put in place of the served one: repaired, made anew, without what cannot be indexed, or by another bi-encoder.

What belongs here: what this installation can build for each action, as options with their build. What must not: measuring options (``evaluate.actions``),
what an index lacks (``search.index_repair``), serving a build (``search.first_stages``).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from predator_si.errors import BadInput, Missing, PredatorError
from predator_si.evaluate.actions import REPAIR, Option
from predator_si.evaluate.ranking import gather
from predator_si.orchestration.loop import Loop
from predator_si.orchestration.steps.observe import frozen_sample
from predator_si.records import Cycle, Record, ServingConfig, utc_now
from predator_si.search.embedder_prefix import recorded_prefix
from predator_si.search.index_builds import IndexBuild, IndexBuilds, embedder_of, note_of, read_inventory
from predator_si.search.index_repair import Examination, IndexHealth, examine, rebuild, repair
from predator_si.search.index_versions import IndexVersions
from predator_si.search.journal import JournalFacts, read_journal
from predator_si.search.models import SOURCES
from predator_si.search.retrieve import HybridIndex, load_embedder

HEALTH = "index_health.json"
_RECALL_AT = 20


class FirstStageRecall(Record):
    """One bi-encoder in ``embedders.json``: what the first stage finds with it among its first twenty, nothing reranked."""

    embedder: str
    recall_at_20: float
    n_queries: int
    documents: int
    serves: bool
    query_prefix: str
    build: str | None = None


def examined(loop: Loop) -> tuple[Examination, JournalFacts]:
    """What the served index lacks, by what was accepted for it.

    Raises
    ------
    Missing
        A home of an earlier version, of which nobody wrote down what its first index held.
    """
    journal = read_journal(loop.home.service / "ingest")  # before the index is read: what comes in between is carried over by the service
    return examine(loop.index().documents(), read_inventory(loop.home.index), journal, loop.corpus.documents(), _served_note(loop)), journal


def repaired(loop: Loop, cycle: Cycle, champion: ServingConfig) -> list[Option] | str:
    """The served index with what it lacks and without what it should not hold."""
    found, journal = _seen(loop, cycle)
    if isinstance(found, str):
        return found
    if not found.health.wrong:
        return f"the index holds all {found.health.expected} documents that were accepted, each with its newest text"
    index, bad = repair(loop.index(), found)
    return [_option(loop, cycle, champion, REPAIR, index, found, journal, bad, f"{_told(found.health)} mended{_apart(bad)}")]


def retried(loop: Loop, cycle: Cycle, champion: ServingConfig) -> list[Option] | str:
    """The documents that were given up, once more: the fault may have passed."""
    return _letters(loop, cycle, champion, "retry")


def quarantined(loop: Loop, cycle: Cycle, champion: ServingConfig) -> list[Option] | str:
    """The same, and what cannot be indexed is set aside with the reason, so that it holds up nobody else."""
    return _letters(loop, cycle, champion, "quarantine")


def reindexed(loop: Loop, cycle: Cycle, champion: ServingConfig) -> list[Option] | str:
    """An index made anew of everything that was accepted."""
    found, journal = _seen(loop, cycle)
    if isinstance(found, str):
        return found
    index, bad = rebuild(found, loop.index().embedder)
    return [_option(loop, cycle, champion, "reindex", index, found, journal, bad, f"all {found.health.expected} documents indexed anew{_apart(bad)}")]


def embedder_folders(loop: Loop) -> list[Path]:
    """Bi-encoders at hand that do not serve: the home's own, those that were fetched into the cache, and the folders in ``<home>/embedders``."""
    cached = [loop.settings.cache / "models" / name for name, source in SOURCES.items() if str(source["kind"]).startswith("bi-encoder")]
    own = sorted(path for path in (loop.home.path / "embedders").glob("*") if path.is_dir())
    there = [loop.plan.embedder, *(path for path in cached if (path / "source.json").is_file()), *own]
    versions = IndexVersions(loop.home.index)
    serves = embedder_of(versions.folder(versions.current()), loop.plan.embedder)
    return list(dict.fromkeys(path.resolve() for path in there if path.resolve() != serves.resolve()))


def other_embedders(loop: Loop, cycle: Cycle, champion: ServingConfig) -> list[Option] | str:
    """The same documents indexed by each other bi-encoder at hand; what the first stage alone finds with each is kept in ``embedders.json``."""
    folders = embedder_folders(loop)
    if not folders:
        return "no other bi-encoder is at hand; `predator-si models fetch bge-small-en-v1.5` adds one"
    journal, served, scale = read_journal(loop.home.service / "ingest"), loop.index(), loop.plan.scale
    queries = frozen_sample(loop.corpus.queries(split="dev", part="shift"), scale.dev_queries, scale.seed + 1)
    judgments = loop.corpus.judgments(split="dev")

    def recall(index: HybridIndex, folder: Path, build: str | None) -> FirstStageRecall:
        judged = gather(queries, judgments, index.candidates, _RECALL_AT)
        relevant: dict[str, set[str]] = {}
        for query_id, doc_id, grade in judged.judgments.select("query_id", "doc_id", "relevance").iter_rows():
            if grade > 0:
                relevant.setdefault(query_id, set()).add(doc_id)
        found = [
            len(relevant[query_id].intersection(own.doc_ids[:_RECALL_AT])) / len(relevant[query_id])
            for query_id, own in zip(judged.queries["query_id"], judged.candidates, strict=True)
        ]
        prefix = recorded_prefix(folder)
        return FirstStageRecall(
            embedder=index.embedder.name, recall_at_20=float(np.mean(found)), n_queries=len(found), documents=index.n_documents, serves=build is None,
            query_prefix=prefix, build=build,
        )  # fmt: skip

    versions = IndexVersions(loop.home.index)
    table = [recall(served, embedder_of(versions.folder(versions.current()), loop.plan.embedder), None)]
    options = []
    for folder in folders:
        try:
            embedder = load_embedder(folder)
        except PredatorError:
            continue  # not one that an index can be built with
        if embedder.name == served.embedder.name:
            continue
        index = HybridIndex.build(served.documents(), embedder)
        name = _name(cycle, f"embedder-{folder.name}")
        found = recall(index, folder, name)
        table.append(found)
        _store(loop, name, index, journal, folder)
        note = f"bi-encoder {found.embedder}: the first stage alone finds {found.recall_at_20:.4f} of what is relevant, {table[0].recall_at_20:.4f} now"
        options.append(Option("choose_embedder", _with(champion, name), note, candidates=index.candidates))
    loop.save(cycle.cycle_id, "embedders.json", {"embedders": [one.model_dump(mode="json") for one in table]})
    return options or "none of the bi-encoders at hand can be loaded, or all are the one that serves"


def discard(loop: Loop, options: list[Option], taken: ServingConfig | None) -> None:
    """Remove the builds that were tried and are not taken."""
    builds, served = IndexBuilds(loop.home.builds), loop.served_build()
    for name in {option.config.index for option in options if option.config.index is not None} - {taken.index if taken is not None else None, served}:
        if name is not None:
            builds.discard(name)


def _seen(loop: Loop, cycle: Cycle) -> tuple[Examination, JournalFacts] | tuple[str, JournalFacts]:
    journal = JournalFacts({}, {}, [], 0)
    try:
        found, journal = examined(loop)
    except (Missing, BadInput) as error:
        return f"cannot be tried: {error}", journal
    loop.save(cycle.cycle_id, HEALTH, found.health)
    return found, journal


def _letters(loop: Loop, cycle: Cycle, champion: ServingConfig, action: str) -> list[Option] | str:
    found, journal = _seen(loop, cycle)
    if isinstance(found, str):
        return found
    if not found.health.open_letters:
        return "no document was given up that nothing answers for"
    index, bad = repair(loop.index(), found)
    n = len(found.health.open_letters)
    if action == "retry":  # what fails again stays wrong: it is not set aside by this action
        return [_option(loop, cycle, champion, action, index, found, journal, {}, f"{n} given up, {len(bad)} of them fail again")]
    return [_option(loop, cycle, champion, action, index, found, journal, bad, f"{n} given up, tried again{_apart(bad)}")]


def _option(
    loop: Loop,
    cycle: Cycle,
    champion: ServingConfig,
    action: str,
    index: HybridIndex,
    found: Examination,
    journal: JournalFacts,
    bad: dict[str, str],
    note: str,
) -> Option:
    """A build as an option; what it would still lack is counted on the build itself. What is lost for good can be held against no option."""
    aside = {doc_id: reason for doc_id, reason in _served_note(loop).items() if doc_id in found.health.set_aside} | bad
    settled = JournalFacts(journal.known, journal.texts, [], journal.applied_through)
    after = examine(index.documents(), read_inventory(loop.home.index), settled, found.whole, aside).health
    name = _name(cycle, action)
    _store(loop, name, index, journal, None, settled=found.health.open_letters, set_aside=aside)
    wrong = {*after.missing, *after.stale, *after.extra} - set(found.health.lost)
    return Option(action, _with(champion, name), note, candidates=index.candidates, documents_wrong=len(wrong))


def _served_note(loop: Loop) -> dict[str, str]:
    """What the served index had to set aside."""
    versions = IndexVersions(loop.home.index)
    note = note_of(versions.folder(versions.current()))
    return {} if note is None else note.set_aside


def _store(loop: Loop, name: str, index: HybridIndex, journal: JournalFacts, folder: Path | None, **more: object) -> None:
    versions = IndexVersions(loop.home.index)
    now = note_of(versions.folder(versions.current()))
    kept = now.embedder_folder if now is not None else None
    more = {"set_aside": _served_note(loop), **more}
    note = IndexBuild(
        name=name,
        embedder=index.embedder.name,
        embedder_folder=folder or kept,
        documents=index.n_documents,
        last_seq=journal.applied_through,
        created_at=utc_now(),
        **more,  # type: ignore[arg-type]
    )
    IndexBuilds(loop.home.builds).add(index, note)


def _name(cycle: Cycle, what: str) -> str:
    return f"{cycle.cycle_id}-{what}".lower()[:100]


def _with(champion: ServingConfig, build: str) -> ServingConfig:
    return champion.model_copy(update={"index": build})


def _told(health: IndexHealth) -> str:
    lost = f" ({len(health.lost)} of them known nowhere any more)" if health.lost else ""
    return f"{len(health.missing)} documents missing, {len(health.stale)} with an old text{lost}, {len(health.extra)} that should not be there:"


def _apart(bad: dict[str, str]) -> str:
    if not bad:
        return ""
    first = next(iter(bad.items()))
    return f", {len(bad)} set aside ({first[0]}: {first[1]})"
