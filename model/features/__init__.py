"""From the cache to arrays: what training and evaluation both read."""
