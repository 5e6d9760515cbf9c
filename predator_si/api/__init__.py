"""The REST facade of the optimizer (CONTRACT.md section 1): who may ask what, in HTTP, over Dagster's GraphQL and the control database.

What belongs here: identities and roles, the shapes of requests and answers, limits, and asking the parts that do the work. What must not: any decision of
the loop (``control.policy``, ``monitor``), any stage's work, any model.

Public
------
- ``create_app(settings)`` in ``api.app``: the ASGI application; ``python -m predator_si.api`` serves it
- ``OptimizerClient`` in ``api.client``: the same calls from Python
- ``TokenFile`` in ``api.tokens``: bearer tokens, hashed at rest
- ``DOCUMENTS`` in ``api.documents``: the GraphQL that is used, and what the cookbook shows
"""
