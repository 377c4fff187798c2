"""Other people's formats: what they published becomes our samples or sources, and back.

One file per format. What a stranger's file says is bounded, checked and, where it cannot be used,
filed with its reason; nothing is dropped without a word (:mod:`.ledger`).
"""
