"""Test sets: what to ask of a model, drawn once, and proved not to be among what it learnt."""
