"""Where the contents of items come from."""
