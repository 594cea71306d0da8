"""A video file as a stream of frames: one ffmpeg process, its frames and its log."""

import contextlib
import dataclasses
import io
import signal
import subprocess
import threading
from array import array
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from data.errors import DecodeError
from data.ffmpeg import ffmpeg_version, find_ffmpeg, passthrough_options
from data.videos import VideoSource
from extract.decode.config import DecodeConfig
from extract.decode.ffmpeg_log import FFmpegLog
from extract.decode.stream import StreamInfo

if TYPE_CHECKING:
    from typing_extensions import Buffer

SCALE_FLAGS = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
# ffmpeg's default rounds halves to even: say which pixel is the first
_CENTRE = ("floor((iw-ow)/2)", "floor((ih-oh)/2)")
_PIPE_BYTES = 1 << 20


class FFmpegStream:
    """Frames of a video file, decoded and scaled by an ffmpeg process. See `FrameStream`."""

    info: StreamInfo

    def __init__(
        self, source: VideoSource, config: DecodeConfig, *, threads: int | None = None
    ) -> None:
        self._source = source
        self._shape = (config.size, config.size, 3)
        self._pts = array("d")
        self._partial = ""
        self._finished = False
        self._log = FFmpegLog()
        if not source.path.is_file():
            raise DecodeError(f"{source.video_id}: no such file: {source.path}; run again")
        if source.path.stat().st_size == 0:
            raise DecodeError(f"{source.video_id}: the file is empty; copy or download it again")
        self._process = subprocess.Popen(
            _command(source, config, threads),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            # Ctrl-C must reach us, not ffmpeg: it would end in good order and the video would
            # look as if it were shorter than it is
            start_new_session=True,
        )
        _enlarge_pipe(self._process.stdout)
        self._drain = threading.Thread(target=self._drain_log, name="ffmpeg-log", daemon=True)
        self._drain.start()
        try:
            self._first = self._fill(1)
            if len(self._first) == 0:
                self._finish()
                raise DecodeError(self._no_frame_message())
            self._log.wait_for_pts(1)
            self.info = self._log.stream_info()
            if config.fps is not None:
                expected = round(self.info.expected_frames * config.fps / self.info.frame_rate)
                self.info = dataclasses.replace(
                    self.info, frame_rate=config.fps, expected_frames=expected
                )
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
        return frames, self._take_pts(len(frames))

    def close(self) -> None:
        """End ffmpeg and wait for it; harmless when repeated."""
        self._finished = True
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._drain.join()
        cast(io.RawIOBase, self._process.stdout).close()

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
        pipe = cast(io.RawIOBase, self._process.stdout)
        while filled < len(target) and (count := pipe.readinto(target[filled:])):
            filled += count
        return frames[: filled // int(np.prod(self._shape))]

    def _take_pts(self, count: int) -> NDArray[np.float64]:
        start = len(self._pts)
        self._log.wait_for_pts(start + count)
        known = self._log.pts_seconds[start : start + count]
        pts = np.full(count, np.nan)
        pts[: len(known)] = known
        nominal = np.arange(start, start + count) / self.info.frame_rate
        pts = np.where(np.isnan(pts), nominal, pts)
        self._pts.extend(pts)
        return pts

    def _drain_log(self) -> None:
        # frames go round Python's buffers, lines must not: unbuffered, readline asks byte by byte
        with io.BufferedReader(cast(io.RawIOBase, self._process.stderr)) as lines:
            self._log.drain(lines)

    def _finish(self) -> None:
        """Learn how ffmpeg ended, once its output has."""
        self._finished = True
        status = self._process.wait()
        self._drain.join()
        if status < 0:
            raise DecodeError(self._killed_message(-status))
        if self._log.num_errors:
            more = f" ({self._log.num_errors} errors)" if self._log.num_errors > 1 else ""
            self._partial = f"ffmpeg: {self._log.cause()}{more}"
        elif status:
            self._partial = f"ffmpeg ended with status {status} and no message"

    def _killed_message(self, number: int) -> str:
        frames = f"after {len(self._log.pts_seconds)} frames"
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
        cause = self._log.cause() or "ffmpeg gave no reason"
        return (
            f"{video_id}: no frame can be decoded: {cause}; check that it is a complete video "
            f"(ffmpeg -i {self._source.path})"
        )


def _command(source: VideoSource, config: DecodeConfig, threads: int | None) -> list[str]:
    """Return the ffmpeg command line that writes raw RGB frames to its standard output."""
    import ffmpeg

    options: dict[str, Any] = {} if threads is None else {"threads": threads}
    # `file:` keeps colons, dashes and percent signs in names from meaning anything; it also lets a
    # playlist that calls itself .mp4 open nothing but files
    graph = ffmpeg.input(f"file:{source.path}", **options)
    # V: real video streams only, not cover art; the first one, where ffmpeg would take the largest
    graph = graph["V:0"]
    if config.fps is not None:
        graph = graph.filter("fps", fps=config.fps)
    scale = {"flags": SCALE_FLAGS}
    if config.resize == "squash":
        graph = graph.filter("scale", config.size, config.size, **scale)
    else:
        short = config.short_side
        graph = graph.filter("scale", short, short, force_original_aspect_ratio="increase", **scale)
    graph = graph.filter("format", "rgb24")
    if config.resize == "crop":
        graph = graph.filter("crop", config.size, config.size, *_CENTRE)
    graph = graph.filter("showinfo", checksum=0)
    # showinfo has told the times. Of two equal ones the muxer would complain as of an error, so
    # frames leave with others, apart enough to differ in the coarsest time base.
    graph = graph.filter("setpts", "N*1000000")
    graph = graph.output(
        "pipe:1", format="rawvideo", pix_fmt="rgb24", **passthrough_options(ffmpeg_version())
    )
    arguments = ["-hide_banner", "-nostdin", "-nostats", "-loglevel", "repeat+level+info"]
    if threads is not None:
        arguments += ["-filter_complex_threads", str(threads)]
    return [*ffmpeg.compile(graph.global_args(*arguments), cmd=find_ffmpeg())]


def _enlarge_pipe(pipe: Any) -> None:
    """Let ffmpeg run a few frames ahead instead of waking us up every 64 KiB (Linux only)."""
    try:
        import fcntl

        resize = fcntl.F_SETPIPE_SZ
    except (ImportError, AttributeError):
        return
    # the limit for unprivileged users may be lower or used up: then it stays as it is
    with contextlib.suppress(OSError):
        fcntl.fcntl(pipe.fileno(), resize, _PIPE_BYTES)
