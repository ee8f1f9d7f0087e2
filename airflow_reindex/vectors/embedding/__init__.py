"""From items to vectors: contents, requests to models, and which item a failure belongs to."""
