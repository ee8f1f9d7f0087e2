"""Both jobs on private servers, for people to look at."""
