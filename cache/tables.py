"""The tables of the shards read last, kept in memory."""

from collections import OrderedDict
from pathlib import Path

from cache.shard.read import ShardTable, read_table

#: Records in the tables that are kept, a few kilobytes each.
MAX_RECORDS = 20_000


class TableCache:
    """Tables of contents by shard; the least recently used go first. Not for two threads."""

    def __init__(self, shards_dir: Path) -> None:
        """Start empty."""
        self._shards_dir = shards_dir
        self._tables: OrderedDict[str, ShardTable] = OrderedDict()
        self._num_records = 0

    def get(self, shard: str) -> ShardTable:
        """Return a shard's table, read and checked if it is not at hand.

        Raises:
            FileNotFoundError: the shard is gone.
            ShardError: it is damaged.
        """
        table = self._tables.get(shard)
        if table is not None:
            self._tables.move_to_end(shard)
            return table
        table = read_table(self._shards_dir / shard)
        self.forget(shard)
        self._tables[shard] = table
        self._num_records += len(table.records)
        while self._num_records > MAX_RECORDS and len(self._tables) > 1:
            self.forget(next(iter(self._tables)))
        return table

    def forget(self, shard: str) -> None:
        """Drop a table: the shard is gone, or not what it was."""
        table = self._tables.pop(shard, None)
        if table is not None:
            self._num_records -= len(table.records)

    def clear(self) -> None:
        """Drop all."""
        self._tables.clear()
        self._num_records = 0
