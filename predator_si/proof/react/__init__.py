"""The small live platform of ``bench react``: the faults that are planted in it, the waits that are counted, and what each action changes.

What belongs here: ``faults`` (what is wrong on purpose), ``platform`` (service, reconciler, clients), ``waits`` (from a fault to the loop's next look),
``effects`` (an action's patch in force, and its signal before and after). What must not: a rule of the loop.
"""
