"""Will it fit, and how fast will it be: before anything is launched.

:func:`s2v.model.planner.plan.plan` is the way in; the other files are one answer each.
"""
