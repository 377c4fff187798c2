"""Figures, funnel, gallery and page of a run folder: made from what is stored, without a model."""
