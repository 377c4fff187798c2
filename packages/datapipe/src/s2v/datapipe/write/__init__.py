"""Clips and references to deterministic shards, their index and the dataset card."""
