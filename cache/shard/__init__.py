"""One shard: an immutable HDF5 file."""
