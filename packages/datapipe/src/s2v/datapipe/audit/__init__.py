"""What is wrong with the pairs that were accepted, said by judges that selection did not ask.

A share that selection's own scores vouch for vouches for nothing. So a sample of the accepted
cross pairs is drawn (:mod:`.draw`), looked at by other networks and other measures
(:mod:`.judges`) and, where none exists, by a person (:mod:`.labels`); the share of near copies and
of wrong subjects is estimated with an interval (:mod:`.estimate`), and every judged pair is on a
sheet to look at (:mod:`.sheet`).
"""
