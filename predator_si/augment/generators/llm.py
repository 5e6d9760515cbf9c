"""Queries written by a language model for documents of the weak slices, and graded lists with them: optional, within a budget, judged by another model.

What belongs here: choosing what is shown, reading what comes back, the second opinion. What must not: the wire, cache and budget (``language_model``), what a
written query must look like (``llm_checks``), filters that all made-up queries pass.

An answer is data in a schema and nothing else: no text of it is executed, followed, shown to another model as an instruction, or stored before its checks. A
document that speaks to the model can at most bend the queries and grades that are made from that very document and its neighbours, and each of these
must then be found by the first stage, be confirmed by the judge, and pass the teacher.
"""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from predator_si.augment import llm_checks, llm_prompt
from predator_si.augment.generators.seeds import seeds_of
from predator_si.augment.llm_examples import shared_queries
from predator_si.augment.material import Material
from predator_si.augment.recipe import Proposal
from predator_si.errors import PredatorError, Refused
from predator_si.language_model import Budget, Completion, Conversation, Endpoint, Question, digest
from predator_si.monitor.judgments.llm_judge import TOP_GRADE, LLMEndpoint, LLMJudge
from predator_si.privacy import redact

_SEED_LETTERS, _NEIGHBOUR_LETTERS, _ASKED_LETTERS = 4_000, 1_000, 300
_AT_ONCE = 16
"""Documents whose neighbours are looked up together."""
_RUBBISH = 8
"""Malformed answers in a row after which a model is not asked again in this cycle."""
_ABSENT = 64
"""Documents in a row that a replay does not find in the cache."""


class WrittenQueries:
    """Queries of three styles from a language model.

    Parameters
    ----------
    writer
        The model that writes; ``max_answer_tokens`` must hold three queries with their grades (400 do).
    judge
        The model that confirms: another one than the writer's.
    cache
        File of answers and spending, the same for both, so that both pay from one budget.
    cycle, budget
        Who pays.
    least_clients
        Clients that must have asked a query before it is shown to the writer.
    examples
        People's queries shown at most; 0 shows none.
    neighbours
        Further documents shown with the seed, to be graded.
    floor
        Least grade (0..3) of the seed by both models.
    replay
        Only the cache answers; what is missing is counted.
    seconds
        Wall time; no document is begun after it. Null: no limit.
    at_once
        Documents that are asked about together, and grades likewise. The cache, the budget and a replay are the same for any number.
    should_stop
        Asked before each document, or so many: models are slow, and a stop may not wait for them.

    Attributes
    ----------
    counts
        Of the last call, by what became of documents (``asked``, ``from_cache``, ``malformed``, ``missing``, ``left``), queries (``written``,
        ``dropped_<reason>``, ``judge_rejected``, ``unjudged``, ``proposed``) and examples.
    stopped
        Why it ended early; null where it did not.

    Raises
    ------
    Refused
        Judge and writer are one model: a model likes what it wrote itself.
    """

    source = "llm"
    version = f"{llm_prompt.PROMPT_VERSION}.{llm_checks.VERSION}"

    def __init__(
        self,
        writer: Endpoint,
        judge: LLMEndpoint,
        cache: Path,
        cycle: str,
        budget: Budget,
        *,
        least_clients: int = 3,
        examples: int = 3,
        neighbours: int = 3,
        floor: int = 2,
        replay: bool = False,
        seconds: float | None = None,
        at_once: int = 1,
        should_stop: Callable[[], bool] = lambda: False,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if writer.model.strip().casefold() == judge.model.strip().casefold():
            raise Refused(f"{writer.model} would judge what it wrote itself. Name another model in augment.llm.judgeModel.")
        self._writer, self._judge = writer, LLMJudge(judge, cache, sleep)
        self._cache, self._cycle, self._budget, self._replay, self._sleep = cache, cycle, budget, replay, sleep
        self._least, self._examples, self._neighbours, self._floor = least_clients, examples, neighbours, floor
        self._seconds, self._at_once, self._should_stop = seconds, max(1, at_once), should_stop
        self.counts: dict[str, int] = {}
        self.stopped: str | None = None
        self._spent = (0.0, 0, False)

    def spending(self) -> dict[str, Any]:
        """What the last call spent: models, USD, tokens, whether some of it is estimated, and why it stopped."""
        usd, tokens, estimated = self._spent
        return {
            "writer": self._writer.model,
            "judge": self._judge.endpoint.model,
            "usd": usd,
            "tokens": tokens,
            "estimated": estimated,
            "stopped": self.stopped,
        }

    def propose(self, material: Material, wanted: int, rng: np.random.Generator) -> Iterator[Proposal]:
        """See ``material.Generator``. Whatever goes wrong with the models ends the proposals, not the cycle: ``stopped`` says what it was."""
        tally: Counter[str] = Counter(written=0, judge_rejected=0, unjudged=0, proposed=0, examples=0)
        self.counts, self.stopped, self._spent = tally, None, (0.0, 0, False)
        if wanted <= 0:
            return
        try:
            with ExitStack() as opened:
                writing = opened.enter_context(Conversation(self._writer, self._cache, self._cycle, self._budget, replay=self._replay, sleep=self._sleep))
                judging = opened.enter_context(self._judge.conversation(self._budget, self._cycle, replay=self._replay))
                opened.callback(self._settle, writing, judging)
                for proposal in self._proposals(material, wanted, rng, writing, judging, tally):
                    tally["proposed"] += 1
                    yield proposal
                    if tally["proposed"] >= wanted:
                        return
        except PredatorError as error:
            self.stopped = str(error)

    def _settle(self, writing: Conversation, judging: Conversation) -> None:
        self.counts = {**writing.counts, **self.counts}
        self.stopped = self.stopped or writing.reason or judging.reason
        self._spent = (writing.usd + judging.usd, writing.tokens + judging.tokens, writing.estimated or judging.estimated)

    def _proposals(
        self, material: Material, wanted: int, rng: np.random.Generator, writing: Conversation, judging: Conversation, tally: Counter[str]
    ) -> Iterator[Proposal]:
        seeds = seeds_of(material)
        weak = frozenset(doc_id for doc_id, targeted in zip(seeds.doc_ids, seeds.targeted.tolist(), strict=True) if targeted)
        examples = shared_queries(material.log, material.guard, self._least, seeds.words, weak)[: self._examples]
        tally["examples"] = len(examples)
        barren, began = 0, time.monotonic()
        shown_documents = self._shown(material, rng)
        # Nothing is paid for beyond what is wanted, should each answer bring one query.
        while batch := list(itertools.islice(shown_documents, min(self._at_once, max(1, wanted - tally["proposed"])))):
            if self._should_stop():
                self.stopped = "it was told to stop"
                return
            if self._seconds is not None and time.monotonic() - began > self._seconds:
                self.stopped = f"its {self._seconds:g} seconds are over"
                return
            replies = writing.ask_many([self._question([text for _, text in shown], examples) for _, shown in batch], self._at_once)
            found = [(at, shown, one) for (at, shown), reply in zip(batch, replies, strict=True) if reply.kept is not None for one in _read(reply.kept, tally)]
            grades_of = self._judge.grade_many(judging, [(one.query, shown[0][1]) for _, shown, one in found], self._at_once)
            for (at, shown, one), grade in zip(found, grades_of, strict=True):
                if grade is None:
                    tally["unjudged"] += 1
                elif min(grade, one.grades[0]) < self._floor:
                    tally["judge_rejected"] += 1
                else:
                    grades = {doc_id: value / TOP_GRADE for (doc_id, _), value in zip(shown[1:], one.grades[1:], strict=True)}
                    near = frozenset(doc_id for doc_id, value in grades.items() if value > 0)
                    yield Proposal(one.query, shown[0][0], self.source, one.style, grade / TOP_GRADE, bool(seeds.targeted[at]), near, grades=grades)
            if writing.reason is not None or judging.reason is not None:
                return
            for reply in replies:
                barren = barren + 1 if reply.origin in ("malformed", "missing") else 0
            if barren >= (_ABSENT if self._replay else _RUBBISH):
                said = "not in the cache" if self._replay else f"not what was asked for: {self._writer.model} is not asked again"
                self.stopped = f"{barren} answers in a row were {said}"
                return

    def _shown(self, material: Material, rng: np.random.Generator) -> Iterator[tuple[int, list[tuple[str, str]]]]:
        """Place of a seed, and (id, text) of it and of its neighbours; neither is ever a document of the evaluation."""
        seeds, known = seeds_of(material), frozenset(material.index.doc_ids)
        for batch in seeds.batches(rng):
            usable = [place for place in batch.tolist() if seeds.doc_ids[place] in known]
            for start in range(0, len(usable), _AT_ONCE):
                places = usable[start : start + _AT_ONCE]
                texts = [redact(f"{title}\n{text}".strip()) for title, text in zip(*seeds.read(places), strict=True)]
                near = self._near(material, places, texts)
                for place, text, others in zip(places, texts, near, strict=True):
                    if text:
                        yield place, [(seeds.doc_ids[place], text[:_SEED_LETTERS]), *others[: self._neighbours]]

    def _near(self, material: Material, places: Sequence[int], texts: Sequence[str]) -> list[list[tuple[str, str]]]:
        """(id, text) of what the first stage finds with the beginning of each document, without the document itself."""
        if not self._neighbours:
            return [[] for _ in places]
        ids, sealed = seeds_of(material).doc_ids, material.guard.eval_doc_ids
        found = material.index.candidates([text[:_ASKED_LETTERS] for text in texts], self._neighbours + 4)
        return [
            [
                (d, redact(other)[:_NEIGHBOUR_LETTERS])
                for d, other in zip(one.doc_ids, one.texts, strict=True)
                if d != ids[at] and d not in sealed and other.strip()
            ]
            for at, one in zip(places, found, strict=True)
        ]

    def _question(self, texts: Sequence[str], examples: Sequence[str]) -> Question:
        """What is asked about a document; only the queries that pass the checks, and the numbers of the others, are in the cache."""
        key = digest("write", self._writer.base_url, self._writer.model, self.version, *examples, "", *texts)

        def keep(completion: Completion) -> str | None:
            found = llm_prompt.read_answer(completion, len(texts))
            if found is None:
                return None
            faults = [llm_checks.fault_of(one.query, texts[0], examples) for one in found]
            good = [one.model_dump() for one, fault in zip(found, faults, strict=True) if fault is None]
            return json.dumps({"queries": good, "dropped": Counter(fault for fault in faults if fault is not None)}, ensure_ascii=False)

        return Question(key, llm_prompt.writing_prompt(texts, examples), keep)


def _read(kept: str, tally: Counter[str]) -> list[llm_prompt.Written]:
    """The queries of one kept answer, all of them and those dropped counted."""
    content = json.loads(kept)
    tally["written"] += len(content["queries"]) + sum(content["dropped"].values())
    tally.update({f"dropped_{reason}": number for reason, number in content["dropped"].items()})
    return [llm_prompt.Written(**one) for one in content["queries"]]
