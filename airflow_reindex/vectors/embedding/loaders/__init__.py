"""Sources of items' contents."""
