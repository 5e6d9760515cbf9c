"""The operations page: what the loop does now and what a person may do about it, in English and Ukrainian, without a build step.

What belongs here: reading for the page, its words, templates, styles, a small script, form posts. What must not: any decision of the loop, any shape of
the REST facade (``api.answers``), any number that is not read from the home.

Public
------
- ``operations_router(optimizer, door)`` in ``api.operations.router``: everything as one router
- ``views``: what the page shows, as plain functions of a loop
- ``TEXTS`` in ``api.operations.texts``: every word of the page in both languages
"""
