"""From measured tables to in-paired and cross-paired samples (paper section 3.1, 7-8).

Pure functions: no model, no Ray, no clock. The same tables, in any row order, and the same
settings give the same selection.
"""
