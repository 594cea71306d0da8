"""The videos under a folder: files and folders of numbered frames, in a stable order."""

import errno
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from data.errors import DecodeError, NoVideoError
from data.frame_names import frame_sequence, natural_key
from data.names import video_name

logger = logging.getLogger(f"feat.{__name__}")

VIDEO_SUFFIXES = frozenset(
    (
        *(".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".ivf", ".m1v"),
        *(".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg"),
        *(".mpg", ".mts", ".mxf", ".nut", ".ogg", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts"),
        *(".vob", ".webm", ".wmv", ".y4m", ".h264", ".264", ".hevc", ".h265", ".265"),
    )
)
IMAGE_SUFFIXES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"))

# Bytes read at a time when hashing: large enough that the system call costs nothing.
_HASH_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class VideoSource:
    """One video on disk.

    Attributes:
        video_id: POSIX path relative to the videos folder, with the suffix: bare stems collide.
            As `data.names.video_name` has it.
        path: the file, or the folder that holds the frames.
        kind: `file`, or `frames` for a folder of images.
    """

    video_id: str
    path: Path
    kind: Literal["file", "frames"]

    def __post_init__(self) -> None:
        object.__setattr__(self, "video_id", video_name(self.video_id))


@dataclass(frozen=True)
class Stamp:
    """A cheap sign that a video's bytes may have changed.

    Attributes:
        size: bytes; of a frame folder, those of all images.
        mtime_ns: last modification; of a frame folder, that of the newest image.
        inode: which file it is: one that is put in another's place has another number. Of a frame
            folder, the sum of its images'.
    """

    size: int
    mtime_ns: int
    inode: int = 0


def find_videos(root: Path, *, unreadable: dict[str, str] | None = None) -> list[VideoSource]:
    """Return every video at or below `root`, in natural order of `video_id`.

    A folder that holds images directly is one video, made of those images. Two exceptions keep
    stray pictures from becoming videos: images beside video files are taken for thumbnails, and
    images in `root` itself count only if there is nothing else. Names that begin with a dot are
    skipped, links are followed. `root` may also be a single video file.

    Args:
        root: the folder.
        unreadable: given one, folders below `root` that cannot be read are put into it, each with
            the reason, and the others are gone on with.

    Raises:
        DecodeError: `root` does not exist, no video is there, two have the same name but for
            blanks, backslashes or the way accents are stored, or a folder cannot be read.
    """
    if root.is_file():
        return [VideoSource(video_id=root.name, path=root, kind="file")]
    if not root.is_dir():
        raise DecodeError(f"{root}: no such folder or file; give the folder that holds the videos")
    found: list[VideoSource] = []
    failures: dict[str, str] = {} if unreadable is None else unreadable
    for folder, names in _walk(root, failures):
        relative = folder.relative_to(root)
        videos = [name for name in names if _suffix(name) in VIDEO_SUFFIXES]
        images = [name for name in names if _suffix(name) in IMAGE_SUFFIXES]
        found += [
            VideoSource(video_id=(relative / name).as_posix(), path=folder / name, kind="file")
            for name in videos
        ]
        if images and videos:
            logger.warning("%s: %d images beside videos are ignored", folder, len(images))
        elif images:
            found.append(VideoSource(video_id=relative.as_posix(), path=folder, kind="frames"))
            _tell_of_frames(folder, images)
    if failures and (unreadable is None or not found):
        raise DecodeError("; ".join(failures.values()))
    return _settle_root(root, found)


def _tell_of_frames(folder: Path, images: list[str]) -> None:
    """Say which images of a folder are no frames; one that is refused fails when it is read."""
    with suppress(ValueError):
        _, note = frame_sequence(images)
        if note:
            logger.warning("%s: %s", folder, note)


def frame_paths(source: VideoSource) -> list[Path]:
    """Return the images of a frame folder that are its frames, in order: 2.jpg before 10.jpg.

    Raises:
        ValueError: `source` is a video file.
        DecodeError: the folder holds no image any more, or its images do not form one sequence.
    """
    if source.kind != "frames":
        raise ValueError(f"{source.video_id} is a video file, not a folder of frames")
    with os.scandir(source.path) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and _suffix(entry.name) in IMAGE_SUFFIXES
            and entry.is_file()
        ]
    if not names:
        raise DecodeError(
            f"{source.video_id}: no image in {source.path}; expected "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    try:
        frames, _ = frame_sequence(names)
    except ValueError as error:
        raise DecodeError(f"{source.video_id}: {error}") from error
    return [source.path / name for name in frames]


def content_paths(source: VideoSource) -> list[Path]:
    """Return the files whose bytes are a video: the video file, or the frames of a folder.

    Raises:
        DecodeError: as of `frame_paths`.
    """
    return [source.path] if source.kind == "file" else frame_paths(source)


def source_stamp(source: VideoSource) -> Stamp:
    """Return what shows, without reading it, whether a video has changed.

    Raises:
        DecodeError: the images of a frame folder do not form one video.
        OSError: it is gone or cannot be looked at.
    """
    stats = [path.stat() for path in content_paths(source)]
    return Stamp(
        size=sum(stat.st_size for stat in stats),
        mtime_ns=max(stat.st_mtime_ns for stat in stats),
        inode=sum(stat.st_ino for stat in stats),
    )


def content_sha256(source: VideoSource) -> str:
    r"""Return the hex sha256 that identifies a video's content, whatever its name.

    Of a file, that of its bytes. Of a frame folder, that of the line `frames-v1` followed by
    the hex sha256 of every image in order, each line ended by a line feed.
    """
    if source.kind == "file":
        return _file_sha256(source.path)
    digest = hashlib.sha256(b"frames-v1\n")
    for path in frame_paths(source):
        digest.update(f"{_file_sha256(path)}\n".encode())
    return digest.hexdigest()


def _walk(root: Path, failures: dict[str, str]) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder at or below `root` with the names of its visible files.

    Folders that cannot be read are put into `failures`.
    """

    def note(error: OSError) -> None:
        # os.walk swallows unreadable folders by default: their videos would be silently missing
        path = Path(error.filename)
        name = path.relative_to(root).as_posix()
        failures[name] = f"{path}: cannot be read: {error.strerror}; make it readable or remove it"

    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=note):
        real = os.path.realpath(folder)
        if real in visited:
            # a link to a folder above or beside: once is enough, and it could go round for ever
            subfolders.clear()
            continue
        visited.add(real)
        if not os.access(folder, os.X_OK):  # its files' names can be read, nothing else
            note(PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder))
            subfolders.clear()
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        # is_file: a pipe or a dangling link that is called x.mp4 would hang or fail later
        visible = [name for name in names if not name.startswith(".")]
        yield Path(folder), [name for name in visible if os.path.isfile(os.path.join(folder, name))]
        for name in visible:
            path = os.path.join(folder, name)
            if _suffix(name) in VIDEO_SUFFIXES and not os.path.exists(path):
                logger.warning("%s: ignored: a link to what is not there", path)


def _settle_root(root: Path, found: list[VideoSource]) -> list[VideoSource]:
    """Decide about images in `root` itself, refuse an empty result, sort."""
    others = [source for source in found if source.path != root]
    if others and len(others) < len(found):
        logger.warning("%s: images in the top folder are ignored", root)
        found = others
    if not found:
        raise NoVideoError(
            f"{root}: no video found; expected files such as .mp4, .avi, .mkv or folders of "
            ".jpg, .png, .tif, .bmp frames"
        )
    if not others:
        name = root.resolve().name or "frames"
        found = [VideoSource(video_id=name, path=root, kind="frames")]
    _refuse_same_names(found)
    return sorted(found, key=lambda source: _id_key(source.video_id))


def _refuse_same_names(found: list[VideoSource]) -> None:
    paths: dict[str, Path] = {}
    for source in found:
        other = paths.setdefault(source.video_id, source.path)
        if other != source.path:
            raise DecodeError(
                f"{str(other)!r} and {str(source.path)!r} both go by the name {source.video_id}:"
                " they differ only in blanks, backslashes or the way accents are stored; rename one"
            )


def _id_key(video_id: str) -> tuple[object, ...]:
    # component by component: "a/2" comes before "a b/1" whatever "/" and " " compare like
    return tuple(natural_key(part) for part in video_id.split("/"))


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def without_suffix(video: str) -> str:
    """Return a video's name without a video file's suffix; a frame folder's may have dots in it."""
    path = PurePosixPath(video)
    return path.with_suffix("").as_posix() if _suffix(video) in VIDEO_SUFFIXES else video


def _suffix(name: str) -> str:
    return os.path.splitext(name.rstrip())[1].lower()
