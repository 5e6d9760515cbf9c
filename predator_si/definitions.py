"""The code location: ``defs`` is the only module-level Definitions."""

from predator_si.build import build_defs

defs = build_defs()
"""What ``workspace.yaml`` loads, from the settings in the environment."""
