"""Bicubic scaling of images, equal to swscale's to within rounding.

A folder of frames then gives the features of the video it was cut from. Pillow's own bicubic has
another parameter (C=0.5) and treats the borders differently.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

# swscale's default; Keys 1981, a = -C
_C = 0.6


@lru_cache(maxsize=16)
def bicubic_weights(num_in: int, num_out: int) -> csr_array:
    """Return the matrix that scales a row of `num_in` pixels, (num_out, num_in) float32.

    When shrinking, the kernel is as much wider (no aliasing). What it takes from outside is taken
    from the border pixel. Every row sums to 1. Sparse, because a dense product would set the
    threads of a BLAS library against those of the rest.
    """
    scale = num_in / num_out
    width = max(scale, 1.0)
    reach = int(np.ceil(2 * width)) + 1
    centres = (np.arange(num_out) + 0.5) * scale - 0.5
    taps = np.floor(centres)[:, None].astype(np.int64) + np.arange(-reach, reach + 1)
    weights = _kernel((taps - centres[:, None]) / width)
    weights /= weights.sum(axis=1, keepdims=True)
    rows = np.broadcast_to(np.arange(num_out)[:, None], taps.shape)
    columns = np.clip(taps, 0, num_in - 1)
    entries = (weights.ravel().astype(np.float32), (rows.ravel(), columns.ravel()))
    matrix = csr_array(entries, shape=(num_out, num_in))
    matrix.sum_duplicates()
    matrix.eliminate_zeros()
    return matrix


def scale_bicubic(image: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Return an image (H, W) or (H, W, C) uint8 scaled to `height` x `width`."""
    if image.ndim == 3:
        planes = [scale_bicubic(plane, height, width) for plane in np.moveaxis(image, 2, 0)]
        return np.stack(planes, axis=2)
    by_column = np.ascontiguousarray(image.T, dtype=np.float32)
    across = bicubic_weights(image.shape[1], width) @ by_column
    # swscale keeps rows in 15 bits: what overshoots white is cut before columns are scaled
    np.minimum(across, np.float32(32767 / 128), out=across)
    scaled = bicubic_weights(image.shape[0], height) @ np.ascontiguousarray(across.T)
    np.clip(np.rint(scaled, out=scaled), 0, 255, out=scaled)
    whole: NDArray[np.uint8] = scaled.astype(np.uint8)
    return whole


def _kernel(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(x)
    near = ((2 - _C) * x - (3 - _C)) * x * x + 1
    far = (((-_C) * x + 5 * _C) * x - 8 * _C) * x + 4 * _C
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
