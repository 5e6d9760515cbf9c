"""Judged collections in BEIR layout: read, checked, written.

A folder (or a ``.zip`` of one) with ``corpus.jsonl``, ``queries.jsonl`` and ``qrels.tsv``, ``qrels-train.tsv`` or ``qrels/{train,dev,test}.tsv``,
each plain or ``.gz``. Bad lines are counted and named; a collection whose judgments point nowhere is refused with the list.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from predator_si.corpora.text import digest_lines, file_digest, near_duplicate_groups, stable_fraction
from predator_si.errors import BadInput

_SPLITS = ("train", "dev", "test")
_SHOWN = 10
_FRAMES = ("documents.parquet", "queries.parquet", "judgments.parquet")


@dataclass(frozen=True)
class BadLine:
    """One line that could not be used, and why."""

    file: str
    line: int
    why: str


@dataclass(frozen=True)
class Corpus:
    """Documents, queries and judgments in one folder, as Parquet, with a manifest."""

    name: str
    folder: Path
    manifest: dict[str, Any] = field(repr=False)

    @cached_property
    def _documents(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "documents.parquet")

    @cached_property
    def _queries(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "queries.parquet")

    @cached_property
    def _judgments(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "judgments.parquet")

    def documents(self, part: str | None = None) -> pl.DataFrame:
        """Columns doc_id, title, text, part, package (or category)."""
        return _only(self._documents, part=part)

    def queries(self, split: str | None = None, part: str | None = None) -> pl.DataFrame:
        """Columns query_id, text, split (train, dev, test), part (base, shift)."""
        return _only(self._queries, split=split, part=part)

    def judgments(self, split: str | None = None, part: str | None = None) -> pl.DataFrame:
        """Columns query_id, doc_id, relevance (float, 0 is not relevant)."""
        frame = self._judgments
        if split is not None or part is not None:
            frame = frame.join(self.queries(split, part).select("query_id"), on="query_id", how="semi", maintain_order="left")
        return frame.select("query_id", "doc_id", "relevance")


def _only(frame: pl.DataFrame, **values: str | None) -> pl.DataFrame:
    for column, value in values.items():
        if value is not None:
            frame = frame.filter(pl.col(column) == value)
    return frame


def load_corpus(folder: Path) -> Corpus:
    """A corpus written by ``write_corpus``.

    Raises
    ------
    BadInput
        The folder is not one, or its content no longer has the hash in its manifest.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text())
        name, content = str(manifest["name"]), str(manifest["sha256"])
        files = manifest.get("files")
        if files is not None:
            changed = [file for file in _FRAMES if file_digest(folder / file) != files.get(file)]
        else:  # written before the files had digests of their own: slower, from the rows
            changed = [] if _content([pl.read_parquet(folder / file) for file in _FRAMES]) == content else list(_FRAMES)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pl.exceptions.PolarsError) as error:
        raise BadInput(
            f"{folder}: not a built corpus (manifest.json or a frame: {error}). Build one with `predator-si corpus build` or `predator-si corpus import`."
        ) from error
    if changed:
        raise BadInput(f"{folder}: {', '.join(changed)} changed since the corpus was written. Delete the folder and build or import it again.")
    return Corpus(name, folder, manifest)


def write_corpus(folder: Path, documents: pl.DataFrame, queries: pl.DataFrame, judgments: pl.DataFrame, manifest: dict[str, Any]) -> None:
    """Write the three frames and a manifest with counts, a hash of the content (``sha256``) and one of each file (``files``)."""
    folder.mkdir(parents=True, exist_ok=True)
    frames = (documents, queries, judgments)
    for file, frame in zip(_FRAMES, frames, strict=True):
        frame.write_parquet(folder / file)
    counts = {
        "documents": documents.height,
        "queries": queries.height,
        "judgments": judgments.height,
        "queries_by_part_and_split": {f"{part}/{split}": n for part, split, n in queries.group_by("part", "split").len().sort("part", "split").iter_rows()},
        "documents_by_part": dict(documents.group_by("part").len().sort("part").iter_rows()),
    }
    whole = {**manifest, "counts": counts, "sha256": _content(frames), "files": {file: file_digest(folder / file) for file in _FRAMES}}
    (folder / "manifest.json").write_text(json.dumps(whole, indent=2, sort_keys=True, default=str) + "\n")


def _content(frames: Sequence[pl.DataFrame]) -> str:
    """Sha256 of the rows: the same for the same content, whatever wrote the Parquet files."""
    return digest_lines(json.dumps(row) for frame in frames for row in frame.iter_rows())


def import_beir(source: Path, folder: Path, name: str | None = None, shift: Path | None = None) -> Corpus:
    """Turn a BEIR folder or zip (and, beside it, a second one that arrives later) into a corpus.

    Queries without a declared split are split by a hash of their near-duplicate group: 45% train, 15% dev, 40% test; where only
    train and test judgments exist, a quarter of train becomes dev, by the same groups.

    Parameters
    ----------
    source
        Folder or ``.zip``: part ``base``.
    shift
        Optional second collection whose documents and queries arrive later: part ``shift``. Identifiers then get the prefix ``base:`` or ``shift:``.

    Raises
    ------
    BadInput
        No documents, no judgments, judgments that name missing documents or queries (the first ten are listed), a damaged file or archive.
    """
    parts = [("base", source)] + ([("shift", shift)] if shift is not None else [])
    documents, queries, judgments, bad = [], [], [], []
    for part, where in parts:
        with tempfile.TemporaryDirectory() as scratch:
            docs, qs, rels, lines = _read(_Files(Path(where), Path(scratch)))
        prefix = "" if shift is None else f"{part}:"
        named = [pl.lit(part).alias("part"), pl.lit(_stem(where)).alias("package")]
        documents.append(docs.with_columns(pl.concat_str(pl.lit(prefix), "doc_id").alias("doc_id"), *named))
        queries.append(qs.with_columns(pl.concat_str(pl.lit(prefix), "query_id").alias("query_id"), named[0]))
        judgments.append(rels.with_columns(*(pl.concat_str(pl.lit(prefix), column).alias(column) for column in ("query_id", "doc_id"))))
        bad.extend(lines)
    manifest = {
        "name": name or _stem(source),
        "source": [Path(where).resolve().name for _, where in parts],
        "bad_lines": len(bad),
        "bad_lines_first": [f"{line.file}:{line.line}: {line.why}" for line in bad[:_SHOWN]],
    }
    write_corpus(folder, pl.concat(documents), pl.concat(queries), pl.concat(judgments), manifest)
    return load_corpus(folder)


def _stem(source: Path) -> str:
    source = Path(source).resolve()
    return source.name if source.is_dir() else source.stem


class _Files:
    """Text files of a folder or zip by name, decompressing ``.gz``; a zip is unpacked to ``scratch``."""

    def __init__(self, source: Path, scratch: Path) -> None:
        self.source = source
        if source.is_file() and zipfile.is_zipfile(source):
            try:
                with zipfile.ZipFile(source) as archive:
                    for member in archive.infolist():
                        target = (scratch / member.filename).resolve()
                        if not target.is_relative_to(scratch.resolve()):
                            raise BadInput(f"{source}: entry {member.filename!r} points outside the archive. Make the archive again.")
                    archive.extractall(scratch)
            except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, RuntimeError) as error:  # RuntimeError: it wants a password
                raise BadInput(f"{source}: the archive cannot be unpacked ({error}). Download or copy it again.") from error
            inner = sorted({path.parent for name in ("corpus.jsonl", "corpus.jsonl.gz") for path in scratch.rglob(name)})
            if not inner:
                raise BadInput(f"{source}: no corpus.jsonl inside. A BEIR archive holds corpus.jsonl, queries.jsonl and qrels.")
            if len(inner) > 1:
                found = ", ".join(path.relative_to(scratch).as_posix() for path in inner[:_SHOWN])
                raise BadInput(f"{source}: {len(inner)} collections inside ({found}). Import them one by one.")
            self.folder = inner[0]
        elif source.is_dir():
            self.folder = source
        else:
            raise BadInput(f"{source}: neither a folder nor a readable .zip. Give a BEIR folder with corpus.jsonl, queries.jsonl and qrels.tsv.")

    def find(self, name: str) -> Path | None:
        for candidate in (self.folder / name, self.folder / f"{name}.gz"):
            if candidate.is_file():
                return candidate
        return None

    def require(self, name: str) -> Path:
        found = self.find(name)
        if found is None:
            raise BadInput(f"{self.source}: {name} (or {name}.gz) is missing. A BEIR folder holds corpus.jsonl, queries.jsonl and qrels.tsv or qrels/*.tsv.")
        return found


def _lines(path: Path) -> Iterator[tuple[int, str | None]]:
    """Yield (line number, text), text being None where the bytes are not UTF-8."""
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as opened:
        try:
            for number, line in enumerate(opened, start=1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError:
                    yield number, None
        except (EOFError, zlib.error, OSError) as error:  # a file that is no gzip at all raises an OSError
            raise BadInput(f"{path.name}: damaged file ({error}). Download or copy it again.") from error


def _records(path: Path, bad: list[BadLine]) -> Iterator[tuple[int, str, dict[str, Any]]]:
    seen: set[str] = set()
    for number, line in _lines(path):
        if line is None:
            bad.append(BadLine(path.name, number, "not UTF-8"))
            continue
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            bad.append(BadLine(path.name, number, f"not JSON ({error.msg})"))
            continue
        identifier = record.get("_id") if isinstance(record, dict) else None
        if identifier is None or str(identifier) == "":
            bad.append(BadLine(path.name, number, "no _id"))
        elif not isinstance(record.get("text"), str):
            bad.append(BadLine(path.name, number, "no text"))
        elif not _encodable(f"{identifier}{record.get('title')}{record['text']}"):
            bad.append(BadLine(path.name, number, "half of a surrogate pair, which is no text"))
        elif str(identifier) in seen:
            bad.append(BadLine(path.name, number, f"second line with _id {identifier!r}"))
        else:
            seen.add(str(identifier))
            yield number, str(identifier), record


def _encodable(text: str) -> bool:
    """Whether every character can be written: JSON may escape half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _qrels(path: Path, bad: list[BadLine]) -> Iterator[tuple[int, str, str, float]]:
    for number, line in _lines(path):
        if line is None:
            bad.append(BadLine(path.name, number, "not UTF-8"))
            continue
        fields = line.split("\t") if "\t" in line else line.split()  # TREC files are often separated by spaces
        if not line.strip() or (number == 1 and fields[-1].strip() in ("score", "relevance")):
            continue
        if len(fields) == 4:  # TREC layout: query, iteration, document, grade
            fields = [fields[0], fields[2], fields[3]]
        if len(fields) != 3:
            bad.append(BadLine(path.name, number, f"{len(fields)} fields instead of 3"))
            continue
        try:
            grade = float(fields[2])
        except ValueError:
            bad.append(BadLine(path.name, number, f"score {fields[2]!r} is not a number"))
            continue
        if not 0 <= grade < float("inf"):
            bad.append(BadLine(path.name, number, f"score {fields[2]!r} is out of range (0 or more)"))
            continue
        yield number, fields[0], fields[1], grade


def _read(files: _Files) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, list[BadLine]]:
    bad: list[BadLine] = []
    documents = [{"doc_id": i, "title": str(r.get("title") or ""), "text": r["text"]} for _, i, r in _records(files.require("corpus.jsonl"), bad)]
    texts: dict[str, str] = {}
    for number, query_id, record in _records(files.require("queries.jsonl"), bad):
        if record["text"].strip():
            texts[query_id] = record["text"]
        else:
            bad.append(BadLine("queries.jsonl", number, "empty text"))
    if not documents:
        raise BadInput(f"{files.source}: corpus.jsonl has no usable document ({len(bad)} bad lines: {_name(bad)}).")
    declared: dict[str, Path] = {}
    for split in _SPLITS:
        path = files.find(f"qrels/{split}.tsv") or files.find(f"qrels-{split}.tsv")
        if path is not None:
            declared[split] = path
    single = files.find("qrels.tsv")
    if single is not None:
        declared.setdefault("test" if declared else "all", single)
    if not declared:
        raise BadInput(f"{files.source}: no judgments. Add qrels.tsv (query-id, corpus-id, score) or qrels/train.tsv, dev.tsv, test.tsv.")
    known = {row["doc_id"] for row in documents}
    rows: list[dict[str, Any]] = []
    dangling: list[str] = []
    for split, path in declared.items():
        for number, query_id, doc_id, grade in _qrels(path, bad):
            if query_id not in texts or doc_id not in known:
                what = f"query {query_id!r}" if query_id not in texts else f"document {doc_id!r}"
                dangling.append(f"{path.name}:{number}: {what} does not exist")
            else:
                rows.append({"query_id": query_id, "doc_id": doc_id, "relevance": grade, "split": split})
    if dangling:
        more = f" ... and {len(dangling) - _SHOWN} more" if len(dangling) > _SHOWN else ""
        unread = f" {len(bad)} lines could not be read: {_name(bad)}." if bad else ""
        raise BadInput(f"{files.source}: {len(dangling)} judgments point nowhere: {'; '.join(dangling[:_SHOWN])}{more}. Mend or remove these lines.{unread}")
    if not any(row["relevance"] > 0 for row in rows):
        raise BadInput(f"{files.source}: the judgments are empty (no line with a score above 0; {len(bad)} bad lines: {_name(bad)}).")
    judgments = pl.DataFrame(rows).unique(["query_id", "doc_id"], keep="first", maintain_order=True)
    split_of = _split_queries(judgments, texts, set(declared))
    queries = pl.DataFrame([{"query_id": query_id, "text": texts[query_id], "split": split} for query_id, split in split_of.items()])
    judgments = judgments.drop("split").join(queries.select("query_id", "split"), on="query_id", how="inner", maintain_order="left")
    return pl.DataFrame(documents), queries, judgments, bad


def _name(bad: list[BadLine]) -> str:
    return "; ".join(f"{line.file}:{line.line}: {line.why}" for line in bad[:_SHOWN]) or "none"


def _split_queries(judgments: pl.DataFrame, texts: dict[str, str], declared: set[str]) -> dict[str, str]:
    """A split for each judged query. Queries that share wording or a relevant document stay together, unless the collection declares splits."""
    relevant = judgments.filter(pl.col("relevance") > 0)
    first: dict[str, str] = {}
    for query_id, split in relevant.select("query_id", "split").iter_rows():
        first.setdefault(query_id, split)
    if declared != {"all"}:
        if "dev" not in declared and "train" in declared:
            trained = [q for q, s in first.items() if s == "train"]
            groups = dict(zip(trained, near_duplicate_groups([texts[q] for q in trained]), strict=True))
            return {q: ("dev" if s == "train" and stable_fraction(texts[trained[groups[q]]]) < 0.25 else s) for q, s in first.items()}
        return first
    ids = list(first)
    group = near_duplicate_groups([texts[q] for q in ids])
    key = dict(zip(ids, group, strict=True))
    anchor: dict[str, int] = {}
    merged: dict[int, int] = {}

    def root(number: int) -> int:
        while number in merged:
            number = merged[number]
        return number

    for query_id, doc_id in relevant.select("query_id", "doc_id").iter_rows():
        if doc_id in anchor:
            a, b = root(key[query_id]), root(anchor[doc_id])
            if a != b:
                merged[max(a, b)] = min(a, b)
        else:
            anchor[doc_id] = key[query_id]
    members: dict[int, int] = {}
    for number in group:
        members[root(number)] = members.get(root(number), 0) + 1
    together = max(members.values()) <= 0.2 * len(ids)  # graded pools join everything through common documents; then wording alone decides
    result = {}
    for query_id in ids:
        number = root(key[query_id]) if together else key[query_id]
        fraction = stable_fraction(texts[ids[number]])
        result[query_id] = "train" if fraction < 0.45 else "dev" if fraction < 0.60 else "test"
    return result
