"""The proof of the shadow table, and the swap."""
