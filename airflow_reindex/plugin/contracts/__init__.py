"""HTTP interfaces of other products that this package implements."""
