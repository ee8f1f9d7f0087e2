"""What a reindex is made of: request, plan, and the interfaces of stores, models and loaders."""
