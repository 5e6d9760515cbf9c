"""`simulate`: the error rates of our decisions, counted over tens of thousands of lives drawn from real per-query scores and request times.

``measure`` makes the tables of real numbers (in ``tables/``), ``world`` draws from them.
"""
