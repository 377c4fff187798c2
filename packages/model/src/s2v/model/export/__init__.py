"""Weights for other programs, each checked with that program's own class before it is handed over.

:func:`s2v.model.export.run.export` is the whole of it. ``diffusers_files`` holds what is copied
into a diffusers folder; it is no part of this package's code.
"""
