"""From the bare names in published lists to the videos that are there."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from data.datasets.dataset_labels import missing_problems
from data.errors import DecodeError, LabelsError
from data.videos import find_videos


class VideoNames:
    """The videos under a folder by bare name: `b` for `a/b.mp4`, frames in `a/b` or `a/b/img`."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise LabelsError(f"{root}: no such folder; give the dataset's folder as --root")
        self.root = root
        self._by_name: dict[str, list[str]] = defaultdict(list)
        try:
            sources = find_videos(root)
        except DecodeError:  # lists without videos: features may come from elsewhere
            sources = []
        for source in sources:
            path = PurePosixPath(source.video_id)
            if source.kind == "frames" and path.name == "img" and path.parent.name:
                path = path.parent
            name = path.stem if source.kind == "file" else path.name
            self._by_name[name].append(source.video_id)

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
