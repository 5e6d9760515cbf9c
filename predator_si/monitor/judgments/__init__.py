"""Relevance labels: where they come from, and how sure they are.

Does:

- ``JudgmentSet`` keeps the origin of every label; ``resolved`` and ``judged_scores`` use several origins only under an explicit policy.
- ``panel`` chooses the probes of a period: frozen, rotated, never a sealed query; ``same_panel`` says when two metrics are not comparable.
- ``impressions``, ``fit_position_bias``, ``best_position_bias``, ``attractiveness``: what clicks say, under the position-based model.
- ``click_metrics``, ``click_judgments``: what a window's clicks say under fitted propensities, as metrics and as labels.
- ``coec``, ``coec_of``: clicks over expected clicks; ``feedback_judgments``, ``votes_of``: labels from marks and ratings.
- ``LLMJudge`` grades pairs through any OpenAI-compatible endpoint; ``calibrate`` refuses a judge that people do not agree with, ``corrected_mean`` carries
  its error into the interval.
- ``read_quepid``, ``write_quepid``: Quepid's CSV files; ``JudgmentStore``: sets by name in the home's ``judgments/``.

Does not: decide anything, ask the search service, or read the home folder beyond what it is given.
"""

from __future__ import annotations

from predator_si.monitor.judgments.click_metrics import click_judgments, click_metrics
from predator_si.monitor.judgments.coec import click_curve, coec, coec_of
from predator_si.monitor.judgments.feedback import Feedback, feedback_judgments, votes_of
from predator_si.monitor.judgments.impressions import impressions
from predator_si.monitor.judgments.judgment_set import ORIGINS, SCHEMA, JudgmentSet, Origin, Resolved, judged_scores
from predator_si.monitor.judgments.llm_calibration import LLMCalibration, calibrate, corrected_mean, weighted_kappa
from predator_si.monitor.judgments.llm_judge import Grading, LLMEndpoint, LLMJudge, grading_prompt, read_grade
from predator_si.monitor.judgments.panels import PROBED_SPLIT, Panel, panel, panel_of, same_panel, with_panels
from predator_si.monitor.judgments.pbm import PositionBias, PositionPropensity, attractiveness, best_position_bias, fit_position_bias
from predator_si.monitor.judgments.quepid import QuepidFile, read_quepid, text_id, write_quepid
from predator_si.monitor.judgments.store import JudgmentStore

__all__ = [
    "ORIGINS",
    "PROBED_SPLIT",
    "SCHEMA",
    "Feedback",
    "Grading",
    "JudgmentSet",
    "JudgmentStore",
    "LLMCalibration",
    "LLMEndpoint",
    "LLMJudge",
    "Origin",
    "Panel",
    "PositionBias",
    "PositionPropensity",
    "QuepidFile",
    "Resolved",
    "attractiveness",
    "best_position_bias",
    "calibrate",
    "click_curve",
    "click_judgments",
    "click_metrics",
    "coec",
    "coec_of",
    "corrected_mean",
    "feedback_judgments",
    "fit_position_bias",
    "grading_prompt",
    "impressions",
    "judged_scores",
    "panel",
    "panel_of",
    "read_grade",
    "read_quepid",
    "same_panel",
    "text_id",
    "votes_of",
    "weighted_kappa",
    "with_panels",
    "write_quepid",
]
