"""Training data aimed at a diagnosis: from clicks and from documents alone, filtered, counted, versioned.

What belongs here: proposing queries, mining negatives, filters with their yield, the manifest, DVC. What must not: training, reading
evaluation judgments (only a ``Guard`` of what to keep out), starting anything on a server.

Public: ``build_dataset``, ``Dataset``, ``Sizes``, ``Filters``, ``Guard``, ``write_dataset``, ``read_examples``, ``read_manifest``, ``update_manifest``,
``dataset_manifest``, ``dataset_id_of``, ``dataset_id_for``, ``click_estimates``, ``dataset_card``, ``DatasetRepo``; generators in ``generators``, teachers in
``teacher``.
"""

from predator_si.augment.card import dataset_card
from predator_si.augment.dataset import Dataset, build_dataset
from predator_si.augment.generators.clicks import click_estimates
from predator_si.augment.manifest import dataset_id_for, dataset_id_of, dataset_manifest, read_examples, read_manifest, update_manifest, write_dataset
from predator_si.augment.recipe import Filters, Guard, Sizes
from predator_si.augment.versioning import DatasetRepo

__all__ = [
    "Dataset",
    "DatasetRepo",
    "Filters",
    "Guard",
    "Sizes",
    "build_dataset",
    "click_estimates",
    "dataset_card",
    "dataset_id_for",
    "dataset_id_of",
    "dataset_manifest",
    "read_examples",
    "read_manifest",
    "update_manifest",
    "write_dataset",
]
