# mypy: disable-error-code="no-untyped-def"
"""Numba kernels of TV-L1 optical flow: one frame's pyramid, one pair's flow; all release the GIL.

The algorithm is that of OpenCV's `DualTVL1OpticalFlow` (opencv_contrib,
modules/optflow/src/tvl1flow.cpp), after Zach, Pock and Bischof 2007 and Sanchez Perez,
Meinhardt-Llopis and Facciolo, IPOL 2013.
"""

import math

import numpy as np
from numba import njit

_TINY_GRADIENT = np.float32(np.finfo(np.float32).eps)


@njit(nogil=True, cache=True, error_model="numpy")
def resize_linear(source, target, step_y, step_x, gain):
    """Resize `source` (h, w) to the shape of `target` as cv2.INTER_LINEAR does, times `gain`.

    `step_y`, `step_x`: source pixels a target pixel (cv2 takes 1/factor when a factor is given).
    """
    height, width = source.shape
    for y in range(target.shape[0]):
        fy = np.float32((y + 0.5) * step_y - 0.5)
        y0 = math.floor(fy)
        ay = fy - np.float32(y0)
        if y0 < 0:
            y0, ay = 0, np.float32(0)
        if y0 >= height - 1:
            y0, ay = height - 1, np.float32(0)
        y1 = min(y0 + 1, height - 1)
        for x in range(target.shape[1]):
            fx = np.float32((x + 0.5) * step_x - 0.5)
            x0 = math.floor(fx)
            ax = fx - np.float32(x0)
            if x0 < 0:
                x0, ax = 0, np.float32(0)
            if x0 >= width - 1:
                x0, ax = width - 1, np.float32(0)
            x1 = min(x0 + 1, width - 1)
            one = np.float32(1)
            top = source[y0, x0] * (one - ax) + source[y0, x1] * ax
            low = source[y1, x0] * (one - ax) + source[y1, x1] * ax
            target[y, x] = (top * (one - ay) + low * ay) * gain


@njit(nogil=True, cache=True, error_model="numpy")
def centered_gradient(image, dx, dy):
    """Half the difference of both neighbours; a border pixel stands for its missing one."""
    height, width = image.shape
    half = np.float32(0.5)
    for y in range(height):
        above, below = image[max(y - 1, 0)], image[min(y + 1, height - 1)]
        row = image[y]
        for x in range(width):
            dy[y, x] = half * (below[x] - above[x])
        for x in range(1, width - 1):
            dx[y, x] = half * (row[x + 1] - row[x - 1])
        dx[y, 0] = half * (row[1] - row[0])
        dx[y, width - 1] = half * (row[width - 1] - row[width - 2])


@njit(nogil=True, cache=True, error_model="numpy")
def _cubic(t, weights):
    """The four weights of cv2.INTER_CUBIC (a = -0.75) at fraction `t` in [0, 1)."""
    a = np.float32(-0.75)
    one = np.float32(1)
    two = np.float32(2)
    three = np.float32(3)
    s = t + one
    weights[0] = ((a * s - np.float32(5) * a) * s + np.float32(8) * a) * s - np.float32(4) * a
    weights[1] = ((a + two) * t - (a + three)) * t * t + one
    r = one - t
    weights[2] = ((a + two) * r - (a + three)) * r * r + one
    weights[3] = one - weights[0] - weights[1] - weights[2]


@njit(nogil=True, cache=True, error_model="numpy")
def warp_data_term(frame0, frame1, gx, gy, u, v, lt, wx_out, wy_out, rho_out, inverse_out):
    """Warp frame 1 and its gradient by (u, v), bicubic, zero outside: the data term's constants.

    `rho_out`: the residual's constant part; `inverse_out`: -1/|gradient|^2, finite everywhere.
    """
    height, width = frame0.shape
    wx = np.empty(4, np.float32)
    wy = np.empty(4, np.float32)
    for y in range(height):
        for x in range(width):
            px = np.float32(x) + u[y, x]
            py = np.float32(y) + v[y, x]
            x0 = math.floor(px)
            y0 = math.floor(py)
            _cubic(px - np.float32(x0), wx)
            _cubic(py - np.float32(y0), wy)
            value = np.float32(0)
            value_x = np.float32(0)
            value_y = np.float32(0)
            for j in range(4):
                yy = y0 + j - 1
                if yy < 0 or yy >= height:
                    continue
                row = np.float32(0)
                row_x = np.float32(0)
                row_y = np.float32(0)
                for i in range(4):
                    xx = x0 + i - 1
                    if xx < 0 or xx >= width:
                        continue
                    row += wx[i] * frame1[yy, xx]
                    row_x += wx[i] * gx[yy, xx]
                    row_y += wx[i] * gy[yy, xx]
                value += wy[j] * row
                value_x += wy[j] * row_x
                value_y += wy[j] * row_y
            wx_out[y, x] = value_x
            wy_out[y, x] = value_y
            rho_out[y, x] = value - value_x * u[y, x] - value_y * v[y, x] - frame0[y, x]
            square = value_x * value_x + value_y * value_y
            inverse_out[y, x] = np.float32(-1) / max(square, np.float32(1e-12))


@njit(nogil=True, cache=True, error_model="numpy")
def median5(source, target):
    """5x5 median, the border repeated, as cv2.medianBlur."""
    height, width = source.shape
    window = np.empty(25, np.float32)
    for y in range(height):
        for x in range(width):
            n = 0
            for j in range(-2, 3):
                yy = min(max(y + j, 0), height - 1)
                for i in range(-2, 3):
                    value = source[yy, min(max(x + i, 0), width - 1)]
                    k = n
                    while k > 0 and window[k - 1] > value:
                        window[k] = window[k - 1]
                        k -= 1
                    window[k] = value
                    n += 1
            target[y, x] = window[12]


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _primal_row(gx, gy, rho_c, inverse, u, v, p11, p12, p12_above, p21, p22, p22_above, lt, theta):
    """Threshold step and primal update of one row; return the sum of squared changes."""
    error = np.float32(0)
    for x in range(u.shape[0]):
        rho = rho_c[x] + gx[x] * u[x] + gy[x] * v[x]
        step = min(max(rho * inverse[x], -lt), lt)
        left1 = p11[x - 1] if x > 0 else np.float32(0)
        left2 = p21[x - 1] if x > 0 else np.float32(0)
        div1 = p11[x] - left1 + (p12[x] - p12_above[x])
        div2 = p21[x] - left2 + (p22[x] - p22_above[x])
        new_u = u[x] + step * gx[x] + theta * div1
        new_v = v[x] + step * gy[x] + theta * div2
        du = new_u - u[x]
        dv = new_v - v[x]
        u[x] = new_u
        v[x] = new_v
        error += du * du + dv * dv
    return error


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _dual_row(u, u_below, p1, p2, taut):
    """Dual update of one row of one flow component."""
    width = u.shape[0]
    one = np.float32(1)
    for x in range(width - 1):
        ux = u[x + 1] - u[x]
        uy = u_below[x] - u[x]
        scale = one / (one + taut * np.sqrt(ux * ux + uy * uy))
        p1[x] = (p1[x] + taut * ux) * scale
        p2[x] = (p2[x] + taut * uy) * scale
    last = width - 1
    uy = u_below[last] - u[last]
    p2[last] = (p2[last] + taut * uy) / (one + taut * abs(uy))


@njit(nogil=True, cache=True, error_model="numpy")
def _sweep(gx, gy, rho_c, inverse, u, v, dual, zeros, lt, theta, taut):
    """One inner iteration; return the sum of squared changes of the flow."""
    height = u.shape[0]
    total = 0.0
    p11, p12, p21, p22 = dual[0], dual[1], dual[2], dual[3]
    for y in range(height):
        above12 = p12[y - 1] if y > 0 else zeros
        above22 = p22[y - 1] if y > 0 else zeros
        # Row y reads the old dual row y - 1, which is therefore updated only after it.
        total += _primal_row(
            gx[y],
            gy[y],
            rho_c[y],
            inverse[y],
            u[y],
            v[y],
            p11[y],
            p12[y],
            above12,
            p21[y],
            p22[y],
            above22,
            lt,
            theta,
        )
        if y > 0:
            _dual_row(u[y - 1], u[y], p11[y - 1], p12[y - 1], taut)
            _dual_row(v[y - 1], v[y], p21[y - 1], p22[y - 1], taut)
    _dual_row(u[height - 1], u[height - 1], p11[height - 1], p12[height - 1], taut)
    _dual_row(v[height - 1], v[height - 1], p21[height - 1], p22[height - 1], taut)
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def build_pyramid(gray, levels, shapes, scale_step):
    """Fill one frame's pyramid: `levels` (3, total) = image, d/dx, d/dy, scale after scale."""
    offset = 0
    for s in range(shapes.shape[0]):
        height, width = shapes[s]
        size = height * width
        image = levels[0, offset : offset + size].reshape((height, width))
        if s == 0:
            for y in range(height):
                for x in range(width):
                    image[y, x] = gray[y, x]
        else:
            above_height, above_width = shapes[s - 1]
            above = levels[0, offset - above_height * above_width : offset]
            source = above.reshape((above_height, above_width))
            resize_linear(source, image, 1.0 / scale_step, 1.0 / scale_step, np.float32(1))
        gx = levels[1, offset : offset + size].reshape((height, width))
        gy = levels[2, offset : offset + size].reshape((height, width))
        centered_gradient(image, gx, gy)
        offset += size


@njit(nogil=True, cache=True, error_model="numpy")
def solve_pair(levels0, levels1, shapes, work, numbers, counts, flow):
    """Fill `flow` (H, W, 2) float32, from frame 0 to frame 1; return the pixel iterations done.

    `work` is a (12, H * W) float32 buffer; `numbers` = tau, lambda, theta, epsilon, scale step;
    `counts` = warps, inner and outer iterations, median size.
    """
    tau, lam, theta64, epsilon, scale_step = numbers
    num_warps, num_inner, num_outer, median_size = counts
    theta = np.float32(theta64)
    lt = np.float32(lam * theta64)
    taut = np.float32(tau / theta64)
    zeros = np.zeros(shapes[0, 1], np.float32)
    work[:2] = 0
    offset = levels0.shape[1]
    done = 0
    for s in range(shapes.shape[0] - 1, -1, -1):
        height, width = shapes[s]
        size = height * width
        offset -= size
        frame0 = levels0[0, offset : offset + size].reshape((height, width))
        frame1 = levels1[0, offset : offset + size].reshape((height, width))
        frame1_x = levels1[1, offset : offset + size].reshape((height, width))
        frame1_y = levels1[2, offset : offset + size].reshape((height, width))
        u = work[0, :size].reshape((height, width))
        v = work[1, :size].reshape((height, width))
        spare = work[2, :size].reshape((height, width))
        gx = work[3, :size].reshape((height, width))
        gy = work[4, :size].reshape((height, width))
        rho_c = work[5, :size].reshape((height, width))
        inverse = work[6, :size].reshape((height, width))
        dual = np.zeros((4, height, width), np.float32)
        threshold = np.float32(epsilon * epsilon * size)
        for _ in range(num_warps):
            warp_data_term(frame0, frame1, frame1_x, frame1_y, u, v, lt, gx, gy, rho_c, inverse)
            error = np.inf
            for _ in range(num_outer):
                if error <= threshold:
                    break
                if median_size == 5:
                    median5(u, spare)
                    u[:] = spare
                    median5(v, spare)
                    v[:] = spare
                for _ in range(num_inner):
                    if error <= threshold:
                        break
                    error = _sweep(gx, gy, rho_c, inverse, u, v, dual, zeros, lt, theta, taut)
                    done += size
        if s > 0:
            next_height, next_width = shapes[s - 1]
            next_size = next_height * next_width
            gain = np.float32(1 / scale_step)
            for c in range(2):
                large = work[2, :next_size].reshape((next_height, next_width))
                small = work[c, :size].reshape((height, width))
                resize_linear(small, large, height / next_height, width / next_width, gain)
                work[c, :next_size] = work[2, :next_size]
    for y in range(shapes[0, 0]):
        for x in range(shapes[0, 1]):
            flow[y, x, 0] = work[0, y * shapes[0, 1] + x]
            flow[y, x, 1] = work[1, y * shapes[0, 1] + x]
    return done


@njit(nogil=True, cache=True)
def rgb_to_gray(rgb, gray):
    """Luma of `(N, 3)` uint8 in OpenCV's 15-bit fixed point (imgproc/src/color_rgb.simd.hpp)."""
    for i in range(gray.shape[0]):
        red, green, blue = np.uint32(rgb[i, 0]), np.uint32(rgb[i, 1]), np.uint32(rgb[i, 2])
        gray[i] = (red * 9798 + green * 19235 + blue * 3735 + 16384) >> 15
