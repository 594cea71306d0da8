"""Rows in blocks, and items produced ahead of whoever asks for them."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from extract.streaming import Rows


@given(st.lists(st.integers(1, 700), max_size=12))
def test_rows_are_those_of_the_batches_and_lie_in_one_block(sizes: list[int]) -> None:
    # the second claim is what keeps the memory of a long video that of a short one
    rng = np.random.default_rng(0)
    batches = [{"rgb": rng.random((n, 3), np.float32), "flow": np.ones((n, 2))} for n in sizes]
    rows = Rows()
    for batch in batches:
        given = {name: array.copy() for name, array in batch.items()}
        rows.append(given)
        for array in given.values():
            array[:] = -1  # the batch is no longer needed
    assert set(rows.arrays) == ({"rgb", "flow"} if sizes else set())
    for name, array in rows.arrays.items():
        assert np.array_equal(array, np.concatenate([batch[name] for batch in batches]))
        assert array.dtype == batches[0][name].dtype
        assert array.base is not None
        assert len(array.base) >= len(array)
