"""Synchronization of a key range of the destination with the source."""
