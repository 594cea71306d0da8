"""Between caches, and between a cache and other people's files."""
