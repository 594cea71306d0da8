"""Equations 6 to 8, on numbers worked out by hand."""

import math

import pytest
import torch

from model.training.losses import NO_CATEGORY, category_loss, combine, score_loss, smooth_l1


def test_smooth_l1_is_equation_7():
    found = smooth_l1(torch.tensor([0.0, 0.5, -1.0, 3.0, -2.0]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.125, 0.5, 2.5, 1.5]))


def test_score_loss_is_the_mean_over_real_slots():
    scores = torch.tensor([[[0.5, 3.0], [0.0, 9.0]]])
    targets = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[[True, True], [True, False]]])
    # 0.5 * 0.25, 3 - 0.5 and 0 over three slots
    found = score_loss(scores, targets, mask, kind="smooth_l1")
    assert found.item() == pytest.approx((0.125 + 2.5 + 0.0) / 3)


@pytest.mark.parametrize("kind", ["smooth_l1", "cross_entropy"])
@pytest.mark.parametrize("padding", [float("nan"), float("inf"), -1e30])
def test_padded_slots_have_no_influence_whatever_they_hold(kind, padding):
    mask = torch.tensor([[[True, True, False]]])
    targets = torch.tensor([[[1.0, 0.0, 1.0]]])
    scores = torch.tensor([[[0.3, 0.6, padding]]], requires_grad=True)
    loss = score_loss(scores, targets, mask, kind=kind)
    alone = score_loss(scores[..., :2], targets[..., :2], mask[..., :2], kind=kind)
    assert loss.item() == pytest.approx(alone.item())
    loss.backward()
    assert scores.grad[..., 2].item() == 0.0
    assert torch.isfinite(scores.grad).all()


def test_binary_cross_entropy_of_logits():
    found = score_loss(
        torch.tensor([[[0.0, math.log(3.0)]]]),
        torch.tensor([[[1.0, 0.0]]]),
        torch.ones(1, 1, 2, dtype=torch.bool),
        kind="cross_entropy",
    )
    assert found.item() == pytest.approx((math.log(2.0) + math.log(4.0)) / 2)


def test_a_batch_of_padding_alone_has_no_loss():
    empty = torch.zeros(1, 1, 2, dtype=torch.bool)
    assert score_loss(torch.ones(1, 1, 2), torch.zeros(1, 1, 2), empty, kind="smooth_l1") == 0.0


def test_windows_without_a_category_do_not_count():
    logits = torch.tensor([[math.log(3.0), 0.0], [50.0, 0.0]])
    found = category_loss(logits, torch.tensor([0, NO_CATEGORY]))
    assert found.item() == pytest.approx(math.log(4.0 / 3.0))


def test_no_category_at_all_is_no_loss():
    assert category_loss(torch.randn(2, 3), torch.tensor([NO_CATEGORY] * 2)) == 0.0
    assert category_loss(None, torch.tensor([0, 1])) == 0.0


def test_equation_8_weights_the_two_losses():
    terms = combine(torch.tensor(2.0), torch.tensor(0.5), category_weight=1.0, score_weight=10.0)
    assert terms.total.item() == 7.0
    assert (terms.category.item(), terms.score.item()) == (2.0, 0.5)
