"""Writing imported records into a cache: all of them, or nothing if anything does not fit."""

import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Self

import numpy as np

from cache.files import explain
from cache.records import FeatureRecord
from cache.shard.write import write_shard
from cache.store import FeatureCache
from data.errors import CacheError
from data.files import partial_file, publish
from data.labels import join_problems

_BATCH_BYTES = 64 << 20


class Staging:
    """New shards that appear in a cache together, when all are written.

    They wait in a folder below the cache's `partial`: what a killed import leaves there
    `feat cache gc` removes.
    """

    def __init__(self, cache: FeatureCache) -> None:
        """Write nothing yet."""
        self._cache = cache
        self._batch: list[FeatureRecord] = []
        self._batch_bytes = 0
        self._folder: Path | None = None
        self._shards: list[Path] = []
        self.videos: set[str] = set()  # with new features
        self.rows = 0  # new
        self.skipped = 0  # records that are there already

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def take(self, records: Iterable[FeatureRecord], problems: list[str]) -> None:
        """Write records that the cache has not; other features under a key are a problem.

        Once there are problems nothing more is written, but all records are looked at.
        """
        for record in records:
            if self._cache.has(record.key):
                self.skipped += 1
                if not np.array_equal(self._cache.read_key(record.key), record.features):
                    problems.append(
                        f"{record.source.name}: {self._cache.path} has other features of "
                        f"{record.stream}, origin {record.config.get('origin', 'feat')!r}; give "
                        "these another --stream"
                    )
            elif not problems:
                self.videos.add(record.source.name)
                self.rows += len(record.clips)
                self._batch.append(record)
                self._batch_bytes += record.features.nbytes
                if self._batch_bytes >= _BATCH_BYTES:
                    self._write()

    def publish(self, problems: list[str]) -> None:
        """Let all shards appear in the cache.

        Raises:
            CacheError: there are problems: the message has a line for each, and nothing appears.
        """
        if problems:
            raise CacheError(join_problems(problems))
        self._write()
        for shard in self._shards:
            final = self._cache.shards_dir / shard.name
            with partial_file(shard, target=final, error=CacheError):
                publish(shard, final)
            self._cache.added(shard.name)

    def _write(self) -> None:
        if self._batch:
            if self._folder is None:
                self._folder = self._make_folder()
            self._shards.append(write_shard(self._folder, self._batch))
            self._batch, self._batch_bytes = [], 0

    def _make_folder(self) -> Path:
        partial = self._cache.path / "partial"
        try:
            return Path(tempfile.mkdtemp(prefix="import-", dir=partial))
        except OSError as error:
            raise explain("write", partial, error) from error
