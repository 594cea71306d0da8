"""Where the gates of equations 1 to 5 meet the cell state, one step."""

import torch
from torch import Tensor


def take_step(
    gates: Tensor,
    peepholes: Tensor | None,
    before: Tensor | None,
    *,
    cell: Tensor,
    tanh_cell: Tensor,
    hidden: Tensor,
) -> None:
    """Turn gates before their activations into what follows them, cell and hidden state, in place.

    Args:
        gates: (4, 16, B, hidden), i, f, o and g as they come from the convolutions.
        peepholes: (3, 16, 1, hidden) of i, f and o, or None.
        before: C_{t-1}, (16, B, hidden); None stands for the zeros of the first step, where what
            it enters vanishes, the forget gate with it.
        cell: where C_t goes, (16, B, hidden).
        tanh_cell: where its tanh goes.
        hidden: where H_t goes.
    """
    i, f, o, g = gates
    if peepholes is not None and before is not None:
        i.addcmul_(peepholes[0], before)
        f.addcmul_(peepholes[1], before)
    torch.mul(i.sigmoid_(), g.tanh_(), out=cell)
    if before is not None:
        cell.addcmul_(f.sigmoid_(), before)
    if peepholes is not None:
        o.addcmul_(peepholes[2], cell)
    torch.tanh(cell, out=tanh_cell)
    torch.mul(o.sigmoid_(), tanh_cell, out=hidden)
