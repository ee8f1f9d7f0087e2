"""HTTP interfaces of other products that this one answers."""
