"""What people say to the loop: another threshold, yes or no to a release, how good an answer was. Methods that ``Optimizer`` has.

What belongs here: checking the word and handing it on. What must not: HTTP, roles, what follows from it.
"""

from __future__ import annotations

import logging
from datetime import timedelta

import httpx

from predator_si.api import answers, readings
from predator_si.errors import BadInput, Missing, Unavailable
from predator_si.orchestration.loop import Loop
from predator_si.records import Criterion
from predator_si.signals import Signal, signal

log = logging.getLogger("AutoOptimizer")


class People:
    """``Optimizer`` is made of this; it has no life of its own."""

    loop: Loop
    _search: httpx.AsyncClient

    def override(self, metric: str, threshold: float, expires_in: timedelta, actor: str, reason: str) -> answers.GateChanged:
        """Another absolute threshold for a metric, for a time.

        Raises
        ------
        Missing
            No such metric, or this contour has no gate on it.
        BadInput
            The metric cannot take this value.
        """
        from predator_si.contour_gates import Gate, check_gate

        found, mine = self._gates_of(metric)
        try:
            check_gate(found, Gate(min=threshold) if found.direction == "up" else Gate(max=threshold))
        except ValueError as error:
            raise BadInput(f"{error}. GET quality-gates shows what it is now.") from error
        held = self.loop.control.gate_overrides(self.loop.contour).get(found.name)
        absolute = next((gate.threshold for gate in mine if gate.kind == "absolute"), None)
        old = held.threshold if held is not None else absolute
        why = reason or "POST quality-gates"
        made = self.loop.control.override_gate(self.loop.contour, found.name, threshold, actor, why, old=old, expires_in=expires_in)
        log.info("gate of %s: %s instead of %s until %s, by %s", found.name, threshold, old, made.expires_at.isoformat(), actor)
        return answers.GateChanged(
            metric=found.name, old_threshold=old, new_threshold=threshold, updated_at=made.set_at, expires_at=made.expires_at, reason=why, actor=actor
        )

    def end_override(self, metric: str, actor: str, reason: str) -> answers.GateEnded:
        """The contour's own threshold for a metric again.

        Raises
        ------
        Missing
            No such metric, or this contour has no gate on it.
        """
        found, mine = self._gates_of(metric)
        why = reason or "POST quality-gates end"
        ended = self.loop.control.end_override(self.loop.contour, found.name, actor, why)
        threshold = next((gate.threshold for gate in mine if gate.kind == "absolute"), None)
        log.info("gate of %s: the override is %s, by %s", found.name, "ended" if ended else "not there", actor)
        return answers.GateEnded(metric=found.name, status="ended" if ended else "none", threshold=threshold, reason=why, actor=actor)

    def _gates_of(self, metric: str) -> tuple[Signal, list[Criterion]]:
        """What a metric is, and the gates that this contour has on it.

        Raises
        ------
        Missing
            No such metric, or no gate on it.
        """
        try:
            found = signal(metric)
        except KeyError as error:
            raise Missing(f"{error.args[0]}. GET quality-gates names those that this contour has.") from error
        mine = [gate for gate in self.loop.settings.quality_gates if gate.metric == found.name]
        if not mine:
            raise Missing(f"contour {self.loop.contour} has no gate on {found.name}. Add one under selfImprovement.qualityGates.")
        return found, mine

    def decide(self, cycle_id: str, asked: answers.ApprovalRequest, actor: str) -> answers.ApprovalAnswer:
        """A person's answer to a cycle that waits for it.

        Raises
        ------
        Refused
            It does not wait, or this person may not answer.
        """
        from predator_si.orchestration.steps.decide import give_approval, refuse_approval
        from predator_si.orchestration.tracking import existing_tracker

        readings.folder_of(self.loop, cycle_id)
        if asked.decision == "approve":
            give_approval(self.loop, cycle_id, actor, asked.reason)
        else:
            refuse_approval(self.loop, cycle_id, actor, asked.reason, existing_tracker(self.loop.home))
        log.info("%s: %s by %s", cycle_id, asked.decision, actor)
        state = self.loop.control.cycle(cycle_id).state.value
        return answers.ApprovalAnswer(cycle_id=cycle_id, decision=asked.decision, actor=actor, reason=asked.reason, state=state)

    async def feedback(self, asked: answers.FeedbackRequest) -> answers.FeedbackAnswer:
        """Hand a score or a mark to the search service, which records it as a rating.

        Raises
        ------
        BadInput
            Neither a score nor a mark, both, or a mark without its document; or the service refuses it.
        Unavailable
            The service does not answer.
        """
        if (asked.score is None) == (asked.relevant is None):
            raise BadInput("give either score (1 to 5), or relevant with document_id.")
        if asked.relevant is not None and asked.document_id is None:
            raise BadInput("relevant needs document_id: which result is meant.")
        value = asked.score if asked.score is not None else (5 if asked.relevant else 1)
        event = {"query_id": asked.query_id, "action_name": "rating", "value": float(value), "object_id": asked.document_id, "client_id": asked.client_id}
        try:
            answer = await self._search.post(f"{self.loop.search_url}/events", json={key: one for key, one in event.items() if one is not None})
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"the search service does not answer ({type(error).__name__}); the feedback was not recorded. Send it again later.") from error
        if answer.status_code == 422:
            raise BadInput(f"the search service refuses the feedback: {str(body.get('detail'))[:300]}.")
        if answer.status_code != 202:
            raise Unavailable(f"the search service answers HTTP {answer.status_code}; the feedback was not recorded. Send it again later.")
        return answers.FeedbackAnswer(status="accepted", query_id=asked.query_id, known_query=not body.get("unknown_query_id"))
