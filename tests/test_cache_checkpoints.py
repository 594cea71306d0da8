import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest
from cache_samples import sha256_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from cache import FeatureCache
from cache.checkpoints import MAX_CLIPS, FeatureCheckpoint

KEY = sha256_of("long video")


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    numbers = np.arange(first, first + count)
    return {
        "rgb": np.repeat(numbers[:, None], 8, axis=1).astype(np.float32),
        "start_seconds": numbers * 0.64,
    }


@pytest.fixture
def checkpoint(tmp_path) -> FeatureCheckpoint:
    return FeatureCache.create(tmp_path / "features").checkpoint(KEY)


def test_nothing_saved_is_nothing_loaded(checkpoint) -> None:
    assert checkpoint.load() == {}
    checkpoint.clear()


def test_blocks_come_back_as_one(checkpoint) -> None:
    checkpoint.save(0, rows(0, 5))
    checkpoint.save(5, rows(5, 3))
    loaded = checkpoint.load()
    for name, array in rows(0, 8).items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    checkpoint.clear()
    assert checkpoint.load() == {}


def test_what_is_too_large_for_a_block_comes_in_several(checkpoint, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cache.checkpoints.BLOCK_BYTES", 100)
    rows = {"map": np.arange(7 * 12, dtype=np.float32).reshape(7, 3, 4), "n": np.arange(7)}
    checkpoint.save(2, rows)  # 56 bytes a row, then 600
    large = {"map": np.ones((2, 3, 50), np.float32), "n": np.arange(2)}
    assert len(list(tmp_path.rglob("*.block"))) == 7
    found = checkpoint.load(2)
    for name, array in rows.items():
        np.testing.assert_array_equal(found[name], array)
    FeatureCheckpoint(tmp_path / "other", "b" * 64).save(0, large)
    assert len(list((tmp_path / "other").rglob("*.block"))) == 2


def test_what_follows_a_gap_is_not_loaded(checkpoint) -> None:
    checkpoint.save(0, rows(0, 5))
    checkpoint.save(6, rows(6, 3))
    assert len(checkpoint.load()["rgb"]) == 5


def test_what_follows_a_damaged_block_is_not_loaded(checkpoint, tmp_path, caplog) -> None:
    for first in (0, 4, 8):
        checkpoint.save(first, rows(first, 4))
    (middle,) = (tmp_path / "features" / "partial" / KEY).glob("000000004-*")
    data = bytearray(middle.read_bytes())
    data[-1] ^= 1
    middle.write_bytes(data)
    assert len(checkpoint.load()["rgb"]) == 4
    assert middle.name in caplog.text
    checkpoint.save(4, rows(4, 4))
    assert len(checkpoint.load()["rgb"]) == 12


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5)), max_size=12),
    st.integers(0, 14),
    st.integers(0, 6),
    st.one_of(st.none(), st.integers(0, 14)),
)
@settings(max_examples=60)
def test_load_is_all_from_a_clip_to_the_first_that_no_block_has(
    tmp_path_factory, blocks, first, length, end
) -> None:
    checkpoint = FeatureCheckpoint(tmp_path_factory.mktemp("partial"), KEY)
    for start, count in blocks:
        checkpoint.save(start, rows(start, count))
    there = {start + i for start, count in blocks for i in range(count)}
    stop = next(clip for clip in range(first, 99) if clip not in there)
    loaded = checkpoint.load(first)
    expected = rows(first, stop - first) if stop > first else {}
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)
    wanted = range(first, first + length)
    assert checkpoint.covers(wanted) == there.issuperset(wanted)
    if end is not None:
        checkpoint.save_end(end)
        assert checkpoint.covers(wanted) == there.issuperset(wanted[: max(end - first, 0)])
        assert checkpoint.covers(range(MAX_CLIPS)) == there.issuperset(range(end))
        assert checkpoint.load(first).keys() == expected.keys()


def test_other_shapes_count_as_a_gap(checkpoint) -> None:
    checkpoint.save(0, rows(0, 4))
    checkpoint.save(4, {"rgb": np.zeros((4, 9), np.float32), "start_seconds": np.zeros(4)})
    assert len(checkpoint.load()["rgb"]) == 4


def test_every_dtype_that_is_allowed_and_no_other(checkpoint) -> None:
    arrays = {
        name: np.ones((2, 3), name)
        for name in ("float16", "float32", "float64", "int32", "int64", "uint8")
    }
    checkpoint.save(0, arrays)
    for name, array in checkpoint.load().items():
        assert array.dtype == name
    with pytest.raises(ValueError, match="cannot hold object"):
        checkpoint.save(2, {"rgb": np.array([[None]])})
    with pytest.raises(ValueError, match="one length"):
        checkpoint.save(2, {"rgb": np.ones(2), "flow": np.ones(3)})


def write_block(folder: Path, count: int, data: bytes) -> None:
    folder.mkdir(exist_ok=True)
    name = f"{0:09d}-{count:09d}-{hashlib.sha256(data).hexdigest()}.block"
    (folder / name).write_bytes(data)


def tensor(dtype: str, shape: list[int], name: str = "rgb") -> bytes:
    return json.dumps({name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 4]}}).encode()


@pytest.mark.parametrize(
    "head",
    [
        tensor("F32", [1, 1000000000000]),
        tensor("F32", [1, 2**63, 2**63]),
        tensor("F32", []),
        tensor("F32", [1]).replace(b"[0, 4]", b"[0, 8]"),
        tensor("O", [1, 1]),
        tensor("BF16", [1, 2]),
        tensor("I16", [1, 2]),
        tensor("BOOL", [1, 4]),
        tensor("U8", [1, 4], name="../x"),
        tensor("U8", [2, 2]),
        tensor("U8", [1, -4]),
        tensor("U8", [1] * 80).replace(b"1, 1]", b"1, 4]"),
        tensor("U8", [1, 4]).replace(b"{", b'{"__metadata__": {"a": 1}, ', 1),
        b'{"rgb": ["uint8", [1, 4]]}',
        b'{"rgb": 3}',
        b"[]",
        b"{",
        b"[" * 4000,
        b"",
    ],
)
def test_hostile_blocks_are_ignored(tmp_path, caplog, head) -> None:
    head = head.ljust(4096)
    write_block(tmp_path / KEY, 1, len(head).to_bytes(8, "little") + head + b"abcd")
    assert FeatureCheckpoint(tmp_path, KEY).load() == {}
    assert "checkpoint not used" in caplog.text


@pytest.mark.parametrize(
    "head", [b'{"rgb": ["float32", [4, 1]]}', b'{"rgb": ["float32", []]}', b"[]", b"{}", b""]
)
def test_blocks_of_an_earlier_build_are_ignored(checkpoint, tmp_path, head) -> None:
    """A head of JSON in 4096 bytes came before the arrays."""
    write_block(tmp_path / "features" / "partial" / KEY, 4, head.ljust(4096) + bytes(16))
    assert checkpoint.load() == {}
    checkpoint.save(0, rows(0, 4))
    np.testing.assert_array_equal(checkpoint.load()["rgb"], rows(0, 4)["rgb"])


@pytest.mark.parametrize("length", [0, 1, 7, 8, 40])
def test_short_blocks_are_ignored(tmp_path, length) -> None:
    write_block(tmp_path / KEY, 2, save(rows(0, 2))[:length])
    assert FeatureCheckpoint(tmp_path, KEY).load() == {}


def test_arrays_of_any_layout_are_saved(checkpoint) -> None:
    array = np.arange(12, dtype=np.float64).reshape(4, 3)
    checkpoint.save(0, {"a": array.T, "b": array[:3].astype(">f8"), "c": array[::2][[0, 1, 0]]})
    loaded = checkpoint.load()
    np.testing.assert_array_equal(loaded["a"], array.T)
    np.testing.assert_array_equal(loaded["b"], array[:3])
    np.testing.assert_array_equal(loaded["c"], array[[0, 2, 0]])


def test_unfinished_files_are_ignored(checkpoint, tmp_path) -> None:
    checkpoint.save(0, rows(0, 4))
    folder = tmp_path / "features" / "partial" / KEY
    (folder / ".tmp-host-1-aa").write_bytes(b"x")
    assert len(checkpoint.load()["rgb"]) == 4
    assert len(os.listdir(folder)) == 2


def test_keys_are_checked(tmp_path) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        FeatureCheckpoint(tmp_path, "../x")


def test_blocks_go_elsewhere_and_no_other_file_comes(checkpoint, tmp_path) -> None:
    checkpoint.save(0, rows(0, 5))
    checkpoint.save_end(5)
    other = FeatureCheckpoint(tmp_path / "elsewhere", KEY)
    other.receive(checkpoint.blocks())
    assert other.covers(range(MAX_CLIPS))
    np.testing.assert_array_equal(other.load()["rgb"], rows(0, 5)["rgb"])
    with pytest.raises(ValueError, match="no block's name"):
        other.receive({"../../labels.csv": b"video"})
