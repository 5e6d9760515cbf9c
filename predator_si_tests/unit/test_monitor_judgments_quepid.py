"""Quepid's CSV files: its three headers, bad lines by file and line, and a way back that loses nothing."""

from __future__ import annotations

import csv

import polars as pl
import pytest

from predator_si.errors import BadInput, Missing
from predator_si.monitor.judgments import JudgmentSet, JudgmentStore, read_quepid, text_id, write_quepid
from predator_si_tests.support.command_line import CommandLine

# As Quepid 8.6 writes them: an unrated query padded to three cells, a blank before what a spreadsheet would take for a formula.
CASE = 'query,docid,rating\r\nstar wars,11,3\r\n"trek, star",12,0\r\nunrated,,\r\n =sum,13,1\r\n'
BOOK = "query,docid,Ann,Anonymous\nstar wars,11,3,\nstar wars,12,1,0\n"
DETAILED = "Team Name,Case Name,Case ID,Query Text,Doc ID,Doc Position,Title,Rating,overview\n"
DETAILED += 'T,C,6,star wars,11,1,"A ""New"" Hope\nIV",3,far away\nT,C,6,star wars,12,2,B,,x\n'


def written(tmp_path, text, name="f.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_case_file(tmp_path):
    read = read_quepid(written(tmp_path, "\ufeff" + CASE), ids={"star wars": "q1"})
    rows = {(row["query"], row["doc_id"]): row for row in read.judgments.frame.iter_rows(named=True)}
    assert {key: row["relevance"] for key, row in rows.items()} == {("star wars", "11"): 3.0, ("trek, star", "12"): 0.0, ("=sum", "13"): 1.0}
    assert rows["star wars", "11"]["query_id"] == "q1" and rows["=sum", "13"]["query_id"] == text_id(" =SUM ")
    assert (read.format, read.bad, read.unrated, read.judgments.counts) == ("case", (), 1, {"human": 3})


def test_a_book_has_a_judge_in_each_column(tmp_path):
    read = read_quepid(written(tmp_path, BOOK))
    assert sorted(read.judgments.frame.select("doc_id", "judge", "relevance").rows()) == [("11", "Ann", 3.0), ("12", "Ann", 1.0), ("12", "Anonymous", 0.0)]
    assert (read.format, read.unrated) == ("book", 1)


def test_the_detailed_export(tmp_path):
    read = read_quepid(written(tmp_path, DETAILED))
    assert read.judgments.frame.select("query", "doc_id", "relevance").rows() == [("star wars", "11", 3.0)]
    assert (read.format, read.unrated, read.left_out) == ("detailed", 1, ("overview",))


def test_every_bad_line_is_named(tmp_path):
    text = 'query,docid,rating\na,1,3\na,2,four\na,3,9\na,1,2\n,5,1\nb,,2\nc,1,2,3\n"two\nlines",1,-1\nd,1,nan\ne,1,1\n'
    read = read_quepid(written(tmp_path, text))
    assert [line.split(":")[1] for line in read.bad] == ["3", "4", "5", "6", "7", "8", "9", "11"] and all(line.startswith("f.csv:") for line in read.bad)
    assert "rated on line 2 already" in read.bad[2] and "--scale" in read.bad[1]
    assert read.judgments.height == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("query,docid\na,1\n", r"f.csv:1: no column with ratings"),
        ("a,1,3\n", r"f.csv:1: the header a,1,3 is none of Quepid's"),
        ("query,docid,Ann,Ann\na,1,1,2\n", "stand twice"),
        ("query,docid,rating\na,1,x\n", r"no usable rating.*f.csv:2"),
        ("", "is none of Quepid's"),
        (b"query,docid,rating\na,1,3\n\xff,2,3\n", r"f.csv:3: not UTF-8"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, text, said):
    with pytest.raises(BadInput, match=said):
        read_quepid(written(tmp_path, text))


def test_personal_data_in_a_query_are_not_kept(tmp_path):
    read = read_quepid(written(tmp_path, "query,docid,rating\nmail of jane@example.org,1,3\n"))
    assert "jane@example.org" not in str(read.judgments.frame.to_dicts())


def test_there_and_back(tmp_path):
    case, book = read_quepid(written(tmp_path, CASE)).judgments, read_quepid(written(tmp_path, BOOK)).judgments
    assert write_quepid(tmp_path / "case.csv", case) == 3
    assert [row[0] for row in csv.reader((tmp_path / "case.csv").open())] == ["query", " =sum", "star wars", "trek, star"]
    again = read_quepid(tmp_path / "case.csv").judgments
    assert again.frame.sort("query_id").equals(case.frame.sort("query_id"))
    write_quepid(tmp_path / "book.csv", book, book=True)
    assert read_quepid(tmp_path / "book.csv").judgments.frame.sort("doc_id", "judge").equals(book.frame.sort("doc_id", "judge"))
    mixed = case + JudgmentSet(case.frame.with_columns(origin=pl.lit("llm")))
    with pytest.raises(BadInput, match="not mixed silently"):
        write_quepid(tmp_path / "x.csv", mixed)
    assert write_quepid(tmp_path / "x.csv", mixed, prefer=("human", "llm")) == 3


def test_a_query_without_text_cannot_be_exported(tmp_path):
    plain = JudgmentSet.of(pl.DataFrame({"query_id": ["q"], "doc_id": ["d"], "relevance": [1.0]}), "human")
    with pytest.raises(BadInput, match="no query text"):
        write_quepid(tmp_path / "x.csv", plain)


def test_the_store_says_what_is_missing_or_damaged(tmp_path):
    store = JudgmentStore(tmp_path / "judgments")
    with pytest.raises(Missing, match="there are: none"):
        store.load("team")
    with pytest.raises(BadInput, match="cannot be a name"):
        store.load("../team")
    case = read_quepid(written(tmp_path, CASE)).judgments
    store.save("team", case).write_bytes(b"no Parquet")
    with pytest.raises(BadInput, match="import the judgments again"):
        store.load("team")


def test_the_commands(home, capsys, tmp_path):
    run = CommandLine(home.path, capsys)
    assert "none yet" in run("judgments", "list").out
    done = run("judgments", "import", written(tmp_path, CASE + "bad,1,x\n", "team.csv"), "--json")
    assert done.code == 0 and done.json["labels"] == 3 and done.json["bad"] == 1 and "team.csv:6" in done.err
    assert run("judgments", "list", "--json").json == [{"name": "team", "labels": 3, "queries": 3, "origins": {"human": 3}}]
    assert run("judgments", "export", "team", tmp_path / "out.csv").code == 0
    assert read_quepid(tmp_path / "out.csv").judgments.height == 3
    assert run("judgments", "export", "nobody", tmp_path / "out.csv").code == 2
    assert run("judgments", "import", tmp_path / "team.csv", "--origin", "click").code == 2
