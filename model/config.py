"""What steers the model and its training, and the presets; command-line defaults come from here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from data.errors import ConfigError

Heads = Literal["shared", "separate", "branched"]
Readout = Literal["last", "each"]
ScoreActivation = Literal["sigmoid", "linear"]
ScoreLoss = Literal["smooth_l1", "cross_entropy"]
Precision = Literal["float32", "bfloat16"]


class _Config:
    """Conversion to and from plain dictionaries, shared by the configurations below."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        plain = asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in plain.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build the configuration from what `to_dict` gave.

        Raises:
            ConfigError: a key is unknown, or a value out of its range.
        """
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(
                f"{cls.__name__}: unknown settings {', '.join(unknown)}; known are "
                f"{', '.join(sorted(known))}"
            )
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})

    def _require(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            raise ConfigError(
                f"{type(self).__name__}: {name} is {getattr(self, name)!r}, expected {expected}"
            )

    def _require_choice(self, name: str, choices: Any) -> None:
        known = get_args(choices)
        self._require(name, getattr(self, name) in known, f"one of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig(_Config):
    """Shape of the multi-task network (Wan et al. 2021, section 4, unless said otherwise)."""

    num_clips: int = 5
    """K, the clips of a window."""
    clip_slots: int = 0
    """m, the scores of a clip; 0 stands for the cache's frames a clip (16 for segments)."""
    grid: int = 4
    """Side of the square map a feature vector is reshaped to; 1 makes an ordinary LSTM."""
    hidden: int = 128
    """Channels of the ConvLSTM's hidden and cell state; multiples of 16 are quickest on a CPU."""
    layers: int = 2
    """ConvLSTM layers."""
    kernel: int = 3
    """Side of the convolutions' kernels; odd."""
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
    smoothing: float = 0.0
    """Standard deviation, in clips, of the Gaussian that smooths a video's scores; 0 for none."""

    def __post_init__(self) -> None:
        for name in ("num_clips", "grid", "hidden", "layers"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("clip_slots", self.clip_slots >= 0, "0 (as in the cache) or more")
        self._require("kernel", self.kernel >= 1 and self.kernel % 2 == 1, "an odd number")
        self._require("head_widths", all(width >= 1 for width in self.head_widths), "widths >= 1")
        branched = self.heads == "branched"
        self._require("head_widths", not branched or bool(self.head_widths), "a width to share")
        self._require("feature_clip", self.feature_clip >= 0, "0 (no limit) or more")
        self._require("smoothing", 0.0 <= self.smoothing <= 100.0, "0 (none) to 100 clips")
        for name in ("dropout", "input_dropout"):
            self._require(name, 0.0 <= getattr(self, name) < 1.0, "at least 0 and below 1")
        self._require_choice("heads", Heads)
        self._require_choice("readout", Readout)
        self._require_choice("score_activation", ScoreActivation)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Config):
    """How the network is trained (Wan et al. 2021, section 5.1, unless said otherwise)."""

    seed: int = 0
    """Of the validation part, the first weights, the batches and the dropout."""
    max_steps: int = 400
    """Optimiser steps at most."""
    eval_every: int = 20
    """Steps between two looks at the validation part."""
    patience: int = 8
    """Looks without improvement before training stops; 0 never stops early."""
    batch_size: int = 60
    """Windows a step."""
    abnormal_share: float = 0.5
    """Share of a batch's windows that hold an abnormal frame."""
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
    average_decay: float = 0.0
    """Decay of the exponential average of the weights that is evaluated and kept; 0 for none."""
    val_fraction: float = 0.2
    """Share of the training videos held out where the labels name no `val` videos."""
    refit: bool = False
    """After selection, train anew on all training videos, the held out ones included, for as many
    steps as were best. Videos that the labels themselves name `val` stay out."""
    precision: Precision = "float32"
    """Number format of the matrix products. On a CPU bfloat16 leaves the ConvLSTM to PyTorch's
    convolutions, which take longer, with instructions for it, too."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "eval_every", "batch_size"):
            self._require(name, getattr(self, name) >= 1, "at least 1")
        self._require("patience", self.patience >= 0, "0 or more")
        self._require("seed", 0 <= self.seed < 2**63, "0 or more")
        self._require("learning_rate", self.learning_rate > 0, "above 0")
        for name in ("weight_decay", "category_weight", "score_weight"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("abnormal_share", 0 < self.abnormal_share < 1, "between 0 and 1")
        self._require("val_fraction", 0 <= self.val_fraction < 1, "at least 0 and below 1")
        self._require("average_decay", 0 <= self.average_decay < 1, "at least 0 and below 1")
        self._require_choice("score_loss", ScoreLoss)
        self._require_choice("precision", Precision)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A model and its training under one name."""

    model: ModelConfig
    train: TrainConfig

    def changed(self, settings: Mapping[str, Any]) -> "Preset":
        """Return this preset with the settings that are not None put in, by field name.

        Raises:
            ConfigError: neither configuration has such a field, or the value is out of range.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        of_model = {field.name for field in fields(ModelConfig)}
        return Preset(
            model=ModelConfig.from_dict(
                {**self.model.to_dict(), **{k: v for k, v in given.items() if k in of_model}}
            ),
            train=TrainConfig.from_dict(
                {**self.train.to_dict(), **{k: v for k, v in given.items() if k not in of_model}}
            ),
        )


PRESETS = {
    # The limit on features is for those that hardly vary in a small training set: in another video
    # they are easily a hundred deviations off.
    "default": Preset(
        model=ModelConfig(
            hidden=32,
            head_widths=(256,),
            heads="separate",
            readout="each",
            dropout=0.5,
            input_dropout=0.5,
            skip=True,
            motion=True,
            feature_clip=5.0,
            smoothing=1.0,
        ),
        train=TrainConfig(
            score_loss="cross_entropy", learning_rate=1e-3, max_steps=200, refit=True
        ),
    ),
    # To the letter: no standardisation, no dropout, and a linear score output, since equation 7's
    # second branch (|x| > 1) can only be reached by one.
    "paper": Preset(
        model=ModelConfig(standardize=False, score_activation="linear"),
        train=TrainConfig(),
    ),
    # As in the authors' published code (wanboyang/anomaly_detection_LAD2000, model.py, train.py
    # and their defaults): no peepholes, one shared layer and a bias-free branch for each output, a
    # sigmoid on the scores, raw features, a smaller learning rate. They trained 12,000 steps and
    # looked at the test set every 200; here the validation part says when to stop.
    "released": Preset(
        model=ModelConfig(
            peepholes=False, head_widths=(1024, 512), heads="branched", standardize=False
        ),
        train=TrainConfig(learning_rate=1e-4, max_steps=12_000, eval_every=200),
    ),
}


def choose_preset(name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset {name!r} is unknown, expected one of {', '.join(PRESETS)}")
    return PRESETS[name]
