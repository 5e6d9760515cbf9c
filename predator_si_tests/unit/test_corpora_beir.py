"""BEIR collections: every layout that is read, every line that is not, and what is refused."""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from predator_si.corpora import import_beir, load_corpus
from predator_si.corpora.text import near_duplicates_across
from predator_si.errors import BadInput

DOCUMENTS = {f"d{i}": f"text number {i} of the collection" for i in range(40)}
QUERIES = {f"q{i}": f"question {i} about {'abcdefghijklmnopqrstuvwxyz'[i % 26]}{i} and nothing else" for i in range(40)}
HEADER = "query-id\tcorpus-id\tscore\n"


def jsonl(texts: dict[str, str]) -> str:
    return "".join(json.dumps({"_id": identifier, "title": f"T {identifier}", "text": text}) + "\n" for identifier, text in texts.items())


def tsv(rows: list[tuple[Any, ...]], header: str = HEADER) -> str:
    return header + "".join("\t".join(map(str, row)) + "\n" for row in rows)


ALL = tsv([(f"q{i}", f"d{i}", 1 + i % 3) for i in range(40)])


def beir(folder: Path, **changes: str | None) -> Path:
    """A folder of text files; ``None`` leaves one out, a ``.gz`` name is compressed."""
    files: dict[str, str | None] = {"corpus.jsonl": jsonl(DOCUMENTS), "queries.jsonl": jsonl(QUERIES), "qrels.tsv": ALL}
    for name, text in {**files, **{name.replace("__", "/"): text for name, text in changes.items()}}.items():
        if text is not None:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return folder


def zipped(target: Path, folder: Path, inside: str = "") -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, inside + path.relative_to(folder).as_posix())
    return target


# --------------------------------------------------------------------------- layouts


def test_folder_gz_and_zip_are_the_same_collection(tmp_path: Path):
    plain = import_beir(beir(tmp_path / "set"), tmp_path / "out1")
    packed = beir(tmp_path / "packed", **{"corpus.jsonl": None, "corpus.jsonl.gz": jsonl(DOCUMENTS), "qrels.tsv": None, "qrels.tsv.gz": ALL})
    archive = zipped(tmp_path / "set.zip", beir(tmp_path / "other"), inside="set/")
    for number, source in enumerate((packed, archive)):
        other = import_beir(source, tmp_path / f"again{number}", name="set")
        assert other.queries().equals(plain.queries())
        assert other.judgments().equals(plain.judgments())
        assert other.documents().drop("package").equals(plain.documents().drop("package"))
    assert plain.name == "set"
    assert plain.documents().row(0, named=True) == {
        "doc_id": "d0",
        "title": "T d0",
        "text": "text number 0 of the collection",
        "part": "base",
        "package": "set",
    }
    assert plain.documents("base").height == 40
    assert plain.queries(part="base").height == 40
    assert plain.manifest["bad_lines"] == 0
    assert plain.judgments().sort("query_id")["relevance"].to_list()[:3] == [1.0, 2.0, 2.0]  # q0, q1, q10


def test_one_qrels_file_is_split_by_wording(tmp_path: Path):
    texts = {**QUERIES, "q1": "why is the sky blue over there today", "q30": "today why is the sky blue over there"}
    queries = import_beir(beir(tmp_path / "set", **{"queries.jsonl": jsonl(texts)}), tmp_path / "out").queries()
    assert set(queries["split"]) == {"train", "dev", "test"}
    split_of = dict(queries.select("query_id", "split").iter_rows())
    assert split_of["q1"] == split_of["q30"]
    assert near_duplicates_across(queries["text"].to_list(), queries["split"].to_list()) == []


def test_queries_that_share_a_relevant_document_stay_together(tmp_path: Path):
    rows = [(f"q{i}", f"d{i // 4}", 1) for i in range(40)] + [("q39", "d0", 0)]  # a zero joins nothing
    corpus = import_beir(beir(tmp_path / "set", **{"qrels.tsv": tsv(rows)}), tmp_path / "out")
    per_document = corpus.judgments().filter(pl.col("relevance") > 0).join(corpus.queries(), on="query_id").group_by("doc_id").agg(pl.col("split").n_unique())
    assert per_document["split"].to_list() == [1] * 10
    assert corpus.queries()["split"].n_unique() > 1


@pytest.mark.parametrize("pattern", ["qrels/{}.tsv", "qrels-{}.tsv"])
def test_declared_splits_are_kept(tmp_path: Path, pattern: str):
    files = {pattern.format(split): tsv([(f"q{i}", f"d{i}", 1) for i in range(at, 40, 3)]) for at, split in enumerate(("train", "dev", "test"))}
    queries = import_beir(beir(tmp_path / "set", **{"qrels.tsv": None}, **files), tmp_path / "out").queries()
    assert dict(queries.select("query_id", "split").iter_rows()) == {f"q{i}": ("train", "dev", "test")[i % 3] for i in range(40)}


def test_without_dev_a_quarter_of_train_becomes_dev_and_test_stays(tmp_path: Path):
    """The layout of SciFact here: ``qrels-train.tsv`` beside ``qrels.tsv``, which then is the test set."""
    texts = {f"q{i}": f"the one question {i // 2} {i // 2 + 1000} of a pair{'' if i % 2 else ' please'}" for i in range(200)}
    train, test = [(f"q{i}", "d1", 1) for i in range(160)], [(f"q{i}", "d2", 1) for i in range(160, 200)]
    source = beir(tmp_path / "set", **{"queries.jsonl": jsonl(texts), "qrels.tsv": tsv(test), "qrels-train.tsv": tsv(train)})
    queries = import_beir(source, tmp_path / "out").queries()
    counts = dict(queries.group_by("split").len().iter_rows())
    assert counts["test"] == 40
    assert 20 <= counts["dev"] <= 60
    trained = queries.filter(pl.col("split") != "test")
    assert near_duplicates_across(trained["text"].to_list(), trained["split"].to_list()) == []


@pytest.mark.parametrize("between", ["\t", " ", "   "])
def test_trec_judgments(tmp_path: Path, between: str):
    rows = "".join(between.join((f"q{i}", "0", f"d{i}", "2")) + "\r\n" for i in range(40))
    corpus = import_beir(beir(tmp_path / "set", **{"qrels.tsv": rows}), tmp_path / "out")
    assert corpus.judgments().height == 40
    assert set(corpus.judgments()["relevance"]) == {2.0}
    assert corpus.manifest["bad_lines"] == 0


def test_numbers_as_identifiers_a_byte_order_mark_and_no_header(tmp_path: Path):
    documents = "\ufeff" + json.dumps({"_id": 7, "text": "seven"}) + "\n\n"
    queries = json.dumps({"_id": 0, "text": "seven?"})
    corpus = import_beir(beir(tmp_path / "set", **{"corpus.jsonl": documents, "queries.jsonl": queries, "qrels.tsv": "0\t7\t1\n"}), tmp_path / "out")
    assert corpus.documents().select("doc_id", "title", "text").row(0) == ("7", "", "seven")
    assert corpus.judgments().row(0) == ("0", "7", 1.0)


def test_the_first_of_two_judgments_of_a_pair_holds(tmp_path: Path):
    corpus = import_beir(beir(tmp_path / "set", **{"qrels.tsv": tsv([("q0", "d0", 3), ("q0", "d0", 1)])}), tmp_path / "out")
    assert corpus.judgments().rows() == [("q0", "d0", 3.0)]
    assert corpus.queries().height == 1, "queries that nobody judged are left out"


def test_two_collections_are_base_and_shift(tmp_path: Path):
    base, shift = (
        beir(tmp_path / "old"),
        beir(tmp_path / "new.v2", **{"corpus.jsonl": jsonl(dict(list(DOCUMENTS.items())[:5])), "qrels.tsv": tsv([("q3", "d3", 1)])}),
    )
    corpus = import_beir(base, tmp_path / "out", name="both", shift=shift)
    assert corpus.documents("base").height == 40
    assert corpus.documents("shift")["doc_id"].to_list() == [f"shift:d{i}" for i in range(5)]
    assert set(corpus.documents("shift")["package"]) == {"new.v2"}
    assert corpus.queries(part="shift")["query_id"].to_list() == ["shift:q3"]
    assert corpus.judgments(part="shift").rows() == [("shift:q3", "shift:d3", 1.0)]
    assert set(corpus.judgments(part="base")["doc_id"]) == {f"base:d{i}" for i in range(40)}
    assert corpus.manifest["source"] == ["old", "new.v2"]


# --------------------------------------------------------------------------- bad lines


def test_bad_lines_are_counted_and_named(tmp_path: Path):
    source = beir(tmp_path / "set")
    with (source / "corpus.jsonl").open("ab") as stream:
        stream.write(b'{"_id": "x1", "text": "caf\xe9"}\n{"_id": "x2"\n{"text": "no name"}\n{"_id": "x4", "text": 3}\n{"_id": "d0", "text": "again"}\n[1]\n')
        stream.write(b'{"_id": "x7", "text": "half \\ud83d a face"}\n')
    with (source / "queries.jsonl").open("a") as stream:
        stream.write('{"_id": "y1", "text": "  "}\n')
    with (source / "qrels.tsv").open("ab") as stream:
        stream.write(b"q1\td1\nq1\td2\tyes\nq1\td3\t-1\nq1\td4\tnan\nq1\td5\tinf\nq1\t\xff\t1\n")
    manifest = import_beir(source, tmp_path / "out").manifest
    assert manifest["bad_lines"] == 14
    assert manifest["bad_lines_first"] == [
        "corpus.jsonl:41: not UTF-8",
        "corpus.jsonl:42: not JSON (Expecting ',' delimiter)",
        "corpus.jsonl:43: no _id",
        "corpus.jsonl:44: no text",
        "corpus.jsonl:45: second line with _id 'd0'",
        "corpus.jsonl:46: no _id",
        "corpus.jsonl:47: half of a surrogate pair, which is no text",
        "queries.jsonl:41: empty text",
        "qrels.tsv:42: 2 fields instead of 3",
        "qrels.tsv:43: score 'yes' is not a number",
    ]
    assert manifest["counts"]["judgments"] == 40


# --------------------------------------------------------------------------- refusals


def refuse(source: Path, why: str) -> str:
    with pytest.raises(BadInput, match=why) as caught:
        import_beir(source, source.parent / "refused")
    assert not (source.parent / "refused").exists()
    return str(caught.value)


def test_judgments_that_point_nowhere_are_refused_with_the_list(tmp_path: Path):
    rows = [("q0", "d0", 1), ("q0", "gone", 1), ("nobody", "d1", 0)] + [(f"z{i}", "d1", 1) for i in range(15)]
    message = refuse(beir(tmp_path / "set", **{"qrels.tsv": tsv(rows)}), "17 judgments point nowhere")
    assert "qrels.tsv:3: document 'gone' does not exist; qrels.tsv:4: query 'nobody' does not exist" in message
    assert "and 7 more" in message


def test_a_dangling_judgment_names_the_unreadable_line_that_may_have_caused_it(tmp_path: Path):
    source = beir(tmp_path / "set", **{"queries.jsonl": jsonl(QUERIES).replace('"_id": "q4",', '"_id": "q4"')})
    assert "queries.jsonl:5: not JSON" in refuse(source, "query 'q4' does not exist")


@pytest.mark.parametrize("qrels", ["", HEADER, tsv([("q0", "d0", 0)]), tsv([("q0", "d0", "x")])])
def test_empty_judgments_are_refused(tmp_path: Path, qrels: str):
    refuse(beir(tmp_path / "set", **{"qrels.tsv": qrels}), "judgments are empty")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(tmp_path: Path, name: str):
    refuse(beir(tmp_path / "set", **{name: None}), name)


def test_a_collection_without_documents_names_its_bad_lines(tmp_path: Path):
    assert "corpus.jsonl:1: no text" in refuse(beir(tmp_path / "set", **{"corpus.jsonl": '{"_id": "d0"}\n'}), "no usable document")


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_a_truncated_gz_is_refused(tmp_path: Path, keep: float):
    source = beir(tmp_path / "set", **{"corpus.jsonl": None, "corpus.jsonl.gz": jsonl(DOCUMENTS)})
    whole = (source / "corpus.jsonl.gz").read_bytes()
    (source / "corpus.jsonl.gz").write_bytes(whole[: int(len(whole) * keep)])
    refuse(source, r"corpus\.jsonl\.gz: damaged")


def test_a_gz_with_a_damaged_middle_or_that_is_none_is_refused(tmp_path: Path):
    source = beir(tmp_path / "set", **{"corpus.jsonl": None, "corpus.jsonl.gz": jsonl(DOCUMENTS)})
    whole = bytearray((source / "corpus.jsonl.gz").read_bytes())
    for at in range(30, 60):
        whole[at] ^= 0xFF
    (source / "corpus.jsonl.gz").write_bytes(bytes(whole))
    refuse(source, r"corpus\.jsonl\.gz: damaged")
    (source / "corpus.jsonl.gz").write_bytes(b"plain text")
    refuse(source, r"corpus\.jsonl\.gz: damaged")


@pytest.mark.parametrize("name", ["../evil.txt", "/tmp/evil-absolute.txt", "a/../../evil.txt"])
def test_a_zip_that_reaches_outside_is_refused(tmp_path: Path, name: str):
    archive = zipped(tmp_path / "set.zip", beir(tmp_path / "set"))
    with zipfile.ZipFile(archive, "a") as opened:
        opened.writestr(name, "evil")
    refuse(archive, "points outside")


def test_zips_that_cannot_be_used(tmp_path: Path):
    whole = zipped(tmp_path / "whole.zip", beir(tmp_path / "set")).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refuse(tmp_path / "cut.zip", "neither a folder nor a readable")
    damaged = bytearray(whole)
    damaged[100:140] = bytes(40)
    (tmp_path / "damaged.zip").write_bytes(bytes(damaged))
    refuse(tmp_path / "damaged.zip", "cannot be unpacked")
    (tmp_path / "empty").mkdir()
    refuse(zipped(tmp_path / "empty.zip", tmp_path / "empty"), "no corpus.jsonl")
    two = tmp_path / "two"
    beir(two / "a"), beir(two / "b")
    refuse(zipped(tmp_path / "two.zip", two), r"2 collections inside \(a, b\)")
    refuse(tmp_path / "nothing", "neither a folder")


# --------------------------------------------------------------------------- reading back


def test_a_corpus_is_held_against_its_hashes(tmp_path: Path):
    folder = import_beir(beir(tmp_path / "set"), tmp_path / "out").folder
    assert load_corpus(folder).queries().height == 40
    frame = pl.read_parquet(folder / "judgments.parquet")
    frame.with_columns(relevance=pl.col("relevance") + 1).write_parquet(folder / "judgments.parquet")
    with pytest.raises(BadInput, match=r"judgments\.parquet changed"):
        load_corpus(folder)
    frame.write_parquet(folder / "judgments.parquet")
    assert load_corpus(folder).judgments().height == 40
    (folder / "documents.parquet").unlink()
    with pytest.raises(BadInput, match=r"documents\.parquet"):
        load_corpus(folder)


def test_an_older_corpus_is_held_against_its_rows(tmp_path: Path):
    folder = import_beir(beir(tmp_path / "set"), tmp_path / "out").folder
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert load_corpus(folder).documents().height == 40
    pl.read_parquet(folder / "queries.parquet").head(39).write_parquet(folder / "queries.parquet")
    with pytest.raises(BadInput, match="changed since"):
        load_corpus(folder)


@pytest.mark.parametrize("manifest", [None, "", "{}", "[]", '{"name": "x"}'])
def test_what_is_not_a_corpus(tmp_path: Path, manifest: str | None):
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(BadInput, match="not a built corpus"):
        load_corpus(tmp_path)


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize(("name", "documents", "judged"), [("cranfield", 1400, 225), ("xquad-ru", 240, 1190), ("man-uk", 179, 176), ("stackfaq", 719, 1249)])
def test_real_collections(tmp_path: Path, name: str, documents: int, judged: int):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not on this machine: the judged collections are not part of the project")
    corpus = import_beir(SHARED / name, tmp_path)
    assert (corpus.documents().height, corpus.manifest["bad_lines"]) == (documents, 0)
    assert 0.98 * judged <= corpus.queries().height <= judged
    shares = {split: corpus.queries(split).height / corpus.queries().height for split in ("train", "dev", "test")}
    assert shares["test"] > 0.2
