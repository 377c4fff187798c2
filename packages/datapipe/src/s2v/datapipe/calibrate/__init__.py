"""Bounds from labelled pairs: which pairs to look at, what people said, what follows from it.

Neither Phantom nor Phantom-Data publishes its two similarity bounds, and a bound holds for one
embedder and one kind of media only. So they are measured: pairs are drawn by score
(:mod:`.draw`), labelled without seeing the score (:mod:`.page`, :mod:`.sheets`), read back
(:mod:`.labels`), and both bounds proposed with intervals (:mod:`.propose`).
"""
