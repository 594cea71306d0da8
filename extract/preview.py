"""One clip as the networks get it, as a picture: frames, flow, its magnitude, Kinetics classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from data.errors import DecodeError
from data.files import new_file
from data.videos import VideoSource
from extract.clips import Clip, iter_clips
from extract.config import ExtractConfig
from extract.decode.limits import Limits
from extract.decode.open import open_video
from extract.flow.tvl1 import rgb_to_gray, tvl1_flow
from extract.flow.tvl1_torch import tvl1_flow_torch
from extract.i3d.network import I3D
from extract.kernels.choice import use_kernels
from extract.weights.resolve import Weights, load_state_dict

COLUMNS = 8
GAP = 6
"""Pixels between two pictures."""
TOP = 5
CLASSES = Path(__file__).parent / "i3d" / "kinetics400.txt"
"""A name a line, in the order of the published networks' outputs (kinetics-i3d, label_map.txt)."""

# The wheel of the Middlebury flow benchmark (Baker et al. 2011, colorcode.cpp): red, yellow, green,
# cyan, blue, magenta, red at these parts of a turn from right over down; the last step back to red
# is cut off there, too. Paler is slower.
_ANGLES = np.array([0, 15, 21, 25, 36, 49, 55]) / 54
_COLORS = np.array(
    [[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 1], [1, 0, 0]], float
)


def preview_clip(
    path: Path,
    source: VideoSource,
    at_seconds: float,
    config: ExtractConfig,
    *,
    rgb: Weights | None,
    folder_fps: float = 25.0,
    limits: Limits | None = None,
) -> list[str]:
    """Draw the clip that holds the frame shown at a time; return what there is to say of it.

    Args:
        path: the PNG file.
        source: the video.
        at_seconds: from the start of the video.
        config: how clips are made.
        rgb: weights of the RGB network; None: no classes.
        folder_fps: frame rate that a folder of images is taken to have.
        limits: what the video may cost; None for the defaults.

    Raises:
        DecodeError: the video cannot be decoded, or ends before that time.
        WeightsError: the weights are damaged.
    """
    clip, times = read_clip(source, at_seconds, config, folder_fps=folder_fps, limits=limits)
    frames = clip.frames[:-1]
    flow = clip_flow(clip, config)
    last = clip.start_frame + clip.num_real - 1
    lines = [f"frames {clip.start_frame} to {last}, {times[0]:.2f} s to {times[-1]:.2f} s"]
    if clip.num_real < len(frames):
        lines[0] += f", the last one repeated {len(frames) - clip.num_real} times"
    speed = np.hypot(flow[..., 0], flow[..., 1])
    clamped = float((np.abs(flow) > config.flow_clamp).any(axis=-1).mean())
    lines.append(
        f"flow {speed.mean():.2f} pixels a frame on average, {speed.max():.2f} at most; "
        f"{clamped:.2%} clamped to {config.flow_clamp:g}"
    )
    if rgb:
        named = ", ".join(f"{name} ({share:.2f})" for name, share in top_classes(frames, rgb))
        lines.append(f"Kinetics-400 classes: {named}")
    else:
        lines.append("no Kinetics classes without the RGB weights: run feat weights fetch")
    _draw(path, f"{source.video_id}: {lines[0]}", lines[1:], frames, flow, speed)
    return lines


def read_clip(
    source: VideoSource,
    at_seconds: float,
    config: ExtractConfig,
    *,
    folder_fps: float,
    limits: Limits | None = None,
) -> tuple[Clip, NDArray[np.float64]]:
    """Return the first clip with the frame that is shown at a time, and its frames' times.

    Raises:
        DecodeError: as of `preview_clip`.
    """
    with open_video(source, config.decode, folder_fps=folder_fps, limits=limits) as stream:
        for clip in iter_clips(stream, clip_len=config.clip_len, clip_stride=config.clip_stride):
            end = clip.start_frame + clip.num_real
            times = stream.pts_seconds[clip.start_frame : end]
            after = stream.pts_seconds[end : end + 1]
            # the last frame is taken to be shown for as long as the nominal rate says
            until = float(after[0]) if len(after) else times[-1] + 1 / stream.info.frame_rate
            if at_seconds < until:
                return clip, times
    raise DecodeError(
        f"{source.video_id}: nothing is shown at {at_seconds:g} s, the video ends at {until:.2f} s"
    )


def clip_flow(clip: Clip, config: ExtractConfig) -> NDArray[np.float32]:
    """Return the flow from each frame to the next, (clip_len, H, W, 2), pixels, not clamped."""
    gray = rgb_to_gray(clip.frames)
    if use_kernels():
        return tvl1_flow(gray, config=config.tvl1)
    flow: NDArray[np.float32] = tvl1_flow_torch(torch.from_numpy(gray), config=config.tvl1).numpy()
    return flow


@torch.inference_mode()
def top_classes(frames: NDArray[np.uint8], rgb: Weights) -> list[tuple[str, float]]:
    """Return name and probability of the likeliest classes of a clip (T, H, W, 3)."""
    network = I3D.from_state_dict(load_state_dict(rgb), "rgb")
    clip = torch.from_numpy(frames.copy()).float().div_(127.5).sub_(1.0)
    shares = network.logits(clip.permute(3, 0, 1, 2)[None])[0].softmax(0)
    values, numbers = (found.tolist() for found in shares.topk(TOP))
    names = CLASSES.read_text().splitlines()
    return [(names[number], share) for number, share in zip(numbers, values, strict=True)]


def color_flow(flow: NDArray[np.float32], full: float) -> NDArray[np.uint8]:
    """Return flow (..., 2) in the colours of the wheel, (..., 3) uint8.

    Args:
        flow: pixels; x to the right, y down.
        full: the speed that has the full colour, pixels a frame; faster ones have it, too.
    """
    turn = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    hue = np.stack([np.interp(turn, _ANGLES, channel) for channel in _COLORS.T], axis=-1)
    share = np.clip(np.hypot(flow[..., 0], flow[..., 1]) / full, 0, 1)[..., None]
    colors: NDArray[np.uint8] = np.round(255 * (1 - share * (1 - hue))).astype(np.uint8)
    return colors


def _draw(
    path: Path,
    title: str,
    notes: Sequence[str],
    frames: NDArray[np.uint8],
    flow: NDArray[np.float32],
    speed: NDArray[np.float32],
) -> None:
    # a few wild pixels must not make the rest pale, nor the noise of a still scene be bright
    full = max(float(np.quantile(speed, 0.99)), 1.0)
    figure = Figure(figsize=(15, 12.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    # a name may hold dollar signs, which matplotlib takes for formulas
    figure.suptitle(title, x=0.01, ha="left", weight="bold").set_parse_math(False)
    figure.supxlabel("\n".join(notes), x=0.01, ha="left", fontsize=10)
    ramp = np.linspace(-1, 1, 96, dtype=np.float32)
    wheel = np.stack(np.meshgrid(ramp, ramp), axis=-1)
    wheel[np.hypot(wheel[..., 0], wheel[..., 1]) > 1] = 0
    rows: list[tuple[str, NDArray[Any]]] = [
        ("frames, as the network gets them", frames),
        (f"flow to the next frame; full colour: {full:.2f} pixels or more", color_flow(flow, full)),
        (f"its magnitude; white: {full:.2f} pixels or more", speed),
    ]
    for axes, (name, pictures) in zip(figure.subplots(len(rows)), rows, strict=True):
        axes.imshow(_tiles(pictures), cmap="gray", vmin=0, vmax=full, interpolation="nearest")
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_axis_off()
    legend = figure.axes[1].inset_axes((1.005, 0.64, 0.07, 0.36))
    legend.imshow(color_flow(wheel, 1.0))
    legend.set_axis_off()
    with new_file(path) as partial:
        figure.savefig(partial, format="png", metadata={"Software": None})


def _tiles(pictures: NDArray[Any]) -> NDArray[Any]:
    """Return pictures (T, H, W, ...) side by side, `COLUMNS` in a row, white between them."""
    blank = 255 if pictures.dtype == np.uint8 else np.nan  # is not drawn
    missing = -len(pictures) % COLUMNS
    sides = [(0, missing), (0, GAP), (0, GAP)] + [(0, 0)] * (pictures.ndim - 3)
    padded = np.pad(pictures, sides, constant_values=blank)
    rows = padded.reshape(-1, COLUMNS, *padded.shape[1:])
    return np.concatenate([np.concatenate([*row], axis=1) for row in rows], axis=0)
