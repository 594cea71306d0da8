"""Progress of an extraction: bars on a terminal, a line a video elsewhere."""

import logging
import time

from data.progress import ProgressBar, shows_bar
from extract.run.report import VideoOutcome

LINE_SECONDS = 60.0  # where there is no bar, a long video says so often how far it is

logger = logging.getLogger(f"feat.{__name__}")


class ExtractProgress(ProgressBar):
    """Shows videos, frames a second and the time left, which is estimated from bytes.

    Bytes, because they are known of every video before the first is opened; a video's number of
    frames is known only when its last one is decoded.
    """

    def __init__(self, *, num_videos: int, num_bytes: int) -> None:
        self._num_videos = num_videos
        self._finished = 0
        self._frames = 0
        self._bytes = 0.0
        self._started = time.monotonic()
        self._last_line = self._started
        self._underway: dict[str, tuple[int, float]] = {}  # frames and bytes of each video
        if shows_bar():
            middle = "{task.fields[videos]}  {task.fields[rate]}"
            self._bar = self._draw("{task.description}", middle, "left")
            self._task = self._bar.add_task(
                "extract", total=max(num_bytes, 1), videos=f"0/{num_videos} videos", rate=""
            )

    def _so_far(self) -> tuple[int, float]:
        """Return the frames and bytes of what is finished and what is under way."""
        frames, num_bytes = self._frames, self._bytes
        for frames_underway, bytes_underway in list(self._underway.values()):
            frames, num_bytes = frames + frames_underway, num_bytes + bytes_underway
        return frames, num_bytes

    def _show(self) -> None:
        if not self._bar:
            return
        frames, num_bytes = self._so_far()
        rate = frames / max(time.monotonic() - self._started, 1e-3)
        self._bar.update(
            self._task,
            completed=num_bytes,
            videos=f"{self._finished}/{self._num_videos} videos",
            rate=f"{rate:.0f} frames/s",
        )

    def underway(
        self, video_id: str, *, num_frames: int, expected_frames: int, num_bytes: int
    ) -> None:
        """Show how far a video is.

        Args:
            video_id: its name.
            num_frames: done so far.
            expected_frames: in all; 0 if that is not known.
            num_bytes: its size.
        """
        share = min(num_frames / expected_frames, 1.0) if expected_frames else 0.0
        self._underway[video_id] = num_frames, share * num_bytes
        self._show()
        if self._bar or time.monotonic() - self._last_line < LINE_SECONDS:
            return
        if len(self._underway) > 2:  # on a GPU, where one of many says little
            self._say(
                "%d videos under way, %d frames so far in all",
                len(self._underway), self._so_far()[0],
            )  # fmt: skip
        else:
            known = f" ({share:.0%})" if expected_frames else ""
            self._say("%s: %d frames so far%s", video_id, num_frames, known)

    def _say(self, message: str, *values: object) -> None:
        self._last_line = time.monotonic()
        logger.info(message, *values)

    def finish(self, result: VideoOutcome, *, num_bytes: int) -> None:
        """Count one video as finished and say so."""
        self._finished += 1
        self._underway.pop(result.video_id, None)
        self._bytes += num_bytes
        place = f"[{self._finished}/{self._num_videos}] {result.video_id}"
        if result.status == "failed":
            logger.error("%s: failed: %s", place, result.error)
        elif result.status == "done":
            self._frames += result.num_frames
            clips = f"{result.num_clips} clips, " if result.num_clips else ""
            self._say("%s: %s%d frames, %.1f s", place, clips, result.num_frames, result.seconds)
        if result.partial:
            logger.warning("%s: partial: %s", place, result.partial)
        self._show()
