"""The videos that a prediction was asked for, and what became of each."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import DecodeError, FeatError
from data.videos import VideoSource, find_videos
from data.visible import one_line

if TYPE_CHECKING:
    from cache import FeatureCache
    from model.prediction.prediction import VideoPrediction


@dataclass(kw_only=True)
class Sought:
    """A video that was asked for, and what became of it.

    Attributes:
        name: its path as the user wrote it.
        sha256: of its content; empty if that could not be read.
        cache: where its features are.
        error: what kept it from a prediction or a picture.
        written: files about it alone, by option: `scores`, `vtt`, `plot`, `cut` (several),
            `render`.
    """

    name: str
    source: VideoSource
    sha256: str = ""
    cache: "FeatureCache | None" = None
    prediction: "VideoPrediction | None" = None
    error: str = ""
    written: dict[str, str | list[str]] = field(default_factory=dict)


def find_sought(paths: Sequence[Path]) -> list[Sought]:
    """Return the videos at or below these paths, none twice; a path without any has an error."""
    found: dict[Path, Sought] = {}
    for path in paths:
        unreadable: dict[str, str] = {}
        try:
            for source in find_videos(path, unreadable=unreadable):
                each = Sought(name=one_line(str(source.path)), source=source)
                found.setdefault(source.path.resolve(), each)
        except (DecodeError, OSError) as error:
            source = VideoSource(video_id=path.name, path=path, kind="file")
            found[path.resolve()] = Sought(
                name=one_line(str(path)), source=source, error=_cause(error, str(path))
            )
        for name, why in unreadable.items():
            source = VideoSource(video_id=name, path=path / name, kind="frames")
            found[path / name] = Sought(name=str(path / name), source=source, error=why)
    return list(found.values())


@contextmanager
def noting_failure(each: Sought) -> Iterator[None]:
    """Let the other videos go on when one fails."""
    try:
        yield
    except (FeatError, OSError) as error:
        each.error = _cause(error, each.name)


def _cause(error: Exception, name: str) -> str:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename and error.filename != name else ""
        return f"{where}{error.strerror or error}; check that it can be read"
    return str(error).removeprefix(f"{name}: ")
