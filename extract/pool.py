"""The videos of a run, worked off in this process or in several."""

import logging
import multiprocessing
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue

from data.child import Child, child_command
from extract.devices import Share
from extract.progress import ExtractProgress
from extract.report import VideoOutcome
from extract.worker import Turn, VideoTask, extract_one

logger = logging.getLogger(f"feat.{__name__}")

BUSY_POLL_SECONDS = 5.0
_END_SECONDS = 10.0  # what an interrupted worker has to finish the clips that are under way


#: Yields a result a video, `busy` if another process has claimed it; closing it cancels.
Engine = Callable[[Sequence[VideoTask]], Iterator[VideoOutcome]]


def run_tasks(tasks: Sequence[VideoTask], engine: Engine) -> Iterator[VideoOutcome]:
    """Yield one final result a video; wait for those that another process has claimed.

    Args:
        tasks: of one job.
        engine: what works on them: `on_this_machine`, or a cluster.
    """
    waiting = list(tasks)
    while waiting:
        busy = []
        by_id = {task.source.video_id: task for task in waiting}
        for result in engine(waiting):
            if result.status == "busy":
                busy.append(by_id[result.video_id])
            else:
                yield result
        if busy and len(busy) == len(waiting):
            logger.info("waiting for %d videos that another process is extracting", len(busy))
            time.sleep(BUSY_POLL_SECONDS)
        waiting = busy


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
    held: dict[Connection, dict[str, VideoTask]] = {}
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
                            held[pipe][task.source.video_id] = task
                        pipe.send(task)
                        continue
                except (EOFError, ConnectionError):
                    left += held.pop(pipe).values()
                    continue
                if isinstance(said, BaseException):
                    raise said
                del held[pipe][said.video_id]
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
    command, environment = child_command("extract.worker_process")
    with pipe:
        return Child(
            [*command, str(pipe.fileno()), device],
            stdout=subprocess.DEVNULL,
            stderr=2,
            pass_fds=(pipe.fileno(),),
            env=environment,
        )
