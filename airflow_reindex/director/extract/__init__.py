"""From chunk tables to sorted runs in the staging folder."""
