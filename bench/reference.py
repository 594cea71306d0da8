"""The honest peer: what a user would script instead of `feat extract`.

Frames by OpenCV, flow by OpenCV's DualTVL1 with its defaults and all threads, the I3D network in
eager float32 and PyTorch's default layout, one clip at a time. It shares nothing with `extract/`
but the weights file: the network below is written anew from the paper's table (Carreira &
Zisserman 2017) in the plain style people use.

Run: python -m bench.reference VIDEO... [--rgb-weights FILE]
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

CLIP_LEN = 16
SIZE = 224


class Unit(nn.Module):
    """Convolution with TensorFlow's "SAME" padding, batch norm, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride, bias=False)
        self.norm = nn.BatchNorm3d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = same(x, (self.kernel,) * 3, (self.stride,) * 3, 0.0)
        return F.relu(self.norm(self.conv(x)))


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], value: float) -> Tensor:
    pads: list[int] = []
    for size, k, s in reversed(list(zip(x.shape[2:], kernel, stride, strict=True))):
        missing = max((-(-size // s) - 1) * s + k - size, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads, value=value)


def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return F.max_pool3d(same(x, kernel, stride, -torch.inf), kernel, stride)


class Block(nn.Module):
    def __init__(self, inputs: int, a: int, b: int, b2: int, c: int, c2: int, d: int) -> None:
        super().__init__()
        self.branch0 = Unit(inputs, a)
        self.branch1_reduce, self.branch1 = Unit(inputs, b), Unit(b, b2, 3)
        self.branch2_reduce, self.branch2 = Unit(inputs, c), Unit(c, c2, 3)
        self.branch3 = Unit(inputs, d)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat(
            [
                self.branch0(x),
                self.branch1(self.branch1_reduce(x)),
                self.branch2(self.branch2_reduce(x)),
                self.branch3(pool(x, (3, 3, 3), (1, 1, 1))),
            ],
            dim=1,
        )


class EagerI3D(nn.Module):
    """Inception-v1 I3D up to its last average pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1a = Unit(channels, 64, 7, 2)
        self.conv2b = Unit(64, 64)
        self.conv2c = Unit(64, 192, 3)
        self.mixed3b = Block(192, 64, 96, 128, 16, 32, 32)
        self.mixed3c = Block(256, 128, 128, 192, 32, 96, 64)
        self.mixed4b = Block(480, 192, 96, 208, 16, 48, 64)
        self.mixed4c = Block(512, 160, 112, 224, 24, 64, 64)
        self.mixed4d = Block(512, 128, 128, 256, 24, 64, 64)
        self.mixed4e = Block(512, 112, 144, 288, 32, 64, 64)
        self.mixed4f = Block(528, 256, 160, 320, 32, 128, 128)
        self.mixed5b = Block(832, 256, 160, 320, 32, 128, 128)
        self.mixed5c = Block(832, 384, 192, 384, 48, 128, 128)

    def forward(self, x: Tensor) -> Tensor:
        x = pool(self.conv1a(x), (1, 3, 3), (1, 2, 2))
        x = pool(self.conv2c(self.conv2b(x)), (1, 3, 3), (1, 2, 2))
        x = pool(self.mixed3c(self.mixed3b(x)), (3, 3, 3), (2, 2, 2))
        for block in (self.mixed4b, self.mixed4c, self.mixed4d, self.mixed4e, self.mixed4f):
            x = block(x)
        x = pool(x, (2, 2, 2), (2, 2, 2))
        x = self.mixed5c(self.mixed5b(x))
        return F.avg_pool3d(x, (2, *x.shape[-2:])).mean(dim=(2, 3, 4))


def load_networks(rgb_weights: Path) -> dict[str, EagerI3D]:
    """Return both networks; the flow one has the RGB stem averaged and repeated (TSN)."""
    state = {k: v for k, v in load_file(rgb_weights).items() if not k.startswith("logits")}
    rgb, flow = EagerI3D(3), EagerI3D(2)
    rgb.load_state_dict(state, strict=False)
    stem = state["conv1a.conv.weight"].mean(dim=1, keepdim=True).repeat(1, 2, 1, 1, 1)
    flow.load_state_dict({**state, "conv1a.conv.weight": stem}, strict=False)
    return {"rgb": rgb.eval(), "flow": flow.eval()}


def read_frames(video: Path) -> Iterator[np.ndarray]:
    """Yield RGB frames (224, 224, 3) uint8, squashed, as OpenCV decodes them.

    By area, which OpenCV recommends for shrinking: its other ways skip pixels.
    """
    capture = cv2.VideoCapture(str(video))
    while True:
        ok, frame = capture.read()
        if not ok:
            capture.release()
            return
        frame = cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def extract(frames: list[np.ndarray], networks: dict[str, EagerI3D]) -> dict[str, np.ndarray]:
    """Return the features of one video, (S, 1024) float32 a stream."""
    tvl1 = cv2.optflow.DualTVL1OpticalFlow_create()
    rows: dict[str, list[np.ndarray]] = {"rgb": [], "flow": []}
    for start in range(0, len(frames), CLIP_LEN):
        clip = frames[start : start + CLIP_LEN + 1]
        clip = clip + [clip[-1]] * (CLIP_LEN + 1 - len(clip))
        grays = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]
        flows = [tvl1.calc(a, b, None) for a, b in itertools.pairwise(grays)]
        rgb = torch.from_numpy(np.stack(clip[:CLIP_LEN])).float() / 127.5 - 1
        flow = torch.from_numpy(np.stack(flows)).clamp(-20, 20) / 20
        with torch.no_grad():
            for stream, array in (("rgb", rgb), ("flow", flow)):
                x = array.permute(3, 0, 1, 2)[None].contiguous()
                rows[stream].append(networks[stream](x)[0].numpy())
    return {stream: np.stack(each) for stream, each in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--rgb-weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="folder for one .npz a video")
    args = parser.parse_args()
    started = time.perf_counter()
    networks = load_networks(args.rgb_weights)
    for video in args.videos:
        features = extract(list(read_frames(video)), networks)
        print(f"{video}: {len(features['rgb'])} clips")
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            np.savez(args.out / f"{video.name}.npz", **features)
    print(f"{time.perf_counter() - started:.1f} s")


if __name__ == "__main__":
    main()
