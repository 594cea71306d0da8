"""What `feat weights` does: fetch what is missing, and describe the weights folder."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.errors import WeightsError
from extract.weights.c3d import WHERE
from extract.weights.convert import read_header, read_weights
from extract.weights.fetch import (
    PUBLISHED_FLOW,
    RGB_SHA256,
    RGB_URL,
    add_file,
    fetch_flow,
    fetch_rgb,
    weights_file,
)
from extract.weights.resolve import (
    find_published_flow,
    read_entry,
    usable_folder,
    user_file,
    weights_folder,
)

logger = logging.getLogger(f"feat.{__name__}")


def fetch_weights(stream: str = "all", source: Path | None = None) -> None:
    """Put the published weights of `stream` (`rgb`, `flow`, `all`) into the weights folder.

    With `source`, a published file already on this machine, only that one is converted. With
    `all`, a flow network that cannot be reached is a log line; with `flow` it is an error. The
    weights of `c3d` are the user's own file, which `source` names.

    Raises:
        WeightsError: what was asked for cannot be had.
    """
    folder = weights_folder()
    with usable_folder(folder):
        if stream == "c3d":
            if source is None:
                raise WeightsError(f"c3d weights: {WHERE}")
            user_file(source, "c3d", folder)
            return
        if source is not None:
            add_file(source, folder)
            return
        if stream in ("rgb", "all") and not _is_sound(weights_file(folder, "rgb", RGB_SHA256)):
            fetch_rgb(folder)
        if stream in ("flow", "all") and find_published_flow(folder) is None:
            try:
                fetch_flow(folder)
            except WeightsError as error:
                if stream == "flow":
                    raise
                logger.warning("%s; feat extract will use cross-modality weights", error)


def _is_sound(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        read_weights(path)
    except WeightsError as error:
        logger.warning("%s: fetching it again", error)
        return False
    return True


def list_weights(folder: Path) -> list[dict[str, Any]]:
    """Return a JSON object for every safetensors file in `folder`; a damaged one has `error`."""
    rows: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.safetensors")):
        row: dict[str, Any] = {"file": path.name, "bytes": path.stat().st_size}
        try:
            entry = read_entry(path)
            row |= {"stream": entry.stream, "kind": entry.kind, "name": entry.name}
            row |= {"digest": entry.digest, "source": read_header(path).get("source", "")}
        except WeightsError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


@dataclass(frozen=True, kw_only=True)
class StreamWeights:
    """Where the weights of one stream are looked for, and whether they are there.

    Attributes:
        stream: the network.
        looked_for: the files, the best first; a pattern stands for any file that fits it.
        file: the one that was found; None: `feat extract` tries to fetch the network, if it can
            be had.
        get: how to get them where they are missing, and what happens until then.
    """

    stream: str
    looked_for: tuple[Path, ...]
    file: Path | None
    get: str

    def to_json(self) -> dict[str, Any]:
        """Return JSON types."""
        return {
            "stream": self.stream,
            "file": str(self.file) if self.file else None,
            "looked_for": [str(path) for path in self.looked_for],
            **({} if self.file else {"get": self.get}),
        }


def look_for_weights(folder: Path) -> list[StreamWeights]:
    """Return what `feat extract` would find in `folder` for each stream; changes nothing."""
    rgb = weights_file(folder, "rgb", RGB_SHA256)
    flow = folder / "flow-*.safetensors"
    as_published = [folder / source.file for source in PUBLISHED_FLOW]
    converted = [
        folder / row["file"]
        for row in list_weights(folder)
        if (row.get("stream"), row.get("kind")) == ("flow", "published")
    ]
    there = [*converted, *(path for path in as_published if path.exists())]
    return [
        StreamWeights(
            stream="rgb",
            looked_for=(rgb,),
            file=rgb if rgb.exists() else None,
            get=f"run feat weights fetch --stream rgb, or download {RGB_URL} elsewhere and run "
            "feat weights fetch --from FILE",
        ),
        StreamWeights(
            stream="flow",
            looked_for=(flow, *as_published),
            file=there[0] if there else None,
            get="run feat weights fetch --stream flow, or download "
            f"{PUBLISHED_FLOW[0].url} elsewhere and run feat weights fetch --from FILE; until then "
            "feat extract uses a cross-modality copy of the RGB network, not trained on flow",
        ),
        StreamWeights(
            stream="c3d",
            looked_for=(folder / "c3d-*.safetensors",),
            file=next(iter(sorted(folder.glob("c3d-*.safetensors"))), None),
            get=f"only --streams c3d needs them; {WHERE}",
        ),
    ]


def listing_text(as_json: bool) -> str:
    """Return what the weights folder holds and lacks, as lines or one JSON object."""
    folder = weights_folder()
    with usable_folder(folder):
        rows, streams = list_weights(folder), look_for_weights(folder)
    if as_json:
        states = [one.to_json() for one in streams]
        return json.dumps({"folder": str(folder), "weights": rows, "streams": states})
    lines = [
        row.get("error")
        or f"{row['stream']:<5}{row['kind']:<11}{row['name']}  sha256 {row['digest'][:16]}  "
        f"from {row['source']}"
        for row in rows
    ]
    for one in streams:
        names = ", ".join(path.name for path in one.looked_for)
        lines.append(f"{one.stream:<5}{'found' if one.file else 'missing'}; looked for {names}")
        if not one.file:
            lines.append(f"     {one.get}")
    return "\n  ".join([f"{folder} (FEAT_WEIGHTS names another folder)", *lines])
