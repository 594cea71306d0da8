"""How UR-DMU, and BN-WVAD after it, embed a video's instances: Zhou, Yu, Yang 2023.

Attention by content beside attention by distance in time, as their paper describes it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.methods.weak.sequence import AlongTime

WIDTH = 512
HEADS = 4


class Embedding(nn.Module):
    """(V, T, D) to (V, T, 512): a convolution and two layers of attention."""

    def __init__(self, dim: int, dropout: float) -> None:
        """Take the size of the features."""
        super().__init__()
        self.convolve = AlongTime(dim, WIDTH, kernel=3)
        self.layers = nn.ModuleList(_Layer(dropout) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the embedded instances."""
        x = self.convolve(x).relu()
        for layer in self.layers:
            x = layer(x)
        return x


class _Layer(nn.Module):
    """Attention by content and by distance side by side, then two linear layers; both added."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.before = nn.LayerNorm(WIDTH)
        self.project = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.join = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.Dropout(dropout))
        self.feed = nn.Sequential(
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(WIDTH, WIDTH),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        num_videos, length, _ = x.shape
        parts = self.project(self.before(x)).view(num_videos, length, 4, HEADS, -1)
        query, key, value, near = parts.permute(2, 0, 3, 1, 4)
        content = functional.scaled_dot_product_attention(query, key, value)
        places = torch.arange(length, device=x.device, dtype=x.dtype)
        distance = (places[:, None] - places).abs()
        in_time = (-distance / math.e).softmax(dim=1) @ near
        joined = torch.cat([content, in_time], dim=3).transpose(1, 2).flatten(2)
        x = x + self.join(joined)
        fed: Tensor = x + self.feed(x)
        return fed
