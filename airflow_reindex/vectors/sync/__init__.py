"""Bringing a range of the destination in line with the source."""
