"""The proof of the shadow table, before IndexBuild.swap."""
