"""Moving a vector collection to another embedding model, in plain Python: stores, models and loaders are handed in."""
