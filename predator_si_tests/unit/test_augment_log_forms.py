"""What is learned from the log: templates that tell nobody, typos and synonyms that were planted, and nothing where there is nothing."""

from __future__ import annotations

from itertools import product

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predator_si.augment.generators.noise import Noise, Noisy, alignment, learn_noise
from predator_si.augment.generators.phrases import Phrases
from predator_si.augment.generators.templates import Template, Templates, log_templates
from predator_si.augment.generators.terms import Terms
from predator_si_tests.support.generator_material import documents, empty_log, log_of, material

THINGS = ("sparse matrix", "event queue", "beam search", "socket pool", "date index")


class TestTemplates:
    def test_runs_of_rare_words_become_slots(self):
        found = log_templates(log_of([f"how to tune {thing} quickly" for thing in THINGS] + ["an odd one out"]))
        assert found == [Template(("how", "to", "tune", None, "quickly"), 5, 2.0)]
        assert found[0].filled([("length", "penalty")]) == "how to tune length penalty quickly"

    def test_the_same_question_again_is_one_query(self):
        assert log_templates(log_of(["how to tune the sparse matrix"] * 50 + ["How to tune the SPARSE matrix?"] * 3)) == []

    def test_two_slots_but_not_three(self):
        pairs = [f"{one} compared to {other}" for one, other in (("cats", "dogs"), ("tea", "coffee"), ("bus", "train"))]
        triples = [f"{a} and {b} and {c}" for a, b, c in (("k", "l", "m"), ("n", "o", "p"), ("q", "r", "s"))]
        assert [template.words for template in log_templates(log_of(pairs + triples))] == [(None, "compared", "to", None)]

    def test_one_clients_own_words_never_come_out(self):
        """One client asks the same form about secrets again and again; others share another form."""
        mine = [f"where does {name} of acme hide it" for name in ("ann", "bob", "cyd", "dan", "eve")]
        shared = [f"how to tune {thing}" for thing in THINGS]
        log = log_of(mine + shared, clients=["one"] * 5 + list("abcde"))
        found = log_templates(log, least_clients=3)
        assert [template.words for template in found] == [("how", "to", "tune", None)]
        words = {word for proposal in Templates().propose(material(log=log), 200, np.random.default_rng(0)) for word in proposal.query.split()}
        assert words and words.isdisjoint({"acme", "hide", "where", "ann", "bob", "cyd", "dan", "eve"})
        assert len(log_templates(log.drop("client_id"))) == 2, "without clients only the number of queries can be looked at"

    def test_searches_without_a_client_are_nobodys(self):
        log = log_of([f"how to tune {thing}" for thing in THINGS], clients=["a", "a", "b", None, None])  # type: ignore[list-item]
        assert log_templates(log, least_clients=3) == [] and len(log_templates(log, least_clients=2)) == 1

    def test_a_template_with_topical_words_fits_only_documents_that_have_them(self):
        terms = Terms([f"word{number} of the text" for number in range(40)] + ["on linux with the text"] * 2)
        assert Template(("install", None, "on", "linux"), 3, 1.0).telling(terms) == {"linux", "on"}
        log = log_of([f"tune {thing} with helper7" for thing in THINGS] + [f"why tune {thing}" for thing in THINGS])
        found = list(Templates().propose(material(log=log), 80, np.random.default_rng(0)))
        assert {proposal.doc_id for proposal in found if "helper7" in proposal.query.split()[-1:]} <= {"d7"}
        assert len({proposal.doc_id for proposal in found}) == 80

    def test_a_single_common_word_between_two_slots_is_no_form(self):
        assert log_templates(log_of([f"{thing} for money{number}" for number, thing in enumerate(THINGS)])) == []

    def test_templates_with_topical_words_of_the_document_are_taken_more_often(self):
        log = log_of([f"how to {verb} it" for verb in ("x1", "x2", "x3")] + [f"what {thing} sorts here" for thing in ("y1", "y2", "y3")])
        given = material(documents(20), log)
        made = [p.query for seed in range(5) for p in Templates().propose(given, 20, np.random.default_rng(seed)) if int(p.doc_id[1:]) % 8 == 0]
        assert len(made) == 15 and np.mean([query.startswith("what ") for query in made]) > 0.5, "three documents that sort"

    def test_nothing_without_a_log_or_without_forms(self):
        assert list(Templates().propose(material(), 10, np.random.default_rng(0))) == []
        assert log_templates(empty_log()) == [] and log_templates(log_of(["", "?!", "one", "two words"])) == []

    def test_slots_of_scripts_without_spaces(self):
        found = log_templates(log_of([f"如何{verb}数据库" for verb in ("安装", "迁移", "备份", "检查")]))
        assert found[0].words == ("如", "何", None, "数", "据", "库") and found[0].filled([("升", "级")]) == "如何升级数据库"


def edited(word: str) -> set[str]:
    """Every word one edit away, by brute force over a small alphabet."""
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    deletions = {a + b[1:] for a, b in cuts if b}
    swaps = {a + b[1] + b[0] + b[2:] for a, b in cuts if len(b) > 1}
    changes = {a + c + b[1:] for a, b in cuts if b for c in "ab"}
    return deletions | swaps | changes | {a + c + b for a, b in cuts for c in "ab"} | {word}


class TestAlignment:
    def test_the_number_of_edits_against_brute_force(self):
        words = ["".join(letters) for size in range(5) for letters in product("ab", repeat=size)]
        for meant in words:
            one = edited(meant)
            for written in words:
                edits = alignment(meant, written)
                if written == meant:
                    assert edits == []
                elif written in one:
                    assert edits is not None and len(edits) == 1
                else:
                    assert edits is None or len(edits) == 2

    @settings(max_examples=80, deadline=None)
    @given(st.text("abc", min_size=1, max_size=8), st.text("abc", min_size=1, max_size=8))
    def test_optimal_string_alignment_by_recursion(self, one: str, other: str):
        def distance(i: int, j: int) -> int:
            if min(i, j) == 0:
                return max(i, j)
            best = min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (one[i - 1] != other[j - 1]))
            if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
                best = min(best, distance(i - 2, j - 2) + 1)
            return best

        if len(one) + len(other) <= 12:
            edits, expected = alignment(one, other), distance(len(one), len(other))
            assert (edits is None) == (expected > 2) and (edits is None or len(edits) == expected)

    def test_edits_are_named(self):
        assert alignment("receive", "recieve") == [("transpose", "ei", "ie")]
        assert alignment("matrix", "matix") == [("delete", "tr", "t")] and alignment("array", "arrray") in ([("insert", "r", "rr")], [("insert", "a", "ar")])
        assert alignment("tensor", "tensar") == [("substitute", "o", "a")] and alignment("matrix", "vector") is None


def planted() -> pl.DataFrame:
    texts = [f"{verb} sparse matrix rows" for verb in ("sort", "sum", "join", "scale")] * 10 + ["sort sparse matrx rows", "sum sparse martix rows"]
    texts += ["plot the event queue", "plot the event quue"] + ["plot the event queue"] * 12
    return log_of(texts)


class TestTypos:
    KNOWN = Terms(documents()["text"].to_list()).df

    def test_planted_misspellings_are_found_with_their_edits(self):
        noise = learn_noise(planted(), self.KNOWN)
        assert noise.misspellings == 3 and noise.typo_rate == pytest.approx(3 / planted().height)
        assert noise.edits == {("delete", "ri", "r"): 1, ("transpose", "tr", "rt"): 1, ("delete", "ue", "u"): 1}

    def test_right_words_that_are_near_each_other_are_no_typos(self):
        """``rows`` and ``row``, ``sort`` and ``port``: both stand in documents."""
        known = {**self.KNOWN, "row": 3, "rows": 40, "port": 2, "sort": 30}
        log = log_of(["sort the rows"] * 30 + ["sort the row", "port the rows"])
        assert learn_noise(log, known).misspellings == 0

    def test_a_rare_word_without_a_common_setting_is_no_typo(self):
        log = log_of(["plot the event queue"] * 30 + ["queux restaurant paris opening hours"])
        assert learn_noise(log, self.KNOWN).misspellings == 0

    def test_other_endings_and_beginnings_are_grammar_not_typos(self):
        log = log_of(
            ["sort the matrix rows"] * 30 + ["sort the matrixes rows", "sort the bimatrix rows"] + ["побачити матриця рядок"] * 30 + ["побачити матрицю рядок"]
        )
        assert learn_noise(log, {**self.KNOWN, "матриця": 5}).misspellings == 0

    def test_consecutive_queries_of_one_client_are_evidence(self):
        texts, others = ["matrix help"] * 20 + ["martix zoom", "matrix inverse rows"], [str(at) for at in range(20)]
        assert learn_noise(log_of(texts, clients=[*others, "me", "me"]), self.KNOWN).misspellings == 1
        assert learn_noise(log_of(texts, clients=[*others, "me", "you"]), self.KNOWN).misspellings == 0

    def test_learned_edits_are_drawn_most_often_and_right_words_never_come_out(self):
        noise = learn_noise(planted(), {**self.KNOWN, "matix": 1})
        rng = np.random.default_rng(0)
        drawn = [noise.typo("matrix", rng) for _ in range(400)]
        assert "matix" not in drawn and "matrix" not in drawn
        assert drawn.count("martix") > 80 and drawn.count("matrx") > 80, "seen edits against hundreds of smoothed ones"
        assert all(form is not None and alignment("matrix", form) is not None for form in drawn)
        assert noise.typo("x1y2z3", rng) is None and noise.typo("row", rng) is None and noise.typo("数据库索引", rng) is None

    def test_rare_spellings_themselves_leave_no_trace(self):
        noise = learn_noise(planted(), self.KNOWN)
        assert not any(len(meant) > 2 or len(written) > 2 for _, meant, written in noise.edits)


class TestSynonyms:
    @staticmethod
    def log(times: int = 4, clients: list[str] | None = None) -> pl.DataFrame:
        texts, clicked = [], []
        for number in range(times):
            for word in ("remove", "delete"):
                texts.append(f"{word} rows{number} from table")
                clicked.append([f"d{number % 3}"])
        for number in range(6):
            texts.append(f"remove colour{number} from table")
            clicked.append(["d9"])
        return log_of(texts, clicked, clients)

    def test_words_that_lead_to_the_same_documents_replace_each_other(self):
        noise = learn_noise(self.log(), {})
        assert noise.synonyms == {"delete": (("remove", 4),), "remove": (("delete", 4),)}
        assert noise.synonym("remove", np.random.default_rng(0)) == "delete" and noise.synonym("table", np.random.default_rng(0)) is None

    def test_support_is_needed(self):
        assert learn_noise(self.log(times=2), {}).synonyms == {}

    def test_other_objects_in_one_place_are_no_synonyms(self):
        """Six colours in the same place of queries for one document: what is asked for, not names of one thing."""
        texts = [
            f"{verb} the {colour} wall"
            for colour in ("red", "blue", "green", "black", "white", "pink")
            for verb in ("paint", "clean", "break", "build", "sell")
        ]
        assert learn_noise(log_of(texts, [["d0", "d1"]] * len(texts)), {}).synonyms == {}

    def test_words_of_few_clients_take_no_part(self):
        count = self.log().height
        assert learn_noise(self.log(clients=["one"] * count), {}).synonyms == {}
        assert learn_noise(self.log(clients=[str(at % 5) for at in range(count)]), {}).synonyms != {}


class TestNoisy:
    def test_nothing_is_learned_or_done_without_a_log(self):
        plain, noisy = (list(g.propose(material(), 40, np.random.default_rng(0))) for g in (Phrases(), Noisy(Phrases(), 1.0)))
        assert [p.query for p in plain] == [p.query for p in noisy] and learn_noise(empty_log(), {}) == Noise()

    def test_a_share_of_the_queries_is_changed_and_says_so(self):
        log = log_of(["plot the sparse matrix"] * 5 + ["plot the sparse matirx"])
        given = material(log=log)
        found = list(Noisy(Phrases(), 0.1).propose(given, 160, np.random.default_rng(0)))
        changed = [proposal for proposal in found if proposal.method == "phrase+typo"]
        assert 3 <= len(changed) <= 32 and {proposal.method for proposal in found} == {"phrase", "phrase+typo"}
        clean = {proposal.query for proposal in Phrases().propose(given, 160, np.random.default_rng(0))}
        assert all(proposal.query not in clean for proposal in changed)
