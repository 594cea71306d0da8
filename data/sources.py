"""Where labels come from: the column `source`, and how a run and a report tell it.

Each row says it by itself, for one file often holds rows of several annotators, and rows outlive
files: they are split, merged, and copied into caches and runs.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from data.labels import VideoLabel

UNKNOWN = "unknown source"
_KINDS = {"intervals": "intervals", "clicks": "clicks"}


def source_of(dataset: str, *paths: Path) -> str:
    """Return what the column `source` says of labels read from one or more files of a dataset.

    Several are told by their number and one digest, of their names and contents.
    """
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    if len(digests) == 1:
        ((name, digest),) = digests.items()
        return f"{dataset} {name} {digest[:12]}"
    together = "".join(f"{digest} {name}\n" for name, digest in sorted(digests.items()))
    digest = hashlib.sha256(together.encode()).hexdigest()
    return f"{dataset} {len(digests)} files {digest[:12]}"


def count_sources(labels: Iterable[VideoLabel]) -> dict[str, int]:
    """Return how many videos have labels of each kind and source, in the text's order."""
    counts = Counter(
        f"{_KINDS.get(label.extent, 'video labels')} of {label.source or UNKNOWN}"
        for label in labels
    )
    return dict(sorted(counts.items()))


def sources_text(counts: Mapping[str, int]) -> str:
    """Return what `count_sources` gave in words."""
    sources: dict[str, list[str]] = {}
    for what, count in counts.items():
        kind, _, source = what.partition(" of ")
        sources.setdefault(source, []).append(f"{count} with {kind}")
    return ", ".join(f"{' and '.join(kinds)} of {source}" for source, kinds in sources.items())
