"""User studies: blinded, counterbalanced pages, their answers, and what those say.

The paper's multi-subject results rest on people alone (20 raters, 50 groups, a scale of 1 to 3),
because automatic matching of several subjects is unreliable.
"""
