"""What is finished of a long video, saved while the rest is still being computed.

`partial/<key>/` holds blocks of finished clips. A block is one safetensors file, written whole and
named by its first clip, its length and the sha256 of its bytes, so that it is intact or ignored.
"""

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from cache.files import explain, read_limited
from cache.keys import is_sha256
from cache.records import check_stream
from data.errors import CacheError
from data.files import write_whole

logger = logging.getLogger(f"feat.{__name__}")

_BLOCK_NAME = re.compile(r"([0-9]{9})-([0-9]{9})-([0-9a-f]{64})\.block")
#: About so many a block has at most: one is written and read whole.
BLOCK_BYTES = 1 << 28
_MAX_BLOCK_BYTES = 1 << 30
#: More than any video has.
MAX_CLIPS = 10**9
_DTYPES = ("float16", "float32", "float64", "int32", "int64", "uint8")


class _Block(NamedTuple):
    """Clips `first` to `stop`, exclusively; none: the video ends there."""

    first: int
    stop: int
    name: str


class FeatureCheckpoint:
    """The finished clips of one video in the making.

    Arrays are given by name (`"rgb"`, `"flow"`, `"start_seconds"`, ...); in one block all have
    the same number of rows, one a clip. Several processes may save blocks, of any clips.
    """

    def __init__(self, partial_dir: Path, key: str) -> None:
        """Take the checkpoint of a key (64 hex digits); nothing is read or written yet.

        Raises:
            ValueError: `key` is not one.
        """
        if not is_sha256(key):
            raise ValueError(f"a checkpoint's key is 64 hex digits, got {key!r:.80}")
        self._folder = partial_dir / key

    def save(self, first_clip: int, arrays: Mapping[str, np.ndarray]) -> None:
        """Save the clips from `first_clip` on; on return they survive a power cut.

        Args:
            first_clip: 0-based number of the first row.
            arrays: each (n, ...) with the same n > 0.

        Raises:
            ValueError: the arrays do not fit together.
            CacheError: the disk is full, read-only, or fails.
        """
        counts = {len(array) for array in arrays.values()}
        if len(counts) != 1 or 0 in counts or not 0 <= first_clip < MAX_CLIPS:
            raise ValueError("a block needs arrays of one length above 0 and a first clip")
        count = counts.pop()
        each = max(BLOCK_BYTES // sum(array[0].nbytes for array in arrays.values()), 1)
        for start in range(0, count, each):
            rows = {name: array[start : start + each] for name, array in arrays.items()}
            self._write(first_clip + start, min(each, count - start), rows)

    def save_end(self, num_clips: int) -> None:
        """Save how many clips the video has, once it has been read to its end.

        Raises:
            CacheError: the disk is full, read-only, or fails.
        """
        self._write(num_clips, 0, {})

    def _write(self, first_clip: int, count: int, arrays: Mapping[str, np.ndarray]) -> None:
        for name, array in arrays.items():
            _check(name, array, count)
        data = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
        digest = hashlib.sha256(data).hexdigest()
        self._save(f"{first_clip:09d}-{count:09d}-{digest}.block", data)

    def _save(self, name: str, data: bytes) -> None:
        if self._folder.is_symlink():
            raise CacheError(f"{self._folder}: a symbolic link; remove it")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain("write", self._folder, error) from error
        write_whole(self._folder / name, data, error=CacheError)

    def load(self, first_clip: int = 0) -> dict[str, np.ndarray]:
        """Return the rows from a clip on up to the first that no intact block holds, {} if none.

        A block that is damaged, or that does not fit the ones before it, is none.
        """
        blocks = self._list()
        parts: list[dict[str, np.ndarray]] = []
        position = first_clip
        while here := [block for block in blocks if block.first <= position < block.stop]:
            longest = max(here, key=lambda block: block.stop)
            blocks.remove(longest)
            rows = self._read(longest)
            if rows and (not parts or _same_layout(parts[0], rows)):
                parts.append({k: array[position - longest.first :] for k, array in rows.items()})
                position = longest.stop
        if not parts:
            return {}
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def covers(self, clips: range) -> bool:
        """Return whether all of these clips that the video has are saved, going by blocks' names.

        Args:
            clips: of which those that the video has not do not count; that it has so many has to
                have been saved too.
        """
        blocks = self._list()
        stop = min([clips.stop, *(block.first for block in blocks if block.first == block.stop)])
        position = clips.start
        for block in sorted(blocks):
            if block.first <= position:
                position = max(position, block.stop)
        return position >= stop

    def blocks(self) -> dict[str, bytes]:
        """Return all blocks as they are stored, by name: for `receive`, elsewhere.

        Raises:
            CacheError: one cannot be read.
        """
        paths = [self._folder / block.name for block in self._list()]
        return {path.name: read_limited(path, _MAX_BLOCK_BYTES) for path in paths}

    def receive(self, blocks: Mapping[str, bytes]) -> None:
        """Save blocks that come from elsewhere; whether they are intact is seen by `load`.

        Raises:
            ValueError: a name is no block's.
            CacheError: the disk is full, read-only, or fails.
        """
        for name, data in blocks.items():
            if _BLOCK_NAME.fullmatch(name) is None:
                raise ValueError(f"no block's name: {name!r:.80}")
            self._save(name, data)

    def clear(self) -> None:
        """Remove the checkpoint: the video is in the cache, or to be done anew."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _list(self) -> list[_Block]:
        try:
            names = os.listdir(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        matches = [match for name in names if (match := _BLOCK_NAME.fullmatch(name))]
        return [_Block(int(m[1]), int(m[1]) + int(m[2]), m[0]) for m in matches]

    def _read(self, block: _Block) -> dict[str, np.ndarray]:
        """Return a block's arrays, {} if it is not intact."""
        path = self._folder / block.name
        try:
            data = read_limited(path, _MAX_BLOCK_BYTES)
            if hashlib.sha256(data).hexdigest() != block.name[20:84]:
                raise CacheError(f"{path}: damaged, its clips will be computed again")
            arrays: dict[str, np.ndarray] = load(data)
            for name, array in arrays.items():
                _check(name, array, block.stop - block.first)
            return arrays
        except FileNotFoundError:
            pass
        except CacheError as error:
            logger.warning("checkpoint not used: %s", error)
        except (SafetensorError, ValueError, KeyError) as error:
            logger.warning("checkpoint not used: %s: %s", path, error)
        return {}


def _check(name: str, array: np.ndarray, count: int) -> None:
    check_stream(name)
    if array.dtype.name not in _DTYPES or array.shape[:1] != (count,):
        raise ValueError(
            f"{name}: a block of {count} clips cannot hold {array.dtype} of shape {array.shape}"
        )


def _same_layout(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape[1:] == b[name].shape[1:] for name in a
    )
