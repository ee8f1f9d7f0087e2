"""Verification of a new collection, switch of readers, and roll-back."""
