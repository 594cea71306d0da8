"""From the bare names in published lists to the videos that are there."""

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from data.datasets.dataset_labels import missing_problems
from data.errors import LabelsError, NoVideoError
from data.videos import find_videos, without_suffix

logger = logging.getLogger(f"feat.{__name__}")


def bare_name(video: str) -> str:
    """Return the name by which lists know a video: `b` for `a/b.mp4`, `a/b` or `a/b/img`."""
    path = PurePosixPath(video)
    is_image_folder = path.name == "img" and path.parent.name
    return path.parent.name if is_image_folder else without_suffix(path.name)


class VideoNames:
    """The videos under a folder by bare name: `b` for `a/b.mp4`, frames in `a/b` or `a/b/img`."""

    def __init__(self, root: Path, *, copies: str = "") -> None:
        """Look for them.

        Args:
            root: the folder.
            copies: name of a folder whose videos are left out if they are elsewhere, too.

        Raises:
            LabelsError: there is no such folder.
            DecodeError: a folder in it cannot be read, or two videos have one name.
        """
        if not root.is_dir():
            raise LabelsError(f"{root}: no such folder; give the dataset's folder as --root")
        self.root = root
        self._by_name: dict[str, list[str]] = defaultdict(list)
        try:
            sources = find_videos(root)
        except NoVideoError:  # lists without videos: features may come from elsewhere
            sources = []
        for source in sources:
            self._by_name[bare_name(source.video_id)].append(source.video_id)
        if copies:
            self._leave_out(copies)

    def _leave_out(self, folder: str) -> None:
        left_out = 0
        for name, videos in self._by_name.items():
            others = [video for video in videos if folder not in PurePosixPath(video).parts[:-1]]
            if others:
                left_out += len(videos) - len(others)
                self._by_name[name] = others
        if left_out:
            logger.warning(
                "%s: %d videos in %s are in other folders, too, and left out here",
                self.root, left_out, folder,
            )  # fmt: skip

    def __bool__(self) -> bool:
        """True if any video was found."""
        return bool(self._by_name)

    def names(self, keep: Callable[[str], bool] = lambda video: True) -> dict[str, str]:
        """Return name -> video_id of every video whose video_id `keep` accepts.

        Raises:
            LabelsError: two of them have the same name.
        """
        chosen: dict[str, str] = {}
        for name, videos in self._by_name.items():
            kept = [video for video in videos if keep(video)]
            if len(kept) > 1:
                raise LabelsError(
                    f"{self.root}: '{name}' is both {kept[0]} and {kept[1]}, expected one video"
                    " of that name; remove the other copy"
                )
            if kept:
                chosen[name] = kept[0]
        return chosen

    def locate(
        self, wanted: Iterable[str], fallback: Callable[[str], str]
    ) -> tuple[dict[str, str], list[str]]:
        """Return name -> video_id for the wanted names, and the problems.

        Where the folder holds no video at all the names become `fallback(name)`: labels can be
        made from lists alone. Otherwise a video that is not there is a problem and left out.
        """
        names = list(wanted)
        if not self:
            return {name: fallback(name) for name in names}, []
        there = self.names()
        missing = [name for name in names if name not in there]
        todo = f"put them under {self.root}, or leave them out by --partial"
        problems = missing_problems("videos missing", missing, todo)
        return {name: there[name] for name in names if name in there}, problems
