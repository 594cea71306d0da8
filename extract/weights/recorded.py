"""The very weights that features were made with, found again by their digest.

As `extract.weights.resolve`, this loads no torch unless a file has to be converted.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from data.errors import WeightsError
from extract.i3d.layers import Stream
from extract.weights.fetch import PUBLISHED_FLOW, RGB_SHA256, fetch_flow, weights_file
from extract.weights.resolve import (
    Weights,
    find_published_flow,
    read_entry,
    resolve_weights,
    weights_folder,
)

logger = logging.getLogger(f"feat.{__name__}")

CROSSMODAL = "crossmodal:"


def resolve_recorded(
    recorded: Mapping[Stream, Weights],
    *,
    rgb_file: Path | None = None,
    flow_file: Path | None = None,
    folder: Path | None = None,
    allow_download: bool = True,
    on_fetch: Callable[[str], None] | None = None,
) -> dict[Stream, Weights]:
    """Return the same weights with the files that hold them.

    Looked for in the files the user names, then in the weights folder; published ones are
    fetched. Kind and name stay as recorded, as they are part of the features' keys.

    Args:
        recorded: of each stream; their `path` is not looked at.
        rgb_file: a checkpoint of the RGB network, which serves cross-modality flow too.
        flow_file: a checkpoint of the flow network.
        folder: where converted weights lie; see `weights_folder`.
        allow_download: whether published ones may be fetched.
        on_fetch: told in one line before anything slow; by default the log is.

    Raises:
        WeightsError: weights of that digest cannot be had, or a file holds others.
    """
    files: dict[Stream, Path | None] = {"rgb": rgb_file, "flow": flow_file}
    folder = weights_folder(folder)
    on_fetch = on_fetch or logger.info
    found: dict[Stream, Weights] = {}
    for stream, wanted in recorded.items():
        network, digest = stream, wanted.digest
        if wanted.kind == "crossmodal":
            if flow_file:
                raise WeightsError(
                    f"{flow_file}: the recorded flow weights are not a file but a cross-modality "
                    "copy of the RGB network; name that one with --rgb-weights"
                )
            network, digest = "rgb", digest.removeprefix(CROSSMODAL)
        file = files[network]
        try:
            source = (
                _from_file(file, network, digest, folder, on_fetch)
                if file
                else _from_folder(network, wanted, digest, folder, allow_download, on_fetch)
            )
        except OSError as error:
            raise WeightsError(
                f"{error.filename or folder}: {error.strerror or error}; set FEAT_WEIGHTS to a "
                "folder that can be read and written"
            ) from error
        found[stream] = dataclasses.replace(wanted, path=source.path)
    return found


def _from_file(
    path: Path, network: Stream, digest: str, folder: Path, on_fetch: Callable[[str], None]
) -> Weights:
    """Return the user's file, converted, if it is the one that is wanted."""
    source = resolve_weights(
        streams=[network],
        rgb=str(path),
        flow=str(path),
        folder=folder,
        allow_download=False,
        on_fetch=on_fetch,
    )[network]
    if source.digest != digest:
        raise WeightsError(
            f"{path}: found {network} weights of sha256 {source.digest}, expected {digest}, with "
            "which the features were made that the run was trained on"
        )
    return source


def _from_folder(
    network: Stream,
    wanted: Weights,
    digest: str,
    folder: Path,
    allow_download: bool,
    on_fetch: Callable[[str], None],
) -> Weights:
    """Return the weights of this digest in `folder`, fetched if they are published."""
    path = weights_file(folder, network, digest)
    if path.exists():
        source = read_entry(path)
    else:
        fetched = _fetch(network, wanted, digest, folder, allow_download, on_fetch)
        if fetched is None:
            raise WeightsError(
                f"{folder}: no {network} weights of sha256 {digest}, with which the features were "
                f"made that the run was trained on; name their file with --{network}-weights"
            )
        source = fetched
    if (source.stream, source.digest) != (network, digest):
        raise WeightsError(
            f"{source.path}: found {source.stream} weights of sha256 {source.digest}, expected "
            f"{network} weights of sha256 {digest}; name their file with --{network}-weights"
        )
    return source


def _fetch(
    network: Stream,
    wanted: Weights,
    digest: str,
    folder: Path,
    allow_download: bool,
    on_fetch: Callable[[str], None],
) -> Weights | None:
    """Return published weights, whichever of them are wanted; None if these are not published."""
    if network == "rgb":
        if digest != RGB_SHA256:
            return None
        return resolve_weights(
            streams=["rgb"], folder=folder, allow_download=allow_download, on_fetch=on_fetch
        )["rgb"]
    for publication in PUBLISHED_FLOW:
        if wanted.kind == "published" and publication.name == wanted.name:
            found = find_published_flow(folder, (publication,))
            if found is None and allow_download:
                found = read_entry(fetch_flow(folder, on_fetch, (publication,)))
            return found
    return None
