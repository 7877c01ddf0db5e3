"""Faults: trainings are killed, disks fill up, bits flip; what must survive, does.

``rows`` lists the faults. ``scripts/faults`` runs the same tests for longer and counts.
"""
