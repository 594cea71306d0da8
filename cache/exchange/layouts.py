"""How published features lie on disk: which file is of which video, which axis is time.

Three things are told from a whole folder, each from a small table: what in a file's name is not the
video's (`NAMINGS`), the order of the axes (`AXES`), what a row stands for (`ROWS`). Any of their
names may be given instead. What fits two of them is refused, for a wrong guess is not seen later:
averaged over time instead of over the crops, features still train.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from cache.exchange.arrays import FoundArray
from data.errors import CacheError


@dataclass(frozen=True, kw_only=True)
class Naming:
    """A part of file names that tells a stream, a crop or a clip instead of the video."""

    name: str
    examples: str
    pattern: re.Pattern[str]


NAMINGS = {
    naming.name: naming
    for naming in (
        Naming(
            name="streams",
            examples="<video>_rgb, <video>_flow, <video>_i3d, <video>__vggish, RGB/<video>",
            pattern=re.compile(
                r"(?:^|(?<=/))(?P<folder>rgb|flow|combine)(?:test|train)?/"
                r"|_{1,2}(?P<suffix>i3d|c3d|swin|clip|rgb|flow|vggish)$",
                re.IGNORECASE,
            ),
        ),
        Naming(
            name="feature-files", examples="<video>/feature", pattern=re.compile(r"/features?$")
        ),
        Naming(
            name="clip-files",
            examples="<video>/<start>_<end>",
            pattern=re.compile(r"/(?P<start>[0-9]{1,9})_(?P<end>[0-9]{1,9})$"),
        ),
        Naming(
            name="crop-files",
            examples="<video>__0, <video>__1, ...",
            pattern=re.compile(r"(?P<mark>_{1,2})(?P<crop>0|[1-9][0-9]?)$"),
        ),
    )
}
PLAIN = "plain"  # file names are videos' names, whatever they end in
AXES = {"crops-last": "(S, C, D)", "crops-first": "(C, S, D)"}
ROWS = {"clips": "a clip", "segments": "an equal part of the video"}
LAYOUTS = ("auto", PLAIN, *NAMINGS, *AXES, *ROWS)

CROPS = (1, 3, 5, 10)  # crops of a frame that anybody publishes
SEGMENTS = 32  # parts of a video, since Sultani et al. 2018
_USUAL_SHARE = 0.9  # of arrays that have the same number of rows, where rows are segments
_MIN_ALIKE = 3  # videos whose equal numbers of rows are no chance
_ONE_OFF_SHARE = 0.1  # of videos that may have one row more or less than their frames give


def parse_layout(text: str) -> frozenset[str]:
    """Return the names in `text`, by comma; none stands for recognising everything.

    Raises:
        ValueError: a name is unknown, or two contradict each other.
    """
    names = frozenset(part.strip() for part in text.split(",")) - {"auto"}
    unknown = names - set(LAYOUTS)
    if unknown:
        raise ValueError(
            f"layout must be one of {', '.join(LAYOUTS)}, or several by comma, got {text!r}"
        )
    for group in (AXES, ROWS):
        if len(names & group.keys()) > 1:
            raise ValueError(f"layout {text!r}: {' and '.join(group)} exclude each other")
    if PLAIN in names and names & NAMINGS.keys():
        raise ValueError(f"layout {text!r}: {PLAIN} excludes all other names of files")
    return names


@dataclass(frozen=True, kw_only=True)
class Part:
    """An array and what its name says."""

    array: FoundArray
    video: str
    stream: str = ""
    crop: int = 0
    frames: tuple[int, int] | None = None  # of a clip, as they stand in the name

    def describe(self) -> str:
        """Return one line: what the array's name was taken for."""
        text = f"{self.array.name} is of {self.video}"
        text += f", stream {self.stream}" * bool(self.stream)
        if self.frames:
            return f"{text}, frames {self.frames[0]} to {self.frames[1]}"
        return f"{text}, crop {self.crop}" * bool(self.crop) or text


@dataclass(frozen=True, kw_only=True)
class ClipRule:
    """How many rows a video of so many frames has."""

    clip_len: int
    clip_stride: int

    def expected(self, num_frames: int) -> tuple[int, int]:
        """Return the smallest and largest number: without and with clips that are not full.

        75 frames, clips of 16, stride 16: 4 and 5.     75 frames, clips of 16, stride 8: 8 and 10.
        """
        full = (num_frames - self.clip_len) // self.clip_stride + 1
        return max(1, full), -(-num_frames // self.clip_stride)

    def difference(self, rows: int, num_frames: int) -> int:
        """Return by how many rows a video has too many (> 0) or too few (< 0)."""
        low, high = self.expected(num_frames)
        return rows - min(max(rows, low), high)


#: Counts how many of some names are of labelled videos.
_Count = Callable[[Iterable[str]], int]


def take_apart(
    found: Sequence[FoundArray],
    chosen: Collection[str],
    count_matches: _Count,
) -> tuple[list[Part], list[str]]:
    """Return what the names of all arrays say, and which of `NAMINGS` were recognised.

    Args:
        found: the arrays.
        chosen: names of `NAMINGS` that hold, or `plain`; without any they are recognised.
        count_matches: returns how many of some names are of labelled videos; where that differs,
            it decides whether `_rgb` or `_0` belongs to a video's name.

    Raises:
        CacheError: the names can be read in two ways, or crops are missing.
    """
    given = {name for name in chosen if name in NAMINGS or name == PLAIN}
    parts = [Part(array=array, video=array.name) for array in found]
    used = []
    for naming, take in _TAKERS.items():
        if given and naming not in given:
            continue
        by_stream = defaultdict(list)
        for part in parts:
            by_stream[part.stream].append(part)
        parts = []
        for group in by_stream.values():
            taken = take(group, bool(given), count_matches)
            before, after = ([part.video for part in side] for side in (group, taken or group))
            if taken is None and given:
                raise CacheError(
                    f"--layout {naming}: expected names such as {NAMINGS[naming].examples}, got "
                    f"{', '.join(before[:3])}"
                )
            if taken is None or (not given and count_matches(after) < count_matches(before)):
                parts += group
            else:
                used.append(naming)
                parts += taken
    return parts, list(dict.fromkeys(used))


def _take_streams(parts: list[Part], given: bool, count_matches: _Count) -> list[Part] | None:
    stripped = []
    for part in parts:
        name, stream = part.video, ""
        while (match := NAMINGS["streams"].pattern.search(name)) and len(match[0]) < len(name):
            name = name[: match.start()] + name[match.end() :]
            stream = stream or (match["folder"] or match["suffix"]).lower()
        stripped.append(replace(part, video=name, stream=stream))
    other = next((part for part in stripped if not part.stream), None)
    if other is None:
        return stripped
    streams: dict[str, set[str]] = defaultdict(set)
    for part in stripped:
        streams[part.video] |= {part.stream} - {""}
    for video, names in streams.items():
        if len(names) > 1:
            raise _ambiguous(
                f"{video} has the streams {' and '.join(sorted(names))}, {other.video} none",
                [PLAIN],
            )
    return None


def _take_feature_files(parts: list[Part], given: bool, count_matches: _Count) -> list[Part] | None:
    return _strip_all(parts, "feature-files", lambda part, match: part)


def _take_clip_files(parts: list[Part], given: bool, count_matches: _Count) -> list[Part] | None:
    if any(part.array.shape[:-1] not in ((), (1,)) for part in parts):
        return None  # arrays of several clips: ShanghaiTech's 01_0014 is a video
    return _strip_all(
        parts, "clip-files",
        lambda part, match: replace(part, frames=(int(match["start"]), int(match["end"]))),
    )  # fmt: skip


def _strip_all(
    parts: list[Part], naming: str, change: Callable[[Part, re.Match[str]], Part]
) -> list[Part] | None:
    """Return the parts without what the pattern matches, None unless it matches each of them."""
    stripped = []
    for part in parts:
        match = NAMINGS[naming].pattern.search(part.video)
        if match is None:
            return None
        stripped.append(change(replace(part, video=part.video[: match.start()]), match))
    return stripped


def _take_crop_files(parts: list[Part], given: bool, count_matches: _Count) -> list[Part] | None:
    """Return the parts as crops of videos if their names end in `__0`, `__1` and so on.

    The first crop may lack its `__0`, as in the features of UCF-Crime by Wu et al. With a single
    `_` videos may be called so, too. Labels decide, or that only crops of one video are all equally
    long.
    """
    crops = _crops(parts, "__")
    marked = [name for name, group in crops.items() if any(part.video != name for part in group)]
    if not marked:
        crops = _crops(parts, "_")
        num_crops = len(next(iter(crops.values())))
        before, after = count_matches(part.video for part in parts), count_matches(crops)
        if not given and (
            _problem_of_crops(crops)
            or num_crops not in CROPS
            or (num_crops == 1 and after <= before)
        ):
            return None
        if not given and before == after and len({part.array.shape for part in parts}) == 1:
            name = next(iter(crops))
            raise _ambiguous(
                f"{name}_0, {name}_1, ... may be crops or videos", ["crop-files", PLAIN]
            )
    elif len(marked) < len(crops) and not given:
        if all(len(crops[name]) == 1 for name in marked):
            return None  # a video may be called so
        other = next(name for name in crops if name not in marked)
        raise _ambiguous(f"{marked[0]} has several crops, {other} none", ["crop-files", PLAIN])
    problem = _problem_of_crops(crops)
    if problem and not given and count_matches(crops) < count_matches(p.video for p in parts):
        return None
    if problem:
        raise _ambiguous(problem, [PLAIN])
    return [replace(part, video=name) for name, group in crops.items() for part in group]


def _crops(parts: Iterable[Part], mark: str) -> dict[str, list[Part]]:
    """Return the parts by the name without its crop's number; other names are their own."""
    groups = defaultdict(list)
    for part in parts:
        match = NAMINGS["crop-files"].pattern.search(part.video)
        if match and match.start() and match["mark"] == mark:
            groups[part.video[: match.start()]].append(replace(part, crop=int(match["crop"])))
        else:
            groups[part.video].append(part)
    return groups


def _problem_of_crops(crops: Mapping[str, Sequence[Part]]) -> str:
    """Return why the groups are not the same crops of each video, "" if they are."""
    num_crops = max(part.crop for group in crops.values() for part in group) + 1
    for name, group in crops.items():
        numbers = sorted(part.crop for part in group)
        if numbers != list(range(num_crops)):
            return f"{name} has the crops {' '.join(map(str, numbers))}, not 0 to {num_crops - 1}"
        shapes = sorted({part.array.shape for part in group})
        if len(shapes) > 1:
            return f"the crops of {name} have the shapes {' and '.join(map(str, shapes))}"
    return ""


_TAKERS = {
    "streams": _take_streams,
    "feature-files": _take_feature_files,
    "clip-files": _take_clip_files,
    "crop-files": _take_crop_files,
}


def choose_axes(
    shapes: Sequence[tuple[int, ...]],
    chosen: Collection[str],
    fits_frames: Callable[[Sequence[int]], bool],
) -> str:
    """Return which of `AXES` the arrays (A, B, D) of one stream have.

    The crops are the axis that is as long in every array, and as long as crops are many.

    Args:
        shapes: of the arrays.
        chosen: names that hold; without one of `AXES` it is recognised.
        fits_frames: returns whether so many rows an array are as many as the frame counts give.

    Raises:
        CacheError: neither axis can be the crops, or both.
    """
    given = [name for name in AXES if name in chosen]
    if given:
        return given[0]
    places = {"crops-last": 1, "crops-first": 0}
    possible = [
        name
        for name, place in places.items()
        if len({shape[place] for shape in shapes}) == 1 and shapes[0][place] in CROPS
    ]
    if len(possible) > 1:
        possible = [
            name for name in possible if fits_frames([shape[1 - places[name]] for shape in shapes])
        ] or possible
    if len(possible) == 1:
        return possible[0]
    many = " or ".join(map(str, CROPS))
    why = "both its first axes can be crops" if possible else f"neither axis is {many} crops in all"
    raise _ambiguous(f"an array of shape {shapes[0]}: {why}", list(AXES))


def choose_rows(
    rows: Mapping[str, int], frames: Mapping[str, int], rule: ClipRule, chosen: Collection[str]
) -> str:
    """Return what the rows of one stream are: clips, or segments.

    Rows are clips where they are as many as the frames give. They are segments where nearly all
    videos have the same number of them, though their lengths differ or are unknown; that number
    must be 32 unless frame counts tell.

    Args:
        rows: how many rows each video has.
        frames: frame counts of the videos, as far as they are known.
        rule: of the clips.
        chosen: names that hold; without one of `ROWS` it is recognised.

    Raises:
        CacheError: they can be either.
    """
    given = [name for name in ROWS if name in chosen]
    if given:
        return given[0]
    known = [frames[video] for video in rows if video in frames]
    usual, count = Counter(rows.values()).most_common(1)[0]
    alike = count >= _USUAL_SHARE * len(rows)
    if known:
        lengths_differ = max(known) >= 1.2 * min(known)
        if not find_misfits(rows, frames, rule) or not alike:
            return "clips"
        several = len(rows) > 1 and lengths_differ
        return "segments" if several or usual == SEGMENTS else "clips"
    if alike and usual == SEGMENTS and len(rows) > 1:
        return "segments"
    if alike and (usual == SEGMENTS or len(rows) >= _MIN_ALIKE):
        what = f"all {len(rows)} arrays have" if len(rows) > 1 else "the only array has"
        raise _ambiguous(f"{what} {usual} rows, and no frame count is known (--frames)", list(ROWS))
    return "clips"


def find_misfits(
    rows: Mapping[str, int], frames: Mapping[str, int], rule: ClipRule
) -> dict[str, int]:
    """Return by how much rows are too many or too few, for the videos where that is an error.

    One row more or less is none if at most one video in ten, or a single one, has it: tools differ
    in what they do with the last frames, and container counts of frames may be wrong.
    """
    known = {video: count for video, count in rows.items() if video in frames}
    off = {video: rule.difference(count, frames[video]) for video, count in known.items()}
    one_off = [video for video, difference in off.items() if abs(difference) == 1]
    tolerated = len(one_off) <= max(1, _ONE_OFF_SHARE * len(known))
    return {
        video: difference
        for video, difference in off.items()
        if difference and not (tolerated and abs(difference) == 1)
    }


def other_rules(rows: Mapping[str, int], frames: Mapping[str, int]) -> list[ClipRule]:
    """Return a few usual clip lengths and strides that all the known frame counts would fit."""
    usual = [(n, n) for n in (8, 10, 12, 24, 25, 30, 32, 64)]
    usual += [(16, 8), (16, 16), (24, 12), (32, 16), (64, 16), (64, 32)]
    rules = [ClipRule(clip_len=length, clip_stride=stride) for length, stride in usual]
    known = [(count, frames[video]) for video, count in rows.items() if video in frames]
    return [
        rule for rule in rules if not any(rule.difference(count, length) for count, length in known)
    ][:3]


def _ambiguous(what: str, candidates: Sequence[str]) -> CacheError:
    return CacheError(f"{what}; choose with --layout {' or --layout '.join(candidates)}")
