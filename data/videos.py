"""The videos under a folder: files and folders of numbered frames, in a stable order."""

import hashlib
import logging
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import DecodeError

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
        path: the file, or the folder that holds the frames.
        kind: `file`, or `frames` for a folder of images.
    """

    video_id: str
    path: Path
    kind: Literal["file", "frames"]


@dataclass(frozen=True)
class Stamp:
    """A cheap sign that a video's bytes may have changed: size in bytes, newest modification."""

    size: int
    mtime_ns: int


def find_videos(root: Path) -> list[VideoSource]:
    """Return every video at or below `root`, in natural order of `video_id`.

    A folder that holds images directly is one video, made of those images. Two exceptions keep
    stray pictures from becoming videos: images beside video files are taken for thumbnails, and
    images in `root` itself count only if there is nothing else. Names that begin with a dot are
    skipped, links are followed. `root` may also be a single video file.

    Raises:
        DecodeError: `root` does not exist, or no video is there.
    """
    if root.is_file():
        return [VideoSource(video_id=root.name, path=root, kind="file")]
    if not root.is_dir():
        raise DecodeError(f"{root}: no such folder; give the folder that holds the videos")
    found: list[VideoSource] = []
    for folder, names in _walk(root):
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
    return _settle_root(root, found)


def frame_paths(source: VideoSource) -> list[Path]:
    """Return the images of a frame folder in natural order: 2.jpg before 10.jpg.

    Raises:
        ValueError: `source` is a video file.
        DecodeError: the folder holds no image any more.
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
    return [source.path / name for name in sorted(names, key=natural_key)]


def source_stamp(source: VideoSource) -> Stamp:
    """Return size and modification time; of a frame folder, the images' sum and newest."""
    stats = [path.stat() for path in _content_paths(source)]
    return Stamp(
        size=sum(stat.st_size for stat in stats),
        mtime_ns=max(stat.st_mtime_ns for stat in stats),
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


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a sort key under which digits compare as numbers and upper case as lower case.

    The name itself comes last, so that `1.jpg` and `01.jpg` have a fixed order too.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    key = tuple(
        (0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part
    )
    return key, name


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield every folder at or below `root` with the names of its visible files."""
    visited: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=_raise):
        real = os.path.realpath(folder)
        if real in visited:
            # a link to a folder above or beside: once is enough, and it could go round for ever
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        # is_file: a pipe or a dangling link that is called x.mp4 would hang or fail later
        visible = (name for name in names if not name.startswith("."))
        yield Path(folder), [name for name in visible if os.path.isfile(os.path.join(folder, name))]


def _settle_root(root: Path, found: list[VideoSource]) -> list[VideoSource]:
    """Decide about images in `root` itself, refuse an empty result, sort."""
    others = [source for source in found if source.path != root]
    if others and len(others) < len(found):
        logger.warning("%s: images in the top folder are ignored", root)
        found = others
    if not found:
        raise DecodeError(
            f"{root}: no video found; expected files such as .mp4, .avi, .mkv or folders of "
            ".jpg, .png, .tif, .bmp frames"
        )
    if not others:
        name = root.resolve().name or "frames"
        found = [VideoSource(video_id=name, path=root, kind="frames")]
    return sorted(found, key=lambda source: _id_key(source.video_id))


def _id_key(video_id: str) -> tuple[object, ...]:
    # component by component: "a/2" comes before "a b/1" whatever "/" and " " compare like
    return tuple(natural_key(part) for part in video_id.split("/"))


def _content_paths(source: VideoSource) -> Iterable[Path]:
    return [source.path] if source.kind == "file" else frame_paths(source)


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _raise(error: OSError) -> None:
    # os.walk swallows unreadable folders by default: their videos would be silently missing
    raise error
