"""A video file as a stream of frames, decoded and scaled by ffmpeg."""

import dataclasses
import logging
import secrets
import signal
from array import array
from fractions import Fraction
from shlex import quote
from typing import TYPE_CHECKING, Self, cast

import numpy as np
from numpy.typing import NDArray

from data.errors import DecodeError
from data.ffmpeg import ffmpeg_version, find_ffmpeg, passthrough_options
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.ffmpeg_log import LOG_OPTIONS, FFmpegLog
from extract.decode.ffmpeg_process import FFmpegProcess
from extract.decode.formats import DEMUXERS
from extract.decode.frame_times import DECODED, DELIVERED, FrameTimes, printing
from extract.decode.limits import Limits
from extract.decode.stream import StreamInfo

if TYPE_CHECKING:
    from typing_extensions import Buffer

logger = logging.getLogger(f"feat.{__name__}")

SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
# ffmpeg's default rounds halves to even: say which pixel is the first
_CENTRE = "floor((iw-ow)/2):floor((ih-oh)/2)"
# Resampled, a pause becomes copies of one frame. A clock that jumps would become millions.
_MAX_GAP_SECONDS = 3600
# of the largest pixel in one plane or packed: 16 bits for each of four channels
_MAX_PIXEL_BYTES = 8
_MIN_ALLOC = 1 << 28


class FFmpegStream:
    """Frames of a video file, decoded and scaled by an ffmpeg process. See `FrameStream`."""

    info: StreamInfo

    def __init__(
        self,
        source: VideoSource,
        config: DecodeConfig,
        *,
        threads: int | None = None,
        limits: Limits,
    ) -> None:
        self._source = source
        self._config = config
        self._limits = limits
        self._pts = array("d")
        self._partial = ""
        self._finished = False
        if not source.path.is_file():
            raise DecodeError(f"{source.video_id}: no such file: {source.path}; run again")
        if source.path.stat().st_size == 0:
            raise DecodeError(f"{source.video_id}: the file is empty; copy or download it again")
        self._log = FFmpegLog(f"feat{secrets.token_hex(16)}")
        self._times = FrameTimes()
        self._process = FFmpegProcess(
            lambda fd: _command(
                source, config, threads, limits=self._limits, secret=self._log.secret, times_fd=fd
            ),
            video_id=source.video_id,
            log=self._log,
            feed_times=self._feed_times,
            stall_seconds=self._limits.stall_seconds,
        )
        try:
            self._shape = (*self._frame_size(), 3)
            self._first = self._fill(1)
            if len(self._first) == 0:
                self._finish()
                raise DecodeError(self._no_frame_message())
            self.info = self._read_info()
        except BaseException:
            self.close()
            raise

    @property
    def num_frames(self) -> int:
        """Frames delivered so far."""
        return len(self._pts)

    @property
    def partial(self) -> str:
        """Why decoding stopped early or what errors were seen; see `FrameStream.partial`."""
        return self._partial

    @property
    def pts_seconds(self) -> NDArray[np.float64]:
        """Presentation times of the frames delivered so far, (num_frames,) float64."""
        return np.array(self._pts, dtype=np.float64)

    def read(self, max_frames: int) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """Return the next frames and their times; see `FrameStream.read`."""
        if max_frames < 1:
            raise ValueError(f"max_frames: found {max_frames}, expected 1 or more")
        frames = np.empty((0, *self._shape), np.uint8)
        if not self._finished:
            frames = self._fill(max_frames, first=self._first)
            self._first = frames[:0]
            if len(frames) < max_frames:
                self._finish()
        pts = self._take_pts(len(frames))
        self._check_bounds()
        if self._finished and len(frames):
            self._warn_of_one_frame()
        return frames, pts

    def close(self) -> None:
        """End ffmpeg and wait for it; harmless when repeated."""
        self._finished = True
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _fill(self, max_frames: int, first: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Read up to `max_frames` whole frames straight into one array, `first` in front."""
        frames = np.empty((max_frames, *self._shape), np.uint8)
        filled = 0
        if first is not None and len(first):
            frames[0] = first[0]
            filled = first.nbytes
        target = memoryview(cast("Buffer", frames)).cast("B")
        filled += self._process.read_into(target[filled:])
        return frames[: filled // int(np.prod(self._shape))]

    def _frame_size(self) -> tuple[int, int]:
        """Return height and width of the frames, which may hang on the picture's."""
        if self._config.resize == "short-side":
            self._process.read_until(lambda: bool(self._log.first_size))
        width, height = self._log.first_size or (1, 1)  # no size told: no frame comes
        try:
            return self._config.frame_size(height, width)
        except DecodeError as error:
            raise DecodeError(f"{self._source.video_id}: {error}") from error

    def _read_info(self) -> StreamInfo:
        """Return the stream's description, once the first frame has come."""
        self._process.read_until(lambda: bool(self._log.time_base and len(self._times)))
        info = self._log.stream_info()
        if info is None or not self._log.time_base:
            raise DecodeError(
                f"{self._source.video_id}: what ffmpeg says of it is not understood; copy the "
                "video without its texts (ffmpeg -i IN -map 0:v -c copy -map_metadata -1 OUT)"
            )
        self._time_base = self._log.time_base
        fps = self._config.fps
        if fps is None:
            return info
        # as ffmpeg's fps filter reads the number and counts its frames
        self._time_base = 1 / Fraction(fps).limit_denominator(1001000)
        expected = round(info.expected_frames * fps / info.frame_rate)
        return dataclasses.replace(info, frame_rate=fps, expected_frames=expected)

    def _take_pts(self, count: int) -> NDArray[np.float64]:
        start = len(self._pts)
        self._process.read_until(lambda: len(self._times) >= count)
        pts = self._times.take(count, self._time_base)
        if len(pts) < count:
            raise DecodeError(
                f"{self._source.video_id}: ffmpeg told the times of {start + len(pts)} of "
                f"{start + count} frames; run again"
            )
        nominal = np.arange(start, start + count) / self.info.frame_rate
        pts = np.where(np.isnan(pts), nominal, pts) + self.info.clock_start
        self._pts.extend(pts)
        return pts

    def _feed_times(self, data: bytes) -> None:
        self._times.feed(data)
        gap = self._times.longest_gap
        if gap > _MAX_GAP_SECONDS:
            # at once: ffmpeg is making the copies
            raise DecodeError(
                f"{self._source.video_id}: its clock jumps by {gap:.0f} s, which --fps "
                f"{self._config.fps:g} would fill with copies of one frame; extract it without "
                "--fps, or cut it there"
            )

    def _check_bounds(self) -> None:
        """Refuse a video that goes on beyond what `Limits` admits."""
        limits, problem = self._limits, ""
        if len(self._pts) > limits.max_frames:
            problem = f"more than {limits.max_frames} frames; raise --max-frames or cut it"
        elif len(self._pts) and abs(self._pts[-1] - self._pts[0]) > limits.max_seconds:
            problem = (
                f"frame {len(self._pts) - 1} is {abs(self._pts[-1] - self._pts[0]):.0f} s from the "
                f"first, more than {limits.max_seconds:.0f}; raise --max-seconds or cut it"
            )
        if problem:
            raise DecodeError(f"{self._source.video_id}: {problem}")

    def _warn_of_one_frame(self) -> None:
        others = self._log.other_videos()
        if len(self._pts) == 1 and others:
            logger.warning(
                "%s: its first video stream, 0:%d, has one frame; not read: %s; if that is the "
                "video, copy it alone (ffmpeg -i IN -map %s -c copy OUT)",
                self._source.video_id, self.info.stream_index, ", ".join(others),
                others[0].split(" ")[0],
            )  # fmt: skip

    def _finish(self) -> None:
        """Learn how ffmpeg ended, once its output has."""
        self._finished = True
        status = self._process.finish()
        if status < 0:
            raise DecodeError(self._killed_message(-status))
        if self._log.num_errors:
            more = f" ({self._log.num_errors} errors)" if self._log.num_errors > 1 else ""
            self._partial = f"ffmpeg: {self._log.cause()}{more}"
        elif status:
            self._partial = f"ffmpeg ended with status {status} and no message"

    def _killed_message(self, number: int) -> str:
        frames = f"after {len(self._pts)} frames"
        if number in (signal.SIGKILL, signal.SIGTERM):
            return (
                f"{self._source.video_id}: ffmpeg was killed by signal {number} {frames}, perhaps "
                "for want of memory; run again"
            )
        return (
            f"{self._source.video_id}: ffmpeg {ffmpeg_version()} crashed {frames} (signal "
            f"{number}); name another ffmpeg in FEAT_FFMPEG or convert the file"
        )

    def _no_frame_message(self) -> str:
        video_id, kinds = self._source.video_id, self._log.stream_kinds()
        if kinds and not any(kind.startswith("video") and "(pic" not in kind for kind in kinds):
            return f"{video_id}: no video stream, only {', '.join(kinds)}; remove it or replace it"
        if refusal := self._log.refusal():
            return f"{video_id}: {refusal}"
        if others := self._log.other_videos():
            return (
                f"{video_id}: its first video stream has no frame; not read: {', '.join(others)}; "
                "if that is the video, copy it alone (ffmpeg -i IN -map "
                f"{others[0].split(' ')[0]} -c copy OUT)"
            )
        cause = self._log.cause() or "ffmpeg gave no reason"
        return (
            f"{video_id}: no frame can be decoded: {cause}; check that it is a complete video "
            f"(ffmpeg -i {quote(str(self._source.path))})"
        )


def _command(
    source: VideoSource,
    config: DecodeConfig,
    threads: int | None,
    *,
    limits: Limits,
    secret: str,
    times_fd: int,
) -> list[str]:
    """Return the ffmpeg command line that writes raw RGB frames to its standard output.

    Args:
        source: the video.
        config: how it is scaled and sampled.
        threads: of decoding and scaling; None lets ffmpeg choose.
        limits: on pixels, and so on what is allocated at once.
        secret: see `FFmpegLog`.
        times_fd: open descriptor to which the times of the frames are written.
    """
    num_threads = [] if threads is None else ["-threads", str(threads)]
    filter_threads = [] if threads is None else ["-filter_complex_threads", str(threads)]
    # A frame of another size on the way becomes one of the first one's. A new graph would scale it
    # to a size of its own, which ffmpeg, if a thread of it is late, writes as it is.
    keep_graph = ["-reinit_filter", "0"] if config.resize == "short-side" else []
    ((passthrough, value),) = passthrough_options(ffmpeg_version()).items()
    return [
        find_ffmpeg(),
        *LOG_OPTIONS,
        *filter_threads,
        *num_threads,
        *keep_graph,
        *source_options(source, limits, secret),
        *("-filter_complex", _graph(config, secret, times_fd), "-map", "[frames]"),
        # Of two equal times the muxer would complain as of an error, so each packet gets its own;
        # a filter would count anew when the frames change in size.
        *("-bsf:v", "setts=ts=N", f"-{passthrough}", value),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"),
    ]


def source_options(source: VideoSource, limits: Limits, secret: str) -> list[str]:
    """Return ffmpeg's options that open a video, whoever made it, and no other file.

    Args:
        source: a video file.
        limits: on pixels, and so on memory.
        secret: see `FFmpegLog`.
    """
    return [
        *("-max_alloc", str(max(limits.max_pixels * _MAX_PIXEL_BYTES, _MIN_ALLOC))),
        *("-format_whitelist", ",".join(DEMUXERS), "-protocol_whitelist", "file"),
        *("-max_pixels", str(limits.max_pixels), "-dump_separator", secret),
        # `file:` keeps colons, dashes and percent signs in names from meaning anything
        *("-i", f"file:{source.path}"),
    ]


def _graph(config: DecodeConfig, secret: str, times_fd: int) -> str:
    filters = []
    if config.fps is not None:
        filters.append(printing(DECODED, times_fd))
    if config.resize == "squash":
        filters.append(f"scale={config.size}:{config.size}:flags={SCALE_FLAGS}")
    elif config.resize == "short-side":
        # `DecodeConfig.frame_size` in ffmpeg's words.
        sides = (f"'trunc({config.short_side}*{side}/min(iw,ih))'" for side in ("iw", "ih"))
        filters.append(f"scale={':'.join(sides)}:flags={SCALE_FLAGS}")
    else:
        short = f"{config.short_side}:{config.short_side}"
        filters.append(f"scale={short}:force_original_aspect_ratio=increase:flags={SCALE_FLAGS}")
    filters.append("format=rgb24")
    if config.resize == "crop":
        filters.append(f"crop={config.size}:{config.size}:{_CENTRE}")
    if config.fps is not None:
        # the copies that fill a pause share their pixels here; before, each would be scaled anew,
        # and ffmpeg may queue all of them
        filters.append(f"fps={config.fps}")
    filters.append(printing(DELIVERED, times_fd))
    # V: real video streams only, not cover art; the first one, where ffmpeg would take the largest.
    # showinfo tells the time base, twice: some messages of ffmpeg lack the line break at their end
    # and swallow the head of the next.
    return (
        "[0:V:0]split[all][first];"
        f"[first]trim=end_frame=1,showinfo@{secret}1,showinfo@{secret}2,nullsink;"
        f"[all]{','.join(filters)}[frames]"
    )
