"""The proof of a new collection, the switch of readers, and the way back."""
