"""predator_si: search that improves itself.

Monitor -> Diagnose -> Augment -> Train -> Evaluate -> Release -> Watch -> Monitor, as Dagster assets over plain stage packages.
"""

__version__ = "0.1.0"
