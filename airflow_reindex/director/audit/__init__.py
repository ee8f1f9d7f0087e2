"""The audit of a live director index: compared with its chunk tables, and left as it is."""
