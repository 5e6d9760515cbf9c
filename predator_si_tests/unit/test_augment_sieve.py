"""Filters of the stream, each by itself: language, leaks, round trip, duplicates, copies, personal data; clients; negatives by retriever."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from predator_si.augment.clients import fair_log
from predator_si.augment.filters import Yield, drop_false_negatives, longest_common_run
from predator_si.augment.filters import above_floor as floor
from predator_si.augment.language import Languages, main_scripts
from predator_si.augment.leaks import Leaks
from predator_si.augment.material import Material
from predator_si.augment.negatives import NegativeMiner
from predator_si.augment.recipe import Filters, Guard, Proposal, Sizes
from predator_si.augment.sieve import Sieve
from predator_si.corpora.words import token_lists
from predator_si.errors import BadInput
from predator_si.search.tiny import HashingEmbedder
from predator_si_tests.support.generator_material import documents, empty_log, log_of, report


class Ranked:
    """A first stage whose candidates for every query are its documents in order, and whose legs are given."""

    def __init__(self, texts: dict[str, str], **legs: list[str]) -> None:
        self.doc_ids = list(texts)
        self._texts = texts
        self._legs = legs

    def text(self, doc_id: str) -> str:
        return self._texts[doc_id]

    def candidates(self, queries: list[str], depth: int) -> list[Any]:
        ids = self.doc_ids[:depth]
        return [SimpleNamespace(doc_ids=ids, texts=[self._texts[i] for i in ids], **self._legs) for _ in queries]


def made(query: str, doc_id: str = "d0", source: str = "title", **changes: Any) -> Proposal:
    return Proposal(query, doc_id, source, source, 1.0, changes.pop("targeted", False), **changes)


def sieve(docs: pl.DataFrame, *, guard: Guard | None = None, log: pl.DataFrame | None = None, filters: Filters | None = None, embed: bool = False):
    index = Ranked(dict(docs.select("doc_id", "text").iter_rows()))
    chosen = filters or Filters()
    material = Material(
        report(), empty_log() if log is None else log, docs, index, guard or Guard([], frozenset()), HashingEmbedder().encode if embed else None
    )
    tally = Yield()
    return Sieve(material, chosen, NegativeMiner(index, Sizes(), chosen, 0), tally), tally


def left(tally: Yield) -> dict[str, int]:
    return {step: sum(counts.values()) for step, counts in tally.steps.items()}


class TestLanguage:
    UKRAINIAN = "Команда показує вміст каталогу та права доступу до файлів, їхній розмір і час зміни." * 5

    @pytest.mark.parametrize(
        ("text", "scripts"),
        [
            ("plain words", {"LATIN"}),
            ("вміст каталогу", {"CYRILLIC"}),
            ("日本語の文書を検索する", {"CJK"}),
            ("ls -l показує", {"CYRILLIC"}),
            ("12 34 !", set()),
        ],
    )
    def test_main_scripts(self, text: str, scripts: set[str]):
        assert main_scripts(text) == scripts

    def share(self, query: str, document: str, log: tuple[str, ...] = ()) -> float:
        words, known = token_lists([query, document])
        return Languages([document], log).foreign_share(words, frozenset(known), main_scripts(document))

    def test_english_about_a_ukrainian_document_is_foreign_but_its_own_names_are_not(self):
        assert self.share("how to list files", self.UKRAINIAN) == 1.0
        assert self.share("показує вміст каталогу", self.UKRAINIAN) == 0.0
        assert self.share("git каталогу", self.UKRAINIAN + " git") == 0.0

    def test_russian_letters_are_foreign_to_ukrainian_and_what_people_ask_is_not(self):
        assert self.share("как вывести объём файлы", self.UKRAINIAN) >= 0.5
        assert self.share("как вывести объём файлы", self.UKRAINIAN, ("как вывести объём файлы",)) == 0.0

    def test_french_accents_are_foreign_to_english_and_unknown_ascii_words_are_not(self):
        english = "The function returns the values of the table in the order of their keys." * 5
        assert self.share("où est la clé préférée", english) > 1 / 3
        assert self.share("quick lookup", english) == 0.0

    def test_texts_without_letters_have_no_say(self):
        assert self.share("open a file", "0 1 2 3") == 0.0
        assert self.share("", "text") == 0.0


class TestLeaks:
    def test_each_reason(self):
        guard = Guard(["Return the indices of the maximum values along an axis"], {"secret"})
        body = "one two three four five six seven eight nine ten"
        leaks = Leaks(guard, [body], Filters(), HashingEmbedder().encode)
        proposals = [
            made("return the indices of the maximum values along an axis!", source="clicks"),
            made("returns the indices of the maximum values along one axis"),
            made("axis an along values maximum the of indices the return"),
            made("entirely different words", "secret"),
            made("other words entirely", "twin"),
            made("a clicked query about something else", "secret", source="clicks"),
            made("sort a linked list", "b", source="phrase"),
        ]
        texts = ["", "", "", body, body + " eleven", body, "x y z"]
        kept = leaks.passed(proposals, texts, HashingEmbedder().encode([p.query for p in proposals]))
        assert kept == [False] * 5 + [True] * 2
        assert leaks.counts == Counter(
            exact=1, near=1, meaning=1, evaluation_documents=1, near_evaluation_documents=1, asked_evaluation_documents_kept=1
        )  # fmt: skip


class TestSieve:
    def test_what_each_step_takes_is_counted_in_order(self):
        docs = documents(60)
        bodies = docs["text"].to_list()
        copied = " ".join(bodies[2].split()[:12])
        stream = [
            made("sparse matrix sorts helper0"),
            made("a query about nothing indexed", "elsewhere"),
            made("this document stands too far down", "d20"),
            made("Sparse matrix sorts helper0!", "d1"),
            made("one", "d2"),
            made(copied, "d2"),
            made(copied, "d2", "crop"),
            made("показує вміст каталогу", "d3"),
            made("write to olena.koval@example.com about plots", "d4"),
            made("beam search caches values", "d5"),
        ]
        run, tally = sieve(docs)
        kept = run.passed(stream)
        assert [(p.query, p.source) for p in kept] == [("sparse matrix sorts helper0", "title"), (copied, "crop"), ("beam search caches values", "title")]
        steps = left(tally)
        assert list(steps) == [
            "proposed",
            "indexed",
            "round_trip",
            "near_duplicate",
            "embedding_duplicate",
            "leakage",
            "length",
            "copy",
            "language",
            "personal",
        ]
        assert list(steps.values()) == [10, 9, 8, 7, 7, 7, 6, 5, 4, 3]

    def test_a_targeted_document_may_stand_further_down_and_asked_ones_anywhere(self):
        run, _ = sieve(documents(60))
        kept = run.passed([made("far but aimed at", "d20", targeted=True), made("far and clicked on", "d50", "clicks"), made("too far away", "d20")])
        assert [p.doc_id for p in kept] == ["d20", "d50"]

    def test_reordered_words_are_duplicates_by_meaning_across_batches(self):
        run, tally = sieve(documents(60), embed=True)
        assert len(run.passed([made("gradient buffer merges limits")])) == 1
        assert run.passed([made("limits merges buffer gradient", "d1"), made("socket pool joins", "d2")])[0].doc_id == "d2"
        assert left(tally)["embedding_duplicate"] == 2 and left(tally)["near_duplicate"] == 3

    def test_a_step_that_is_off_takes_nothing(self):
        run, _ = sieve(documents(60), filters=Filters(off=frozenset({"length", "round_trip"})))
        assert len(run.passed([made("one"), made("this document stands too far down", "d20")])) == 2

    def test_queries_without_an_answer_wait_for_the_teacher(self):
        run, _ = sieve(documents(60), log=log_of(["how to sort"]))
        [kept] = run.passed([made("how to sort", "", "log")])
        assert kept.negatives == [] and kept.doc_id == ""


class TestNegatives:
    TEXTS: ClassVar = {f"d{i}": f"text {i}" for i in range(40)}

    def mine(self, proposal: Proposal, index: Ranked, sizes: Sizes | None = None) -> NegativeMiner:
        miner = NegativeMiner(index, sizes or Sizes(), Filters(), 0)
        miner.mine([proposal])
        miner.fill([proposal])
        return miner

    def test_each_leg_gives_its_share_and_the_first_ranks_give_none(self):
        lexical = [f"d{i}" for i in (1, 0, 30, 31, 32)]
        dense = [f"d{i}" for i in (0, 1, 35, 36, 37)]
        proposal = made("q x")
        miner = self.mine(proposal, Ranked(self.TEXTS, lexical_ids=lexical, dense_ids=dense))
        assert miner.by_leg == {"fused": 2, "lexical": 1, "dense": 1, "random": 1}
        ids = [entry[0] for entry in proposal.negatives]
        assert len(set(ids)) == 5 and not {"d0", "d1"} & set(ids)
        assert all(entry[1] == self.TEXTS[entry[0]] for entry in proposal.negatives)

    def test_clicked_documents_and_the_positive_never_appear(self):
        for number in range(20):
            proposal = made(f"query {number}", "d4", excluded=frozenset({"d5", "d6"}))
            self.mine(proposal, Ranked(self.TEXTS))
            assert not {"d4", "d5", "d6"} & {entry[0] for entry in proposal.negatives}

    def test_the_same_group_whatever_stands_beside_it(self):
        alone, beside = made("q x"), made("q x")
        self.mine(alone, Ranked(self.TEXTS))
        NegativeMiner(Ranked(self.TEXTS), Sizes(), Filters(), 0).mine([made("other query", "d9"), beside])
        assert [entry[0] for entry in alone.negatives] == [entry[0] for entry in beside.negatives]

    def test_one_document_gives_no_negative_and_a_strange_leg_is_refused(self):
        proposal = made("q x")
        self.mine(proposal, Ranked({"d0": "text"}))
        assert proposal.negatives == []
        with pytest.raises(BadInput, match="sparse"):
            NegativeMiner(Ranked(self.TEXTS), Sizes(legs=("sparse",)), Filters(), 0)

    def test_a_text_of_a_million_characters_is_kept_short(self):
        proposal = made("q x")
        miner = self.mine(proposal, Ranked({**self.TEXTS, "d3": "x" * 10**6}))
        assert len(miner.text("d3")) == 20_000


class TestTeacherFilters:
    def test_false_negatives_go_by_source(self):
        def proposal(source: str, scores: list[float]) -> Proposal:
            one = made("q", "p", source, negatives=[(f"n{i}", "t", "hard", 3) for i in range(len(scores) - 1)])
            one.teacher = np.array(scores)
            return one

        # Gaps between positive and mean of negatives: 6, 6, 6 -> one unit is 6; .05 of it is .3, .5 of it is 3.
        generated, clicked, other = proposal("title", [5.0, 4.9, -7.0, -0.9]), proposal("clicks", [5.0, 7.0, -10.0, 0.0]), proposal("phrase", [0.0, -6.0])
        answered = proposal("log", [5.0, 4.99])
        assert drop_false_negatives([generated, clicked, other], Filters()) == 1
        assert [len(p.negatives) for p in (generated, clicked, other)] == [2, 3, 1]
        assert generated.teacher is not None and generated.teacher.tolist() == [5.0, -7.0, -0.9]
        assert drop_false_negatives([generated, answered], Filters()) == 0 and len(answered.negatives) == 1

    def test_the_floor_is_for_made_up_queries(self):
        def scored(source: str) -> Proposal:
            one = made("q", "p", source, negatives=[("n0", "t", "hard", 3), ("n1", "t", "hard", 4)])
            one.teacher = np.array([-8.0, 1.0, 1.0])
            return one

        found = [scored("title"), scored("clicks"), made("unlabelled", "p")]
        assert [p.source for p in floor(found, Filters())] == ["clicks", "title"]
        assert len(floor(found, Filters(off=frozenset({"teacher"})))) == 3

    def test_longest_common_run(self):
        assert longest_common_run(["a", "b", "c", "d"], ["x", "b", "c", "d", "b", "c"]) == 3
        assert longest_common_run([], ["a"]) == 0


class TestClients:
    SHOWN: ClassVar = [f"d{i}" for i in range(10)]

    def log(self, rows: list[tuple[str | None, str, list[str]]]) -> pl.DataFrame:
        frame = pl.DataFrame(rows, schema={"client_id": pl.String, "text": pl.String, "clicked": pl.List(pl.String)}, orient="row")
        return frame.with_columns(impressions=pl.Series([self.SHOWN] * len(rows)), dwell=pl.col("clicked").list.eval(pl.lit(40.0)))

    def test_a_client_that_clicks_everything_keeps_its_searches_and_loses_its_clicks(self):
        rows = [("bot", f"query {i}", self.SHOWN[:8]) for i in range(10)] + [("person", f"query {i}", ["d1"]) for i in range(10)]
        fair, counts = fair_log(self.log(rows), Filters())
        assert fair.height == 20 and fair.filter(pl.col("client_id") == "bot")["clicked"].list.len().sum() == 0
        assert fair.filter(pl.col("client_id") == "bot")["dwell"].list.len().sum() == 0
        assert fair.filter(pl.col("client_id") == "person")["clicked"].list.len().sum() == 10
        assert counts["indiscriminate_clients"] == 1 and counts["indiscriminate_clicks"] == 80 and counts["clients"] == 2

    def test_who_repeats_a_query_counts_three_times_whoever_is_unknown_each_time(self):
        rows = [("one", "Same query", ["d9"])] * 50 + [(None, "same query", ["d1"])] * 5
        fair, counts = fair_log(self.log(rows), Filters())
        assert fair.height == 8 and counts["repeated_searches"] == 47

    def test_no_client_has_more_than_its_share_of_the_clicks(self):
        rows = [("busy", f"query number{i}", ["d9"]) for i in range(400)] + [(f"c{i}", f"question {i}", ["d1"]) for i in range(400)]
        fair, counts = fair_log(self.log(rows), Filters())
        assert fair.height == 800 and fair.filter(pl.col("client_id") == "busy")["clicked"].list.len().sum() == 40
        assert counts["clicks_over_share"] == 360

    def test_without_clients_nothing_changes(self):
        log = self.log([("one", "a query", ["d1"])] * 9).drop("client_id")
        assert fair_log(log, Filters())[0] is log
