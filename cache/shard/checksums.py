"""Checksums of arrays: CRC-32, which everybody has, and XXH3, ten times as fast.

Writers record both, readers verify the faster one they know, `feat cache verify` all it knows.
They find accidents; what protects from exchange is the sha256 that a shard is named by.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

_Digest = Callable[[memoryview], str]

xxh3_64_hexdigest: _Digest | None
try:
    from xxhash import xxh3_64_hexdigest
except ImportError:  # readable without it, only slower
    xxh3_64_hexdigest = None


@dataclass(frozen=True)
class Checksums:
    """The checksums of some bytes."""

    crc32: int
    xxh3: str = ""  # 16 hex digits; "" = the writer did not know it

    @classmethod
    def of(cls, data: memoryview) -> "Checksums":
        """Return the checksums of `data`."""
        return cls(zlib.crc32(data), xxh3_64_hexdigest(data) if xxh3_64_hexdigest else "")

    def match(self, data: memoryview) -> bool:
        """Return whether the fastest checksum at hand is that of `data`."""
        if self.xxh3 and xxh3_64_hexdigest is not None:
            return xxh3_64_hexdigest(data) == self.xxh3
        return zlib.crc32(data) == self.crc32

    def all_match(self, data: memoryview) -> bool:
        """Return whether every checksum at hand is that of `data`."""
        return self.match(data) and zlib.crc32(data) == self.crc32
