"""Before a run: what it will take, whether it fits, and whether this machine can do it."""
