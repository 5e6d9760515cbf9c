"""What a diagnosis asks the service for: the legs behind an answer, and what the indexed documents are like."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import polars as pl
import pytest

from predator_si.monitor.probes import answer_row
from predator_si.search.app import create_app
from predator_si.search.index_facts import WITNESSES, index_facts
from predator_si.search.retrieve import HybridIndex
from predator_si.search.tiny import HashingEmbedder
from predator_si_tests.support.search_fakes import fake_home, load_fake_reranker

DOCUMENTS = pl.DataFrame(
    {"doc_id": [f"d{i}" for i in range(30)], "title": [""] * 30, "text": [f"word{i} shared text number {i % 7} of thirty documents" for i in range(30)]}
)


def test_a_search_tells_its_legs_only_when_asked_and_they_explain_the_fusion(tmp_path: Path) -> None:
    home = fake_home(tmp_path)
    home.release(home.model("first"), depth=10)
    index = HybridIndex.build(DOCUMENTS, HashingEmbedder())

    async def play() -> None:
        app = create_app(home.path, load_index=lambda _: index, load_reranker=load_fake_reranker)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://search") as http:
            plain = (await http.post("/search", json={"query": "word3 shared", "k": 10})).json()
            told = (await http.post("/search", json={"query": "word3 shared", "k": 10, "explain": True})).json()
            info = (await http.get("/info")).json()["index"]
            facts = (await http.get("/info", params={"facts": "true"})).json()["index"]["facts"]
        assert "legs" not in plain and "facts" not in info
        lexical, dense = told["legs"]["lexical"], told["legs"]["dense"]
        assert lexical[0] == "d3" and len(dense) == 30
        fused = {doc: sum(1 / (61 + leg.index(doc)) for leg in (lexical, dense) if doc in leg) for doc in {*lexical, *dense}}
        assert {row["object_id"]: row["first_stage_score"] for row in told["results"]} == pytest.approx(
            {doc: fused[doc] for doc in (row["object_id"] for row in told["results"])}
        )
        assert facts["documents"] == 30 and facts["sampled_below"] is None and len(facts["sample"]) == 30
        row = answer_row("q", "word3 shared", told)
        assert row["lexical_ids"] == lexical and row["dense_ids"] == dense and None not in row["rerank_scores"]
        assert answer_row("q", "word3 shared", plain)["lexical_ids"] is None

    asyncio.run(play())


def test_the_sample_holds_the_same_documents_in_every_generation() -> None:
    before = pl.DataFrame({"doc_id": [f"d{i}" for i in range(3000)], "title": [""] * 3000, "text": ["text"] * 3000})
    after = pl.concat([before.filter(pl.int_range(pl.len()) % 10 != 0), before.head(300).with_columns(pl.concat_str(pl.lit("new"), "doc_id").alias("doc_id"))])
    one, two = index_facts(before), index_facts(after)
    assert len(one["sample"]) == len(two["sample"]) == WITNESSES
    gone = [doc for doc in one["sample"] if doc not in two["sample"]]
    assert 0.05 < len(gone) / WITNESSES < 0.25, "a tenth was removed, and a tenth new ones push a few out at the border"
    assert index_facts(before) == one


@pytest.mark.parametrize(
    ("text", "damaged"),
    [
        ("Привіт, як справи", False),
        ("naïve café, Ã la carte, Ñandú, 5 € “quoted”", False),
        ("Привіт, як справи".encode().decode("latin-1"), True),
        ("Привіт, як справи".encode().decode("cp1252", "replace"), True),
        ("naïve café".encode().decode("cp1252"), True),
        ("Привіт".encode("cp1251").decode("utf-8", "replace"), True),
    ],
)
def test_damaged_characters_are_told_from_foreign_ones(text: str, damaged: bool) -> None:
    facts = index_facts(pl.DataFrame({"doc_id": ["a"], "title": [""], "text": [text]}))
    assert (facts["damaged_characters"] > 0) is damaged and facts["damaged"] == int(damaged)
