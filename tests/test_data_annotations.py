import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from data.datasets.annotations import read_array_pickle, read_frame_mask, read_mat
from data.errors import LabelsError


class Bomb:
    """Creates the file `target` when a pickle of it is loaded."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_arrays_survive_every_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    content = {"v_a": np.arange(6.0).reshape(1, 6), "v_b": np.uint8([[0, 1]]), "n": np.int64(3)}
    path = tmp_path / "labels.pickle"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_array_pickle(path)
    assert list(read) == list(content)
    for name, array in content.items():
        np.testing.assert_array_equal(read[name], array)
        assert read[name].dtype == array.dtype


def test_a_pickle_of_numpy_1_is_read(tmp_path: Path) -> None:
    """numpy 2 writes `numpy._core`; files of LAD's age say `numpy.core`."""
    data = pickle.dumps({"v": np.ones((1, 3))}, protocol=2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core" in data
    path = tmp_path / "labels.pickle"
    path.write_bytes(data)
    np.testing.assert_array_equal(read_array_pickle(path)["v"], [[1, 1, 1]])


@pytest.mark.parametrize("wrap", [lambda bomb: {"v": bomb}, lambda bomb: bomb])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, wrap) -> None:
    path, target = tmp_path / "labels.pickle", tmp_path / "owned"
    path.write_bytes(pickle.dumps(wrap(Bomb(target))))
    with pytest.raises(LabelsError, match=r"refused: it asks for builtins\.exec"):
        read_array_pickle(path)
    assert not target.exists()


def test_a_bomb_inside_an_object_array_is_refused(tmp_path: Path) -> None:
    path, target = tmp_path / "labels.pickle", tmp_path / "owned"
    path.write_bytes(pickle.dumps({"v": np.array([Bomb(target)], dtype=object)}))
    with pytest.raises(LabelsError, match="refused"):
        read_array_pickle(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (pickle.dumps([1, 2]), "holds list, expected a dict"),
        (pickle.dumps({1: 2}), "expected a dict by video name"),
        (pickle.dumps({"v": np.ones(9)})[:-20], "refused"),
        (b"", "refused"),
        (b"\x80\x05garbage", "refused"),
    ],
)
def test_a_damaged_pickle_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "labels.pickle"
    path.write_bytes(data)
    with pytest.raises(LabelsError, match=message):
        read_array_pickle(path)
    with pytest.raises(LabelsError, match=r"absent\.pickle: cannot be read"):
        read_array_pickle(tmp_path / "absent.pickle")


def test_matlab_files(tmp_path: Path) -> None:
    path = tmp_path / "gt.mat"
    scipy.io.savemat(path, {"gt": np.array([[0, 1, 1]])})
    assert read_mat(path, "gt").tolist() == [[0, 1, 1]]
    with pytest.raises(LabelsError, match="no variable 'volLabel'"):
        read_mat(path, "volLabel")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")
    with pytest.raises(LabelsError, match=r"MATLAB 7\.3"):
        read_mat(path, "gt")
    path.write_bytes(b"not a matlab file at all" * 9)
    with pytest.raises(LabelsError, match="not a readable MATLAB file"):
        read_mat(path, "gt")
    with pytest.raises(LabelsError, match="no such file"):
        read_mat(tmp_path / "absent.mat", "gt")


def test_arrays_of_objects_and_of_two_axes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.npy"
    np.save(path, np.array([Bomb(tmp_path / "owned")], dtype=object))
    with pytest.raises(LabelsError, match="not a readable array of numbers"):
        read_frame_mask(path)
    np.save(path, np.ones((2, 3)))
    with pytest.raises(LabelsError, match=r"shape \(2, 3\), expected one number a frame"):
        read_frame_mask(path)
    np.save(path, np.array([[0, 1, 1]]))
    assert read_frame_mask(path).tolist() == [0, 1, 1]
