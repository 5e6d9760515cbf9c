"""The only door to a collection's judgments during an adaptation: it knows what may be opened when, counts, and writes it down.

What belongs here: permission and count. What must not: what the judgments are used for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import polars as pl

from predator_si.control import Control
from predator_si.errors import Refused
from predator_si.proof.adapt.plan import LabelMode

Purpose = Literal["training", "click simulation", "gate", "oracle", "test"]
_SPLIT: dict[Purpose, str] = {"training": "train", "click simulation": "train", "gate": "dev", "oracle": "train", "test": "test"}
_STAGES = ("training", "chosen", "decided")


class Judgments:
    """Judgments of one collection behind three states: training, then chosen (a candidate was named), then decided (the gate has spoken).

    Under ``none`` nothing is opened before a candidate is chosen; then dev once, for the gate; train and test only once the decision stands, for the oracle
    and for the figures. So neither the candidate nor the decision can depend on a label that it should not.

    Parameters
    ----------
    read
        Split -> ``query_id, doc_id, relevance``.
    ledger
        Every opening becomes one record, before anything is read.
    once
        Does what has a name once in a run, however many attempts it takes: an opening is counted for the run, not for the attempt.
    """

    def __init__(
        self,
        corpus: str,
        read: Callable[[str], pl.DataFrame],
        mode: LabelMode,
        ledger: Control,
        run_id: str,
        actor: str,
        once: Callable[[str, Callable[[], Any]], Any] = lambda name, do: do(),
    ) -> None:
        self._once = once
        self.corpus, self.mode = corpus, mode
        self._read, self._ledger, self._run, self._actor = read, ledger, run_id, actor
        self._stage = "training"
        self.openings: Counter[str] = Counter()
        """Openings by purpose."""
        self.test_openings_ever = 0
        """Openings of this corpus' test queries in the ledger, this run's included."""

    @property
    def judged_dev_openings(self) -> int:
        """How often the judgments of dev were opened."""
        return self.openings["gate"]

    @property
    def test_openings(self) -> int:
        """How often the judgments of test were opened."""
        return self.openings["test"]

    def chosen(self, digest: str) -> None:
        """A candidate is named: from here on it cannot change."""
        self._advance("chosen", digest)

    def decided(self, decision: str) -> None:
        """The gate has spoken: what follows is for the record only."""
        self._advance("decided", decision)

    def open(self, purpose: Purpose) -> pl.DataFrame:
        """The judgments that ``purpose`` needs.

        Raises
        ------
        Refused
            They may not be opened now, not in this mode, or not a second time.
        """
        why_not = self._why_not(purpose)
        if why_not:
            raise Refused(f"{self.corpus}: the {_SPLIT[purpose]} judgments stay closed for {purpose}: {why_not}.")
        self._record(purpose, _SPLIT[purpose], self.corpus)
        if purpose == "test":
            self.test_openings_ever = self._ledger.open_sealed(self._run, self.corpus, self._actor)
        return self._read(_SPLIT[purpose])

    def open_canary(self, other: str, read: Callable[[str], pl.DataFrame]) -> pl.DataFrame:
        """The dev judgments of another collection, which no training of this one saw; recorded like the rest, as often as they are wanted.

        Raises
        ------
        Refused
            No candidate was chosen yet.
        """
        if self._stage != "chosen":
            raise Refused(f"{other}: canaries are judged when a candidate was chosen and before the decision, not now.")
        self._record("canary", "dev", other)
        return read("dev")

    def _record(self, purpose: str, split: str, corpus: str) -> None:
        self.openings[purpose] += 1
        payload = {"corpus": corpus, "split": split, "purpose": purpose, "labels": self.mode, "run": self._run, "opening": self.openings[purpose]}
        self._once(
            f"opened-{purpose}-{corpus}".replace("/", "-").replace(" ", "-"),
            lambda: self._ledger.append("judgments_opened", self._actor, reason=f"predator-si adapt: {purpose}", payload=payload).seq,
        )

    def _why_not(self, purpose: Purpose) -> str:
        if purpose == "training" and self.mode != "train":
            return f"the run learns from {'clicks' if self.mode == 'clicks' else 'query texts alone'}"
        if purpose == "click simulation" and self.mode != "clicks":
            return "this run simulates no users"
        if purpose in ("training", "click simulation") and self._stage != "training":
            return "training is over"
        if purpose == "gate" and self._stage != "chosen":
            return "no candidate was chosen yet" if self._stage == "training" else "the decision stands"
        if purpose in ("oracle", "test") and self._stage != "decided":
            return "nothing was decided yet"
        if purpose in ("gate", "test") and self.openings[purpose]:
            return "they were opened once"
        return ""

    def _advance(self, stage: str, what: str) -> None:
        if _STAGES.index(stage) != _STAGES.index(self._stage) + 1:
            raise Refused(f"{self.corpus}: an adaptation goes from {' to '.join(_STAGES)}; it cannot go from {self._stage} to {stage}.")
        self._stage = stage
        payload = {"corpus": self.corpus, "run": self._run, stage: what}

        def written() -> str:
            self._ledger.append(f"adaptation_{stage}", self._actor, reason=f"predator-si adapt: {stage}", payload=payload)
            return what

        before = self._once(f"stage-{stage}", written)
        if before != what:
            raise Refused(f"{self.corpus}: an earlier attempt of this run had {stage} {before}, this one {what}. Remove the run's folder, and begin anew.")
