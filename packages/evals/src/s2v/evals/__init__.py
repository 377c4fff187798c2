"""How good is a subject-to-video model, by which protocol, and how sure is that.

Every number carries a protocol id; numbers of different protocols are never compared. The
``.light`` protocols run for real on a CPU with small open models and stand beside the published
rows, not against them.
"""
