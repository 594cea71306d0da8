"""The arrays of somebody else's HDF5 file, read in a process that may crash.

The library was not written for hostile files. A child with its memory and time limited opens the
file and answers with what is in it, or with arrays as .npy, which the parent reads with care.

    python -P -m cache.exchange.hdf5_arrays FILE            prints the arrays, as JSON
    python -P -m cache.exchange.hdf5_arrays FILE ENTRY...   writes some arrays to stdout
"""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from cache.shard.hdf5_view import MAX_MEMORY_BYTES
from data.child import child_command, last_line, limit_memory

MAX_SECONDS = 600.0
MAX_ENTRIES = 1_000_000


def list_arrays(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and the type of every array, by its name in the file: `folder/video`.

    Raises:
        ValueError: the file is damaged, or opening it took too much time or memory.
    """
    found = json.loads(_run([str(path)]))
    return {str(name): (tuple(map(int, shape)), str(dtype)) for name, shape, dtype in found}


def read_npy(path: Path, entry: str, *others: str) -> bytes:
    """Return an array as the bytes of a .npy file, or several, one after the other.

    Raises:
        ValueError: as `list_arrays`.
    """
    return _run([str(path), entry, *others])


def _run(arguments: list[str]) -> bytes:
    command, environment = child_command(__name__)
    try:
        done = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment,
            timeout=MAX_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"h5py was not done with it in {MAX_SECONDS:.0f} s") from error
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ValueError(f"the process that opened it with h5py was ended by {name}")
    if done.returncode:
        raise ValueError(f"h5py: {last_line(done.stderr) or 'no message'}")
    return done.stdout


def main() -> None:
    """Answer for the file and the arrays, if some are named, on the command line."""
    import h5py
    import numpy as np

    limit_memory(MAX_MEMORY_BYTES)
    path, *entries = sys.argv[1:]
    with h5py.File(path, "r", locking=False) as file:
        if not entries:
            found: list[Any] = []
            file.visititems(lambda name, item: _note(h5py, found, name, item))
            sys.stdout.write(json.dumps(found))
            return
        for entry in entries:
            dataset = file[entry]
            if dataset.is_virtual or dataset.external:
                raise ValueError(f"{entry} lies in other files")
            np.save(sys.stdout.buffer, dataset[()], allow_pickle=False)


def _note(h5py: Any, found: list[Any], name: str, item: Any) -> None:
    if len(found) >= MAX_ENTRIES:
        raise ValueError(f"more than {MAX_ENTRIES} arrays")
    if isinstance(item, h5py.Dataset):
        found.append((name, item.shape or (), str(item.dtype)))


if __name__ == "__main__":
    main()
