"""Stores of collections; all implement the same interface."""
