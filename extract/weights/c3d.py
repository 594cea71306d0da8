"""C3D's weights: no package holds them, so files of the user's own, in the formats in use.

- PyTorch state dicts with the names of DavideA/c3d-pytorch (`c3d.pickle`: `conv3a.weight`), of
  open-mmlab/mmaction2 (`conv1a.conv.weight`) or of jfzhang95/pytorch-video-recognition
  (`features.0.weight`).
- Keras in TensorFlow's order of axes (`sports1M_weights_tf.h5` as `convert_caffe_model.py` of
  axon-research/c3d-keras writes it: `conv1/conv1_W`, Keras 2: `conv1/conv1/kernel:0`). Kernels are
  (depth, height, width, in, out), and the rows of fc6 go by height, width and channel.
- Caffe's arrays as .npz, .h5 or a .npy of a dict (`conv1a`, `fc6-1`; chainer: `conv1a/W`).

All of these come from one network, which takes blue first. What tells the order of axes is the
shape of the first kernel. No torch here.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cache.exchange.arrays import find_arrays
from cache.exchange.hdf5_arrays import list_arrays, read_npy
from data.array_pickle import load_array_pickle
from data.errors import WeightsError
from data.npy_file import read_npy_array
from data.state_dict import read_state_dict
from extract.weights.convert import Array, as_array, read_weights

WHERE = (
    "the Sports-1M weights are in no package: download c3d.pickle (the link is in "
    "https://github.com/DavideA/c3d-pytorch), a Keras sports1M_weights_tf.h5 or Caffe's arrays, "
    "and run feat weights fetch --stream c3d --from FILE"
)

_WIDTHS = {
    "conv1": 64, "conv2": 128, "conv3a": 256, "conv3b": 256,
    "conv4a": 512, "conv4b": 512, "conv5a": 512, "conv5b": 512,
}  # fmt: skip
_FC6 = 4096
_PLACES = 16  # of the last pooling, 4x4

# jfzhang95's numbers, of the layers of a Sequential.
_NUMBERED = {
    "features.0": "conv1", "features.3": "conv2", "features.6": "conv3a", "features.8": "conv3b",
    "features.11": "conv4a", "features.13": "conv4b", "features.16": "conv5a",
    "features.18": "conv5b", "classifier.0": "fc6",
}  # fmt: skip
_LAYER = re.compile(r"(?:^|[./])(conv[1-5][ab]?|fc6|features\.\d+|classifier\.\d+)(?=$|[-./_])")


def expected_shapes(widths: Mapping[str, int], num_features: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of every array, in our names."""
    shapes: dict[str, tuple[int, ...]] = {}
    channels = 3
    for layer, width in widths.items():
        shapes[f"{layer}.weight"], shapes[f"{layer}.bias"] = (width, channels, 3, 3, 3), (width,)
        channels = width
    shapes["fc6.weight"] = (num_features, channels * _PLACES)
    shapes["fc6.bias"] = (num_features,)
    return shapes


SHAPES = expected_shapes(_WIDTHS, _FC6)


def convert_c3d(path: Path, content: bytes) -> dict[str, Array]:
    """Return our state dict, up to fc6, from a file in one of the formats above.

    Args:
        path: of the file; its suffix tells how it is read.
        content: of the file.

    Raises:
        WeightsError: it is damaged, or holds another network.
    """
    state: dict[str, Array] = {}
    for name, array in _read_arrays(path, content).items():
        if not (layer := _layer(name)):
            continue
        array = as_array(array).squeeze()  # Caffe's blobs have five axes, fc6 and biases too
        ours = f"{layer}.{'bias' if array.ndim == 1 else 'weight'}"
        if ours in state:
            raise WeightsError(f"{path}: {name} is a second {ours}; keep the network's own arrays")
        state[ours] = array
    if missing := SHAPES.keys() - state.keys():
        raise WeightsError(
            f"{path}: no {', '.join(sorted(missing))} in it, expected C3D's conv1 to conv5b and "
            f"fc6; {WHERE}"
        )
    if state["conv1.weight"].shape == _last(SHAPES["conv1.weight"]):
        state = {name: _channels_first(name, array) for name, array in state.items()}
    elif state["fc6.weight"].shape == SHAPES["fc6.weight"][::-1]:
        raise WeightsError(
            f"{path}: kernels in Theano's order, which are mirrored in ways that hang on the Keras "
            "that wrote them; use the file in TensorFlow's order (sports1M_weights_tf.h5)"
        )
    for name, shape in SHAPES.items():
        if state[name].shape != shape:
            raise WeightsError(f"{path}: {name} has shape {state[name].shape}, expected {shape}")
        if not np.isfinite(state[name]).all():
            raise WeightsError(f"{path}: {name} holds NaN or infinite values; the file is damaged")
    return {name: np.ascontiguousarray(state[name]) for name in SHAPES}


def _last(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a kernel whose channels come last."""
    out, into, *places = shape
    return (*places, into, out)


def _channels_first(name: str, array: Array) -> Array:
    if array.ndim == 5:
        return array.transpose(4, 3, 0, 1, 2)
    if array.ndim == 2 and len(array) % _PLACES == 0:  # rows by height, width, channel
        side = int(_PLACES**0.5)
        spread = array.reshape(side, side, -1, array.shape[1])
        return spread.transpose(3, 2, 0, 1).reshape(array.shape[1], -1)
    return array


def _layer(name: str) -> str:
    """Return which of our layers an array is of, by its name in a file; "" for none."""
    found = _LAYER.search(name)
    layer = _NUMBERED.get(found[1], found[1]) if found else ""
    layer = {"conv1a": "conv1", "conv2a": "conv2"}.get(layer, layer)
    return layer if layer in (*_WIDTHS, "fc6") else ""


def _read_arrays(path: Path, content: bytes) -> Mapping[str, Any]:
    """Return the arrays in a file by their names; those after fc6 may be left out."""
    match path.suffix.lower():
        case ".npz":
            problems: list[str] = []
            found = find_arrays(path, problems, [])
            if problems:
                raise WeightsError(problems[0])
            return {one.entry.removesuffix(".npy"): one.read() for one in found}
        case ".h5" | ".hdf5":
            return _read_hdf5(path)
        case ".npy":
            return dict(_flat("", _read_object(path, content)))
        case ".safetensors":
            return read_weights(path)[1]
        case _:
            return read_state_dict(content, str(path), error=WeightsError)


def _read_hdf5(path: Path) -> dict[str, Any]:
    try:
        names = [name for name in list_arrays(path) if _layer(name)]
        file = io.BytesIO(read_npy(path, *names) if names else b"")
        return {name: read_npy_array(file, len(file.getbuffer())) for name in names}
    except ValueError as error:
        raise WeightsError(f"{path}: {' '.join(str(error).split()):.200}") from error


def _read_object(path: Path, content: bytes) -> Any:
    """Return the dict in a .npy, which `np.save` pickles as an array of one object."""
    file = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("a .npy of another version than 1.0")
        length = int.from_bytes(file.read(2), "little")
        value = load_array_pickle(content[file.tell() + length :])
        return value.item() if isinstance(value, np.ndarray) and value.size == 1 else value
    except ValueError as error:
        raise WeightsError(
            f"{path}: {' '.join(str(error).split()):.200}; expected a dict of arrays by layer"
        ) from error


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the arrays in nested dicts and lists, by their keys joined with slashes."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            key = key.decode("latin1") if isinstance(key, bytes) else str(key)
            yield from _flat(f"{name}/{key}".lstrip("/"), one)
    elif isinstance(value, list | tuple | np.ndarray):
        for number, one in enumerate(value):
            yield from _flat(f"{name}/{number}", one)
