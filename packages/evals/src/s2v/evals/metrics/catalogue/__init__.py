"""Every protocol this package can compute, a family a file."""
