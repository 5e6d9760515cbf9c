"""`simulate`: every scenario, the goals, and whether the settings in question keep what is promised.

What belongs here: putting scenarios together into one answer. What must not: drawing or judging.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from predator_si.proof.simulate import promoting, trying, watching
from predator_si.proof.simulate.agreement import promotion_agreement, trial_agreement, watch_agreement
from predator_si.proof.simulate.loop import World, run_loop
from predator_si.proof.simulate.trying import TrialPlan
from predator_si.proof.simulate.watching import HEALTHY_SLOW, SLOW_SHARE, Deployment
from predator_si.proof.simulate.world import Clock, Population, Tables, clock, populations
from predator_si.provenance import provenance
from predator_si.records import utc_now
from predator_si.release.watch import WatchPlan

Tell = Callable[[str], None]
OnProgress = Callable[[int, int], None]
NARROW = 0.15
"""Largest standard deviation of a paired NDCG difference for which the goal of detection holds."""
PROMISED_PROMOTION = 0.01
"""Of at least one false promotion in a month."""
PROMISED_ROLLBACK = 0.001
"""Of a false rollback of one deployment, over all watched metrics together."""
PROMISED_TRIAL = 0.02
"""Of ending a trial of a harmless challenger, over all steps, guardrails, slices and looks together."""
PROMISED_BETTER = 0.01
"""Of calling a challenger that is the champion again better in any metric of live traffic."""
PROMISED_WORSE = 0.05
"""Of showing a guardrail to hold for a challenger that is worse by exactly the margin."""
ERROR_RATE = 0.005
"""Share of requests that fail while nothing is wrong."""


@dataclass(frozen=True)
class Sizes:
    """Lives of each scenario."""

    name: str
    deployments: int
    at_limit: int
    regressions: int
    months: int
    improvements: int
    worlds: int
    agreement: int
    horizon: int
    reach: int
    """Decided lists that interleaving may take at most."""
    trials: int
    """Trials of a harmless challenger, and with ``trials_at_limit`` of one that is worse by a margin, each of ``trial_requests``."""
    trials_at_limit: int
    trial_requests: int
    passing: int
    """Trials whose length is told, of ``passing_requests`` at most."""
    passing_requests: int
    trial_agreement: int


FULL = Sizes("full", 50_000, 20_000, 10_000, 20_000, 10_000, 30, 200, 3_000, 12_000, 20_000, 5_000, 3_000, 200, 100_000, 100)
SMALL = Sizes("small", 400, 200, 200, 20, 200, 1, 4, 600, 2_000, 20, 10, 400, 4, 800, 5)
NDCG_EFFECTS = (-0.02, -0.05, -0.10)
LATENCY_FACTORS = (1.1, 1.2, 1.5, 2.0)
ERROR_RATES = (0.01, 0.02, 0.05)
IMPROVEMENTS = (0.02, 0.05, 0.10)


def simulate(
    tables: Tables,
    plan: WatchPlan,
    sizes: Sizes = FULL,
    *,
    trial: TrialPlan | None = None,
    seed: int = 0,
    tell: Tell = lambda _: None,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """All scenarios of a plan and its design.

    Parameters
    ----------
    trial
        The trial on live traffic; default: one A/B with the plan's design and the guardrails of ``local``.

    Returns
    -------
    dict
        The keys of CONTRACT.md section 7, row ``simulate``, and more beside them. ``detection`` rows count judged queries for ``ndcg``, requests
        that both models timed for ``latency`` (an answer by slow requests counts requests), requests for ``errors``; null is never. An effect that no
        pair of rankers in the tables can carry has no row.
    """
    began = time.monotonic()
    times = clock(tables)
    slow_limit = float(np.quantile(times.ms, 0.95)) / HEALTHY_SLOW
    null = populations(tables, 0.0)
    run = _Run(tables, plan, trial or TrialPlan(design=plan.design), times, slow_limit, sizes, seed, tell, on_progress)
    agreement = run.agree(null)
    good, limit = run.deployments(null), run.deployments_at_limit(null)
    detection, found_by_others = run.regressions(null)
    tell("months of candidates that are no better")
    promotion = promoting.false_promotions(plan.design, null, months=sizes.months, seed=seed + 40, on_progress=on_progress)
    power = run.improvements()
    tried = run.trials(null)
    tell("ten months of the loop")
    loop = run_loop(tables, plan, replace(World(), worlds=sizes.worlds), seed + 60, on_progress)
    found: dict[str, Any] = {
        **provenance(sizes.name, seed),
        "created_at": utc_now().isoformat(),
        "lives": sizes.deployments,
        "false_promotion_month": promotion["month"],
        "false_promotion": promotion["candidate"],
        "false_promotion_by_judged": promotion["judged"],
        "promotion_levels": promotion["levels"],
        "false_rollback": good,
        "false_rollback_at_limit": limit,
        "detection": detection,
        "power": power,
        "reference_rules": {
            rule: {
                "false_promotion_month": promotion["rules"][rule]["month"],
                "false_promotion": promotion["rules"][rule]["candidate"],
                "false_rollback": good["rules"][rule],
                "detection": [row for row in found_by_others if row["rule"] == rule],
            }
            for rule in watching.RULES
        },
        "trial": tried,
        "loop": loop,
        "agreement": agreement,
        "populations": _described(null),
        "tables": tables.sources,
        "design": asdict(plan.design),
        "plan": plan.model_dump(mode="json"),
        "sizes": asdict(sizes),
    }
    found["goals"] = goals(found)
    found["broken"] = broken(found)
    found["seconds"] = time.monotonic() - began
    return found


@dataclass(frozen=True)
class _Run:
    """What every scenario needs."""

    tables: Tables
    plan: WatchPlan
    trial: TrialPlan
    times: Clock
    slow_limit: float
    sizes: Sizes
    seed: int
    tell: Tell
    on_progress: OnProgress | None

    def agree(self, null: list[Population]) -> dict[str, Any]:
        """The fast way against production, step by step."""
        self.tell("judging some lives by production itself, step by step")
        some = [*null, *populations(self.tables, -0.10, must=False)]
        watch = watch_agreement(
            self.plan, some, self.times, self.slow_limit, lives=self.sizes.agreement, checks=12, seed=self.seed + 1, on_progress=self.on_progress
        )
        better = [*null, *populations(self.tables, 0.05, must=False)]
        promotion = promotion_agreement(self.plan, better, lives=self.sizes.agreement, seed=self.seed + 2)
        self.tell("judging some trials by production itself")
        trial = trial_agreement(self.trial, null, self.times, lives=self.sizes.trial_agreement, seed=self.seed + 3, on_progress=self.on_progress)
        return {"watch": watch, "promotion": promotion, "trial": trial}

    def trials(self, null: list[Population]) -> dict[str, Any]:
        """Trials on live traffic: harmless ones, ones that are worse by a margin, and how long good ones take."""
        found, sizes = trying.champions(null), self.sizes
        self.tell("trials of a challenger that is the champion again")
        harmless = trying.harmless_trials(
            self.trial, found, self.times, lives=sizes.trials, requests=sizes.trial_requests, seed=self.seed + 70, on_progress=self.on_progress
        )
        self.tell("trials of challengers that are worse by a margin")
        limit = trying.passed_at_limit(
            self.trial, found, self.times, lives=sizes.trials_at_limit, requests=sizes.trial_requests, seed=self.seed + 71, on_progress=self.on_progress
        )
        self.tell("how long a trial takes")
        passing = [
            trying.time_to_pass(self.trial, truth, found, self.times, lives=sizes.passing, requests=sizes.passing_requests, seed=self.seed + 72)
            for truth in (trying.Challenger(), trying.Challenger(factor=0.7))
        ]
        steps = [step.model_dump(mode="json") for step in self.trial.steps]
        return {"contour": self.trial.contour, "steps": steps, "harmless": harmless, "at_limit": limit, "time_to_pass": passing}

    def deployments(self, null: list[Population]) -> dict[str, Any]:
        """As good as the old one in everything."""
        self.tell("deployments that are as good as the old one")
        return self._false(null, Deployment(1.0, ERROR_RATE, self.slow_limit), self.plan, self.sizes.deployments, 10)

    def deployments_at_limit(self, null: list[Population]) -> dict[str, Any]:
        """Exactly as bad as is allowed, in everything at once: the worst of all deployments that must not be rolled back."""
        self.tell("deployments just not worse than allowed")
        edge = populations(self.tables, -self.plan.ndcg_margin) if self.plan.ndcg_margin else null
        factor = self.plan.latency_ratio
        limit = float(np.quantile(self.times.ms * factor, 1.0 - SLOW_SHARE, method="higher"))
        return self._false(edge, Deployment(factor, self.plan.max_error_rate, limit), self.plan, self.sizes.at_limit, 20)

    def _false(self, found: list[Population], truth: Deployment, plan: WatchPlan, lives: int, seed: int) -> dict[str, Any]:
        return watching.false_rollbacks(
            plan, found, self.times, truth, lives=lives, horizon=self.sizes.horizon, seed=self.seed + seed, on_progress=self.on_progress
        )

    def regressions(self, null: list[Population]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows of ours, and of the other rules."""
        ours: list[dict[str, Any]] = []
        others: list[dict[str, Any]] = []

        def row(metric: str, effect: float, found: list[Population], truth: Deployment, facts: dict[str, Any], goal: bool) -> None:
            self.tell(f"{metric} {effect:g}{facts.get('said', '')}")
            own, by_rule = watching.detected(
                self.plan, found, self.times, truth, metric,
                lives=self.sizes.regressions, horizon=self.sizes.horizon, seed=self.seed + 30 + len(ours), on_progress=self.on_progress,
            )  # fmt: skip
            head = {"metric": metric, "effect": effect, "horizon": self.sizes.horizon, **{k: v for k, v in facts.items() if k != "said"}}
            ours.append({**head, **own, "goal": goal})
            others.extend({"rule": rule, **head, **answer} for rule, answer in by_rule.items())

        healthy = Deployment(1.0, ERROR_RATE, self.slow_limit)
        for effect in NDCG_EFFECTS:
            every = populations(self.tables, effect, must=False)
            narrow = [one for one in every if one.sd <= NARROW]
            wide = [one for one in every if one.sd > NARROW]
            for some, most, said in ((narrow, NARROW, f", paired sd at most {NARROW:g}"), (wide, None, ", wider")):
                if some:
                    sds = sorted(one.sd for one in some)
                    facts = {"sd_at_most": most, "sd_median": sds[len(sds) // 2], "sd_largest": sds[-1], "populations": len(some), "said": said}
                    row("ndcg", effect, some, healthy, facts, goal=most is not None and effect == -0.05)
        for factor in LATENCY_FACTORS:
            row("latency", factor, null[:1], replace(healthy, factor=factor), {}, goal=factor == 1.5)
        for share in ERROR_RATES:
            row("errors", share, null[:1], replace(healthy, error_rate=share), {"limit": self.plan.max_error_rate}, goal=False)
        return ours, others

    def improvements(self) -> list[dict[str, Any]]:
        """Candidates that are better."""
        rows = []
        for effect in IMPROVEMENTS:
            self.tell(f"candidates that are better by {effect:g}")
            found = populations(self.tables, effect, must=False)
            if not found:
                continue
            sequential = promoting.interleaving_power(
                self.plan.design, found, effect, lives=self.sizes.improvements, horizon=self.sizes.reach, seed=self.seed + 50
            )
            offline = promoting.offline_power(self.plan.design, found, effect, lives=max(3, self.sizes.improvements // 20), seed=self.seed + 55)
            rows.append({**sequential, "offline": offline["judged"]})
        return rows


def _described(found: list[Population]) -> dict[str, Any]:
    sds = sorted(one.sd for one in found)
    return {
        "n": len(found), "collections": sorted({one.collection for one in found}), "rankers": sorted({name for one in found for name in one.rankers}),
        "sd_smallest": sds[0], "sd_median": sds[len(sds) // 2], "sd_largest": sds[-1],
    }  # fmt: skip


def goals(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Each goal of the design with what was found and whether it is met; an error's goal is met by its exact upper bound."""
    rows = [
        _goal("false promotion in a month of candidates, upper bound", found["false_promotion_month"]["upper"], PROMISED_PROMOTION),
        _goal("false rollback of a deployment, upper bound", found["false_rollback"]["upper"], PROMISED_ROLLBACK),
    ]
    for row in found["detection"]:
        if row["goal"]:
            most = 350.0 if row["metric"] == "ndcg" else 60.0
            name = f"{row['metric']} {row['effect']:g}"
            rows.append(_goal(f"{name}: observations to detection at P95", row["p95"], most))
            rows.append({"name": f"{name}: probability of detection", "value": row["probability"], "goal": 0.99, "met": row["probability"] >= 0.99})
    rows += [
        _goal(f"better by {row['effect']:g}: lists until it wins, against a fixed-N test", row["ratio_to_fixed_n"], promoting.RATIO) for row in found["power"]
    ]
    trial = found["trial"]
    rows.append(_goal("harmless trial ended, all that its levels add up to", trial["harmless"]["spent"], PROMISED_TRIAL))
    rows.append(_goal("harmless trial ended, upper bound", trial["harmless"]["upper"], PROMISED_TRIAL))
    rows.append(_goal("equal challenger called better on live traffic, upper bound", trial["harmless"]["better"]["upper"], PROMISED_BETTER))
    rows += [_goal(f"worse by the margin in {row['metric']} and passed, upper bound", row["upper"], PROMISED_WORSE) for row in trial["at_limit"]]
    differences = sum(part["differences"] for part in found["agreement"].values())
    rows.append(_goal("differences from production, step by step", float(differences), 0.0))
    return rows


def _goal(name: str, value: float | None, most: float) -> dict[str, Any]:
    return {"name": name, "value": value, "goal": most, "met": value is not None and value <= most}


def broken(found: dict[str, Any]) -> list[str]:
    """Promises about errors that these settings do not keep: surely (the lower bound is above), or at full scale perhaps (the upper bound is)."""
    said = []
    trial = found["trial"]
    asked = [
        (found["false_promotion_month"], PROMISED_PROMOTION, "of a false promotion in a month"),
        (found["false_rollback"], PROMISED_ROLLBACK, "of a false rollback of a deployment"),
        (found["false_rollback_at_limit"], PROMISED_ROLLBACK, "of rolling back a deployment that is just not worse than allowed"),
        (trial["harmless"], PROMISED_TRIAL, "of ending a harmless trial"),
        (trial["harmless"]["better"], PROMISED_BETTER, "of calling an equal challenger better on live traffic"),
        *((row, PROMISED_WORSE, f"of passing a challenger that is worse in {row['metric']} by the margin") for row in trial["at_limit"]),
    ]
    for row, promised, words in asked:
        if row["lower"] > promised:
            said.append(f"the probability {words} is at least {row['lower']:.2%}, promised is at most {promised:.2%}")
        elif found["scale"] == "full" and row["upper"] > promised:
            said.append(f"the probability {words} may be {row['upper']:.2%} (estimate {row['estimate']:.2%}), promised is at most {promised:.2%}")
    if trial["harmless"]["spent"] > PROMISED_TRIAL:
        spent, steps = trial["harmless"]["spent"], len(trial["steps"])
        said.append(f"the levels of a trial's {steps} steps add up to {spent:.2%} for ending a harmless one, promised is at most {PROMISED_TRIAL:.2%}")
    differences = sum(part["differences"] for part in found["agreement"].values())
    if differences:
        said.append(f"{differences} answers differ from production's own: the simulation says nothing about it")
    return said
