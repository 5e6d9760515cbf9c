"""Training a reranker, shrinking it, and writing down how.

What belongs here: fine-tuning from a champion, export to fast backends, the experiment tracker's protocol. What must not: deciding
about promotion, Git, Dagster.

Public: ``fine_tune`` (``fit``), ``TrainingRecipe`` (``recipe``), ``export`` (``export``), ``damage`` (``damage``),
``ExperimentTracker`` (``tracking``). Nothing is imported here: torch is heavy.
"""
