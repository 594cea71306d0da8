"""What is finished of a long video, saved while the rest is still being computed.

`partial/<key>/` holds blocks of finished clips. A block is one file, written whole and named by
its first clip, its length and the sha256 of its bytes, so that a block is intact or ignored.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache.files import explain, read_limited
from cache.keys import is_sha256
from cache.records import check_stream
from data.errors import CacheError
from data.files import write_whole

logger = logging.getLogger(f"feat.{__name__}")

_BLOCK_NAME = re.compile(r"([0-9]{9})-([0-9]{9})-([0-9a-f]{64})\.block")
_MAX_BLOCK_BYTES = 1 << 30
_HEAD_LEN = 4096
_DTYPES = {
    name: np.dtype(name).newbyteorder("<")
    for name in ("float16", "float32", "float64", "int32", "int64", "uint8")
}


class FeatureCheckpoint:
    """The finished clips of one video in the making.

    Arrays are given by name (`"rgb"`, `"flow"`, `"start_seconds"`, ...); in one block all have
    the same number of rows, one a clip.
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
        if len(counts) != 1 or 0 in counts or not 0 <= first_clip < 10**9:
            raise ValueError("a block needs arrays of one length above 0 and a first clip")
        head: dict[str, Any] = {}
        parts = []
        for name in sorted(arrays):
            array = arrays[name]
            if array.dtype.name not in _DTYPES:
                raise ValueError(f"{name}: a block cannot hold {array.dtype}")
            head[check_stream(name)] = [array.dtype.name, list(array.shape)]
            parts.append(np.ascontiguousarray(array, _DTYPES[array.dtype.name]).tobytes())
        text = json.dumps(head).encode("ascii")
        if len(text) > _HEAD_LEN:
            raise ValueError("too many arrays in one block")
        data = text.ljust(_HEAD_LEN) + b"".join(parts)
        digest = hashlib.sha256(data).hexdigest()
        if self._folder.is_symlink():
            raise CacheError(f"{self._folder}: a symbolic link; remove it")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise explain("write", self._folder, error) from error
        path = self._folder / f"{first_clip:09d}-{counts.pop():09d}-{digest}.block"
        write_whole(path, data, error=CacheError)

    def load(self) -> dict[str, np.ndarray]:
        """Return the intact rows from clip 0 up to the first gap; {} if there are none.

        A block that is damaged, or that does not fit the ones before it, counts as a gap.
        """
        blocks = self._list()
        parts: list[dict[str, np.ndarray]] = []
        position = 0
        while position in blocks:
            for count, name in sorted(blocks.pop(position), reverse=True):
                block = self._read(name, count)
                if block and (not parts or _same_layout(parts[0], block)):
                    parts.append(block)
                    position += count
                    break
        if not parts:
            return {}
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def clear(self) -> None:
        """Remove the checkpoint: the video is in the cache, or to be done anew."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _list(self) -> dict[int, list[tuple[int, str]]]:
        blocks: dict[int, list[tuple[int, str]]] = {}
        try:
            names = os.listdir(self._folder)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        for name in names:
            match = _BLOCK_NAME.fullmatch(name)
            if match and int(match[2]):
                blocks.setdefault(int(match[1]), []).append((int(match[2]), name))
        return blocks

    def _read(self, name: str, count: int) -> dict[str, np.ndarray]:
        """Return a block's arrays, {} if it is not intact."""
        path = self._folder / name
        try:
            data = read_limited(path, _MAX_BLOCK_BYTES)
            if hashlib.sha256(data).hexdigest() != name[20:84]:
                raise CacheError(f"{path}: damaged, its clips will be computed again")
            return _parse(data, count)
        except FileNotFoundError:
            return {}
        except (CacheError, ValueError, KeyError, TypeError, RecursionError) as error:
            logger.warning("checkpoint not used: %s", error)
            return {}


def _parse(data: bytes, count: int) -> dict[str, np.ndarray]:
    head = json.loads(data[:_HEAD_LEN])
    arrays = {}
    offset = _HEAD_LEN
    for name, (dtype_name, shape) in head.items():
        dtype = _DTYPES[dtype_name]
        if shape[0] != count or not all(isinstance(n, int) and 0 < n < 2**31 for n in shape):
            raise ValueError(f"a block of {count} clips with an array of shape {shape!r:.80}")
        size = dtype.itemsize
        for n in shape:
            size *= n
        if offset + size > len(data):
            raise ValueError(f"a block of {len(data)} bytes is too short for shape {shape!r:.80}")
        flat = np.frombuffer(data, dtype, count=size // dtype.itemsize, offset=offset)
        arrays[check_stream(name)] = flat.reshape(shape)
        offset += size
    if offset != len(data):
        raise ValueError("a block is longer than its arrays")
    return arrays


def _same_layout(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape[1:] == b[name].shape[1:] for name in a
    )
