"""The trial on live traffic: does the challenger do harm where people use it?

Does: ``judge_ab`` (guardrails of an A/B split, with a verdict), ``default_guardrails``, ``Guardrail``.
Does not: split traffic (the service does, by client), prove superiority (``evaluate`` does, on judged queries), commit anything.
"""

from __future__ import annotations

from predator_si.experiment.guardrails import Guardrail, default_guardrails, judge_guardrail
from predator_si.experiment.verdict import judge_ab, judge_again

__all__ = ["Guardrail", "default_guardrails", "judge_ab", "judge_again", "judge_guardrail"]
