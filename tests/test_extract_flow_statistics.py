"""The flow's statistics against NumPy in double precision."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.records import FLOW_STATS
from extract.flow.statistics import flow_statistics, statistics_of_batch


def test_flow_statistics_are_those_of_the_real_frames() -> None:
    rng = np.random.default_rng(0)
    flow = rng.normal(0, 0.1, (1, 4, 64, 48, 2)).astype(np.float32)
    flow[0, :, 16:32, 32:48, 0] += 3.0  # one cell moves
    flow[0, 3] = 100.0  # not a real frame
    stats = dict(zip(FLOW_STATS, flow_statistics(torch.from_numpy(flow), [3])[0], strict=True))
    real = flow[0, :3].astype(np.float64)
    length = np.linalg.norm(real, axis=-1)
    np.testing.assert_allclose(stats["mean_abs_y"], np.abs(real[..., 1]).mean(), rtol=1e-5)
    np.testing.assert_allclose(stats["max_abs"], np.abs(real).max(), rtol=1e-5)
    np.testing.assert_allclose(
        stats["max_cell_magnitude"], length[:, 16:32, 32:48].mean(), rtol=1e-5
    )
    expected = np.percentile(length, 99, method="inverted_cdf")
    np.testing.assert_allclose(stats["p99_magnitude"], expected, rtol=1e-5)


@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=5),
    st.integers(16, 40), st.integers(16, 40), st.integers(0, 3), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=60)
def test_statistics_of_a_batch_are_those_clip_by_clip(
    num_real: list[int], height: int, width: int, digits: int, seed: int
) -> None:
    # few digits make equal numbers, and zeros among them
    drawn = np.random.default_rng(seed).normal(0, 1, (len(num_real), 6, height, width, 2))
    flow = torch.from_numpy(np.round(drawn, digits).astype(np.float32))
    expected, found = flow_statistics(flow, num_real), statistics_of_batch(flow, num_real)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
    exact = [FLOW_STATS.index(name) for name in ("max_abs", "p99_magnitude")]
    assert torch.equal(found[:, exact], expected[:, exact])
