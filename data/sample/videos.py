"""Sample videos with labels, drawn: enough to try every command without any download."""

import contextlib
import dataclasses
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import ConfigError, FeatError
from data.ffmpeg import find_ffmpeg
from data.files import TEMP_PREFIX, new_file
from data.labels import Split, VideoLabel, write_labels
from data.output_folder import claim_folder
from data.sample.events import (
    CATEGORIES,
    FRAME_RATE,
    Category,
    Intervals,
    Track,
    plan_crowd,
    plan_events,
)
from data.sample.movers import draw_movers
from data.sample.scene import Light, Scene, draw_scene

Size = tuple[int, int]

MIN_VIDEOS = 6
# The first six have every split normal and abnormal; twelve have every category in train and test.
_ROLES: tuple[tuple[Split, Category | None], ...] = (
    *(("train", None), ("train", "run"), ("test", None), ("test", "run")),
    *(("val", None), ("val", "run"), ("train", "fall"), ("test", "fall")),
    *(("train", "vehicle"), ("test", "vehicle"), ("train", None), ("train", None)),
)


class _Options(TypedDict):
    category: Category | None
    num_frames: int
    seed: int


_NAME = re.compile(rf"({re.escape(TEMP_PREFIX)})?sample_\d{{2,}}\.mp4")


@dataclass(frozen=True, kw_only=True)
class SampleVideo:
    """One video before it is drawn.

    Attributes:
        scene: the camera.
        light: brightness and noise.
        num_frames: length.
        tracks: all movers.
        intervals: abnormal frames, 0-based and half-open; none for a normal video.
    """

    scene: Scene
    light: Light
    num_frames: int
    tracks: tuple[Track, ...]
    intervals: Intervals

    def frames(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames, (height, width, 3) uint8 RGB."""
        background = Image.fromarray(np.rint(self.scene.background).astype(np.uint8))
        for index in range(self.num_frames):
            movers = [mover for track in self.tracks if (mover := track.at(index))]
            picture = np.asarray(draw_movers(background, movers))
            yield self.light.expose(picture, index)


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
    tracks = plan_crowd(scene, num_frames, np.random.default_rng((seed, 1)))
    intervals: Intervals = ()
    if category is not None:
        event_rng = np.random.default_rng((seed, 2))
        actors, intervals = plan_events(scene, category, num_frames, event_rng)
        tracks += actors
    return SampleVideo(
        scene=scene,
        light=Light.draw(np.random.default_rng((seed, 3))),
        num_frames=num_frames,
        tracks=tuple(tracks),
        intervals=intervals,
    )


def draw_video(
    path: Path,
    *,
    category: Category | None = None,
    num_frames: int = 176,
    size: Size = (320, 240),
    seed: int = 0,
    scene_seed: int = 0,
) -> Intervals:
    """Draw a video, encode it as h264, and return its abnormal frames. See `plan_video`."""
    video = plan_video(
        category=category, num_frames=num_frames, size=size, seed=seed, scene_seed=scene_seed
    )
    encode(path, video)
    return video.intervals


def encode(path: Path, video: SampleVideo) -> None:
    """Write a video as h264 in mp4; the file appears under its name only when it is complete.

    Raises:
        FeatError: ffmpeg failed, which its last line explains.
    """
    with new_file(path, one_writer=True) as partial:
        process = subprocess.Popen(
            _encode_command(partial, (video.scene.width, video.scene.height)),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        status, message = _feed(process, video)
        if status:
            raise FeatError(f"{path}: ffmpeg cannot write the video: {message}")


def _feed(process: subprocess.Popen[bytes], video: SampleVideo) -> tuple[int, str]:
    """Send all frames to ffmpeg; return its exit status and last message."""
    sink, log = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stderr)
    try:
        # a broken pipe: ffmpeg has given up and says why in its log
        with contextlib.suppress(BrokenPipeError):
            for frame in video.frames():
                sink.write(frame.tobytes())
    except BaseException:
        process.kill()
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            sink.close()
        lines = log.read().decode(errors="replace").strip().splitlines()
        log.close()
        status = process.wait()
    return status, lines[-1] if lines else f"exit status {status}"


def _encode_command(path: Path, size: Size) -> list[str]:
    import ffmpeg

    raw = {"format": "rawvideo", "pix_fmt": "rgb24", "s": f"{size[0]}x{size[1]}"}
    stream = ffmpeg.input("pipe:0", framerate=FRAME_RATE, **raw).output(
        f"file:{path}",
        format="mp4",
        vcodec="libx264",
        preset="veryfast",
        crf=21,
        pix_fmt="yuv420p",
        # one thread and no version strings: the same frames give the same bytes
        threads=1,
        fflags="+bitexact",
        movflags="+faststart",
    )
    arguments = ("-hide_banner", "-loglevel", "error", "-y")
    return [*ffmpeg.compile(stream.global_args(*arguments), cmd=find_ffmpeg())]


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
        label, options = _plan_sample(number, seed)
        intervals = draw_video(folder / label.video, size=size, scene_seed=seed, **options)
        if intervals:
            label = dataclasses.replace(label, extent="intervals", intervals=intervals)
        labels.append(label)
        on_video(labels[-1])
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


def _plan_sample(number: int, seed: int) -> tuple[VideoLabel, _Options]:
    """Return name and split of the sample with this number, and how to draw it."""
    turn, role = divmod(number, len(_ROLES))
    split, category = _ROLES[role]
    if split == "val" and category:
        # there is one abnormal validation video in twelve: take turns
        category = CATEGORIES[turn % len(CATEGORIES)]
    # lengths that clips of 16 frames divide, and one that leaves a rest
    num_frames = 160 + 16 * (number % 4) + (7 if number == 0 else 0)
    label = VideoLabel(
        video=f"sample_{number + 1:02}.mp4",
        split=split,
        category=category or "",
        num_frames=num_frames,
    )
    video_seed = int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
    return label, {"category": category, "num_frames": num_frames, "seed": video_seed}
