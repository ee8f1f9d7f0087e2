"""What a build is made of: request, catalog, plan, runs, split and the tables on the czar."""
