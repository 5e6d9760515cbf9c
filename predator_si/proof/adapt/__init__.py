"""Adapt a reranker to a collection with no label, clicks or judgments, and show what it brought beside what labels would have given.

What belongs here: one collection from query texts to a promoted or rejected candidate with its figures, and the pooling of several. What must not: how models
train (``train``), how data is made (``augment``), the loop of an installation (``orchestration``).

Public: ``adapt`` (``run``), ``Plan``, ``Clock`` (``plan``), ``Collection``, ``collection_of`` (``collection``), ``Site`` (``run``), ``summarise``, ``read_run``
(``summary``), ``write_report``, ``model_card`` (``report``).
"""

from predator_si.proof.adapt.collection import Collection, collection_of
from predator_si.proof.adapt.plan import Clock, Plan
from predator_si.proof.adapt.report import model_card, write_report
from predator_si.proof.adapt.run import Site, adapt
from predator_si.proof.adapt.summary import read_run, summarise

__all__ = ["Clock", "Collection", "Plan", "Site", "adapt", "collection_of", "model_card", "read_run", "summarise", "write_report"]
