# mypy: disable-error-code="no-untyped-def"
"""What TV-L1 needs of one frame: the pyramid of image and gradient; and resizing.

A frame is one flat float32 buffer. Each level is (height + 8, width + 8, 4): image, d/dx, d/dy and
nothing, interleaved, so that one load brings a tap of the bicubic warp for all three; the border of
four zeros stands for all that lies outside: cv2.remap's default border. After it follows the image
alone, (height, width), for the part of a pair's first frame: a quarter of the memory to read.
"""

import math

import numpy as np
from numba import njit
from numba.extending import register_jitable

BORDER = 4
_HALF = np.float32(0.5)


@register_jitable
def level_stride(width):
    """Floats a row of a level takes."""
    return (width + 2 * BORDER) * 4


@register_jitable
def image_start(height, width):
    """Where in a level the image alone begins."""
    return (height + 2 * BORDER) * level_stride(width)


@register_jitable
def level_size(height, width):
    """Floats a level takes; the last 64 let vectors read past the end."""
    return image_start(height, width) + height * width + 64


@njit
def _neighbours(size, new_size, step, places, weights):
    """First of the two source pixels of each target pixel, and the weight of the second."""
    for i in range(new_size):
        position = (i + 0.5) * step - 0.5
        first = math.floor(position)
        weight = np.float32(position - first)
        if first < 0 or first >= size - 1:
            first = min(max(first, 0), size - 1)
            weight = np.float32(0)
        places[i] = first
        weights[i] = weight


@njit(error_model="numpy", fastmath={"contract"})
def resize_linear(source, target, step_y, step_x, gain):
    """Fill `target` with `source` resized as by cv2.INTER_LINEAR, times `gain`.

    `step_y`, `step_x`: source pixels a target pixel (1 / factor where cv2 is given a factor). Both
    interpolations are a + (b - a) * w, fused, which repeats OpenCV's results bit for bit.
    """
    height, width = source.shape
    rows = np.empty(target.shape[0], np.int64)
    columns = np.empty(target.shape[1], np.int64)
    row_weights = np.empty(target.shape[0], np.float32)
    column_weights = np.empty(target.shape[1], np.float32)
    _neighbours(height, target.shape[0], step_y, rows, row_weights)
    _neighbours(width, target.shape[1], step_x, columns, column_weights)
    for y in range(target.shape[0]):
        upper = source[rows[y]]
        lower = source[min(rows[y] + 1, height - 1)]
        weight_y = row_weights[y]
        for x in range(target.shape[1]):
            left = columns[x]
            right = min(left + 1, width - 1)
            weight_x = column_weights[x]
            top = upper[left] + (upper[right] - upper[left]) * weight_x
            bottom = lower[left] + (lower[right] - lower[left]) * weight_x
            target[y, x] = (top + (bottom - top) * weight_y) * gain


@njit
def fill_level(image, level):
    """Write a level's image and centred gradient; a border pixel stands for its missing one."""
    height, width = image.shape
    stride = level_stride(width)
    alone = image_start(height, width)
    for y in range(height):
        above, row, below = image[max(y - 1, 0)], image[y], image[min(y + 1, height - 1)]
        at = (y + BORDER) * stride + BORDER * 4
        for x in range(width):
            left, right = row[max(x - 1, 0)], row[min(x + 1, width - 1)]
            level[at + 4 * x] = row[x]
            level[alone + y * width + x] = row[x]
            level[at + 4 * x + 1] = _HALF * (right - left)
            level[at + 4 * x + 2] = _HALF * (below[x] - above[x])
