"""Pickles of arrays: what Python's own unpickler reads, and nothing that harms."""

import pickle
import random
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from data import array_pickle
from data.array_pickle import load_array_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
atoms = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
)
dtypes = (
    npst.boolean_dtypes()
    | npst.integer_dtypes()
    | npst.unsigned_integer_dtypes()
    | npst.floating_dtypes(endianness="?")
    | npst.complex_number_dtypes()
    | npst.unicode_string_dtypes(max_len=9)
)
shapes = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
arrays = npst.arrays(dtypes, shapes) | npst.arrays(dtypes, shapes).map(np.asfortranarray)
values = st.recursive(
    atoms | arrays | arrays.filter(lambda a: a.size).map(lambda a: a.reshape(-1)[0]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)


def same(ours: Any, theirs: Any) -> bool:
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, np.ndarray):  # numpy leaves foreign byte orders in some protocols
        theirs = theirs.astype(theirs.dtype.newbyteorder("="))
    if isinstance(theirs, np.ndarray | np.generic):
        return (
            (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            and ours.tobytes() == theirs.tobytes()
            and ours.flags.writeable == theirs.flags.writeable
        )
    if isinstance(theirs, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    return bool(ours == theirs)


@settings(max_examples=60)
@given(values, st.sampled_from(PROTOCOLS))
def test_reads_what_pythons_unpickler_reads(value: Any, protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    assert same(load_array_pickle(content), pickle.loads(content))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_that_occur_twice_and_arrays_of_objects(protocol: int) -> None:
    array = np.arange(5.0)
    rows = np.array([[1, 2], "a", None, array], dtype=object)
    read = load_array_pickle(pickle.dumps({"a": array, "b": array, "rows": rows}, protocol))
    assert read["a"] is read["b"]
    assert read["rows"].tolist()[:3] == [[1, 2], "a", None]
    np.testing.assert_array_equal(read["rows"][3], array)


def test_a_pickle_that_python_2_wrote_is_read() -> None:
    # Python 2.7: pickle.dumps({'v\xe9': np.array([[1, 255]], 'u1')}), its default protocol
    text = (
        b"(dp0\nS'v\\xe9'\np1\ncnumpy.core.multiarray\n_reconstruct\np2\n(cnumpy\nndarray\np3\n"
        b"(I0\ntp4\nS'b'\np5\ntp6\nRp7\n(I1\n(I1\nI2\ntp8\ncnumpy\ndtype\np9\n(S'u1'\np10\nI0\nI1\n"
        b"tp11\nRp12\n(I3\nS'|'\np13\nNNNI-1\nI-1\nI0\ntp14\nbI00\nS'\\x01\\xff'\np15\ntp16\nbs."
    )
    np.testing.assert_array_equal(load_array_pickle(text)["v\xe9"], np.uint8([[1, 255]]))


HUGE = b"\xff\xff\xff\x7f"
HOSTILE = [
    (b"Nr" + HUGE + b".", None),  # a memo of 2^31 places: 16 GB in Python's unpickler
    (b"\x80\x04B" + HUGE + b"abc.", "expected 2147483647 bytes"),
    (b"\x8e" + HUGE * 2 + b".", "bytes"),
    (b"\x8b" + HUGE + b".", "not enough data|expected"),
    (b"]" * 3 + b"0.", "uses POP"),
    (b"}]N0s.", "uses POP"),
    (b"}]Ns.", "a key of type list"),
    (b"}" + b")" + b"\x85" * 20_000 + b"Ns.", "a key of type tuple"),  # hashed, it would crash
    (b"]\x94h\x00a.", "in it twice"),
    (b"\x94.", "range"),
    (b"N" * 50 + b"u.", "range|what is no dict"),
    (b"(" * 9 + b".", "a mark"),
    (b"cos\nsystem\n.", "asks for os.system"),
    (b"cnumpy\nload\n.", "asks for numpy.load"),
    (b"I" + b"9" * 10_000 + b"\n.", "digits"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE)
def test_hostile_pickles_take_no_memory(content: bytes, message: str | None) -> None:
    tracemalloc.start()
    try:
        if message is None:
            assert load_array_pickle(content) is None
        else:
            with pytest.raises(ValueError, match=message):
                load_array_pickle(content)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


BEGIN = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1000\nt"
UINT8 = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
BYTES = b"B\xe8\x03\0\0" + b"x" * 1000 + b"q\x01"  # 1000 bytes, place 1 of the memo


def test_arrays_cannot_be_larger_than_their_file() -> None:
    first = BEGIN + UINT8 + b"I00\n" + BYTES + b"tb"
    assert load_array_pickle(first + b".").tolist() == [120] * 1000
    assert load_array_pickle(b"]" + first + b"a.")[0].shape == (1000,)
    again = BEGIN + UINT8 + b"I00\nh\x01tb"  # the same bytes once more, and so on
    with pytest.raises(ValueError, match="larger than the file"):
        load_array_pickle(b"](" + first + again * 5 + b"e.")
    with pytest.raises(ValueError, match="without its bytes"):
        load_array_pickle(first.replace(b"I1000", b"I1001") + b".")


def test_the_number_of_operations_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_pickle, "MAX_OPERATIONS", 30)
    assert load_array_pickle(pickle.dumps(["x"] * 5)) == ["x"] * 5
    with pytest.raises(ValueError, match="more than 30 operations"):
        load_array_pickle(b"](" + b"]" * 50 + b"e.")


def test_mutants_are_read_or_refused() -> None:
    """Python's unpickler crashed, or took gigabytes, for some of these."""
    rng = random.Random(0)
    value = {
        "v_a": np.arange(60.0).reshape(6, 10),
        "v_b": np.uint8([[0, 1]]),
        "names": np.array(["one", "three"]),
        "n": [np.int64(3), 2.5, b"raw", ("x", 1)],
        "o": np.array([1, "two", None], dtype=object),
    }
    refused = 0
    tracemalloc.start()
    for number in range(600):
        content = bytearray(pickle.dumps(value, number % len(PROTOCOLS)))
        for _ in range(rng.choice((1, 1, 2, 5))):
            content[rng.randrange(len(content))] = rng.randrange(256)
        if rng.random() < 0.1:
            del content[rng.randrange(len(content)) :]
        try:
            load_array_pickle(bytes(content))
        except ValueError:
            refused += 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 200
    assert peak < 20_000_000
