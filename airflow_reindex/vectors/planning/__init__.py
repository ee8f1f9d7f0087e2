"""The plan of a reindex, and its estimate."""
