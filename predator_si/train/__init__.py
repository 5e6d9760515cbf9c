"""Training a reranker, shrinking it, and writing down how.

What belongs here: fine-tuning from a champion, export to fast backends, the experiment tracker's protocol. What must not: deciding
about promotion, Git, Dagster.

Public: ``trainer_named`` and ``Trainer`` (``trainer``), ``fine_tune`` (``fit``), ``TrainingRecipe`` (``recipe``), ``earlier_data`` (``replay``),
``throughput`` (``throughput``), ``H2OTrainer`` (``h2o``), ``export`` (``export``), ``damage`` (``damage``), ``ExperimentTracker`` (``tracking``). Nothing is
imported here: torch is heavy.
"""
