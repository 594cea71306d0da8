"""How the multi-task network is trained."""

from dataclasses import dataclass
from typing import Literal

from model.settings import Settings

ScoreLoss = Literal["smooth_l1", "cross_entropy"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """How the network is trained (Wan et al. 2021, section 5.1, unless said otherwise)."""

    steps: int = 400
    """Optimiser steps at most."""
    eval_every: int = 20
    """Steps between two looks at the validation part."""
    patience: int = 8
    """Looks without improvement before training stops; 0 never stops early."""
    batch_size: int = 60
    """Windows a step; half of them hold an abnormal frame."""
    learning_rate: float = 3e-4
    """Of Adam."""
    weight_decay: float = 5e-4
    """L2 penalty, the gamma of equation 6."""
    category_weight: float = 1.0
    """lambda1 of equation 8."""
    score_weight: float = 10.0
    """lambda2 of equation 8."""
    score_loss: ScoreLoss = "smooth_l1"
    """Loss of the frame scores: equation 7, or binary cross entropy."""
    val_fraction: float = 0.2
    """Share of the training videos held out where the labels name no `val` videos."""
    refit: bool = False
    """After selection, train anew on all training videos, the held out ones included, for as many
    steps as were best. Videos that the labels themselves name `val` stay out."""
    snapshots: int = 0
    """Times, evenly spread, that the training is kept as it is then; `feat eval` compares them."""
    precision: Precision = "float32"
    """Number format of the matrix products but those from state to state; bfloat16 is for GPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_at_least(1, "steps", "eval_every", "batch_size")
        self._require_at_least(0, "patience", "weight_decay", "category_weight", "score_weight")
        self._require_at_least(0, "snapshots")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        self._require_share("val_fraction")
