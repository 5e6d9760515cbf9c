"""What each asset does, as plain functions of the loop and a cycle: no Dagster here, so they are tested and resumed without it.

``observe`` (snapshot, gates), ``prepare`` (report, data), ``improve`` (model, variant, evaluation), ``decide`` (trial, experiment, release),
``keep`` (watch, rollback, report). Each writes its artifact before it moves the cycle, so that a killed run can be run again.
"""
