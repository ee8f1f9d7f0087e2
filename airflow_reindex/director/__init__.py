"""Job 1: build a director index. Plain Python; connections are handed in."""
