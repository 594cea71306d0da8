"""Flow with a slope: the published steps one by one, known motion, and what a gradient does."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, shift

from data.errors import ConfigError
from extract.flow.tvl1 import tvl1_flow as stage_one
from model.methods.pixels.unet import FutureFrame, flow_difference
from model.methods.registry import choose_method
from model.network import flow as flow_module
from model.network.flow import _divergence, _forward, _refine, tvl1_flow

pytestmark = pytest.mark.usefixtures("one_thread")

Image = NDArray[np.float64]


def texture(size: int, seed: int = 0) -> Image:
    """Return a smooth picture of grey levels from 0 to 255."""
    drawn = gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), 2)
    return np.asarray((drawn - drawn.min()) / np.ptp(drawn) * 255)


def tensor(image: Image) -> torch.Tensor:
    return torch.from_numpy(image)[None, None]


def steps_by_loops(source: Image, target: Image) -> Image:
    """Equations 14 to 18 of Zach et al. 2007 from no flow, place by place, in their three cases."""
    height, width = source.shape
    flow, dual = np.zeros((2, height, width)), np.zeros((2, 2, height, width))
    theta, bound = flow_module.THETA, flow_module.LAMBDA * flow_module.THETA

    def at(y: int, x: int) -> float:
        return float(target[min(max(y, 0), height - 1), min(max(x, 0), width - 1)])

    for _ in range(flow_module.ITERATIONS):
        moved = np.empty_like(flow)
        for y in range(height):
            for x in range(width):
                slope = np.array(
                    [(at(y, x + 1) - at(y, x - 1)) / 2, (at(y + 1, x) - at(y - 1, x)) / 2]
                )
                residual = at(y, x) + slope @ flow[:, y, x] - source[y, x]
                steep = slope @ slope + flow_module.FLAT
                if residual < -bound * steep:
                    step = bound * slope
                elif residual > bound * steep:
                    step = -bound * slope
                else:
                    step = -residual * slope / steep
                moved[:, y, x] = flow[:, y, x] + step
        for part in range(2):
            for y in range(height):
                for x in range(width):
                    px, py = dual[part]
                    across = (px[y, x] if x < width - 1 else 0) - (px[y, x - 1] if x else 0)
                    along = (py[y, x] if y < height - 1 else 0) - (py[y - 1, x] if y else 0)
                    flow[part, y, x] = moved[part, y, x] + theta * (across + along)
        for part in range(2):
            right, down = np.zeros((2, height, width))
            right[:, :-1], down[:-1] = np.diff(flow[part], axis=1), np.diff(flow[part], axis=0)
            grown = 1 + flow_module.TAU / theta * np.hypot(right, down)
            dual[part, 0] = (dual[part, 0] + flow_module.TAU / theta * right) / grown
            dual[part, 1] = (dual[part, 1] + flow_module.TAU / theta * down) / grown
    return flow


def test_the_steps_are_the_published_ones() -> None:
    source, target = texture(12), texture(12, seed=1)
    found = _refine(tensor(source), tensor(target), torch.zeros(1, 2, 12, 12).double())
    np.testing.assert_allclose(found[0], steps_by_loops(source, target), atol=1e-5)
    assert found.abs().max() > 0.1


def test_divergence_is_the_negative_transpose_of_the_differences() -> None:
    flow, across, along = torch.rand(3, 1, 2, 7, 5, dtype=torch.float64)
    right, down = _forward(flow)
    forward = (right * across + down * along).sum()
    assert float(forward) == pytest.approx(-float((flow * _divergence(across, along)).sum()))


@pytest.mark.parametrize("moved", [(0.0, 0.0), (0.5, 0.25), (-2.0, 1.0), (3.0, -4.0)])
def test_a_picture_that_moves_is_found_where_it_is(moved: tuple[float, float]) -> None:
    right, down = moved
    still = texture(96)
    other = shift(still, (down, right), order=3, mode="nearest")
    flow = tvl1_flow(tensor(still), tensor(other))[0]
    inner = flow[:, 16:-16, 16:-16].numpy()
    # so few steps stay a little behind large motion
    np.testing.assert_allclose(inner.mean(axis=(1, 2)), moved, atol=0.03, rtol=0.06)
    assert np.abs(inner - np.array(moved)[:, None, None]).mean() < 0.2


def test_it_is_near_to_what_stage_one_finds() -> None:
    """Two things that move apart: ours, of few steps, is about as far from the truth."""
    rows, columns = np.mgrid[:96, :96].astype(float)
    truth = np.stack([1.5 * np.tanh((rows - 48) / 6), np.full_like(rows, 0.5)])
    target = texture(96)
    source = map_coordinates(target, [rows + truth[1], columns + truth[0]], order=3, mode="nearest")
    pair = np.stack([source, target]).clip(0, 255).round().astype(np.uint8)
    theirs = stage_one(pair)[0].transpose(2, 0, 1)
    ours = tvl1_flow(tensor(pair[0].astype(float)), tensor(pair[1].astype(float)))[0].numpy()
    error, expected = (np.abs(each - truth)[:, 8:-8, 8:-8].mean() for each in (ours, theirs))
    assert np.abs(truth).mean() > 0.9
    assert error < expected + 0.1
    assert np.abs(ours - theirs)[:, 8:-8, 8:-8].mean() < 0.2


def test_its_gradient_is_the_slope() -> None:
    target, none = tensor(texture(5, seed=3)), torch.zeros(1, 2, 5, 5).double()
    source = tensor(texture(5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: _refine(x, target, none), source, eps=1e-4, atol=1e-4)


def test_flat_and_equal_frames_have_no_flow_and_no_bad_gradient() -> None:
    for source in (torch.full((1, 1, 32, 32), 90.0), tensor(texture(32)).float()):
        known = source.clone().requires_grad_()
        flow = tvl1_flow(known, source)
        torch.autograd.backward(flow.abs().sum())
        assert flow.abs().max() < 1e-3
        assert known.grad is not None
        assert torch.isfinite(known.grad).all()


# --- the loss of the U-Net ------------------------------------------------------------------------


def colours(image: Image) -> torch.Tensor:
    return (tensor(image).float() / 127.5 - 1).expand(1, 3, -1, -1)


def test_the_loss_is_the_difference_of_two_motions_in_pixels() -> None:
    """The real frame moved by (2, -1), the predicted one not at all: |2 - 0| and |-1 - 0|."""
    before = texture(96)
    real = shift(before, (-1, 2), order=3, mode="nearest")
    frames = colours(before), colours(real), colours(before)
    assert float(flow_difference(*frames)) == pytest.approx((2 + 1) / 2, rel=0.08)
    assert float(flow_difference(frames[1], frames[1], frames[2])) == 0
    luma = [frame.mean(dim=1, keepdim=True) for frame in frames]
    assert float(flow_difference(*luma)) == pytest.approx(float(flow_difference(*frames)), rel=1e-3)


def test_the_gradient_of_the_loss_moves_a_frame_to_the_real_one() -> None:
    before = texture(48)
    real = colours(shift(before, (0.0, 1.0), order=3, mode="nearest"))
    predicted = colours(before).clone().requires_grad_()
    losses = []
    optimizer = torch.optim.Adam([predicted], lr=0.03)
    for _ in range(10):
        loss = flow_difference(predicted, real, colours(before))
        losses.append(loss.item())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]


def test_the_weight_of_the_flow_is_the_published_one_and_none_is_allowed() -> None:
    assert FutureFrame().flow_weight == 2
    assert FutureFrame(flow_weight=0).flow_weight == 0
    with pytest.raises(ConfigError, match="unet: flow_weight is -1"):
        choose_method("unet", assignments=["flow_weight=-1"])
