"""Made-up collections of texts."""
