"""Measurements: each prints what it compares, both sides of one run, and a ratio."""
