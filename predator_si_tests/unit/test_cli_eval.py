"""`eval`: figures over a corpus by hand, model references, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from predator_si.cli import evaluation
from predator_si.control import Control
from predator_si.errors import BadInput, Missing
from predator_si.provenance import provenance
from predator_si.search.retrieve import HybridIndex
from predator_si.settings import Settings
from predator_si_tests.support.command_line import CommandLine

N = 12


class WordEmbedder:
    """One axis for each document's own number."""

    name = "words@8"

    def encode(self, texts, on_progress=None):
        vectors = np.full((len(texts), N), 1e-3, np.float32)
        for row, text in enumerate(texts):
            vectors[row, int(text.split("number")[1].split()[0]) % N] = 1.0
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A home with an imported corpus: every query's document is the one with its number."""
    monkeypatch.setenv("PREDATOR_SI_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "numbers"
    source.mkdir()
    rows = [{"_id": f"d{i}", "title": f"t{i}", "text": f"about number{i} only"} for i in range(N)]
    (source / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (source / "queries.jsonl").write_text("\n".join(json.dumps({"_id": f"q{i}", "text": f"number{i} please"}) for i in range(N)), encoding="utf-8")
    (source / "qrels").mkdir()
    (source / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(N)), encoding="utf-8")
    cli = CommandLine(tmp_path / "home", capsys)
    assert cli("corpus", "import", source).code == 0

    def open_index(settings, collection, embedder):
        return HybridIndex.build(collection.documents(), WordEmbedder())

    monkeypatch.setattr(evaluation, "open_index", open_index)
    return cli


def test_the_first_stage_finds_what_has_the_query_s_number(cli: CommandLine, tmp_path: Path):
    file = tmp_path / "out" / "e.json"
    answer = cli("eval", "--corpus", "numbers", "--model", "first-stage", "--json", file)
    assert answer.code == 0, answer.err
    figures = json.loads(file.read_text())
    assert figures["ndcg_at_10"] == figures["mrr"] == figures["recall_at_20"] == 1.0 and figures["n_queries"] == N and figures["ci"] == [1.0, 1.0]
    assert {"scale", "cores", "versions", "seed"} <= set(figures)
    assert pl.read_parquet(figures["per_query"])["query_id"].n_unique() == N
    assert "NDCG@10   1.0000" in answer.out


def test_a_reranker_that_turns_the_order_around_is_measured_so(cli: CommandLine, monkeypatch: pytest.MonkeyPatch):
    class Backwards(evaluation._FirstStage):
        def score_pairs(self, pairs):
            own = [text.split("number")[1].split()[0] == query.split("number")[1].split()[0] for query, text in pairs]
            return np.array([-1.0 if same else float(i % 7) for i, same in enumerate(own)], np.float32)

    monkeypatch.setattr(evaluation, "find_reranker", lambda *_: Backwards())
    answer = cli("eval", "--corpus", "numbers", "--model", "x", "--depth", "4", "--json", "-")
    assert answer.json["ndcg_at_10"] == pytest.approx(1 / math.log2(5)), "the relevant one is last of four"
    assert answer.json["mrr"] == pytest.approx(0.25)


def test_reading_test_queries_is_in_the_ledger_of_a_home_that_has_one(cli: CommandLine):
    cli("stop")
    assert cli("eval", "--corpus", "numbers", "--model", "first-stage").code == 0
    last = Control(cli.home / "control.db").records()[-1]
    assert last.action == "test_queries_read" and last.payload == {"corpus": "numbers", "model": "first-stage", "queries": N}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--corpus", "nmbers", "--model", "first-stage"), "no corpus 'nmbers'"),
        (("--corpus", "numbers", "--model", "first-stage", "--split", "dev"), "has 0 queries in split 'dev'"),
        (("--corpus", "numbers", "--model", "first-stage", "--split", "tset"), "there are train, dev and test"),
        (("--corpus", "numbers", "--model", "no-model"), "no model 'no-model'"),
        (("--corpus", "numbers", "--model", "sha256:12"), "not a model digest"),
        (("--corpus", "numbers", "--model", f"sha256:{'0' * 64}"), "is not in"),
        (("--corpus", "numbers", "--model", "champion"), "release-local.yaml"),
    ],
)
def test_bad_references_are_one_line_and_two(cli: CommandLine, words: tuple[str, ...], says: str):
    answer = cli("eval", *words)
    assert answer.code == 2 and says in answer.err and answer.err.count("\n") == 1


def test_a_body_without_a_trained_head_is_refused(settings: Settings, tmp_path: Path):
    folder = tmp_path / "body"
    folder.mkdir()
    with pytest.raises(BadInput, match="not a model folder"):
        evaluation.find_reranker(settings, str(folder), "torch-fp32", 64)
    (folder / "config.json").write_text('{"architectures": ["BertModel"]}', encoding="utf-8")
    with pytest.raises(BadInput, match="BertModel is no cross-encoder"):
        evaluation.find_reranker(settings, str(folder), "torch-fp32", 64)


def test_nobody_released_is_missing(settings: Settings):
    settings.folders.release_file("local").write_text(f"reranker: {{champion: 'sha256:{'1' * 64}', depth: 5}}\n", encoding="utf-8")
    with pytest.raises(Missing, match="no candidate is released"):
        evaluation.find_reranker(settings, "candidate", "torch-fp32", 64)


def test_provenance_has_the_keys_of_the_contract():
    found = provenance("small", 7)
    assert set(found) == {"scale", "cores", "versions", "seed"} and found["cores"] >= 1 and "torch" in found["versions"]
