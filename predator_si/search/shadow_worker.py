"""Scoring a request again with the model that answered it and with one in shadow: in a process of its own, at idle priority.

What belongs here: the process (``python -m predator_si.search.shadow_worker``) and the scoring of one job. What must not: queues, events, who
is sampled (``shadow``).

Why a process: a thread at idle priority would share the interpreter's lock, and whoever waits for a lock that an idle thread holds waits for the idle thread.
Why both models: the request's own times were taken at another priority and beside other work. Here both models score the same candidates one after the
other, in an order drawn per request, without a score cache, so the ratio of the two times is about the models alone: what one finds in the processor's caches
the other finds as often. On a busy machine wall time holds waiting of the idle process; processor time does not.

One JSON object a line, in and out. The process ends with its standard input, so it does not outlive the service.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from predator_si.background import lower_priority
from predator_si.privacy import trace
from predator_si.search.adaptive_depth import DepthRule
from predator_si.search.ranking import Ordered, ordered
from predator_si.search.rerank import Reranker
from predator_si.search.retrieve import Candidates

log = logging.getLogger(__name__)
ARMS = ("served", "shadow")
_MODELS = 3
"""Loaded at once at most: a champion, its candidate and its predecessor."""


class LoadedModels:
    """The last few models that were asked for, loaded and warm."""

    def __init__(self, load: Callable[[str], Reranker]) -> None:
        self._load = load
        self._models: OrderedDict[str, Reranker] = OrderedDict()

    def of(self, digest: str) -> Reranker:
        """The model, loaded when it is not.

        Raises
        ------
        ValueError
            What was loaded has another digest.
        Exception
            Whatever loading it raises.
        """
        if digest not in self._models:
            model = self._load(digest)
            if model.digest != digest:
                raise ValueError(f"{digest} was asked for, the bytes that were loaded are {model.digest}")
            model.score("warm up", ["one document"])
            self._models[digest] = model
            while len(self._models) > _MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(digest)
        return self._models[digest]


def score_both(job: Mapping[str, Any], model_of: Callable[[str], Reranker]) -> dict[str, Any]:
    """Both models' work on one request.

    Parameters
    ----------
    job
        ``query``, ``k``, ``first`` (who is scored first) and for each of ``served`` and ``shadow``: ``digest``, ``depth``, ``weight``, ``rule`` (as JSON, or
        null) and ``found`` (``doc_ids``, ``texts``, ``scores`` of the candidates; null: those of ``served``).

    Returns
    -------
    dict
        For each of the two: ``ms``, ``cpu_seconds``, ``scored``, ``failed``; ``results`` of the shadow as [object_id, score, first_stage_score, rerank_score].

    Raises
    ------
    Exception
        A model cannot be loaded.
    """
    models = {name: model_of(job[name]["digest"]) for name in ARMS}
    order = ARMS if job["first"] == "served" else ARMS[::-1]
    answer: dict[str, Any] = {}
    for name in order:
        arm = job[name]
        found, rule = _candidates(arm["found"] or job["served"]["found"]), None if arm["rule"] is None else DepthRule.model_validate_json(arm["rule"])
        cpu = time.process_time()
        made: Ordered = ordered(found, models[name], job["query"], job["k"], arm["depth"], arm["weight"], rule=rule)
        used = time.process_time() - cpu
        answer[name] = {"ms": made.rerank_ms, "cpu_seconds": used, "scored": made.scored, "failed": made.degraded}
        if name == "shadow":
            answer["results"] = [[one.object_id, one.score, one.first_stage_score, one.rerank_score] for one in made.results]
    return answer


def _candidates(found: Mapping[str, Any]) -> Candidates:
    none = np.empty(0, np.int64)
    return Candidates(list(found["doc_ids"]), list(found["texts"]), np.asarray(found["scores"], np.float64), none, none)


def main(arguments: list[str] | None = None) -> int:
    """Answer jobs until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m predator_si.search.shadow_worker", description="Scores requests again; started by the search service.")
    parser.add_argument("--models", type=Path, required=True, help="the model store")
    parser.add_argument("--threads", type=int, default=None, help="threads of the backends")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is the service's: this process ends with it
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # a library that prints must not be taken for an answer
    answers.write(json.dumps({"priority": lower_priority(), "pid": os.getpid()}) + "\n")
    from predator_si.search.models import ModelStore
    from predator_si.search.rerank import load_reranker

    store = ModelStore(chosen.models)
    models = LoadedModels(lambda digest: load_reranker(store.path(digest), chosen.threads))
    for line in sys.stdin:
        try:
            job = json.loads(line)
            answer = {"warm": [models.of(digest).digest for digest in job["warm"]]} if "warm" in job else score_both(job, models.of)
        except Exception as error:  # one job's failure; the next may work
            log.error("shadow scoring failed\n%s", trace(error))
            answer = {"error": type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
