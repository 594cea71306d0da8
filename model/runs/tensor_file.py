"""Files of named arrays with a description, which refuse what is not exactly what was written.

A safetensors file; its metadata holds the description as JSON and a digest over the description
and every array's name, type, shape and bytes. Nothing in it is pickled. The same content gives the
same bytes.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from data.errors import ModelError
from data.files import write_whole

_METADATA = "feat"
"""The only entry of the metadata: safetensors writes several in an order of its own each time."""


def write_arrays(
    path: Path, kind: str, described: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
) -> None:
    """Write a file; `path` appears only when it is whole, and replaces what was there.

    Args:
        path: the file.
        kind: what it is, such as `checkpoint`: another kind is not read as this one.
        described: JSON types.
        arrays: of any names and shapes.

    Raises:
        ModelError: the file cannot be written.
    """
    text = json.dumps(described)
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # 0-d stays so
    entry = {"kind": kind, "described": text, "sha256": _digest(kind, text, plain)}
    content = save(plain, metadata={_METADATA: json.dumps(entry)})
    write_whole(path, content, one_writer=True, error=ModelError)


def read_arrays(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `write_arrays` wrote.

    Raises:
        ValueError: the file is damaged or of another kind; the message says which.
    """
    try:
        with safe_open(path, framework="np") as file:
            entry = dict(json.loads((file.metadata() or {}).get(_METADATA, "{}")))
            if entry.get("kind") != kind:
                raise ValueError(f"it is no {kind} of this build")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if entry["sha256"] != _digest(kind, entry["described"], arrays):
            raise ValueError("its content has changed since it was written (sha256 differs)")
        described = json.loads(entry["described"])
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise ValueError(f"it is damaged: {' '.join(str(error).split()):.200}") from error
    if not isinstance(described, dict):
        raise ValueError("its description is no object")
    return described, arrays


def _digest(kind: str, text: str, arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256(json.dumps([kind, text]).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
