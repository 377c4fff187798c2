"""Per-clip stages, each a small class over the rows of a unit (paper section 3.1, 1-6)."""
