"""What a contour's settings make of the watch, of the promotion and of the trial: the plans that are simulated.

What belongs here: reading settings. What must not: levels or margins of its own.
"""

from __future__ import annotations

from predator_si.proof.simulate.trying import TrialPlan, trial_plan
from predator_si.release.watch import WatchPlan, ndcg_margin_of
from predator_si.settings import Settings
from predator_si.statistics.design import DEFAULT_DESIGN


def plan_of(settings: Settings) -> WatchPlan:
    """The watch of a contour after a cycle for relevance, where every proven loss is too much: the strictest question that production asks."""
    return WatchPlan(
        cycle_id="si_2026_01_01_001",
        released_digest="sha256:simulated",
        planned_checks=settings.watch.checks,
        design=DEFAULT_DESIGN.replaced(settings.experiment.design),
        ndcg_margin=ndcg_margin_of("ndcg_at_10_down"),
        shadow_expected=True,
    )


def trial_plan_of(settings: Settings) -> TrialPlan:
    """The trial of a contour: its chain, shares and levels."""
    said = settings.experiment
    return trial_plan(
        settings.contour,
        said.modes or (said.mode,),
        DEFAULT_DESIGN.replaced(said.design),
        split=settings.ab_split_ratio,
        ramp=said.ramp,
        shadow_share=said.shadow_share,
        interleave_share=said.interleave_share,
        min_samples=said.min_samples,
    )
