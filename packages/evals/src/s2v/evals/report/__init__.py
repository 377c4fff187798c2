"""The page of one or several runs: one HTML file that holds everything and asks nobody."""
