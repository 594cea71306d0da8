"""Pickles of numpy arrays, read without running anything that is in them."""

import codecs
import io
import pickle
from typing import Any

import numpy as np

# What numpy's own arrays, dtypes and scalars ask for. Looking the objects up in a table, not by
# import, leaves a hostile pickle nothing else to call. numpy's functions are taken from its own
# pickling, which needs no private import.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # how protocol 2 and older spell the bytes of an array
}
for _core in ("numpy.core", "numpy._core"):  # the names of numpy 1 and 2
    _ADMITTED[f"{_core}.multiarray", "_reconstruct"] = np.empty(0).__reduce__()[0]
    _ADMITTED[f"{_core}.multiarray", "scalar"] = np.float64(0).__reduce__()[0]
    _ADMITTED[f"{_core}.numeric", "_frombuffer"] = np.empty(0).__reduce_ex__(5)[0]


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return what the pickle names, if it is a part of numpy's arrays."""
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}") from None


def load_array_pickle(content: bytes) -> Any:
    """Return the arrays and plain values in `content`; nothing else can come out, or run.

    Raises:
        ValueError: the pickle is damaged, or names anything but numpy arrays; the message says
            which.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # hostile bytes can raise anything at all
        raise ValueError(str(error) or type(error).__name__) from error
