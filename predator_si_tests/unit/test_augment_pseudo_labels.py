"""Where the teacher's time goes, and groups of queries that nobody answered."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from predator_si.augment.pseudo_labels import Budget, Choice, Group, answer_by_teacher, label_within, most_useful
from predator_si.augment.recipe import Proposal
from predator_si.augment.teacher import CrossEncoder, EnsembleTeacher
from predator_si.errors import BadInput, Refused


class ByText:
    """A member whose score of a candidate is the number after its name in the text: ``a=3 b=1``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0

    def score(self, queries: Sequence[str], doc_ids: Sequence[Sequence[str]], texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        self.asked += sum(map(len, texts))
        return [np.array([self.of(text) for text in some], float) for some in texts]

    def of(self, text: str) -> float:
        return float(next(part for part in text.split() if part.startswith(f"{self.name}=")).split("=")[1])


def champion(seconds: list[float] | None = None, each: float = 0.0) -> CrossEncoder:
    """A cross-encoder that reads ``ce=`` and takes ``each`` seconds a pair of a clock."""

    def score(pairs: list[tuple[str, str]]) -> np.ndarray:
        if seconds is not None:
            seconds[0] += each * len(pairs)
        return np.array([ByText("ce").of(text) for _, text in pairs])

    return CrossEncoder(score)


def group(query: str, *texts: str, targeted: bool = False) -> Group:
    return Group(query, [f"{query}-{n}" for n in range(len(texts))], list(texts), targeted)


AGREED = ("ce=3 a=3 b=3", "ce=2 a=2 b=2", "ce=1 a=1 b=1")
SPLIT = ("ce=3 a=3 b=1", "ce=2 a=2 b=2", "ce=1 a=1 b=3.5")


def ensemble(seconds: list[float] | None = None, each: float = 0.0) -> EnsembleTeacher:
    return EnsembleTeacher([champion(seconds, each), ByText("a"), ByText("b")])


class TestBudget:
    def test_targeted_first_then_what_the_cheap_members_disagree_on(self):
        groups = [
            group("agreed", *AGREED),
            group("split", *SPLIT),
            group("one", AGREED[0], targeted=True),
            group("aimed", *AGREED, targeted=True),
            group("none"),
        ]
        assert [groups[at].query for at in most_useful(groups, ensemble())] == ["aimed", "split", "agreed", "one", "none"]
        lone = EnsembleTeacher([champion()])
        assert [groups[at].query for at in most_useful(groups, lone)] == ["aimed", "agreed", "split", "one", "none"], "nobody cheap: as given"
        assert most_useful([], ensemble()) == []

    def test_as_many_examples_as_it_says_and_the_rest_is_named(self):
        groups = [group(f"g{n}", *AGREED) for n in range(10)]
        seen: list[tuple[int, int]] = []
        found = label_within(groups, ensemble(), Budget(examples=20, seconds=None), on_progress=lambda *at: seen.append(at))
        assert (found.groups, found.examples, found.pairs, found.left_groups, found.left_examples) == (6, 18, 18, 4, 12)
        assert [one is None for one in found.labels] == [False] * 6 + [True] * 4
        assert found.reason is not None and "20 examples" in found.reason and "4 of 10" in found.reason
        assert seen[-1] == (18, 18)
        everything = label_within(groups, ensemble(), Budget(examples=None, seconds=None))
        assert everything.reason is None and everything.left_groups == 0 and None not in everything.labels

    def test_wall_time_is_kept_by_what_a_pair_has_taken(self):
        """A hundredth of a second a pair: 10 s are 1,000 pairs; a batch that would end later is not begun."""
        clock = [100.0]
        teacher = ensemble(clock, 0.01)
        groups = [group(f"g{n}", *(AGREED * 7)[:20]) for n in range(500)]
        found = label_within(groups, teacher, Budget(examples=None, seconds=10.0), clock=lambda: clock[0])
        assert 500 <= found.examples <= 1_000 and found.seconds <= 10.0
        assert found.reason is not None and "10 s" in found.reason
        assert found.groups + found.left_groups == 500

    def test_the_stop_is_heard(self):
        answers = iter([False, True])
        with pytest.raises(Refused, match="stopped after"):
            label_within([group(f"g{n}", *(AGREED * 200)) for n in range(3)], ensemble(), Budget(None, None), should_stop=lambda: next(answers))

    def test_what_the_champion_could_learn_is_counted(self):
        other = ("ce=3 a=0 b=0", "ce=2.9 a=9 b=9", "ce=0 a=0 b=0")
        groups = [group("agreed", *AGREED), group("other", *other)]
        found = label_within(groups, ensemble(), Budget(None, None))
        assert found.changed == 1
        assert label_within(groups, EnsembleTeacher([ByText("a")]), Budget(None, None)).changed is None
        assert "labels" not in found.statistics() and found.statistics()["changed"] == 1


class Shelf:
    """A first stage that finds the same texts for every query."""

    def __init__(self, *texts: str) -> None:
        self.doc_ids = [f"d{n}" for n in range(len(texts))]
        self.texts = list(texts)

    def text(self, doc_id: str) -> str:
        return self.texts[int(doc_id[1:])]

    def candidates(self, queries: Sequence[str], depth: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(doc_ids=self.doc_ids[:depth], texts=self.texts[:depth]) for _ in queries]


def proposal(query: str = "q", **changes: object) -> Proposal:
    return Proposal(**{"query": query, "doc_id": "", "source": "log", "method": "query", "weight": 1.0, "targeted": False, **changes})  # type: ignore[arg-type]


class TestAnswers:
    TEXTS: ClassVar[list[str]] = [f"ce={-abs(n - 4)} a={-abs(n - 4)} b={-abs(n - 5)}" for n in range(20)]
    """The fifth candidate is the best, its neighbours are nearly as good."""

    def test_group_is_the_best_few_and_a_random_mix_of_the_rest(self):
        index, rng = Shelf(*self.TEXTS), np.random.default_rng(3)
        (made,), counts = answer_by_teacher([proposal(sealed="token")], index, ensemble(), rng)
        assert made.doc_id == "d4" and made.first_rank == 5 and made.sealed == "token"
        ids = [entry[0] for entry in made.negatives]
        assert ids[:2] == ["d5", "d3"] and len(ids) == 7 and len(set(ids)) == 7 and "d4" not in ids
        assert all(entry == (f"d{entry[3] - 1}", self.TEXTS[entry[3] - 1], "hard" if entry[3] <= 10 else "medium", entry[3]) for entry in made.negatives)
        whole = ensemble().score(["q"], [index.doc_ids], [index.texts])[0]
        assert made.teacher is not None
        assert made.teacher.tolist() == pytest.approx([whole[4], *(whole[int(doc_id[1:])] for doc_id in ids)])
        assert (counts["answered"], counts["groups"], counts["examples"], counts["pairs"], counts["left_groups"], counts["unsure"]) == (1, 1, 8, 20, 0, 0)

    def test_equal_seeds_give_equal_groups_and_others_other_ones(self):
        def drawn(seed: int) -> list[str]:
            (made,), _ = answer_by_teacher([proposal()], Shelf(*self.TEXTS), ensemble(), np.random.default_rng(seed))
            return [entry[0] for entry in made.negatives]

        assert drawn(1) == drawn(1) and len({tuple(drawn(seed)) for seed in range(5)}) > 1

    def test_clicked_documents_may_answer_but_are_never_negatives(self):
        clicked = frozenset({"d4", "d5", "d3"})
        for seed in range(10):
            (made,), _ = answer_by_teacher([proposal(excluded=clicked)], Shelf(*self.TEXTS), ensemble(), np.random.default_rng(seed))
            assert made.doc_id == "d4" and clicked.isdisjoint(entry[0] for entry in made.negatives) and made.excluded == clicked

    def test_agreement_is_the_weight_and_the_floor(self):
        split = Shelf(*SPLIT)
        (made,), _ = answer_by_teacher([proposal(weight=0.5)], split, ensemble(), np.random.default_rng(0))
        (labels,) = ensemble().label(["q"], [split.doc_ids], [split.texts])
        assert labels.confidence is not None and labels.confidence < 1.0
        assert made.weight == pytest.approx(0.5 * labels.confidence)
        none, counts = answer_by_teacher([proposal()], split, ensemble(), np.random.default_rng(0), Choice(least_confidence=0.99))
        assert none == [] and counts["unsure"] == 1 and counts["answered"] == 0
        (sole,), _ = answer_by_teacher([proposal()], split, EnsembleTeacher([champion()]), np.random.default_rng(0), Choice(least_confidence=0.99))
        assert sole.weight == 1.0, "one member has nobody to agree with"

    def test_few_candidates_level_candidates_and_none(self):
        (pair,), _ = answer_by_teacher([proposal()], Shelf(*AGREED[:2]), ensemble(), np.random.default_rng(0))
        assert pair.doc_id == "d0" and len(pair.negatives) == 1
        for texts in ((), AGREED[:1]):
            made, counts = answer_by_teacher([proposal()], Shelf(*texts), ensemble(), np.random.default_rng(0))
            assert made == [] and counts["without_candidates"] == 1
        made, counts = answer_by_teacher([proposal()], Shelf("ce=1 a=1 b=1", "ce=1 a=1 b=1"), ensemble(), np.random.default_rng(0))
        assert made == [] and counts["unsure"] == 1, "nobody tells them apart"
        assert answer_by_teacher([], Shelf(*AGREED), ensemble(), np.random.default_rng(0))[0] == []

    def test_what_the_budget_leaves_has_no_group(self):
        made, counts = answer_by_teacher([proposal(f"q{n}") for n in range(5)], Shelf(*AGREED), ensemble(), np.random.default_rng(0), budget=Budget(7, None))
        assert [one.query for one in made] == ["q0", "q1"]
        assert counts["left_groups"] == 3 and "7 examples" in str(counts["reason"])
        made, counts = answer_by_teacher(
            [proposal(f"q{n}") for n in range(5)], Shelf(*self.TEXTS), ensemble(), np.random.default_rng(0), budget=Budget(24, None)
        )
        assert len(made) == 3 and counts["pairs"] == 60 and counts["examples"] == 24, "the budget is of what is kept, not of what is looked at"

    def test_an_answered_proposal_is_refused(self):
        with pytest.raises(BadInput, match="'d1'"):
            answer_by_teacher([proposal(doc_id="d1")], Shelf(*AGREED), ensemble(), np.random.default_rng(0))
