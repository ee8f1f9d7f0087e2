"""From items to vectors: contents, model requests, and the attribution of failures to items."""
