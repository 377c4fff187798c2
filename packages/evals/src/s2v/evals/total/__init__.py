"""OpenS2V's totals from whatever parts there are: measured here, by its own scripts, or given."""
