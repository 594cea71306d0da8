"""The networks that make features, each by the name of the stream that it fills.

Adding one takes a module with a class that meets `Backbone` and a line in `BACKBONES`. The
extractor, the keys, the commands and the cache ask this registry and know no network by name.
Nothing here loads torch or a network's code before it is needed.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, Self, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from extract.i3d.layers import Stream
    from extract.weights.resolve import Weights

Needs = Literal["frames", "flow"]


class Network(Protocol):
    """A backbone with its weights on a device; called by several threads at the same time."""

    def __call__(self, clips: "Tensor", /) -> "Tensor":
        """Return the rows of a batch, `(B, *shape)` on the device of `clips`.

        Args:
            clips: what the backbone needs, as it comes from the decoder or the flow: frames
                (B, T, H, W, 3) uint8 RGB, or flow (B, T, H, W, 2) float32, x then y, in [-1, 1].
        """


class Backbone(Protocol):
    """A network, what it needs and what it gives. Light: the weights come with `load`."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Name, version and layer: part of the key, so raise the version if values change."""

    @property
    def needs(self) -> Needs:
        """What its clips are made of."""

    @property
    def clip_lens(self) -> range:
        """Lengths of the clips that it takes, frames."""

    @property
    def sizes(self) -> range:
        """Sizes of the square frames that it takes, pixels."""

    @property
    def resizes(self) -> Sequence[str]:
        """How its frames may be made of a video's: see `resize` of `DecodeConfig`."""

    @property
    def kind(self) -> str:
        """The kind of array that its rows make up, one of `cache.streams.KINDS`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one clip's row, such as `(1024,)`."""

    @property
    def dtype(self) -> str:
        """Type of its rows, such as `float32`."""

    def find_weights(
        self,
        choices: Mapping[str, str],
        *,
        present: Sequence[Mapping[str, Any]] = (),
        recorded: "Weights | None" = None,
    ) -> "Weights":
        """Return the weights to use; fetch and convert what is missing.

        Args:
            choices: by stream, `auto` or what else the user chose, such as the path of a file.
            present: configurations of this stream that the cache holds already.
            recorded: find the very weights that features were made with.

        Raises:
            WeightsError: they cannot be had.
        """

    def load(self, weights: "Weights", *, device: "torch.device", precision: str) -> Network:
        """Return the network with these weights on `device`.

        Raises:
            WeightsError: the file is damaged or not the one that was found.
        """


@runtime_checkable
class MapBackbone(Protocol):
    """A backbone whose rows are the means of a map: one that can give the map's places, too."""

    def with_map(self, size: int) -> Backbone | None:
        """Return the one whose row is a feature for each place, the map row by row.

        It has the kind `crops`, and None is where a row is no mean of the places.

        Args:
            size: of the square frames, pixels.
        """


@dataclass(frozen=True)
class I3DBackbone:
    """Inception-v1 inflated to 3-D, one network for each of its two streams; see `extract.i3d`."""

    stream: "Stream"
    needs: Needs
    map_size: int = 0
    """Height and width of the map whose places a row has; 0: their mean."""

    identity: ClassVar[dict[str, Any]] = {
        "name": "i3d-inception-v1",
        "version": 1,
        "layer": "last average pooling",
    }
    clip_lens = range(8, sys.maxsize)  # the last pooling spans two time steps of stride eight
    sizes = range(1, sys.maxsize)
    resizes = ("squash", "crop", "short-side")
    dtype = "float32"

    @property
    def kind(self) -> str:
        """Return `crops` of maps."""
        return "crops" if self.map_size else "features"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return (1024,), of maps (49, 1024)."""
        return (self.map_size**2, 1024) if self.map_size else (1024,)

    def with_map(self, size: int) -> Self | None:
        """Return that of maps, 7x7 of frames of 224 pixels; larger ones are pooled by windows."""
        return replace(self, map_size=-(-size // 32)) if size <= 224 else None

    def find_weights(
        self,
        choices: Mapping[str, str],
        *,
        present: Sequence[Mapping[str, Any]] = (),
        recorded: "Weights | None" = None,
    ) -> "Weights":
        """Return the published weights, a user's, or for flow a copy of the RGB network's."""
        from extract.weights.resolve import resolve_recorded, resolve_weights

        rgb, flow = choices.get("rgb", "auto"), choices.get("flow", "auto")
        if recorded is not None:
            return resolve_recorded(
                recorded,
                rgb_file=None if rgb == "auto" else Path(rgb),
                flow_file=None if flow == "auto" else Path(flow),
            )
        return resolve_weights(
            self.stream,
            rgb=rgb,
            flow=flow,
            # features that were begun with cross-modality weights go on with them
            prefer_crossmodal=any(_is_crossmodal(config) for config in present),
        )

    def load(self, weights: "Weights", *, device: "torch.device", precision: str) -> Network:
        """Return the network, laid out for `device`; see `extract.i3d.prepared.prepare_network`."""
        from extract.i3d.prepared import prepare_network
        from extract.weights.resolve import load_state_dict

        network = prepare_network(
            load_state_dict(weights),
            self.stream,
            device=device,
            precision=precision,
            feature_map=self.map_size > 0,
        )

        def features(clips: "Tensor") -> "Tensor":
            return network(clips.permute(0, 4, 1, 2, 3))

        return features


class C3DBackbone:
    """The features of Tran et al. 2015: fc6 after its ReLU; see `extract.c3d`."""

    identity: ClassVar[dict[str, Any]] = {
        "name": "c3d-sports1m",
        "version": 1,
        "layer": "fc6 after ReLU",
    }
    needs: Needs = "frames"
    clip_lens = range(16, 17)
    sizes = range(1, sys.maxsize)
    resizes = ("squash",)  # it scales whole frames to 128x171 and cuts their centre itself
    kind = "features"
    shape: tuple[int, ...] = (4096,)
    dtype = "float32"

    def find_weights(
        self,
        choices: Mapping[str, str],
        *,
        present: Sequence[Mapping[str, Any]] = (),
        recorded: "Weights | None" = None,
    ) -> "Weights":
        """Return the user's weights: the file that was chosen, or what is in the folder."""
        from extract.weights.resolve import resolve_c3d

        return resolve_c3d(choices.get("c3d", "auto"), present=present, recorded=recorded)

    def load(self, weights: "Weights", *, device: "torch.device", precision: str) -> Network:
        """Return the network."""
        from extract.c3d import C3D
        from extract.weights.resolve import load_state_dict

        return C3D(load_state_dict(weights), device=device, precision=precision)


def _is_crossmodal(config: Mapping[str, Any]) -> bool:
    weights = config.get("weights")
    return isinstance(weights, Mapping) and weights.get("kind") == "crossmodal"


BACKBONES: dict[str, Backbone] = {
    "rgb": I3DBackbone("rgb", needs="frames"),
    "flow": I3DBackbone("flow", needs="flow"),
    "c3d": C3DBackbone(),
}
