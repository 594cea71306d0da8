"""The .npy file of somebody else: checked before memory is taken for it, one kind of error."""

import math
import struct
import tokenize
import warnings
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Head = tuple[tuple[int, ...], bool, np.dtype[Any]]
"""Shape, whether the first axis is the fastest, and type."""

_PIECE_BYTES = 1 << 20


def read_npy_head(file: IO[bytes], size: int, *, kinds: str = "fiu") -> Head:
    """Return what the header of an open .npy of `size` bytes says, if it can be true.

    Args:
        file: at its beginning; left at the array's first byte.
        size: bytes that it has.
        kinds: of numbers that are let pass, as numpy's `dtype.kind`.

    Raises:
        ValueError: it is no .npy, holds something else than such numbers, or fewer than it says.
    """
    readers: dict[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    try:
        version = np.lib.format.read_magic(file)
        if version not in readers:
            raise ValueError(f"a .npy of version {version}, expected 1.0 or 2.0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # shapes as Python 2 wrote them: (37L,)
            shape, fortran, dtype = readers[version](file, max_header_size=10_000)
        length = math.prod(shape)
    # numpy evaluates the header as Python: whatever its parser can meet comes through
    except (
        SyntaxError, tokenize.TokenError, TypeError, KeyError, OverflowError, RecursionError,
        MemoryError, EOFError, struct.error,
    ) as error:  # fmt: skip
        raise ValueError(f"its header is damaged: {' '.join(str(error).split()):.100}") from error
    if dtype.hasobject or dtype.kind not in kinds:
        raise ValueError(f"an array of {dtype}, expected numbers")
    if not all(axis > 0 for axis in shape) or not 0 < length * dtype.itemsize <= size:
        raise ValueError(f"an array of shape {shape} in {size} bytes")
    return shape, fortran, dtype


def read_npy_array(file: IO[bytes], size: int, *, kinds: str = "fiu") -> npt.NDArray[Any]:
    """Return the array of an open .npy; see `read_npy_head`.

    Raises:
        ValueError: as `read_npy_head`, or the file ends early.
    """
    shape, fortran, dtype = read_npy_head(file, size, kinds=kinds)
    nbytes = math.prod(shape) * dtype.itemsize
    # read in pieces: what a hostile archive claims to hold need not be there
    data = bytearray()
    while block := file.read(min(_PIECE_BYTES, nbytes - len(data))):
        data += block
    if len(data) != nbytes:
        raise ValueError(f"{len(data)} bytes of data, shape {shape} needs {nbytes}")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
