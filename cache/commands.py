"""`feat cache ...`: looking at a cache, checking it, moving it about."""

import click


@click.group("cache")
def cache_group() -> None:
    """Look at, check, merge and share feature caches."""
