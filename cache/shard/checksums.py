"""Checksums of arrays: CRC-32, which everybody has, and XXH3, ten times as fast.

Writers record both, readers verify the faster one they know, `feat cache verify` all it knows.
They find accidents; what protects from exchange is the sha256 that a shard is named by.
"""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

xxh3_64: Callable[..., Any] | None
try:
    from xxhash import xxh3_64
except ImportError:  # readable without it, only slower
    xxh3_64 = None


@dataclass(frozen=True)
class Checksums:
    """The checksums of some bytes."""

    crc32: int
    xxh3: str = ""  # 16 hex digits; "" = the writer did not know it

    @classmethod
    def of(cls, data: memoryview) -> "Checksums":
        """Return the checksums of `data`."""
        return cls(zlib.crc32(data), "" if xxh3_64 is None else xxh3_64(data).hexdigest())

    def match(self, pieces: Iterable[memoryview], *, every: bool = False) -> bool:
        """Return whether these are the checksums of some bytes.

        Args:
            pieces: the bytes, piece after piece.
            every: compute all checksums that are at hand, not the fastest alone.
        """
        xxh3 = xxh3_64() if self.xxh3 and xxh3_64 is not None else None
        crc32 = 0
        for piece in pieces:
            if xxh3 is not None:
                xxh3.update(piece)
            if every or xxh3 is None:
                crc32 = zlib.crc32(piece, crc32)
        if xxh3 is not None and xxh3.hexdigest() != self.xxh3:
            return False
        return crc32 == self.crc32 or (xxh3 is not None and not every)
