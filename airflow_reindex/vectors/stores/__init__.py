"""Where collections lie; each store has the same interface."""
