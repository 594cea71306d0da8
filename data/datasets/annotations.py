"""Readers for the kinds of file that annotations come in. Nothing in them is ever executed."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import LabelsError

if TYPE_CHECKING:
    import numpy.typing as npt


def read_array_pickle(path: Path) -> Mapping[str, Any]:
    """Return a dict of arrays and plain values from a pickle, without running what is in it.

    Raises:
        LabelsError: the file is absent, damaged, no dict of names, or names anything but numpy
            arrays.
    """
    from data.array_pickle import load_array_pickle

    try:
        content = load_array_pickle(path.read_bytes())
    except OSError as error:
        raise LabelsError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise LabelsError(
            f"{path}: refused: {error}; expected a pickle of numpy arrays and nothing else"
        ) from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise LabelsError(f"{path}: holds {type(content).__name__}, expected a dict by video name")
    return content


def read_mat(path: Path, variable: str) -> "npt.NDArray[Any]":
    """Return one variable of a MATLAB file (version 4 to 7.2).

    Raises:
        LabelsError: the file is absent, damaged, version 7.3, or lacks the variable.
    """
    import numpy as np

    from data.mat_file import read_mat_file  # a process and its pipes: of no use to --help

    if not path.is_file():
        raise LabelsError(f"{path}: no such file")
    try:
        content = read_mat_file(path, variable)
    except NotImplementedError as error:
        raise LabelsError(
            f"{path}: MATLAB 7.3 (HDF5), expected 7.2 or older; save it with '-v7'"
        ) from error
    except ValueError as error:
        raise LabelsError(f"{path}: not a readable MATLAB file: {error}") from error
    if variable not in content:
        raise LabelsError(f"{path}: no variable '{variable}' in it")
    return np.asarray(content[variable])


def read_npy(path: Path) -> "npt.NDArray[Any]":
    """Return the array of a `.npy` file; pickled objects in it are refused.

    Raises:
        LabelsError: the file is absent, damaged, or holds objects.
    """
    from data.npy_file import read_npy_array

    try:
        with path.open("rb") as file:
            return read_npy_array(file, path.stat().st_size, kinds="biuf")
    except (OSError, ValueError) as error:
        raise LabelsError(f"{path}: not a readable array of numbers: {error}") from error


def read_frame_mask(path: Path) -> "npt.NDArray[Any]":
    """Return `(T,)` from a `.npy` file of per-frame labels.

    Raises:
        LabelsError: it cannot be read or is not one number a frame.
    """
    mask = read_npy(path)
    if mask.ndim == 0 or mask.size == 0 or mask.size != max(mask.shape):
        raise LabelsError(f"{path}: shape {mask.shape}, expected one number a frame")
    return mask.reshape(-1)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return (line number, text) of every line that is not blank.

    Raises:
        LabelsError: the file is absent or not UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsError(f"{path}: cannot be read as text: {error}") from error
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line.strip()) for number, line in lines if line.strip()]
