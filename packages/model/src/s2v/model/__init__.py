"""Train and sample subject-to-video models from shards of triplets (Phantom, arXiv 2502.11079).

``tokens rope attention mmdit``  the network of the paper
``flow conditioning``            the objective, the dropouts that guidance needs
``autoencoder encoders``         the latent space and the frozen encoders
``data``                         shards -> deterministic order -> batches
``train checkpoint heldout``     the loop, what it saves, what it is measured by
``sample``                       two guidance scales, to mp4 with provenance
"""
