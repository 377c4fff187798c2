"""Weights that others made: what a file is, and how its tensors come into a network.

:mod:`weights` opens one file, shards or a folder as one mapping of names to tensors, read one at
a time. :mod:`identify` says from names and shapes which model they are. :mod:`keymaps` renames.
:mod:`loading` puts them into a network built without memory. Nothing here runs a pickle beyond
``torch.load(weights_only=True)``; our own training checkpoints are :mod:`s2v.model.checkpoint`.
"""
