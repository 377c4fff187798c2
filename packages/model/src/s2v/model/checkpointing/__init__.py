"""Checkpoints of a training: torch's distributed ones (DCP), without their pickle.

``names``    which folders are whole, which are half, which may go
``layout``   ``state.json`` and the files it vouches for
``parts``    the tensors of a part (``model``, ``ema``, ``optim``), whatever world wrote them
``storage``  how torch's planners write and read them
``staging``  what this process writes, copied while training stands still
``saver``    saves in the background, and says what it met
``lock``     one training per folder
``watch``    when a checkpoint is due, agreed on by all processes

Use them through :mod:`s2v.model.checkpoint`.
"""
