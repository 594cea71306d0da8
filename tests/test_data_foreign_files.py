"""Arrays and MATLAB files of others: damaged ones are refused in one way, and crash nothing."""

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from bench.faults.mutate import mutate
from data.datasets.annotations import read_mat, read_npy
from data.errors import LabelsError
from data.npy_file import read_npy_array, read_npy_head


@given(
    st.sampled_from(["<f4", ">f8", "|u1", "<i2", "|b1"]),
    st.lists(st.integers(1, 5), min_size=1, max_size=3),
    st.booleans(),
)
def test_arrays_come_back(dtype: str, shape: list[int], fortran: bool) -> None:
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    file = io.BytesIO()
    np.save(file, np.asfortranarray(array) if fortran else array)
    size = file.tell()
    file.seek(0)
    found = read_npy_array(file, size, kinds="biuf")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "header",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (1, (2, }",  # tokenize.TokenError
        b"{'descr': '<f4', 'fortran_order': False, 'shape': ('2', 3), }",  # TypeError
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 4000000000), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        b"{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }",
        b"(" * 900,
        b"\xff\xfe",
    ],
)
def test_whatever_a_header_holds_is_a_value_error(header: bytes) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64)
    with pytest.raises(ValueError, match=r"[a-z]{3}"):
        read_npy_head(io.BytesIO(content), len(content))


def refusals(path: Path, read: Callable[[Path], object], count: int) -> list[str]:
    """Return what is said of a file, damaged so many times; it may be read as well."""
    sound, rng, said = path.read_bytes(), random.Random(0), []
    for _ in range(count):
        path.write_bytes(mutate(sound, rng))
        try:
            read(path)
        except LabelsError as error:
            said.append(str(error))
    return said


def test_damaged_arrays_of_labels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.npy"
    np.save(path, np.array([0, 1, 1, 0], np.uint8))
    said = refusals(path, read_npy, 400)
    assert len(said) > 200
    assert all(text.startswith(str(path)) and "\n" not in text for text in said)


def test_a_matlab_file_that_crashes_scipy_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    path, good = tmp_path / "gt.mat", tmp_path / "good.mat"
    array = np.array([[0.0, 1.0, 1.0, 0.0]])
    for file in (path, good):
        scipy.io.savemat(file, {"gt": array})
    said = refusals(path, lambda file: read_mat(file, "gt"), 450)
    assert any("crashed" in text for text in said)  # or nothing here shows that one is survived
    assert all(text.startswith(str(path)) and "\n" not in text for text in said)
    np.testing.assert_array_equal(read_mat(good, "gt"), array)
    with pytest.raises(LabelsError, match="no variable 'volLabel'"):
        read_mat(good, "volLabel")
