"""The shape of the multi-task network."""

from dataclasses import dataclass
from typing import Literal

from model.settings import Settings

Heads = Literal["shared", "separate", "branched"]
Readout = Literal["last", "each"]
ScoreActivation = Literal["sigmoid", "linear"]


@dataclass(frozen=True, kw_only=True)
class NetworkConfig(Settings):
    """Shape of the multi-task network (Wan et al. 2021, section 4, unless said otherwise)."""

    num_clips: int = 5
    """K, the clips of a window."""
    clip_slots: int = 0
    """m, the scores of a clip; 0 stands for the cache's frames a clip (16 for segments)."""
    hidden: int = 128
    """Channels of the ConvLSTM's hidden and cell state."""
    layers: int = 2
    """ConvLSTM layers."""
    peepholes: bool = True
    """Let the gates see the cell state, as in equations 1, 2 and 4."""
    head_widths: tuple[int, ...] = (2048, 1024, 512)
    """Widths of the fully connected layers between the ConvLSTM and the two outputs."""
    heads: Heads = "shared"
    """Whether the two outputs share those layers, have their own, or share the first alone; in
    that case (`branched`) the others have no biases, as in the authors' published code."""
    readout: Readout = "last"
    """What the scores of clip k come from: the window's last hidden state, or that of step k."""
    motion: bool = False
    """Add the flow's statistics to its features, where the cache holds them."""
    skip: bool = False
    """Add a linear score of each clip's own features (a logistic regression beside the network)."""
    dropout: float = 0.0
    """Share of values dropped before each fully connected layer and between ConvLSTM layers."""
    input_dropout: float = 0.0
    """Share of feature values dropped at the input."""
    score_activation: ScoreActivation = "sigmoid"
    """How the score output is brought to [0, 1]; `linear` clamps it after averaging."""
    standardize: bool = True
    """Standardise the features with the training set's mean and standard deviation."""
    feature_clip: float = 0.0
    """Limit of a standardised feature's absolute value; 0 for none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "num_clips", "hidden", "layers")
        self._require_at_least(0, "clip_slots", "feature_clip")
        self._require("head_widths", all(width >= 1 for width in self.head_widths), "widths >= 1")
        branched = self.heads == "branched"
        self._require("head_widths", not branched or bool(self.head_widths), "a width to share")
        self._require_share("dropout", "input_dropout")
