"""From sorted runs to the shadow table."""
