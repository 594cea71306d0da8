"""Videos written by ffmpeg: parts cut out of one, or one with a picture of its scores below.

Frames are counted as for the features, from the first that is decoded, and each appears when it
did in the video: they are decoded and encoded anew, for a copy could begin at a key frame only.
"""

import logging
import os
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.errors import DecodeError
from data.ffmpeg import ffmpeg_version, find_ffmpeg, has_encoder, passthrough_options
from data.files import partial_file, publish, temp_path
from data.output_file import Kind
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.ffmpeg_log import LOG_OPTIONS, FFmpegLog
from extract.decode.ffmpeg_process import FFmpegProcess
from extract.decode.folder import FolderStream
from extract.decode.frame_times import DECODED, DELIVERED, FrameTimes, printing
from extract.decode.limits import Limits
from extract.decode.open import open_video
from extract.decode.stream import StreamInfo
from extract.decode.video import SCALE_FLAGS, source_options

logger = logging.getLogger(f"feat.{__name__}")

# what players understand best comes first; builds without libx264 are common
_ENCODERS = {
    "libx264": ("-preset", "veryfast", "-crf", "18"),
    "libopenh264": ("-b:v", "6M"),
    "libvpx-vp9": ("-crf", "24", "-b:v", "0", "-deadline", "realtime", "-cpu-used", "6"),
    "mpeg4": ("-q:v", "3"),
}
# ticks a second of the frames' times: MPEG-4 admits no more than 65535
_TICKS = 60000
# files that one run of ffmpeg writes: each takes an encoder's memory
_AT_ONCE = 8
_LEAST_WIDTH = 320
# A box that players skip, at the end of the MP4 files made here: 12 bytes, type `free`.
WRITTEN_HERE = Kind("a video that feat has written", b"\0\0\0\x0cfreefeat")
_BLOCK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a video, half-open, and the MP4 file that it is written to.

    The seconds are those of the two frames, for the sound.
    """

    path: Path
    start_frame: int
    end_frame: int
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A picture to stand below a video, and a line that moves over it as time goes on.

    Attributes:
        image: (H, W, 3) uint8 RGB, as wide as `shown_size` says.
        start_seconds: time of the frame at which the line stands at the left edge.
        end_seconds: the same of the right edge.
    """

    image: NDArray[np.uint8]
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a video was read for its features, and is to be read again.

    Attributes:
        fps: what it was resampled to; None for every frame.
        folder: frame rate that a folder of images is taken to have.
        limits: what the video may cost.
    """

    fps: float | None
    folder: float
    limits: Limits = field(default_factory=Limits)


def cut_parts(source: VideoSource, parts: Sequence[Part], reading: Reading) -> None:
    """Write parts of a video as files of their own, with its sound.

    Raises:
        DecodeError: the video cannot be decoded, or not so far; or ffmpeg cannot write the files.
    """
    info = _read_info(source, reading)
    for first in range(0, len(parts), _AT_ONCE):
        several = parts[first : first + _AT_ONCE]
        graph = f"split={len(several)}{''.join(f'[p{n}]' for n in range(len(several)))}"
        for n, part in enumerate(several):
            trim = f"trim=start_frame={part.start_frame}:end_frame={part.end_frame}"
            graph += f";[p{n}]{trim},setpts=PTS-STARTPTS,settb=1/{_TICKS}[o{n}]"
        sounds = [
            # by the picture's start: the sound may begin later
            f"atrim=start={part.start_seconds:.6f}:end={part.end_seconds:.6f},"
            f"a{_later(-part.start_seconds)}"
            for part in several
        ]
        _write(
            source, [part.path for part in several], graph, sounds, reading,
            size=_even_size(info, least=0), clock_start=info.clock_start,
            num_frames=max(part.end_frame for part in several),
        )  # fmt: skip


def render_below(
    source: VideoSource, path: Path, strip: Strip, reading: Reading, *, num_frames: int
) -> None:
    """Write a video of `num_frames` frames with a picture below it, and its sound, as MP4.

    Raises:
        DecodeError: as `cut_parts`.
    """
    info = _read_info(source, reading)
    width, height = _even_size(info, least=_LEAST_WIDTH)
    rows = len(strip.image)
    assert strip.image.shape[1] == width
    seconds = max(strip.end_seconds - strip.start_seconds, 1e-6)
    place = f"(t-{strip.start_seconds:.6f})/{seconds:.6f}*{width}"
    with (
        _temp_picture(path.parent, strip.image) as below,
        _temp_picture(path.parent, np.zeros((rows, 2, 3), np.uint8)) as line,
    ):
        graph = (
            f"pad={width}:{height + rows}[video];[video][1:v]overlay=0:{height}[both];"
            f"[both][2:v]overlay=x='clip({place},0,{width - 2})':y={height},settb=1/{_TICKS}[o0]"
        )
        _write(
            source, [path], graph, ["anull"], reading, size=(width, height),
            clock_start=info.clock_start, num_frames=num_frames, pictures=(below, line),
        )  # fmt: skip


def shown_size(source: VideoSource, reading: Reading) -> tuple[int, int]:
    """Return width and height that a video has above its picture, enlarged if it is narrow."""
    return _even_size(_read_info(source, reading), least=_LEAST_WIDTH)


def _read_info(source: VideoSource, reading: Reading) -> StreamInfo:
    config = DecodeConfig(size=16, fps=reading.fps)
    with open_video(source, config, folder_fps=reading.folder, limits=reading.limits) as stream:
        return stream.info


def _even_size(info: StreamInfo, *, least: int) -> tuple[int, int]:
    """Return width and height of the frames as a player shows them, even as encoders want them.

    Args:
        info: of the video.
        least: narrower frames are enlarged to it.
    """
    width, height = info.width, info.height
    if info.rotation in (90, 270):
        width, height = height, width
    factor = max(least / width, 1)
    return 2 * max(1, round(width * factor / 2)), 2 * max(1, round(height * factor / 2))


@contextmanager
def _temp_picture(folder: Path, image: NDArray[np.uint8]) -> Iterator[Path]:
    """Give a picture a file, a PNG in `folder`, for the time of the block."""
    path = temp_path(folder)
    with partial_file(path, target=folder, error=DecodeError):
        Image.fromarray(image).save(path, format="PNG")
        yield path


def _write(
    source: VideoSource,
    paths: Sequence[Path],
    graph: str,
    sounds: Sequence[str],
    reading: Reading,
    *,
    size: tuple[int, int],
    clock_start: float,
    num_frames: int,
    pictures: Sequence[Path] = (),
) -> None:
    """Let ffmpeg write files, each whole or not at all; without sound where that fails."""
    with ExitStack() as stack:
        partial = [temp_path(path.parent) for path in paths]
        for temporary, path in zip(partial, paths, strict=True):
            stack.enter_context(partial_file(temporary, target=path, error=DecodeError))
        silent = [""] * len(sounds)
        problem = ""
        for tried in [sounds, silent] if source.kind == "file" else [silent]:
            outputs = list(zip(partial, tried, strict=True))
            run = _Run(
                source, outputs, graph, reading, size=size, clock_start=clock_start,
                pictures=pictures,
            )  # fmt: skip
            before, problem = problem, run.to_end(num_frames)
            if not problem:
                break
        if problem:
            raise DecodeError(f"{source.video_id}: {problem}")
        if before:
            logger.warning("%s: written without its sound: %s", source.video_id, before)
        for temporary, path in zip(partial, paths, strict=True):
            with temporary.open("ab") as file:
                file.write(WRITTEN_HERE.mark)
            publish(temporary, path)


class _Run:
    """One run of ffmpeg from a video to files."""

    def __init__(
        self,
        source: VideoSource,
        outputs: Sequence[tuple[Path, str]],
        graph: str,
        reading: Reading,
        *,
        size: tuple[int, int],
        clock_start: float,
        pictures: Sequence[Path],
    ) -> None:
        """Prepare it.

        Args:
            source: the video.
            outputs: each file and the filters of its sound; "" for none.
            graph: filters from the frames to `[o0]`, `[o1]` and so on.
            reading: how the video was read.
            size: width and height of the frames that the graph gets.
            clock_start: what `StreamInfo` says of the video.
            pictures: PNG files that are the graph's `[1:v]`, `[2:v]` and so on.
        """
        self._source, self._outputs, self._graph, self._reading = source, outputs, graph, reading
        self._size, self._pictures = size, pictures
        self._clock_start, self._own_start = clock_start, 0.0
        self._limits = reading.limits
        self._refusal = ""

    def to_end(self, num_frames: int) -> str:
        """Run it; return what went wrong, or "" if `num_frames` frames came and are written."""
        while True:
            problem = self._run(num_frames)
            if self._log.clock_start == self._own_start:
                return problem
            # Where the sound is read beside the picture, the clock begins with the first of the
            # two; where another stream began before them, with none that was expected.
            self._own_start = self._log.clock_start

    def _run(self, num_frames: int) -> str:
        self._log = FFmpegLog(f"feat{secrets.token_hex(16)}")
        self._times = FrameTimes()
        self._num_frames = 0
        with ExitStack() as stack:
            frames_fd = None
            if self._source.kind == "frames":
                frames_fd = stack.enter_context(self._frames_pipe())
            process = FFmpegProcess(
                lambda fd: self._command(fd, frames_fd),
                video_id=self._source.video_id,
                log=self._log,
                feed_times=self._feed_times,
                stall_seconds=self._limits.stall_seconds,
                pass_fds=() if frames_fd is None else (frames_fd,),
            )
            stack.callback(process.close)
            # the frames' own pipe carries a sign of life for each that was decoded
            block = memoryview(bytearray(_BLOCK))
            while process.read_into(block) == len(block):
                if self._log.clock_start != self._own_start:
                    return ""
            status = process.finish()
        if self._refusal:
            raise DecodeError(self._refusal)
        if status:
            cause = self._log.cause() or f"status {status} and no message"
            return f"ffmpeg {ffmpeg_version()} could not write the file: {cause}"
        if self._num_frames < num_frames:
            return (
                f"frame {self._num_frames} cannot be decoded, the video ends there; it changed "
                "while feat ran: run again"
            )
        return ""

    def _feed_times(self, data: bytes) -> None:
        self._times.feed(data)
        self._num_frames += len(self._times)
        self._times.take(len(self._times), Fraction(1))

    def _command(self, times_fd: int, frames_fd: int | None) -> list[str]:
        width, height = self._size
        ((passthrough, value),) = passthrough_options(ffmpeg_version()).items()
        encoder = find_encoder()
        command = [
            find_ffmpeg(),
            *LOG_OPTIONS,
            "-y",
        ]
        # resampled by the clock by which the features were
        head = [printing(DECODED, 1), _later(self._own_start - self._clock_start)]
        if frames_fd is None:
            command += [
                # frames that change in size would have the graph built anew, and counted from 0
                *("-reinit_filter", "0"),
                *source_options(self._source, self._limits, self._log.secret),
            ]
            if self._reading.fps is not None:
                head.append(f"fps={self._reading.fps}")
        else:
            command += [
                *("-f", "rawvideo", "-pix_fmt", "rgb24", "-video_size", f"{width}x{height}"),
                *("-framerate", str(self._reading.fps or self._reading.folder)),
                *("-protocol_whitelist", "pipe", "-i", f"pipe:{frames_fd}"),
            ]
        for picture in self._pictures:
            command += ["-f", "png_pipe", "-protocol_whitelist", "file", "-i", f"file:{picture}"]
        head.append(_later(self._clock_start))
        head.append(f"scale={width}:{height}:flags={SCALE_FLAGS},setsar=1")
        head.append(printing(DELIVERED, times_fd))
        command += ["-filter_complex", f"[0:V:0]{','.join(head)},{self._graph}"]
        for n, (path, sound) in enumerate(self._outputs):
            filters = f"a{_later(self._own_start)},{sound}"
            command += [
                *("-map", f"[o{n}]", *(("-map", "0:a:0?", "-af", filters) if sound else ())),
                *("-map_metadata", "-1", "-map_chapters", "-1"),
                *("-c:v", encoder, *_ENCODERS[encoder], "-pix_fmt", "yuv420p", "-c:a", "aac"),
                *("-enc_time_base", f"1:{_TICKS}", f"-{passthrough}", value),
                *("-movflags", "+faststart", "-f", "mp4", f"file:{path}"),
            ]
        return command

    @contextmanager
    def _frames_pipe(self) -> Iterator[int]:
        """Let a thread write the images of a folder to a pipe, and give its reading end."""
        reading, writing = os.pipe()
        width, height = self._size
        config = DecodeConfig(fps=self._reading.fps)
        stream = FolderStream(
            self._source, config, folder_fps=self._reading.folder, limits=self._limits,
            shape=(height, width),
        )  # fmt: skip

        def feed() -> None:
            # ffmpeg may end first: it has what it needs, or it failed, which it says
            with open(writing, "wb", buffering=0) as pipe, suppress(BrokenPipeError), stream:
                try:
                    while len(frames := stream.read(1)[0]):
                        _write_all(pipe, frames.tobytes())
                except DecodeError as error:
                    self._refusal = str(error)

        thread = threading.Thread(target=feed, daemon=True)
        thread.start()
        try:
            yield reading
        finally:
            with suppress(OSError):
                os.close(reading)
            thread.join()


def _later(seconds: float) -> str:
    """Return the filter that lets frames appear so much later; of sound with an `a` before it."""
    return f"setpts=round(PTS{seconds:+.6f}/TB)"


def _write_all(pipe: IO[bytes], data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[pipe.write(rest) :]


def find_encoder() -> str:
    """Return the encoder that videos are written with: H.264 if this ffmpeg has one.

    Raises:
        DecodeError: it has none that MP4 files can hold.
    """
    for name in _ENCODERS:
        if has_encoder(find_ffmpeg(), name):
            return name
    raise DecodeError(
        f"ffmpeg {ffmpeg_version()} has no encoder of {', '.join(_ENCODERS)}; name another ffmpeg "
        "in FEAT_FFMPEG"
    )
