"""Which images of a folder are the frames of one video, and in which order: told by their names.

A frame that is missing, doubled or of another video shifts every label after it. So the numbers in
the names must go on evenly, and what does not belong is either known for what it is and left out,
which is said, or the folder is refused.
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

# Optical flow beside the frames it was made of, as denseflow and TSN's tools write it:
# img_00001.jpg, flow_x_00001.jpg, flow_y_00001.jpg.
_FLOW = re.compile(r"(.*[^a-z])?(flow|flow[_-]?[xy]|[xy])[^a-z]*")
_DIGITS = re.compile(r"([0-9]+)")

_Parts = tuple[str, ...]


def natural_key(name: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Return a sort key under which digits compare as numbers and upper case as lower case.

    The name itself comes last, so that `1.jpg` and `01.jpg` have a fixed order too.
    """
    parts = _DIGITS.split(name.casefold())
    key = tuple(
        (0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part
    )
    return key, name


def frame_sequence(names: Sequence[str]) -> tuple[list[str], str]:
    """Return the names of a folder's images that are frames, in order, and what should be said.

    Args:
        names: file names of images, at least one.

    Raises:
        ValueError: they do not form one sequence of frames; the message says why and what to do.
    """
    kinds: dict[_Parts, list[str]] = defaultdict(list)
    ordered = sorted(names, key=natural_key)
    for name in ordered:
        stem = os.path.splitext(name)[0].casefold()
        kinds[tuple(_DIGITS.split(stem)[::2])].append(name)
    notes = []
    unnumbered = [name for parts, group in kinds.items() if len(parts) == 1 for name in group]
    if 2 * len(unnumbered) > len(names):
        note = "names without numbers, taken in alphabetical order"
        return ordered, note if len(names) > 1 else ""
    if unnumbered:
        notes.append(f"{_listed(unnumbered)} without a number left out")
        kinds = {parts: group for parts, group in kinds.items() if len(parts) > 1}
    flow = [parts for parts in kinds if _FLOW.fullmatch(parts[0])]
    if 0 < len(flow) < len(kinds):
        left = sum(len(kinds.pop(parts)) for parts in flow)
        notes.append(f"{left} images of optical flow left out")
    if len(kinds) > 1:
        first, second = sorted(kinds.values(), key=len, reverse=True)[:2]
        raise ValueError(
            f"images of {len(kinds)} kinds of names: {len(first)} like {first[0]}, {len(second)}"
            f" like {second[0]}; give each video a folder of its own and remove copies"
        )
    (frames,) = kinds.values()
    return frames, "; ".join([*notes, *_check_numbers(frames)])


def _check_numbers(names: Sequence[str]) -> list[str]:
    """Return what should be said of the numbers in names that differ in nothing else.

    Raises:
        ValueError: they do not go on evenly.
    """
    numbers = [[int(part) for part in _DIGITS.findall(os.path.splitext(n)[0])] for n in names]
    same = [len(set(column)) == 1 for column in zip(*numbers, strict=True)]
    varying = [place for place, constant in enumerate(same) if not constant]
    for (before, one), (name, other) in pairwise(zip(names, numbers, strict=True)):
        if one == other:
            raise ValueError(f"{before} and {name} have the same number; remove one of them")
    if len(varying) > 1:
        return _check_several(names, numbers, varying)
    if not varying:
        return []  # a single image
    column = [row[varying[0]] for row in numbers]
    steps = [after - before for before, after in pairwise(column)]
    step = min(steps)
    for (before, after), gap in zip(pairwise(names), steps, strict=True):
        if gap != step:
            raise ValueError(
                f"no image between {before} and {after}, expected numbers {step} apart; put back"
                " what is missing, or number the images anew if nothing is"
            )
    return []


def _check_several(
    names: Sequence[str], numbers: Sequence[Sequence[int]], varying: Sequence[int]
) -> list[str]:
    """Judge names in which several numbers vary, such as times: `12.033.jpg`, `10-59-01.jpg`.

    Raises:
        ValueError: the same number occurs beside different others, as that of a frame beside the
            numbers of several videos does.
    """
    *heads, last = varying
    texts = [_DIGITS.split(os.path.splitext(name)[0]) for name in names]
    is_clock = len(heads) > 1 and all(len(t[2 * at + 1]) == 2 for t in texts for at in heads)
    is_decimal = all(text[2 * last] == "." for text in texts)
    first: dict[int, str] = {}
    for name, row in zip(names, numbers, strict=True):
        other = first.setdefault(row[last], name)
        if other is not name and not is_clock and not is_decimal:
            raise ValueError(
                f"images of several sequences: {other} and {name}; give each video a folder of its"
                " own, or number the images anew"
            )
    return ["names in which several numbers change, taken in their order: a gap would not be seen"]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"
