"""The videos of a run, worked off in this process or in several."""

import dataclasses
import logging
import multiprocessing
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue

from data.child import Child, child_command
from extract.clips import cut_clips
from extract.devices import Share
from extract.run.progress import ExtractProgress
from extract.run.report import VideoOutcome
from extract.run.worker import Turn, VideoTask, extract_one

logger = logging.getLogger(f"feat.{__name__}")

BUSY_POLL_SECONDS = 5.0
#: Pieces of one video at most: what is before a piece is decoded for it once more.
MAX_PIECES = 8
#: Pieces of all long videos together, more or less: where these are as many, none need be cut.
ALL_PIECES = 64
_END_SECONDS = 10.0  # what an interrupted worker has to finish the clips that are under way


#: Yields a result a video, `busy` if another process has claimed it; closing it cancels.
Engine = Callable[[Sequence[VideoTask]], Iterator[VideoOutcome]]


def run_tasks(
    tasks: Sequence[VideoTask], engine: Engine, progress: ExtractProgress
) -> Iterator[VideoOutcome]:
    """Yield one final result a video; wait for those that another process has claimed.

    Long videos come when the others are done, in pieces, so that every worker has some of them.

    Args:
        tasks: of one job.
        engine: what works on them: `on_this_machine`, or a cluster.
        progress: shown how far videos in pieces are.
    """
    waiting = list(tasks)
    cut: dict[str, _InPieces] = {}
    ended: set[str] = set()
    while waiting:
        busy: list[VideoTask] = []
        long: list[VideoOutcome] = []
        joined: list[VideoTask] = []
        by_id = {(task.source.video_id, task.clips): task for task in waiting}
        for result in engine(waiting):
            name = result.video_id
            if result.status == "busy":
                busy.append(by_id[name, result.clips])
            elif result.status == "long":
                long.append(result)
            elif result.status == "piece":
                if cut[name].finish(result, progress):
                    joined.append(cut[name].video)
            elif name not in ended:  # else another piece has failed before
                ended.add(name)
                yield cut[name].add_up(result) if name in cut else result
        if busy and len(busy) == len(waiting):
            logger.info("waiting for %d videos that another process is extracting", len(busy))
            time.sleep(BUSY_POLL_SECONDS)
        more = {
            each.video_id: _InPieces(by_id[each.video_id, None], each.num_clips, len(long))
            for each in long
        }
        cut |= more
        waiting = [task for task in busy + joined if task.source.video_id not in ended]
        waiting += [task for each in more.values() for task in each.tasks]


class _InPieces:
    """A long video and what is done of it."""

    def __init__(self, video: VideoTask, num_clips: int, num_videos: int) -> None:
        """Cut a video.

        Args:
            video: the whole video's task.
            num_clips: that it is expected to have.
            num_videos: that are cut at the same time.
        """
        assert video.job.piece_clips
        count = min(num_clips // video.job.piece_clips, MAX_PIECES, -(-ALL_PIECES // num_videos))
        self.video = video
        self.tasks = [
            dataclasses.replace(video, clips=clips) for clips in cut_clips(num_clips, count)
        ]
        self._num_frames = num_clips * video.job.config.clip_stride
        self._finished: list[VideoOutcome] = []

    def finish(self, piece: VideoOutcome, progress: ExtractProgress) -> bool:
        """Take note of a piece that was the last for nobody; return whether there is none left."""
        self._finished.append(piece)
        progress.underway(
            piece.video_id,
            num_frames=self._num_frames * len(self._finished) // len(self.tasks),
            expected_frames=self._num_frames,
            num_bytes=piece.size,
        )
        return len(self._finished) == len(self.tasks)

    def add_up(self, result: VideoOutcome) -> VideoOutcome:
        """Return the video's result with the time that its pieces took."""
        all_of_it = [result, *self._finished]
        stage_seconds = Counter[str]()
        for each in all_of_it:
            stage_seconds.update(each.stage_seconds)
        seconds = sum(each.seconds for each in all_of_it)
        return dataclasses.replace(result, seconds=seconds, stage_seconds=stage_seconds)


def on_this_machine(
    tasks: Sequence[VideoTask], *, workers: int, progress: ExtractProgress
) -> Iterator[VideoOutcome]:
    """Yield each video's result, from this process or from several.

    Args:
        tasks: of one job.
        workers: processes; 1 for this one.
        progress: shown how far the video under way is, if this process works on it.
    """
    if workers == 1:
        yield from overlapping(tasks, tasks[0].job.share, progress)
        return
    left = yield from _in_processes(tasks, workers)
    if left:
        logger.warning("a worker process was killed; going on with one video at a time")
    for task in left:
        # in a process of its own, so that its death is known to be its own
        if (yield from _in_processes([task], 1)):
            yield VideoOutcome(
                video_id=task.source.video_id,
                status="failed",
                error="its worker process was killed, most likely for want of memory; "
                "try fewer --workers",
            )


def overlapping(
    tasks: Iterable[VideoTask], share: Share, progress: ExtractProgress | None
) -> Iterator[VideoOutcome]:
    """Yield each video's result; the next one begins when the last clips of one are under way.

    Else cores would wait at the end of every video, for its last clip, and at the beginning, for
    the first frames. What computes clips of several videos together reads so many at a time.
    """
    stop = threading.Event()
    events: SimpleQueue[Future[VideoOutcome] | None] = SimpleQueue()  # None: a video is read
    waiting = iter(tasks)
    reading = underway = 0
    with ThreadPoolExecutor(share.videos_underway, thread_name_prefix="video") as pool:
        try:
            while True:
                while reading < share.videos and underway < share.videos_underway:
                    task = next(waiting, None)
                    if task is None:
                        break
                    turn = Turn(stop, progress, on_read=lambda: events.put(None))
                    pool.submit(extract_one, task, turn).add_done_callback(events.put)
                    reading, underway = reading + 1, underway + 1
                if not underway:
                    return
                finished = events.get()
                if finished is None:
                    reading -= 1
                else:
                    underway -= 1
                    yield finished.result()
        finally:
            stop.set()


def _in_processes(
    tasks: Sequence[VideoTask], workers: int
) -> Generator[VideoOutcome, None, list[VideoTask]]:
    """Yield results of several processes, each of which asks for its next video.

    Returns:
        The videos that a process was at when it was killed, and those that none was left for.
    """
    waiting = iter(tasks)
    job = tasks[0].job
    processes: list[Child] = []
    held: dict[Connection, dict[tuple[str, range | None], VideoTask]] = {}
    left: list[VideoTask] = []
    try:
        for number in range(workers):
            near, far = multiprocessing.Pipe()
            device = job.devices[number % len(job.devices)]
            processes.append(_start(far, device))
            held[near] = {}
        while held:
            ready = wait(list(held))
            for pipe in [each for each in held if each in ready]:
                try:
                    said = pipe.recv()
                    if said is None:
                        task = next(waiting, None)
                        if task:
                            held[pipe][task.source.video_id, task.clips] = task
                        pipe.send(task)
                        continue
                except (EOFError, ConnectionError):
                    left += held.pop(pipe).values()
                    continue
                if isinstance(said, BaseException):
                    raise said
                del held[pipe][said.video_id, said.clips]
                yield said
        return [*left, *waiting]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_END_SECONDS)
            process.end()


def _start(pipe: Connection, device: str) -> Child:
    command, environment = child_command("extract.run.worker_process")
    with pipe:
        return Child(
            [*command, str(pipe.fileno()), device],
            stdout=subprocess.DEVNULL,
            stderr=2,
            pass_fds=(pipe.fileno(),),
            env=environment,
        )
