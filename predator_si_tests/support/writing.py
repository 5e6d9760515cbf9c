"""Language models that write queries, on loopback: documents about a few subjects, a first stage over their words, a good writer, a judge that likes all."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import polars as pl

from predator_si.augment.generators.llm import WrittenQueries
from predator_si.augment.llm_prompt import STYLES
from predator_si.augment.material import Material
from predator_si.augment.recipe import Guard
from predator_si.corpora.words import tokens
from predator_si.language_model import Budget, Endpoint
from predator_si.monitor.judgments import LLMEndpoint
from predator_si_tests.support.generator_material import empty_log, report

PLENTY = Budget(usd=10.0, tokens=10_000_000)
SUBJECTS = ("tensor", "socket", "calendar", "archive")


class Overlap:
    """A first stage that ranks by common words."""

    def __init__(self, documents):
        self.doc_ids = documents["doc_id"].to_list()
        self._texts = dict(zip(self.doc_ids, documents["text"].to_list(), strict=True))

    def text(self, doc_id):
        return self._texts[doc_id]

    def candidates(self, queries, depth):
        found = []
        for query in queries:
            asked = set(tokens(query))
            order = sorted(self.doc_ids, key=lambda doc_id: (-len(asked & set(tokens(self._texts[doc_id]))), doc_id))[:depth]
            found.append(SimpleNamespace(doc_ids=order, texts=[self._texts[doc_id] for doc_id in order]))
        return found


def documents(number=12, **texts):
    rows = [
        (f"d{i}", f"{SUBJECTS[i % 4]} page {i}", texts.get(f"d{i}", f"page {i} explains how the {SUBJECTS[i % 4]} number{i} is opened and closed"))
        for i in range(number)
    ]
    return pl.DataFrame(rows, schema=["doc_id", "title", "text"], orient="row")


NOTHING_SEALED = Guard([], frozenset())
NO_CLICKS = empty_log()
NO_LOG = pl.DataFrame(schema={"text": pl.String, "client_id": pl.String})


def material(frame=None, log=NO_LOG, guard=NOTHING_SEALED):
    frame = documents() if frame is None else frame
    return Material(report(("tensor",)), log, frame, Overlap(frame), guard)


def writes(asked):
    """A good writer: three queries about the seed, which answers them best."""
    seed, *others = asked.texts("document")
    subject = seed.split()[0]
    grades = [3, *[1 if subject in other else 0 for other in others]]
    number = seed.split()[2].removesuffix(":")
    said = {
        "question": f"how do I open {subject} number{number}?",
        "keyword": f"{subject} number{number} open",
        "claim": f"{subject} number{number} can be closed",
    }
    return json.dumps({"queries": [{"style": style, "query": query, "grades": grades} for style, query in said.items()]})


def likes(query, document, number):
    return '{"grade": 3}'


def generator(peer, tmp_path, cycle="c", budget=PLENTY, **more):
    writer = Endpoint(peer.url, "writer", max_answer_tokens=400, **more.pop("writer", {}))
    judge = LLMEndpoint(peer.url, "judge", **more.pop("judge", {}))
    return WrittenQueries(writer, judge, tmp_path / "llm.db", cycle, budget, sleep=lambda seconds: None, **more)


def made(writing, wanted=9, of=None, seed=0):
    return list(writing.propose(material() if of is None else of, wanted, np.random.default_rng(seed)))


def saying(queries):
    """A writer that says these queries, with its document graded 3."""
    return lambda asked: json.dumps(
        {
            "queries": [
                {"style": style, "query": query, "grades": [3] + [0] * (len(asked.texts("document")) - 1)}
                for style, query in zip(STYLES, queries, strict=False)
            ]
        }
    )
