"""Where training queries come from: one module for each kind of source, all behind ``material.Generator``.

What belongs here: turning material into proposals, most useful first. What must not: filters, negatives, the teacher, files.
"""
