"""Checkpoints of the authors' published code, taken into run folders of ours.

Names and shapes are those of the class `AED_T` (two layers) and `AED` (one) in `model.py` of
wanboyang/anomaly_detection_LAD2000; only the state dict is read, as tensors, never a pickled
object.

Their cell convolves the input and the hidden state, one after the other along the channels, with
one kernel, and its gates come in the order i, f, o, g, as ours do: the kernel is only to be cut in
two.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from cache import FeatureCache
from data.datasets.lad import CATEGORIES
from data.errors import ModelError
from data.files import write_json
from data.labels import VideoLabel, write_labels
from data.output_folder import claim_folder
from data.state_dict import read_state_dict
from model.features.choose import available_streams, choose_streams
from model.features.load import SEGMENT_SLOTS, FeatureSet, load_features
from model.features.standardize import Standardizer
from model.methods.convlstm import (
    PRESETS,
    ConvLSTMMethod,
    standardizer_parameters,
)
from model.network.multitask import AnomalyNetwork
from model.network.winograd import GRID
from model.runs.checkpoint import Checkpoint, RunInfo, save_checkpoint
from model.runs.environment import environment
from model.runs.folder import CONFIG_NAME, ENVIRONMENT_NAME, LABELS_NAME, labels_digest
from model.training.names import network_parameters

logger = logging.getLogger(f"feat.{__name__}")

CLIP_SLOTS = 16
"""Scores a clip of theirs, one a frame."""
HEADS = {
    "fc_down.weight": "trunk.1.weight",
    "fc_down.bias": "trunk.1.bias",
    "reg_head.fc_1.weight": "score_branch.1.weight",
    "reg_head.fc_2.weight": "score_output.weight",
    "cls_head.fc_1.weight": "category_branch.1.weight",
    "cls_head.fc_2.weight": "category_output.weight",
}
"""Their name -> ours."""


@dataclass(frozen=True, kw_only=True)
class Released:
    """What a published checkpoint holds, in our names."""

    method: ConvLSTMMethod
    feature_dim: int
    num_categories: int
    weights: Mapping[str, Tensor]
    sha256: str
    """Of the file."""


def read_released(path: Path) -> Released:
    """Read a checkpoint that the published code saved with `torch.save(model.state_dict(), ...)`.

    Raises:
        ModelError: it is not a state dict, or not of that network; what does not fit is named.
    """
    state, sha256 = _read_state(path)
    try:
        layers = 2 if "convlstm2.Gates.weight" in state else 1
        cells = [f"convlstm{number + 1}.Gates" for number in range(layers)]
        expected = {*HEADS, *(f"{cell}.{part}" for cell in cells for part in ("weight", "bias"))}
        _check_names(set(state), expected)
        method, feature_dim = _shape_of(state, layers)
        weights = _our_names(state, method, layers)
        num_categories = len(state["cls_head.fc_2.weight"])
        with torch.device("meta"):
            network = AnomalyNetwork(method, feature_dim=feature_dim, num_categories=num_categories)
        network.load_state_dict(weights, strict=True, assign=True)
    except (ValueError, IndexError, RuntimeError) as error:
        what = " ".join(str(error).split())
        raise ModelError(
            f"{path}: not a checkpoint of the authors' published network (AED_T, AED): {what:.300}"
        ) from error
    return Released(
        method=method,
        feature_dim=feature_dim,
        num_categories=num_categories,
        weights=weights,
        sha256=sha256,
    )


def _read_state(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a checkpoint and the sha256 of the file."""
    if not path.is_file():
        raise ModelError(f"{path}: no such file; give the checkpoint, such as iter_6000.pkl")
    content = path.read_bytes()
    state = read_state_dict(content, str(path), error=ModelError)
    if not all(v.is_floating_point() and bool(v.isfinite().all()) for v in state.values()):
        raise ModelError(f"{path}: some weights are not finite numbers; use another checkpoint")
    plain = {name: value.float().contiguous() for name, value in state.items()}
    return plain, hashlib.sha256(content).hexdigest()


def _check_names(found: set[str], expected: set[str]) -> None:
    missing, unknown = sorted(expected - found), sorted(found - expected)
    problems = [
        f"{what} {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        for what, names in (("without", missing), ("with unknown", unknown))
        if names
    ]
    if problems:
        raise ValueError("; ".join(problems))


def _shape_of(state: Mapping[str, Tensor], layers: int) -> tuple[ConvLSTMMethod, int]:
    """Return the configuration with m resolved, and D."""
    preset = ConvLSTMMethod().changed(PRESETS["released"])
    gates = state["convlstm1.Gates.weight"]  # (4 * hidden, D / 16 + hidden, 3, 3)
    hidden = gates.shape[0] // 4
    num_scores = len(state["reg_head.fc_2.weight"])
    if num_scores == 0 or num_scores % CLIP_SLOTS:
        raise ValueError(f"{num_scores} scores a window, expected a multiple of {CLIP_SLOTS}")
    if hidden < 1 or gates.shape[1] <= hidden:
        raise ValueError(f"convlstm1.Gates.weight is {tuple(gates.shape)}")
    method = replace(
        preset,
        num_clips=num_scores // CLIP_SLOTS,
        clip_slots=CLIP_SLOTS,
        hidden=hidden,
        layers=layers,
        head_widths=(len(state["fc_down.weight"]), len(state["reg_head.fc_1.weight"])),
    )
    return method, (gates.shape[1] - hidden) * GRID**2


def _our_names(
    state: Mapping[str, Tensor], method: ConvLSTMMethod, layers: int
) -> dict[str, Tensor]:
    weights = {ours: state[theirs] for theirs, ours in HEADS.items()}
    for layer in range(layers):
        gates = state[f"convlstm{layer + 1}.Gates.weight"]
        ours = f"recurrent.layers.{layer}"
        seen = gates.shape[1] - method.hidden
        weights[f"{ours}.input_to_gates.weight"] = gates[:, :seen].contiguous()
        weights[f"{ours}.input_to_gates.bias"] = state[f"convlstm{layer + 1}.Gates.bias"]
        weights[f"{ours}.hidden_to_gates.weight"] = gates[:, seen:].contiguous()
    return weights


def import_released(
    path: Path,
    cache: FeatureCache,
    *,
    out: Path,
    categories: Sequence[str] = (),
    streams: Sequence[str] = (),
    labels: Sequence[VideoLabel] = (),
) -> RunInfo:
    """Make a run folder of a published checkpoint.

    Args:
        path: the checkpoint.
        cache: features to use it on.
        out: the run folder, new or empty.
        categories: in the order of their numbers; default: LAD's 14.
        streams: default: those that the cache has of all videos.
        labels: copied into the run, for `feat eval`.

    Raises:
        ModelError: the checkpoint is something else, or does not fit the features or categories.
    """
    released = read_released(path)
    names = tuple(categories) or CATEGORIES
    if len(names) != released.num_categories or len(set(names)) != len(names):
        raise ModelError(
            f"{path}: knows {released.num_categories} categories, {len(set(names))} different ones "
            "are named; give all of them, in the order of their numbers, with --categories"
        )
    data = _sample(cache, streams)
    found = " + ".join(f"{stream.name} ({stream.dim})" for stream in data.streams)
    if data.features.shape[1] != released.feature_dim:
        raise ModelError(
            f"{path}: takes {released.feature_dim} values a clip, the cache {cache.path} has "
            f"{found}; choose others with --streams"
        )
    if (data.clip_len or SEGMENT_SLOTS) != CLIP_SLOTS:
        raise ModelError(
            f"{path}: scores clips of {CLIP_SLOTS} frames, those of {cache.path} have "
            f"{data.clip_len}; extract with --clip-len {CLIP_SLOTS}"
        )
    network = AnomalyNetwork(
        released.method, feature_dim=released.feature_dim, num_categories=len(names)
    )
    network.load_state_dict(released.weights)
    logger.warning(
        "the published weights were trained on features whose pixels were not scaled to [-1, 1] "
        "and whose flow was the x component twice: on %s they need not do well",
        found,
    )
    claim_folder(out, error=ModelError)
    labels_sha256 = ""
    if labels:
        write_labels(out / LABELS_NAME, labels)
        labels_sha256 = labels_digest(out)
    info = RunInfo(
        method=released.method,
        seed=0,
        streams=data.streams,
        clip_len=data.clip_len,
        categories=names,
        train_videos={},
        val_videos={},
        labels_sha256=labels_sha256,
        cache=str(cache.path.resolve()),
        result={"imported_from": path.name, "imported_sha256": released.sha256},
    )
    write_json(out / CONFIG_NAME, info.to_dict())
    write_json(out / ENVIRONMENT_NAME, environment())
    parameters = {
        **network_parameters(network),
        **standardizer_parameters(Standardizer.identity(released.feature_dim)),
    }
    save_checkpoint(out, Checkpoint(info=info, parameters=parameters))
    return info


def _sample(cache: FeatureCache, streams: Sequence[str]) -> FeatureSet:
    """Return one video's features, for what is the same for all."""
    videos = cache.videos()
    if not videos:
        raise ModelError(f"{cache.path}: the cache holds no video; run `feat extract` first")
    chosen = tuple(streams) or choose_streams(available_streams(cache, videos))
    any_label = VideoLabel(video=videos[0], split="test", extent="unknown")
    return load_features(cache, [any_label], streams=chosen)
