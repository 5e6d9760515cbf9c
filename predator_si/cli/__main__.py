"""``python -m predator_si.cli``: the same as ``predator-si``."""

from predator_si.cli import main

main()
