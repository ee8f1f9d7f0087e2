"""Who may work at an index, and how fast: the claim, connection slots, limits."""
