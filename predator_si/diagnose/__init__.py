"""Why the search got worse: service, data, retrieval, reranking, or a domain that moved.

What belongs here: reading a snapshot, judged probes and query logs, and saying with counts and tests where the loss is. What must not:
measuring (``monitor`` does), changing anything, loading a model (only ``attribution`` does, which needs gradients).

Public: ``diagnose``, ``Window``, ``Levels``, ``Limits``, ``count_misses``, ``latency_by_stage``, ``subset_deficits``, ``new_vocabulary``, ``tokens``; and what
explains a report: ``explain``, ``Context``, ``Budget``, ``TopicMemory``, ``Score``.
"""

from predator_si.corpora.vocabulary import new_vocabulary
from predator_si.corpora.words import tokens
from predator_si.diagnose.budget import Budget
from predator_si.diagnose.explain import Context, explain
from predator_si.diagnose.latency import latency_by_stage
from predator_si.diagnose.limits import Limits
from predator_si.diagnose.misses import count_misses
from predator_si.diagnose.occlusion import Score
from predator_si.diagnose.report import diagnose
from predator_si.diagnose.subsets import subset_deficits
from predator_si.diagnose.topics import TopicMemory
from predator_si.diagnose.tree import Levels
from predator_si.diagnose.window import Window

__all__ = [
    "Budget",
    "Context",
    "Levels",
    "Limits",
    "Score",
    "TopicMemory",
    "Window",
    "count_misses",
    "diagnose",
    "explain",
    "latency_by_stage",
    "new_vocabulary",
    "subset_deficits",
    "tokens",
]
