"""Data model of a reindex: request, plan, and the interfaces of stores, models and loaders."""
