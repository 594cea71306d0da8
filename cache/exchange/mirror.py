"""A cache at an address as a folder here: all of it but the arrays, which stay where they are.

Whoever makes features elsewhere and sends them there himself learns from it what is there already.
"""

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cache.exchange.connections import over_connections
from cache.exchange.elsewhere import (
    begin_cache,
    check_marker,
    download_labels,
    fetch_names,
    push_names_and_labels,
    shards_there,
)
from cache.exchange.remote import PIECE, Remote
from cache.shard.read import parse_table
from cache.store import FeatureCache
from data.errors import CacheError, FeatError, ShardError
from data.files import new_file
from data.progress import followed

logger = logging.getLogger(f"feat.{__name__}")

#: An array that is fetched with what lies around it, which takes one request instead of two.
_SMALL = 1 << 18
#: That are fetched at once; a shard is not larger unless its arrays are.
_MAX_BYTES = 1 << 28


@contextmanager
def mirrored(remote: Remote, *, dry_run: bool = False) -> Iterator[Path]:
    """Yield a temporary folder, a cache with the tables, names and labels of one at an address.

    Its shards have holes where the arrays are: nobody may read these. Names and labels that are
    added are sent there at the end.

    Args:
        remote: the address; a cache, or an empty or absent folder, which becomes one.
        dry_run: send nothing.

    Raises:
        CacheError: it is something else, or cannot be read or written.
    """
    if remote.is_http:
        raise CacheError(f"{remote.url}: HTTP servers are read-only; name sftp or s3")
    with tempfile.TemporaryDirectory(prefix="feat-mirror-") as folder:
        cache = FeatureCache.create(folder)
        if check_marker(remote):
            _fetch(remote, cache)
        elif not dry_run:
            begin_cache(remote, cache.path)
        try:
            yield cache.path
        except FeatError as error:
            raise type(error)(str(error).replace(folder, remote.url)) from error
        finally:
            if not dry_run:
                push_names_and_labels(cache, remote)


def _fetch(remote: Remote, cache: FeatureCache) -> None:
    there, _ = shards_there(remote)

    def fetch(connection: Remote, name: str) -> None:
        path = cache.shards_dir / name
        _fetch_outside_of_arrays(connection, f"shards/{name}", there[name], path)

    fetched = over_connections(remote, sorted(there), fetch)
    for _, error in followed(fetched, f"look at {remote.url}", total=len(there)):
        if error:
            logger.warning("counts as missing: %s", error)
    damaged: list[str] = []
    fetch_names(cache, remote, cache.path / "names", damaged)
    for name in damaged:
        (cache.path / "names" / name).unlink()
    download_labels(remote, cache.path)
    cache.refresh()


def _fetch_outside_of_arrays(remote: Remote, name: str, size: int, path: Path) -> None:
    """Write a shard that has holes where its arrays are.

    Raises:
        ShardError: it is damaged.
        CacheError: it cannot be read or written.
    """
    with new_file(path, error=CacheError) as partial, partial.open("wb") as file:

        def write(data: bytes, offset: int) -> bytes:
            os.pwrite(file.fileno(), data, offset)
            return data

        table, begin, _ = parse_table(
            lambda count, offset: write(remote.read_range(name, count, offset), offset),
            Path(f"{remote.url}/{name}"),
            size,
        )
        places = [place for stored in table.records.values() for place in stored.places.values()]
        arrays = sorted((place.offset, place.offset + place.nbytes) for place in places)
        position, gaps = begin, []
        for start, stop in [*arrays, (size, size)]:
            gaps.append((position, start))
            position = stop
            if not 0 <= start - begin <= _MAX_BYTES:
                raise ShardError(f"{remote.url}/{name}: its arrays do not lie side by side")
            if stop - start > _SMALL or start == size or start - begin > PIECE:
                data = remote.read_range(name, start - begin, begin)
                for first, last in gaps:
                    write(data[first - begin : last - begin], first)
                begin, gaps = stop, []
        file.truncate(size)
