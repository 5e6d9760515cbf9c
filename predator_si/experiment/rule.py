"""The decision rule: ship only what is better somewhere, shown not worse everywhere, and measured soundly.

What belongs here: how answers become a verdict, and what would change it. What must not: measuring anything.

Schultzberg, Ankargren and Frånberg (2024), "Risk-aware product decisions in A/B tests with multiple metrics" (arXiv:2402.11609): promote if and only if at
least one success metric is shown superior, all guardrails are shown non-inferior, none deteriorates, and the checks of the experiment's quality pass.
"""

from __future__ import annotations

from collections.abc import Sequence

from predator_si.records import Answer, GateResult, Verdict


def weigh(
    quality: Sequence[GateResult],
    success: Sequence[GateResult],
    guardrails: Sequence[GateResult],
    slices: Sequence[GateResult] = (),
    *,
    asks_success: bool = True,
) -> tuple[Verdict, str]:
    """The verdict of an experiment with enough data.

    Parameters
    ----------
    quality
        A failed one makes every other number worthless: the experiment is held, whatever they say.
    success
        One must pass where ``asks_success``.
    guardrails
        All must pass; those that do not apply or are not critical are shown and do not decide.
    slices
        None may fail; one that is unknown has too little data to be asked.

    Returns
    -------
    tuple[Verdict, str]
        With the reason; ``INCONCLUSIVE`` begins with ``invalid:`` where the experiment itself is broken.
    """
    broken = _of(quality, Answer.FAIL)
    if broken:
        return Verdict.INCONCLUSIVE, f"invalid: {_reasons(broken)}"
    worse = [gate for gate in [*_of(guardrails, Answer.FAIL), *_of(slices, Answer.FAIL)] if gate.criterion.critical]
    if worse:
        return Verdict.REJECT, _reasons(worse)
    open_ones = [gate for gate in [*quality, *guardrails] if gate.answer is Answer.UNKNOWN and gate.criterion.critical]
    if open_ones:
        return Verdict.INCONCLUSIVE, _reasons(open_ones)
    better = _of(success, Answer.PASS)
    if asks_success and not better:
        return Verdict.INCONCLUSIVE, f"nothing is shown to be better: {_reasons(success) or 'no success metric was measured'}"
    return Verdict.PROMOTE, _reasons([*better, *_of(guardrails, Answer.PASS)])


def conclude(verdict: Verdict, reason: str, longest: str | None) -> tuple[Verdict, str]:
    """The verdict at the last look: what a whole trial could not show is not shipped. A broken trial stays held.

    Parameters
    ----------
    longest
        What ended the trial (``7 days or 2000 requests``); null where it may go on.
    """
    if longest is None or verdict is not Verdict.INCONCLUSIVE or reason.startswith("invalid"):
        return verdict, reason
    return Verdict.REJECT, f"not shown within {longest}, so not shipped: {reason}"


def _of(gates: Sequence[GateResult], answer: Answer) -> list[GateResult]:
    return [gate for gate in gates if gate.answer is answer]


def _reasons(gates: Sequence[GateResult]) -> str:
    return "; ".join(gate.reason for gate in gates)
