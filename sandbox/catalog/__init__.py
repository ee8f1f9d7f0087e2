"""A made-up, partitioned sky catalog, and its faults."""
