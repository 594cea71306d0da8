"""The videos of a run, worked off in this process or in several."""

import logging
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from extract.progress import ExtractProgress
from extract.report import VideoOutcome
from extract.worker import Turn, VideoTask, extract_one, start_worker

logger = logging.getLogger(f"feat.{__name__}")

BUSY_POLL_SECONDS = 5.0


def run_tasks(
    tasks: Sequence[VideoTask], workers: int, progress: ExtractProgress
) -> Iterator[VideoOutcome]:
    """Yield one final result a video; wait for those that another process has claimed.

    Args:
        tasks: of one job.
        workers: processes; 1 for this one.
        progress: shown how far the video under way is, if this process works on it.
    """
    waiting = list(tasks)
    while waiting:
        busy = []
        by_id = {task.source.video_id: task for task in waiting}
        for result in _run_once(waiting, workers, progress):
            if result.status == "busy":
                busy.append(by_id[result.video_id])
            else:
                yield result
        if busy and len(busy) == len(waiting):
            logger.info("waiting for %d videos that another process is extracting", len(busy))
            time.sleep(BUSY_POLL_SECONDS)
        waiting = busy


def _run_once(
    tasks: Sequence[VideoTask], workers: int, progress: ExtractProgress
) -> Iterator[VideoOutcome]:
    """Yield each video's result, from this process or from several."""
    if workers == 1:
        yield from _overlapping(tasks, progress)
        return
    unfinished = {task.source.video_id: task for task in tasks}
    try:
        for result in _parallel(tasks, workers):
            del unfinished[result.video_id]
            yield result
    except TerminatedWorkerError:
        logger.warning("a worker process was killed; going on with one video at a time")
        for task in unfinished.values():
            yield _isolated(task)


def _overlapping(tasks: Sequence[VideoTask], progress: ExtractProgress) -> Iterator[VideoOutcome]:
    """Yield each video's result; the next one begins when the last clips of one are under way.

    Else cores would wait at the end of every video, for its last clip, and at the beginning, for
    the first frames. What computes clips of several videos together reads so many at a time.
    """
    share = tasks[0].job.share
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


def _isolated(task: VideoTask) -> VideoOutcome:
    """Extract one video in a process of its own, so that its death is known to be its own."""
    try:
        return next(iter(_parallel([task], 2)))
    except TerminatedWorkerError:
        return VideoOutcome(
            video_id=task.source.video_id,
            status="failed",
            error="its worker process was killed, most likely for want of memory; "
            "try fewer --workers",
        )


def _parallel(tasks: Sequence[VideoTask], workers: int) -> Iterator[VideoOutcome]:
    with tempfile.TemporaryDirectory(prefix="feat-workers-") as places, _safe_path():
        pool = joblib.Parallel(
            n_jobs=workers,
            return_as="generator_unordered",
            pre_dispatch="2*n_jobs",
            batch_size=1,
            initializer=start_worker,
            initargs=(Path(places), tasks[0].job.devices, os.getpid()),
        )
        yield from pool(joblib.delayed(extract_one)(task) for task in tasks)


@contextmanager
def _safe_path() -> Iterator[None]:
    """Keep the current folder off the module path of Python processes that start meanwhile.

    joblib starts its workers with `python -m` and their resource trackers with `python -c`, which
    would run a `json.py` that lies in the current folder. It takes no options for them.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before
