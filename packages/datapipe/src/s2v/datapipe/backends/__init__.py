"""Models that fill the roles. Stages never import from here; the configuration chooses."""
