"""Queries from documents: structure, phrases, crops; which documents; any script, any length; the same seed, the same queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.augment.generators.crops import Crops
from predator_si.augment.generators.noise import Noisy
from predator_si.augment.generators.phrases import Phrases, marginal_relevance, salient_phrases, scored_phrases, without_some
from predator_si.augment.generators.plan import plan_for
from predator_si.augment.generators.seeds import Seeds, in_turn, seeds_of
from predator_si.augment.generators.structure import Structure, headings, is_question, name_words, question_mark, questions
from predator_si.augment.generators.templates import Templates
from predator_si.augment.generators.terms import READ, Terms, joined, segment_lists, term_lists
from predator_si.augment.material import Generator, Material
from predator_si.augment.recipe import Guard, Proposal
from predator_si.corpora.beir import import_beir
from predator_si_tests.support.generator_material import documents, log_of, material, report

EVERY: tuple[Callable[[], Generator], ...] = (Structure, Phrases, Crops, lambda: Templates(least_queries=2), lambda: Noisy(Phrases(), 0.5))
SHARED = Path(__file__).parents[3] / "shared" / "data"
LOG = log_of([f"how to tune {thing} for speed" for thing in ("sparse matrix", "event queue", "beam search", "socket pool")])


def made(generator: Generator, given: Material, wanted: int = 40, seed: int = 0) -> list[Proposal]:
    return list(generator.propose(given, wanted, np.random.default_rng(seed)))


def asked(proposals: list[Proposal]) -> list[tuple[str, str, str]]:
    return [(proposal.query, proposal.doc_id, proposal.method) for proposal in proposals]


class TestTerms:
    def test_words_where_there_are_spaces_and_characters_where_there_are_none(self):
        assert term_lists(["Sort ТАБЛИЦЮ x1", "如何安装 Python 软件", "ソートする"]) == [
            ["sort", "таблицю", "x1"],
            ["如", "何", "安", "装", "python", "软", "件"],
            ["ソート", "す", "る"],
        ]
        assert term_lists(["हिन्दी भाषा", "ไทย"])[0] == ["हिन्दी", "भाषा"], "vowel signs stay in their word"
        assert "".join(term_lists(["ภาษาไทย"])[0]) == "ภาษาไทย"

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from(["sort", "таблиця", "软", "件", "安", "x1", "す"]), min_size=1, max_size=8))
    def test_joining_is_undone_by_cutting(self, terms: list[str]):
        assert term_lists([joined(terms)])[0] == terms

    def test_segments_end_at_punctuation_of_any_script_and_keep_hyphens(self):
        assert segment_lists(["beam-search decoding, fast. Next\nline", "", "软件。安装！", "a -- b"]) == [
            [["beam", "search", "decoding"], ["fast"], ["next"], ["line"]],
            [],
            [["软", "件"], ["安", "装"]],
            [["a"], ["b"]],
        ]

    def test_common_words_tell_nothing(self):
        terms = Terms([f"the value of topic{number}" for number in range(50)])
        assert terms.documents == 50 and terms.df["the"] == 50
        assert not terms.telling("value") and terms.telling("topic7") and not terms.telling("7") and not terms.telling("x") and terms.telling("软")


class TestStructure:
    def test_names_are_split_where_people_would(self):
        assert name_words("transformers.AutoModelForCausalLM.from_pretrained") == ["transformers", "auto", "model", "for", "causal", "lm", "from", "pretrained"]
        assert name_words("HTTPServer2.do_GET") == ["http", "server2", "do", "get"]
        assert name_words("Пошук документів") == ["пошук", "документів"] and name_words("हिन्दी भाषा") == ["हिन्दी", "भाषा"]

    def test_headings_in_both_markups(self):
        assert headings("# Beam search\ntext\n\nSee also\n========\nmore\n----\n== Wiki ==") == ["Beam search", "See also", "more", "Wiki"]
        assert headings("plain text\n\nwithout any") == []

    @pytest.mark.parametrize(
        "question",
        [
            "How do I sort a list?",
            "Як упорядкувати список?",
            "كيف أرتب القائمة؟",
            "どうやってリストを並べ替えますか？",
            "Ինչպե՞ս դասավորել ցուցակը՞",
            "(How does it work?)",
            "ምን ማድረግ አለብኝ፧",
        ],
    )
    def test_questions_of_any_script_are_known_by_their_mark(self, question: str):
        assert is_question(question)

    @pytest.mark.parametrize(
        "line", ["How to sort a list", "Really?", "It failed. What now is to be done?", "a ? b : c", "", "?", "What is it? Nothing at all."]
    )
    def test_what_only_looks_like_a_question_is_none(self, line: str):
        assert not is_question(line)

    def test_an_inverted_mark_begins_a_question(self):
        assert question_mark("?") and question_mark("？") and not question_mark("¿") and not question_mark("!")

    def test_questions_need_an_answer_below(self):
        text = "Як встановити пакунок?\nЗапустіть встановлення.\n\n## Де лежать його файли?\nУ теці.\n\nЩо ще треба знати?"
        assert questions("", text) == ["Як встановити пакунок?", "Де лежать його файли?"]
        assert questions("Can I merge two tables?", "Yes.") == ["Can I merge two tables?"] and questions("Can I merge two tables?", " ") == []

    def test_each_method_is_named_and_questions_come_first(self):
        text = "# Beam search scorer\nKeeps hypotheses sorted by length penalty.\nWhen does generation end?\nEarly stopping ends it."
        docs = pl.DataFrame({"doc_id": ["d"], "title": ["gen.BeamScorer"], "text": [text]})
        found = made(Structure(), material(docs), 3)
        assert [proposal.method for proposal in found] == ["question", "title", "heading"]
        assert found[0].query == "When does generation end?" and found[1].query.startswith("gen beam scorer ")

    def test_documents_without_structure_give_none(self):
        docs = pl.DataFrame({"doc_id": ["a", "b"], "title": ["", None], "text": ["plain text that goes on and on", None]})
        assert made(Structure(), material(docs)) == []


class TestPhrases:
    TERMS = Terms([f"the value of a parameter and the result of topic{i % 12} word{i}" for i in range(200)] + ["beam search decoding of the value"] * 3)

    def test_common_words_never_begin_or_end_a_phrase(self):
        found = salient_phrases(segment_lists(["The value of the beam search decoding. Beam search is the result of the value."])[0], self.TERMS)
        assert found[0] in {("beam", "search"), ("beam", "search", "decoding")}
        assert all(phrase[0] not in {"the", "of", "value", "result"} and phrase[-1] not in {"the", "of", "value"} for phrase in found)

    def test_words_of_the_report_lift_their_phrases(self):
        segments = segment_lists(["Beam search decoding. Length penalty sampling."])[0]
        plain, aimed = scored_phrases(segments, self.TERMS), scored_phrases(segments, self.TERMS, {"penalty"})
        assert aimed[("length", "penalty")] == pytest.approx(1.5 * plain[("length", "penalty")]) and aimed[("beam", "search")] == plain[("beam", "search")]

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, 10_000), st.integers(1, 8), st.floats(0.0, 1.0))
    def test_marginal_relevance_is_greedy_by_its_definition(self, seed: int, size: int, diversity: float):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(size, 3))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        relevance, similarity = rng.normal(size=size), vectors @ vectors.T
        order = marginal_relevance(relevance, similarity, size, diversity)
        assert (sorted(order) == list(range(size)) and order[0] == int(np.argmax(relevance))) or diversity == 1.0
        scaled = (relevance - relevance.min()) / np.ptp(relevance) if size > 1 else np.ones(1)
        for at, choice in enumerate(order):
            # Carbonell and Goldstein 1998 word for word; nothing chosen yet counts as similarity 0, which no chosen one falls below.
            worth = {item: (1 - diversity) * scaled[item] - diversity * max([0.0, *(similarity[item, other] for other in order[:at])]) for item in order[at:]}
            assert worth[choice] == pytest.approx(max(worth.values()))

    def test_diversity_avoids_what_was_said(self):
        same = np.array([[1.0, 0.99, 0.0], [0.99, 1.0, 0.0], [0.0, 0.0, 1.0]])
        assert marginal_relevance(np.array([1.0, 0.8, 0.7]), same, 2) == [0, 2] and marginal_relevance(np.array([1.0, 0.8, 0.7]), same, 2, 0.0) == [0, 1]

    def test_the_embedder_decides_where_counts_do_not(self):
        docs = pl.DataFrame({"doc_id": ["d"], "title": [""], "text": ["Amber lantern, copper kettle, velvet curtain, walnut table, silver mirror."]})

        def embed(texts: list[str]) -> np.ndarray:
            near = np.array([("walnut" in text and len(text) < 20) or len(text) > 40 for text in texts])
            return np.where(near[:, None], [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)

        plain = material(docs, embed=False)
        near = Material(plain.report, plain.log, docs, plain.index, plain.guard, embed)  # type: ignore[arg-type]
        wood = {"walnut", "table"}
        assert wood & set(made(Phrases(), near, 1)[0].query.split()) and not wood & set(made(Phrases(), plain, 1)[0].query.split())

    def test_two_to_six_words_with_some_left_out(self):
        lengths = [len(proposal.query.split()) for proposal in made(Phrases(), material(), 80)]
        assert len(lengths) == 80 and min(lengths) >= 2 and max(lengths) <= 6
        rng = np.random.default_rng(0)
        left = [len(without_some(list("abcdefghij"), rng, 3)) for _ in range(200)]
        assert {7, 8, 9} >= set(left) and len(set(left)) == 3 and without_some(["a", "b"], rng, 3) == ["a", "b"]


class TestSeeds:
    def test_targeted_by_category_part_and_word_never_by_common_words(self):
        docs = documents()
        by_part = Seeds(material(docs, report=report(categories=("shift",))))
        assert by_part.targeted.sum() == 20 and set(docs["part"].to_numpy()[by_part.targeted]) == {"shift"}
        by_category = Seeds(material(docs, report=report(categories=("here",)), categories={"d1": "here"}))
        assert np.flatnonzero(by_category.targeted).tolist() == [1]
        by_word = Seeds(material(docs, report=report(words=("helper7", "values"))))
        assert np.flatnonzero(by_word.targeted).tolist() == [7] and by_word.words == {"helper7"}

    def test_targeted_and_others_take_turns_until_one_kind_ends(self):
        seeds = Seeds(material(report=report(categories=("shift",))))
        order = np.concatenate(list(seeds.batches(np.random.default_rng(0))))
        aimed = seeds.targeted[order]
        assert sorted(order.tolist()) == list(range(80))
        assert all(aimed[:size].sum() <= np.ceil(size / 2) for size in range(1, 41)) and aimed[:40].sum() == 20

    def test_evaluation_documents_and_their_near_copies_give_nothing(self):
        docs = documents(16)
        text = docs["text"][3]
        copy = pl.DataFrame({"doc_id": ["copy"], "title": ["other"], "text": [text + " Too."], "part": ["base"]})
        given = material(pl.concat([docs, copy]), guard=Guard([], frozenset({"d3"})))
        for generator in (Structure(), Phrases(), Crops()):
            found = {proposal.doc_id for proposal in made(generator, given, 500)}
            assert "d3" not in found and "copy" not in found and len(found) >= 14
        counts = seeds_of(given).counts()
        assert counts["evaluation_documents_left_out"] == 1 and counts["near_evaluation_documents_left_out"] == 1
        assert counts["seed_documents"] == 15 and counts["documents"] == 17

    def test_topics_take_turns(self):
        docs = documents(64)
        large = dict.fromkeys(docs["doc_id"].to_list(), "large") | {"d1": "small", "d9": "small"}
        order = np.concatenate(list(Seeds(material(docs, categories=large)).batches(np.random.default_rng(0))))
        assert {1, 9} <= set(order[:4].tolist())

    def test_topics_from_the_vectors_of_the_index(self):
        docs = documents(64)
        vectors = {doc_id: np.eye(2, dtype=np.float32)[int(at >= 60)] for at, doc_id in enumerate(docs["doc_id"].to_list())}
        given = material(docs, vectors=lambda ids: np.stack([vectors[doc_id] for doc_id in ids]))
        order = np.concatenate(list(Seeds(given).batches(np.random.default_rng(0))))
        assert len({60, 61, 62, 63} & set(order[:20].tolist())) >= 2, "four of 64 documents, but one of two clear clusters"

    def test_one_query_of_each_document_before_two_of_any(self):
        groups = [[Proposal(f"{document}{number}", document, "title", "t", 1.0, False) for number in range(3)] for document in "abcd"]
        assert [proposal.query for proposal in in_turn(groups, 10)] == ["a0", "b0", "c0", "d0", "a1", "b1", "c1", "d1", "a2", "b2"]
        assert [proposal.query for proposal in in_turn(groups, 2)] == ["a0", "b0"] and list(in_turn(groups, 0)) == []

    def test_proposals_come_one_by_one(self):
        looked_at: list[int] = []

        def embed(texts: list[str]) -> np.ndarray:
            looked_at.append(len(texts))
            return np.ones((len(texts), 2), np.float32)

        plain = material(documents(1_000))
        stream = Phrases().propose(Material(plain.report, plain.log, plain.documents, plain.index, plain.guard, embed), 900, np.random.default_rng(0))  # type: ignore[arg-type]
        assert next(stream).query and len(looked_at) == 2, "one batch of phrases and one of documents, not the whole corpus"


@pytest.mark.parametrize("generator", EVERY)
class TestEvery:
    def test_same_seed_same_queries(self, generator: Callable[[], Generator]):
        first = asked(made(generator(), material(log=LOG)))
        assert first and first == asked(made(generator(), material(log=LOG)))
        assert first != asked(made(generator(), material(log=LOG), seed=1))

    def test_at_most_what_was_wanted_and_of_many_documents(self, generator: Callable[[], Generator]):
        found = made(generator(), material(log=LOG), 33)
        assert len(found) == 33 and max(Counter(proposal.doc_id for proposal in found).values()) == 1
        assert made(generator(), material(log=LOG), 0) == []
        assert all(proposal.source == generator().source and proposal.sealed is None and proposal.query.strip() for proposal in found)

    def test_weak_documents_come_first_up_to_half(self, generator: Callable[[], Generator]):
        found = made(generator(), material(log=LOG, report=report(categories=("shift",))), 24)
        assert 10 <= sum(proposal.targeted for proposal in found) <= 12, "a quarter of the documents, half of the queries"

    def test_a_single_document(self, generator: Callable[[], Generator]):
        found = made(generator(), material(documents(1), LOG), 10)
        assert 1 <= len(found) <= 3 and {proposal.doc_id for proposal in found} == {"d0"}

    def test_empty_and_endless_documents(self, generator: Callable[[], Generator]):
        endless = "Ordering tables by " + " ".join(f"key{number % 977} value{number % 31}" for number in range(80_000))
        assert len(endless) > 1_000_000
        texts = ["", None, "   ", "?!", endless, "x" * 1_000_000]
        docs = pl.DataFrame({"doc_id": list("abcdef"), "title": ["", None, "", "--", "db.OrderTables", ""], "text": texts})
        found = made(generator(), material(docs, LOG), 12)
        assert {proposal.doc_id for proposal in found} == {"e"} and all(len(proposal.query) <= 200 for proposal in found)

    def test_no_documents(self, generator: Callable[[], Generator]):
        assert made(generator(), material(documents(0), LOG)) == []

    def test_scripts_without_spaces(self, generator: Callable[[], Generator]):
        texts = [
            "安装软件之前请先备份数据库。然后运行迁移脚本，检查日志文件。",
            "データベースを移行する前に、必ずバックアップを取ってください。",
            "ก่อนติดตั้งซอฟต์แวร์ ควรสำรองฐานข้อมูลก่อนเสมอ",
        ]
        docs = pl.DataFrame({"doc_id": ["zh", "ja", "th"], "title": ["数据库迁移指南", "移行の手引き", ""], "text": texts})
        log = log_of([f"如何{verb}数据库" for verb in ("安装", "迁移", "备份", "检查")])
        found = made(generator(), material(docs, log), 9)
        if generator().source != "template":
            assert {proposal.doc_id for proposal in found} >= {"zh", "ja"}
        assert all(proposal.query for proposal in found)
        chinese = [proposal.query for proposal in found if proposal.doc_id == "zh"]
        assert chinese and all(set(query.replace(" ", "")) <= set(texts[0] + "数据库迁移指南如何") for query in chinese)


def test_only_as_much_is_read_as_a_reranker_reads():
    text = "early words " * (READ // 12 + 10) + "lastword secretphrase"
    docs = pl.DataFrame({"doc_id": ["d"], "title": [""], "text": [text]})
    given = material(docs)
    assert seeds_of(given).terms.df["lastword"] == 0
    assert not any("lastword" in proposal.query for proposal in made(Crops(), given, 3))


def test_a_plan_for_each_diagnosis():
    nothing, words = plan_for(material()), plan_for(material(report=report(words=("helper7",))))
    shift = plan_for(material(report=report(categories=("shift",), cause="domain_shift")))
    assert nothing.reason.startswith("spread") and words.reason.startswith("weak words") and shift.reason.startswith("new documents")
    assert shift.shares["title"] > nothing.shares["title"] > words.shares["title"] and words.shares["template"] > shift.shares["template"]
    unknown_word = plan_for(material(report=report(words=("nowhere-to-be-found",))))
    assert unknown_word.reason.startswith("spread"), "a word that no document has cannot be aimed at"


@pytest.mark.parametrize("name", ["xquad-ru", "man-uk"])
def test_judged_collections_in_other_languages(name: str, tmp_path: Path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"{name} is not on this machine: the judged collections are not part of the project")
    corpus = import_beir(SHARED / name, tmp_path / name)
    log = log_of(corpus.queries(split="train")["text"].to_list())
    given = material(corpus.documents(), log)
    for generator in (Phrases(), Crops(), Templates()):
        found = made(generator, given, 150)
        cyrillic = [sum("Ѐ" <= character <= "ӿ" for character in proposal.query) for proposal in found]
        if not (name == "man-uk" and generator.source == "template"):
            assert len(found) >= 100 and np.mean(np.array(cyrillic) > 0) > 0.9
