"""Drills: faults done on purpose to a small real platform, counted, and what must hold after each of them.

What belongs here: making a home with tiny seeded models, running its real processes, breaking them, checking invariants, the figures. What must not: any
part of the product. Production code knows nothing of drills: where a side effect happens is traced from outside (``effects``).

- ``run_drill``: one drill by its name (:data:`DRILLS`), its figures, its page
- ``Ground``: the home, its processes and the closed-loop clients
- ``Ground.look``, ``invariants.observe`` and ``invariants.violations``: what must hold when a drill's dust has settled
"""
