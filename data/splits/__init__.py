"""Train, val and test: division, protocols, leaks."""
