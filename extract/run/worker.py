"""One video from file to shard, in whichever process: hash, claim, extract, write, report.

torch and numba are loaded with `extract.pipeline`, at the first video that needs them.
"""

import dataclasses
import hashlib
import platform
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from cache import FeatureCache, FeatureRecord, SourceRecord, feature_key
from cache.checkpoints import FeatureCheckpoint
from cache.claims import piece_claim
from cache.records import who_and_when
from cache.streams import FRAMES, THUMBNAILS
from data.errors import CacheError, ConfigError, DecodeError, FeatError
from data.videos import Stamp, VideoSource, content_sha256, source_stamp
from extract import thumbnails
from extract.backbones import BACKBONES
from extract.clips import ALL_CLIPS, clip_starts
from extract.decode.stream import StreamInfo
from extract.frames import read_frames
from extract.kernels.choice import use_kernels
from extract.run.job import Job, device_of, extractor_of, open_cache, rate_problem
from extract.run.progress import ExtractProgress
from extract.run.report import Status, VideoOutcome
from extract.streaming import timed

if TYPE_CHECKING:
    from extract.streaming import Arrays, VideoFeatures

# Seconds of work after which the finished clips of a long video are saved: what a kill costs.
CHECKPOINT_SECONDS = 120.0
# Frames' times that differ by less are the same: time bases are 90 kHz and coarser.
EQUAL_SECONDS = 1e-6
# A batch finishes a dozen videos at once. As many threads that write would keep each other waiting
# for the interpreter, and the one that keeps the GPU busy; two are as fast together.
_writing = threading.Semaphore(2)


class Turn:
    """What a video in the making and the thread that asked for it tell each other.

    Attributes:
        stop: set to have the video given up after the clips that are under way.
        progress: told after every clip, if anyone watches.
    """

    def __init__(
        self,
        stop: threading.Event | None = None,
        progress: ExtractProgress | None = None,
        on_read: Callable[[], None] = lambda: None,
    ) -> None:
        self.stop = stop or threading.Event()
        self.progress = progress
        self._on_read = on_read
        self._is_read = False

    def end_reading(self) -> None:
        """Say, the first time only, that the last clips are under way: the next may begin."""
        if not self._is_read:
            self._is_read = True
            self._on_read()


@dataclass(frozen=True, kw_only=True)
class VideoTask:
    """One video of a job: what the cache lacks of it, and how it gets there; picklable.

    Attributes:
        source: the video.
        stamp: what it was when the run began, which tells its size.
        job: what the run asks of it.
        there: keys that are not missing, although the job's cache need not have them.
        clips: the piece of it to do, or `ALL_CLIPS`; None for all of it, unless it is to be cut.
    """

    source: VideoSource
    stamp: Stamp
    job: Job
    there: frozenset[str] = frozenset()
    clips: range | None = None

    @cached_property
    def before(self) -> Stamp:
        """What the video was before it was read, so that a change meanwhile is noticed."""
        return source_stamp(self.source)

    @cached_property
    def sha256(self) -> str:
        """Digest of the video's content; reads all of it once."""
        self.before  # noqa: B018 - looked at first
        return content_sha256(self.source)

    def refuse_change(self) -> None:
        """Do nothing if the video is what it was before it was read.

        Raises:
            DecodeError: it is not, so that its digest and its frames need not belong together.
        """
        if source_stamp(self.source) != self.before:
            raise DecodeError(
                f"{self.source.video_id}: changed while it was read; run again when it is complete"
            )

    @cached_property
    def keys(self) -> dict[str, str]:
        """Each stream's key in the cache."""
        return {s: feature_key(self.sha256, config) for s, config in self.job.configs.items()}

    @property
    def cache(self) -> FeatureCache:
        """The cache of the job, open in this process."""
        return open_cache(self.job.cache_dir)

    def missing(self, *, look: bool = True) -> tuple[tuple[str, ...], bool]:
        """Return the streams that the cache lacks, and whether it lacks pictures that are wanted.

        Args:
            look: False: as of the last look.
        """
        asked = list(self.keys.values())
        pictures = feature_key(self.sha256, thumbnails.CONFIG)
        if self.job.thumbnails is not False:
            asked.append(pictures)
        lacking = self.cache.lacking([key for key in asked if key not in self.there], look=look)
        streams = tuple(stream for stream, key in self.keys.items() if key in lacking)
        # unless they were asked for, pictures come only with features
        return streams, pictures in lacking and bool(self.job.thumbnails or _of_clips(streams))

    def complete(self, turn: Turn) -> VideoOutcome:
        """Do what the task says, unless another process is at it."""
        stage_seconds: dict[str, float] = {}
        problem = rate_problem(
            self.cache,
            self.source,
            self.sha256,
            decode=self.job.config.decode,
            folder_fps=self.job.folder_fps,
        )
        if problem:
            raise ConfigError(f"{self.source.video_id}: {problem}")
        if self.clips in (None, ALL_CLIPS):
            return self._complete_video(turn, stage_seconds)
        streams = _of_clips(self.missing()[0])
        checkpoint = self.cache.checkpoint(self._identity(streams))
        if streams and not checkpoint.covers(self.clips):
            piece = piece_claim(self.sha256, f"{self._identity(streams)} {self.clips}")
            with self.cache.claim(piece) as mine:
                if not mine:
                    return self._result("busy")
                self.extract(streams, checkpoint, stage_seconds, turn, clips=self.clips)
            if not self.missing()[0]:  # others did without, for the video ends before this piece
                checkpoint.clear()
        if checkpoint.covers(ALL_CLIPS):
            video = self._complete_video(turn, stage_seconds)
            if video.status == "done":  # else another process came to its last piece as well
                return video
        return self._result("piece", stage_seconds=stage_seconds)

    def _complete_video(self, turn: Turn, stage_seconds: dict[str, float]) -> VideoOutcome:
        """Extract what is missing of all of it and write it."""
        # Looked at once, when it is claimed: in a folder of very many shards that takes the time.
        if self.missing(look=False) == ((), False):
            return self._skipped()
        with self.cache.claim(self.sha256) as mine:
            if not mine:
                return self._result("busy")
            streams, with_thumbnails = self.missing()
            if not streams and not with_thumbnails:
                return self._skipped()
            made = []
            # each is written before the next is begun: what is finished is not lost
            if FRAMES in streams:
                made.append(self._read_frames(stage_seconds, turn))
                self._write(stage_seconds, lambda: [self._frames_record(made[0])])
            of_clips = _of_clips(streams)
            checkpoint = self.cache.checkpoint(self._identity(of_clips))
            if of_clips:
                try:
                    made.append(
                        self.extract(
                            of_clips,
                            checkpoint,
                            stage_seconds,
                            turn,
                            with_thumbnails=with_thumbnails,
                        )
                    )
                except _LongVideo as long:
                    return self._result("long", num_clips=long.num_clips)
            elif with_thumbnails:
                made.append(self._read_thumbnails(stage_seconds, turn))
            features = made[-1]
            # before the features, which say that the video is done
            if features.thumbnails:
                self._write(stage_seconds, lambda: [self.thumbnails_record(features)])
            if of_clips:
                self._write(stage_seconds, lambda: self.records(of_clips, features))
            checkpoint.clear()
        return self._result(
            "done",
            num_clips=len(features.clips) if of_clips or with_thumbnails else 0,
            num_frames=features.num_frames,
            partial=features.partial,
            stage_seconds=stage_seconds,
        )

    def _write(
        self, stage_seconds: dict[str, float], records: Callable[[], list[FeatureRecord]]
    ) -> None:
        """Write records as one shard, if the video is still the one that they were made from."""
        self.refuse_change()
        with _writing:
            timed(lambda: self.cache.write(records()), stage_seconds, "write")

    def extract(
        self,
        streams: tuple[str, ...],
        checkpoint: FeatureCheckpoint,
        stage_seconds: dict[str, float],
        turn: Turn,
        *,
        clips: range = ALL_CLIPS,
        with_thumbnails: bool = False,
    ) -> "VideoFeatures":
        """Return the features, going on from the checkpoint and leaving new blocks in it.

        Args:
            streams: which to extract.
            checkpoint: of these streams of this video. It holds no pictures: the video is decoded
                from its start in any case.
            stage_seconds: the seconds of each stage are added to it.
            turn: asked after every clip whether to go on.
            clips: of a piece: all its rows are left in the checkpoint, and the rest of what is
                returned is not the whole video's.
            with_thumbnails: keep a picture of every clip.

        Raises:
            _LongVideo: the video is to be cut.
        """
        saved = checkpoint.load(clips.start)
        num_saved = len(next(iter(saved.values()))) if saved else 0
        first_clip = clips.start + num_saved
        saver = _Saver(checkpoint, first_clip, self.refuse_change)

        def on_open(info: StreamInfo) -> None:
            if self.clips is None and self.job.piece_clips and not checkpoint.covers(ALL_CLIPS):
                num_clips = len(
                    clip_starts(
                        info.expected_frames,
                        clip_len=self.job.config.clip_len,
                        clip_stride=self.job.config.clip_stride,
                    )
                )
                if num_clips >= 2 * self.job.piece_clips:
                    raise _LongVideo(num_clips)

        def on_clip(num_frames: int, expected_frames: int, rows: "Arrays") -> None:
            saver.save_if_due(rows)
            self._go_on(turn, num_frames, expected_frames)

        features = extractor_of(self.job).extract(
            self.source,
            streams,
            stage_seconds=stage_seconds,
            clips=range(first_clip, clips.stop),
            folder_fps=self.job.folder_fps,
            limits=self.job.limits,
            thumbnails=with_thumbnails,
            decode_threads=self.job.share.decode_threads,
            on_open=on_open,
            on_clip=on_clip,
            on_read=turn.end_reading,
        )
        if clips != ALL_CLIPS:
            saver.save(features.arrays)
            if len(features.clips) < clips.stop:
                checkpoint.save_end(len(features.clips))
        if not saved:
            return features
        arrays = {
            name: np.concatenate([saved[name], features.arrays[name]])
            if name in features.arrays
            else saved[name]
            for name in saved
        }
        return features.with_arrays(arrays)

    def _read_thumbnails(self, stage_seconds: dict[str, float], turn: Turn) -> "VideoFeatures":
        read = partial(
            thumbnails.read_thumbnails,
            self.source,
            self.job.config,
            threads=self.job.share.decode_threads,
            folder_fps=self.job.folder_fps,
            limits=self.job.limits,
            on_clip=partial(self._go_on, turn),
        )
        return timed(read, stage_seconds, "decode")

    def _read_frames(self, stage_seconds: dict[str, float], turn: Turn) -> "VideoFeatures":
        assert self.job.config.frames
        read = partial(
            read_frames,
            self.source,
            self.job.config.frames,
            self.cache.path,
            fps=self.job.config.decode.fps,
            threads=self.job.share.decode_threads,
            folder_fps=self.job.folder_fps,
            limits=self.job.limits,
            on_frames=partial(self._go_on, turn),
        )
        return timed(read, stage_seconds, "decode")

    def _go_on(self, turn: Turn, num_frames: int, expected_frames: int) -> None:
        """Say how far the video is; raise a KeyboardInterrupt if it is to be given up."""
        if turn.stop.is_set():
            raise KeyboardInterrupt
        if turn.progress:
            turn.progress.underway(
                self.source.video_id,
                num_frames=num_frames,
                expected_frames=expected_frames,
                num_bytes=self.stamp.size,
            )

    def records(self, streams: tuple[str, ...], features: "VideoFeatures") -> list[FeatureRecord]:
        """Return what goes into the shard, one record a stream."""
        common = self._common(features)
        flow_stats = features.arrays.get("flow_stats")
        return [
            FeatureRecord(
                stream=stream,
                kind=self.job.config.kind(stream),
                config=self.job.configs[stream],
                features=features.arrays[stream],
                flow_stats=flow_stats if BACKBONES[stream].needs == "flow" else None,
                **common,
            )
            for stream in streams
        ]

    def thumbnails_record(self, features: "VideoFeatures") -> FeatureRecord:
        """Return what goes into the shard of the pictures, which there must be."""
        assert features.thumbnails
        images, bounds = features.thumbnails
        return FeatureRecord(
            stream=THUMBNAILS,
            kind="images",
            config=thumbnails.CONFIG,
            features=images,
            bounds=bounds,
            **self._common(features),
        )

    def _frames_record(self, features: "VideoFeatures") -> FeatureRecord:
        """Return what goes into the shard of the frames."""
        return FeatureRecord(
            stream=FRAMES,
            kind=FRAMES,
            config=self.job.configs[FRAMES],
            features=features.arrays[FRAMES],
            **self._common(features),
        )

    def _common(self, features: "VideoFeatures") -> dict[str, Any]:
        """Return what the records of all streams say alike."""
        info = features.info
        source = SourceRecord(
            name=self.source.video_id,
            kind=self.source.kind,
            size=self.before.size,
            sha256=self.sha256,
            num_frames=features.num_frames,
            frame_rate=info.frame_rate,
            width=info.width,
            height=info.height,
            codec=info.codec,
            pix_fmt=info.pix_fmt,
            rotation=info.rotation,
            stream_index=info.stream_index,
            partial=features.partial,
        )
        told = features.clips.frame_seconds(features.num_frames, info.frame_rate)
        seconds = features.frame_seconds
        is_told = told is not None and np.abs(told - seconds).max() <= EQUAL_SECONDS
        return {
            "source": source,
            "clips": features.clips,
            "provenance": _provenance(self.job),
            "frame_seconds": None if is_told else seconds,
        }

    def _identity(self, streams: tuple[str, ...]) -> str:
        """Return a digest of the content and of all that makes these streams of it."""
        keys = "\n".join(self.keys[stream] for stream in streams)
        return hashlib.sha256(keys.encode()).hexdigest()

    def _result(self, status: Status, **more: Any) -> VideoOutcome:
        return VideoOutcome(
            video_id=self.source.video_id,
            status=status,
            sha256=self.sha256,
            size=self.before.size,
            mtime_ns=self.before.mtime_ns,
            **more,
        )

    def _skipped(self) -> VideoOutcome:
        first = next(iter(self.keys.values()))
        if first in self.there:  # done by another run meanwhile, into a cache that is not here
            return self._result("skipped")
        return self._result("skipped", partial=self.cache.entry(first).source.partial)


class _LongVideo(Exception):
    """Extraction ends where it begins: the video has so many clips that it is to be cut."""

    def __init__(self, num_clips: int) -> None:
        super().__init__(num_clips)
        self.num_clips = num_clips


def _of_clips(streams: Iterable[str]) -> tuple[str, ...]:
    """Return those streams that have a row a clip."""
    return tuple(stream for stream in streams if stream != FRAMES)


def extract_one(task: VideoTask, turn: Turn | None = None) -> VideoOutcome:
    """Do what a task says: extract what the cache lacks of one video and write it as one shard.

    A video that cannot be extracted gives a `failed` result.

    Raises:
        CacheError: the cache cannot be read or written; the next video would fare no better.
        KeyboardInterrupt: it was told to stop.
    """
    started = time.perf_counter()
    result = _extract(task, turn or Turn())
    return dataclasses.replace(result, seconds=time.perf_counter() - started, clips=task.clips)


def _extract(task: VideoTask, turn: Turn) -> VideoOutcome:
    source = task.source
    try:
        return task.complete(turn)
    except CacheError:
        raise
    except (FeatError, OSError) as error:
        return failed(source, error)
    except (MemoryError, RuntimeError, ValueError) as error:
        # torch reports exhausted GPU memory and failed kernels as RuntimeError
        said = str(error).strip().splitlines() or ["no more is known"]
        cause = f"{type(error).__name__}: {said[0][:300]}"
        if isinstance(error, MemoryError):
            cause += "; try fewer --workers or --threads"
        elif "out of memory" in cause:  # of a GPU: not even one clip fits
            cause += "; free the GPU's memory or use --device cpu"
        return VideoOutcome(video_id=source.video_id, status="failed", error=cause)
    finally:
        turn.end_reading()  # a video that fails or is there already is never read to its end


def failed(source: VideoSource, error: FeatError | OSError) -> VideoOutcome:
    """Return the result of a video that cannot be extracted for this reason."""
    if isinstance(error, OSError):
        # of a folder of frames it is one image
        where = error.filename or source.path
        cause = f"{where}: {error.strerror or error}; check that it can be read"
    else:
        cause = str(error).removeprefix(f"{source.video_id}: ")
    return VideoOutcome(video_id=source.video_id, status="failed", error=cause)


class _Saver:
    """Saves finished clips every `CHECKPOINT_SECONDS`."""

    def __init__(
        self, checkpoint: FeatureCheckpoint, first_clip: int, check: Callable[[], None]
    ) -> None:
        self._checkpoint = checkpoint
        self._first_clip = first_clip
        self._check = check  # raises where the clips must not be saved
        self._num_saved = 0
        self._last = time.monotonic()

    def save_if_due(self, rows: "Arrays") -> None:
        """Save those rows of the clips from `first_clip` on that are new, if it is time."""
        if time.monotonic() - self._last >= CHECKPOINT_SECONDS:
            self.save(rows)

    def save(self, rows: "Arrays") -> None:
        """Save those rows of the clips from `first_clip` on that are new."""
        self._check()
        block = {name: array[self._num_saved :] for name, array in rows.items()}
        count = len(next(iter(block.values()), ()))
        if count:
            self._checkpoint.save(self._first_clip + self._num_saved, block)
        self._num_saved += count
        self._last = time.monotonic()


def _provenance(job: Job) -> dict[str, Any]:
    """Return what made the features but, as far as is known, does not change them."""
    from data.ffmpeg import ffmpeg_version

    device = device_of(job).partition(":")[0]
    return {
        **who_and_when(),
        **_versions(device),
        "ffmpeg": str(ffmpeg_version()),
        "device": device,
        "machine": platform.machine(),
        "limits": dataclasses.asdict(job.limits),
    }


@cache
def _versions(device: str) -> dict[str, str]:
    uses_numba = device == "cpu" and use_kernels()
    return {
        "feat": version("feat"),
        "torch": version("torch"),
        "numba": version("numba") if uses_numba else "not used",
    }
