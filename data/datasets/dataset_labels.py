"""What every dataset adapter returns, and the comparison with the dataset's published counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import LabelsError
from data.labels import VideoLabel


@dataclass(frozen=True, kw_only=True)
class DatasetLabels:
    """The labels of one dataset.

    Attributes:
        labels: one for each video, ready for `write_labels`.
        problems: one line each: what is missing or differs from what was published, and what to
            do. Empty when all is as published.
        files: that the labels without a source of their own were read from.
    """

    labels: list[VideoLabel]
    problems: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def count_problems(
    dataset: str, found: Mapping[str, int], published: Mapping[str, int]
) -> list[str]:
    """Return a line for every count that differs from the published one."""
    return [
        f"{dataset}: {found.get(what, 0)} {what} found, {number} published;"
        " complete the download, or go on with what is there by --partial"
        for what, number in published.items()
        if found.get(what, 0) != number
    ]


def missing_problems(what: str, names: Iterable[str], todo: str) -> list[str]:
    """Return one line that counts and names what is missing, or nothing."""
    missing = sorted(names)
    if not missing:
        return []
    more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
    return [f"{len(missing)} {what}: {', '.join(missing[:5])}{more}; {todo}"]


def first_existing(root: Path, candidates: Iterable[str], what: str) -> Path:
    """Return the first of the candidates that exists under `root`.

    Raises:
        LabelsError: none does; all that were looked for are named.
    """
    names = list(candidates)
    for name in names:
        if (root / name).exists():
            return root / name
    if not root.is_dir():
        raise LabelsError(f"{root}: no such folder; give the dataset's folder as --root")
    raise LabelsError(
        f"{root}: {what} not found, expected one of {', '.join(names)}; give the folder that"
        " holds it as --root"
    )
