"""Dagster, and nothing else: assets, checks, jobs, schedules, sensors, resources, partitions, tags, the run coordinator.

``loop`` (the parts of one installation) and ``steps`` (what each asset does) are Dagster-free, so that they are tested and resumed without it.
"""
