"""The embedded corpus: "search the Python documentation on this machine" (DESIGN.md section 6).

A document is a docstring without its summary sentence, under the qualified name; the summary, which a person wrote, is the query. What was
removed from the document is never indexed and never shown to a generator, so it can judge.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.corpora.beir import Corpus, load_corpus, write_corpus
from predator_si.corpora.docstrings import docstrings, package_version
from predator_si.corpora.text import digest_lines, first_sentence, near_duplicate_groups, near_duplicates_across, stable_fraction, words
from predator_si.errors import BadInput

BASE_PACKAGES = ("stdlib", "numpy", "scipy", "dagster", "mlflow")
SHIFT_PACKAGES = ("transformers", "torch")
SPLITS = (("train", 0.45), ("dev", 0.60), ("test", 1.0))
"""Upper bounds of a stable hash of the near-duplicate group: 45% train, 15% dev, 40% test."""
RECIPE = "6"
"""Changes when the same packages would give another corpus: the cache is keyed by it."""

_MIN_BODY_WORDS = 25
_QUERY_WORDS = (5, 30)
_SAME_SUMMARY_LIMIT = 3
_BLANK = re.compile(r"\n\s*\n")
_ROLE = re.compile(r":[a-zA-Z:]+:`~?([^`]+)`")
_NOT_PROSE = re.compile(r">>>|^\W*\w+ \(|\boptional\b|defaults to|^\w+:|[{}=<>]|\bdeprecated\b", re.IGNORECASE)
"""Parameter lists, code and notices that stand where a summary should."""
_MARKUP = re.compile(r"[`*]+")


def split_docstring(text: str) -> tuple[str, str] | None:
    """(summary, body without the summary), or None when either is too short or too long to serve.

    The summary is the first sentence of the first paragraph, 5 to 30 words; the body has at least 25 words and does not say the summary again:
    repetitions are cut out.
    """
    paragraphs = _BLANK.split(text.strip(), maxsplit=1)
    first = " ".join(paragraphs[0].split())
    summary = first_sentence(first)
    rest = first[len(summary) :].strip()
    body = "\n\n".join(part for part in (rest, paragraphs[1].strip() if len(paragraphs) > 1 else "") if part)
    summary = _MARKUP.sub("", _ROLE.sub(r"\1", summary)).strip().rstrip(".:")
    if _NOT_PROSE.search(summary) or not _QUERY_WORDS[0] <= len(words(summary)) <= _QUERY_WORDS[1] or len(words(body)) < _MIN_BODY_WORDS:
        return None
    spoken = words(summary)
    body = re.sub(r"\b" + r"\W+".join(map(re.escape, spoken)) + r"\b", " ", body, flags=re.IGNORECASE)  # the same words under other markup or line breaks
    if len(words(body)) < _MIN_BODY_WORDS or says(body, summary):
        return None
    return summary, body


def says(body: str, summary: str) -> bool:
    """Whether the words of ``summary`` stand in ``body``, next to each other and in order, whatever the punctuation and case."""
    return f" {' '.join(words(summary))} " in f" {' '.join(words(body))} "


def build_python_docs(
    cache: Path,
    base: tuple[str, ...] = BASE_PACKAGES,
    shift: tuple[str, ...] = SHIFT_PACKAGES,
    limit_per_package: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Corpus:
    """The corpus for the packages as installed now, from the cache when it was built before.

    Parameters
    ----------
    cache
        Folder under which the corpus is kept, named by a hash of package versions and recipe.
    base, shift
        Packages whose documents the service knows from the start, and those that arrive later.
    limit_per_package
        Keep at most so many documents of each package (chosen by a stable hash); for small demos and tests.

    Raises
    ------
    Missing
        A package is not installed.
    BadInput
        No package has a docstring that splits into a summary and a body.
    """
    versions = {package: package_version(package) for package in (*base, *shift)}
    key = digest_lines([RECIPE, repr(limit_per_package), repr(base), repr(shift), *(f"{name}=={version}" for name, version in sorted(versions.items()))])[:16]
    folder = cache / "corpora" / f"python-docs-{key}"
    if (folder / "manifest.json").is_file():
        return load_corpus(folder)
    rows: list[dict[str, str]] = []
    seen_bodies: set[str] = set()
    packages = (*base, *shift)
    for done, package in enumerate(packages):
        part = "shift" if package in shift else "base"
        found: list[dict[str, str]] = []
        for name, text in docstrings(package):
            halves = split_docstring(text)
            if halves is None:
                continue
            fingerprint = " ".join(words(halves[1]))
            if fingerprint in seen_bodies:
                continue
            seen_bodies.add(fingerprint)
            found.append({"doc_id": name, "title": name, "text": halves[1], "summary": halves[0], "part": part, "package": package})
        if limit_per_package is not None:
            found = sorted(found, key=lambda row: stable_fraction(row["doc_id"]))[:limit_per_package]
        rows.extend(sorted(found, key=lambda row: row["doc_id"]))
        if on_progress:
            on_progress(done + 1, len(packages))
    if not rows:
        raise BadInput(f"no docstring of {', '.join(packages)} has a summary of 5 to 30 words and a body of at least {_MIN_BODY_WORDS}. Choose other packages.")
    documents = pl.DataFrame(rows).unique("doc_id", keep="first", maintain_order=True)
    queries, judgments, checks = _judge(documents)
    manifest: dict[str, Any] = {"name": "python-docs", "recipe": RECIPE, "versions": versions, "limit_per_package": limit_per_package, "leakage_check": checks}
    building = folder.with_name(folder.name + ".building")
    shutil.rmtree(building, ignore_errors=True)
    write_corpus(building, documents.drop("summary"), queries, judgments, manifest)
    shutil.rmtree(folder, ignore_errors=True)
    building.replace(folder)
    return load_corpus(folder)


def _judge(documents: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
    """Queries, judgments, and what the leakage check found.

    Summaries that differ only in case or white space are one query with several relevant documents; one shared by more than three is too
    vague to judge by and is left out. Queries whose word sets are near-duplicates go to the same split. The check counts anew, from the queries and
    judgments as made and by another method than the one that split them.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for row in documents.iter_rows(named=True):
        groups.setdefault((row["part"], " ".join(words(row["summary"]))), []).append(row["doc_id"])
    text_of = {row["doc_id"]: row["summary"] for row in documents.iter_rows(named=True)}
    kept = {key: ids for key, ids in groups.items() if len(ids) <= _SAME_SUMMARY_LIMIT}
    texts = [text_of[ids[0]] for ids in kept.values()]
    near = near_duplicate_groups(texts)
    representative = {number: texts[number] for number in set(near)}
    queries: list[dict[str, str]] = []
    judgments: list[dict[str, Any]] = []
    for ((part, _), ids), text, number in zip(kept.items(), texts, near, strict=True):
        fraction = stable_fraction(representative[number])
        split = next(name for name, bound in SPLITS if fraction < bound)
        query_id = f"q:{ids[0]}"
        queries.append({"query_id": query_id, "text": text, "split": split, "part": part})
        judgments.extend({"query_id": query_id, "doc_id": doc_id, "relevance": 1.0, "split": split} for doc_id in ids)
    summary_of = {query["query_id"]: query["text"] for query in queries}
    body_of = dict(documents.select("doc_id", "text").iter_rows())
    splits_of: dict[str, set[str]] = {}
    for row in judgments:
        splits_of.setdefault(row["doc_id"], set()).add(row["split"])
    checks = {
        "queries": len(queries),
        "near_duplicate_groups": len(set(near)),
        "vague_summaries_left_out": len(groups) - len(kept),
        "near_duplicates_across_splits": len(near_duplicates_across(texts, [query["split"] for query in queries])),
        "documents_across_splits": sum(len(splits) > 1 for splits in splits_of.values()),
        "summaries_in_their_documents": sum(says(body_of[row["doc_id"]], summary_of[row["query_id"]]) for row in judgments),
    }
    return pl.DataFrame(queries), pl.DataFrame(judgments), checks
