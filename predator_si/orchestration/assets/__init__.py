"""The assets: nouns of DESIGN.md, thin bodies over ``orchestration.steps``.

``external`` (what is not ours), ``observe`` (each tick), ``cycle`` (one pass of the loop), ``keep`` (after a release).
"""
