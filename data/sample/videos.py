"""Sample videos with labels, drawn: enough to try every command without any download."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, Unpack

import numpy as np
from numpy.typing import NDArray

from data.child import last_line
from data.errors import ConfigError, FeatError
from data.ffmpeg import find_ffmpeg
from data.files import TEMP_PREFIX, new_file
from data.labels import Split, VideoLabel, write_labels
from data.output_folder import claim_folder
from data.sample.drawing import Mover, Scene, draw_frame, draw_scene
from data.sample.events import (
    CATEGORIES,
    FRAME_RATE,
    Category,
    Intervals,
    plan_crowd,
    plan_events,
)

Size = tuple[int, int]

MIN_VIDEOS = 6
# The first six have every split normal and abnormal; twelve have every category in train and test.
_ROLES: tuple[tuple[Split, Category | None], ...] = (
    *(("train", None), ("train", "run"), ("test", None), ("test", "run")),
    *(("val", None), ("val", "run"), ("train", "fall"), ("test", "fall")),
    *(("train", "vehicle"), ("test", "vehicle"), ("train", None), ("train", None)),
)
_NAME = re.compile(rf"({re.escape(TEMP_PREFIX)})?sample_\d{{2,}}\.mp4")


class Plan(TypedDict, total=False):
    """What can be said about a video; see `plan_video`."""

    category: Category | None
    num_frames: int
    size: Size
    seed: int
    scene_seed: int


@dataclass(frozen=True, kw_only=True)
class SampleVideo:
    """One video before it is drawn.

    Attributes:
        scene: the camera.
        num_frames: length.
        seed: of light and noise.
        movers: people and vehicles.
        intervals: abnormal frames, 0-based and half-open; none for a normal video.
    """

    scene: Scene
    num_frames: int
    seed: int
    movers: tuple[Mover, ...]
    intervals: Intervals

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames as the camera records them, (height, width, 3) uint8 RGB."""
        rng = np.random.default_rng((self.seed, 3))
        gain = rng.uniform(0.88, 1.08) * rng.uniform(0.97, 1.03, 3).astype(np.float32)
        for index in range(self.num_frames):
            flicker = np.float32(1 + 0.012 * (np.sin(0.9 * index) + 0.5 * rng.standard_normal()))
            noise = rng.standard_normal((self.scene.height, self.scene.width, 1), np.float32)
            exposed = draw_frame(self.scene, self.movers, index) * (gain * flicker) + 1.6 * noise
            yield np.clip(np.rint(exposed), 0, 255).astype(np.uint8)


def plan_video(
    *,
    category: Category | None = None,
    num_frames: int = 176,
    size: Size = (320, 240),
    seed: int = 0,
    scene_seed: int = 0,
) -> SampleVideo:
    """Return a video of a street, with one or two events of `category` unless it is None.

    Args:
        category: what happens; None for a normal video.
        num_frames: length, 20 or more.
        size: width and height in pixels, even and 48 or more.
        seed: people, event and light. The same seed gives the same crowd whatever the category.
        scene_seed: the street.

    Raises:
        ConfigError: an argument is out of range.
    """
    if category is not None and category not in CATEGORIES:
        raise ConfigError(f"category: found {category!r}, expected one of {', '.join(CATEGORIES)}")
    if num_frames < 20:
        raise ConfigError(f"num_frames: found {num_frames}, expected 20 or more")
    if min(size) < 48 or size[0] % 2 or size[1] % 2:
        raise ConfigError(f"size: found {size[0]}x{size[1]}, expected even numbers, 48 or more")
    scene = draw_scene(*size, np.random.default_rng((scene_seed, 0)))
    movers = plan_crowd(scene, num_frames, np.random.default_rng((seed, 1)))
    intervals: Intervals = ()
    if category is not None:
        rng = np.random.default_rng((seed, 2))
        actors, intervals = plan_events(scene, category, num_frames, rng)
        movers += actors
    return SampleVideo(
        scene=scene, num_frames=num_frames, seed=seed, movers=tuple(movers), intervals=intervals
    )


def draw_video(path: Path, **plan: Unpack[Plan]) -> Intervals:
    """Draw a video, encode it as h264 in mp4, and return its abnormal frames. See `plan_video`.

    The file appears under its name only when it is complete.

    Raises:
        ConfigError: an argument is out of range.
        FeatError: ffmpeg failed, which its last line explains.
    """
    video = plan_video(**plan)
    size = f"{video.scene.width}x{video.scene.height}"
    with new_file(path, one_writer=True) as partial, tempfile.TemporaryFile() as log:
        command = [
            find_ffmpeg(), "-hide_banner", "-loglevel", "error", "-y",
            "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-framerate", str(FRAME_RATE),
            "-i", "pipe:0",
            "-f", "mp4", "-vcodec", "libx264", "-preset", "veryfast", "-crf", "21",
            "-pix_fmt", "yuv420p", "-movflags", "+faststart",
            # one thread and no version strings: the same frames give the same bytes
            "-threads", "1", "-fflags", "+bitexact",
            f"file:{partial}",
        ]  # fmt: skip
        with (
            # a broken pipe: ffmpeg has given up and says why in its log
            contextlib.suppress(BrokenPipeError),
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log) as process,
        ):
            assert process.stdin is not None
            for frame in video.frames():
                process.stdin.write(frame.tobytes())
        if process.returncode:
            log.seek(0)
            reason = last_line(log.read()) or f"exit status {process.returncode}"
            raise FeatError(f"{path}: ffmpeg cannot write the video: {reason}")
    return video.intervals


def make_samples(
    folder: Path,
    *,
    num_videos: int = 12,
    seed: int = 0,
    size: Size = (320, 240),
    force: bool = False,
    on_video: Callable[[VideoLabel], None] = lambda label: None,
) -> list[VideoLabel]:
    """Write sample videos and `labels.csv` into `folder` and return the labels.

    All videos show one street. The same arguments give the same pixels and labels.

    Args:
        folder: made if absent.
        num_videos: 6 or more.
        seed: of everything that is drawn.
        size: width and height in pixels.
        force: write into a folder that holds something. Samples of an earlier call are replaced,
            other files left alone.
        on_video: called after each video.

    Raises:
        ConfigError: an argument is out of range, or the folder is not empty.
    """
    if num_videos < MIN_VIDEOS:
        raise ConfigError(
            f"num_videos: found {num_videos}, expected {MIN_VIDEOS} or more, so that every split "
            "has a normal and an abnormal video"
        )
    plan_video(num_frames=20, size=size)
    _prepare_folder(folder, force)
    labels = []
    for number in range(num_videos):
        turn, role = divmod(number, len(_ROLES))
        split, category = _ROLES[role]
        if split == "val" and category:
            # there is one abnormal validation video in twelve: take turns
            category = CATEGORIES[turn % len(CATEGORIES)]
        # lengths that clips of 16 frames divide, and one that leaves a rest
        num_frames = 160 + 16 * (number % 4) + (7 if number == 0 else 0)
        name = f"sample_{number + 1:02}.mp4"
        intervals = draw_video(
            folder / name,
            category=category,
            num_frames=num_frames,
            size=size,
            seed=int(np.random.SeedSequence((seed, number)).generate_state(1)[0]),
            scene_seed=seed,
        )
        label = VideoLabel(
            video=name,
            split=split,
            category=category or "",
            num_frames=num_frames,
            extent="intervals" if intervals else "normal",
            intervals=intervals,
        )
        labels.append(label)
        on_video(label)
    # last: a folder with labels has all its videos
    write_labels(folder / "labels.csv", labels)
    return labels


def _prepare_folder(folder: Path, force: bool) -> None:
    """Make the folder, or clear an earlier call's samples from it."""
    if not force:
        advice = "give a new folder, or --force to replace the samples in it"
        claim_folder(folder, advice=advice, error=ConfigError)
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").unlink(missing_ok=True)
    for path in folder.iterdir():
        if _NAME.fullmatch(path.name):
            path.unlink()
