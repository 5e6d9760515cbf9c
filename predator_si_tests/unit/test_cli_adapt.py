"""`adapt`: a BEIR folder and a model folder in, figures, page, ledger and an exit code out; wrong use is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from predator_si.cli import adapt as command
from predator_si.control import Control
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder, tiny_cross_encoder
from predator_si_tests.support.command_line import CommandLine

TOPICS = ("sorting", "parsing", "joining", "plotting", "caching", "merging", "training", "indexing")
KINDS = ("tables", "frames", "lists", "files", "models")


def beir(folder: Path, word: str) -> Path:
    """A BEIR folder of 40 documents; each is asked for by three queries, one of each split."""
    (folder / "qrels").mkdir(parents=True)
    pairs = [(topic, kind) for topic in TOPICS for kind in KINDS]
    documents = [{"_id": f"d{i}", "title": f"{t} {k}", "text": f"{word} {t} is fast and safe on {k}."} for i, (t, k) in enumerate(pairs)]
    asked = {"train": "quick", "dev": "broken", "test": "explain"}
    queries = [{"_id": f"{split}{i}", "text": f"{word} {how} {t} of {k} {i}"} for split, how in asked.items() for i, (t, k) in enumerate(pairs)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    for split in asked:
        (folder / "qrels" / f"{split}.tsv").write_text("q\td\tscore\n" + "".join(f"{split}{i}\td{i}\t1\n" for i in range(len(pairs))), encoding="utf-8")
    return folder


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.setenv("PREDATOR_SI_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PREDATOR_SI_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr(command, "open_index", lambda settings, corpus, embedder: HybridIndex.build(corpus.documents(), HashingEmbedder()))
    monkeypatch.setattr(command, "_generators", list)
    monkeypatch.setattr(command, "_bi_encoders", lambda settings, own: [])
    return CommandLine(tmp_path / "home", capsys)


def test_a_folder_in_a_decision_out(cli: CommandLine, tmp_path: Path):
    mine, other = beir(tmp_path / "mine", "snake"), beir(tmp_path / "other", "camel")
    texts = [path.read_text(encoding="utf-8") for path in (mine / "corpus.jsonl", mine / "queries.jsonl")]
    model, file = tiny_cross_encoder(tmp_path / "model", texts, 0, hidden=32), tmp_path / "out" / "run.json"
    options = ("--budget-minutes", 5, "--depth", 8, "--max-length", 48, "--backend", "torch-fp32", "--canary", other, "--json", file)
    answer = cli("adapt", "--corpus", mine, "--model", model, *options)
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert answer.code == (0 if figures["decision"] == "promoted" else 1), answer.err
    assert figures["corpus"] == "mine" and figures["labels"] == "none" and set(figures["canary"]) == {"other"} and figures["scale"] == "full"
    assert figures["n_test_queries"] == 40 and figures["test_queries_left_out"] == 0
    assert Path(figures["report"]).is_file() and (Path(figures["report"]).parent / "model_card.md").is_file()
    assert figures["decision"] in answer.out and "gap recovery" in answer.out
    ledger = Control(cli.home / "adapt" / "ledger.db")
    assert [record.payload["purpose"] for record in ledger.records() if record.action == "judgments_opened"] == ["gate", "canary", "oracle", "test"]
    pooled = cli("adapt", "--summary", file, "--json", "-")
    assert pooled.code == 0 and pooled.json["collections"][0]["corpus"] == "mine" and pooled.json["gap_recovery"] == figures["gap_recovery"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "give --corpus"),
        (("x.json",), "with --summary only"),
        (("--summary",), "nothing to summarise"),
        (("--summary", "gone.json"), "not the figures of an adaptation"),
        (("--corpus", "nowhere"), "no corpus 'nowhere'"),
        (("--corpus", "nowhere", "--labels", "few"), "there are none, clicks, train"),
    ],
)
def test_wrong_use_is_one_line_and_two(cli: CommandLine, words: tuple[str, ...], says: str):
    answer = cli("adapt", *words)
    assert answer.code == 2 and says in answer.err and answer.err.count("\n") == 1


def test_too_few_queries_are_refused_before_anything_is_trained(cli: CommandLine, tmp_path: Path):
    mine = beir(tmp_path / "mine", "snake")
    (mine / "qrels" / "train.tsv").write_text("q\td\tscore\ntrain1\td1\t1\n", encoding="utf-8")
    model = tiny_cross_encoder(tmp_path / "model", ["a b"], 0, hidden=32)
    answer = cli("adapt", "--corpus", mine, "--model", model, "--max-length", 48)
    assert answer.code == 2 and "1 train queries are too few" in answer.err
