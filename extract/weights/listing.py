"""What `feat weights` does: fetch what is missing, and describe the weights folder."""

import json
import logging
from pathlib import Path
from typing import Any

from data.errors import WeightsError
from extract.weights.convert import read_header, read_weights
from extract.weights.fetch import RGB_SHA256, add_file, fetch_flow, fetch_rgb, weights_file
from extract.weights.resolve import (
    find_published_flow,
    read_entry,
    usable_folder,
    weights_folder,
)

logger = logging.getLogger(f"feat.{__name__}")


def fetch_weights(stream: str = "all", source: Path | None = None) -> None:
    """Put the published weights of `stream` (`rgb`, `flow`, `all`) into the weights folder.

    With `source`, a published file already on this machine, only that one is converted. With
    `all`, a flow network that cannot be reached is a log line; with `flow` it is an error.

    Raises:
        WeightsError: what was asked for cannot be had.
    """
    folder = weights_folder()
    with usable_folder(folder):
        if source is not None:
            add_file(source, folder)
            return
        if stream in ("rgb", "all") and not _is_sound(weights_file(folder, "rgb", RGB_SHA256)):
            fetch_rgb(folder, logger.info)
        if stream in ("flow", "all") and find_published_flow(folder) is None:
            try:
                fetch_flow(folder, logger.info)
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


def listing_text(as_json: bool) -> str:
    """Return what the weights folder holds, a line a file or one JSON object."""
    folder = weights_folder()
    rows = list_weights(folder)
    if as_json:
        return json.dumps({"folder": str(folder), "weights": rows})
    if not rows:
        return f"{folder}: no weights; run feat weights fetch"
    lines = [
        row.get("error")
        or f"{row['stream']:<5}{row['kind']:<11}{row['name']}  sha256 {row['digest'][:16]}  "
        f"from {row['source']}"
        for row in rows
    ]
    return "\n  ".join([str(folder), *lines])
