"""The methods by name. To add one: a module with a class derived from `Method`, and a line here."""

import difflib
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from data.errors import ConfigError

if TYPE_CHECKING:
    from model.methods.base import Method

METHODS = {
    "convlstm": "model.methods.convlstm:ConvLSTMMethod",
    "deepmil": "model.methods.weak.deepmil:DeepMIL",
    "ar-net": "model.methods.weak.ar_net:ARNet",
    "rtfm": "model.methods.weak.rtfm:RTFM",
    "ur-dmu": "model.methods.weak.ur_dmu:URDMU",
    "bn-wvad": "model.methods.weak.bn_wvad:BNWVAD",
    "pel4vad": "model.methods.weak.pel4vad:PEL4VAD",
    "gmm": "model.methods.one_class.gmm:GaussianMixtureMethod",
    "sparse": "model.methods.one_class.sparse:SparseCoding",
    "srnn": "model.methods.one_class.srnn:StackedRNN",
    "mean-feature": "model.methods.classifiers.mean_feature:MeanFeature",
    "tcnn": "model.methods.classifiers.tcnn:TCNN",
    "knn": "model.methods.one_class.knn:NearestNeighbourMethod",
    "autoencoder": "model.methods.one_class.autoencoder:AutoEncoder",
    "conv-ae": "model.methods.pixels.conv_ae:ConvAutoEncoder",
    "unet": "model.methods.pixels.unet:FutureFrame",
    "mnad": "model.methods.pixels.mnad:MNAD",
    "ognet": "model.methods.pixels.ognet:OldIsGold",
    "mlep": "model.methods.pixels.mlep:MarginPrediction",
    "logistic": "model.methods.baselines.logistic:Logistic",
    "shuffled": "model.methods.baselines.shuffled:Shuffled",
    "position": "model.methods.baselines.position:Position",
    "flow-magnitude": "model.methods.baselines.flow_magnitude:FlowMagnitude",
}
"""Name -> module and class, imported at first use: PyTorch takes seconds."""

PRESETS = ("default", "paper", "released", "small")
"""Names of presets that some method has."""


def choose_method(name: str, preset: str = "default", assignments: Sequence[str] = ()) -> "Method":
    """Return the method of that name with its settings.

    Args:
        name: of `METHODS`.
        preset: of the method.
        assignments: `name=value` texts that change single settings.

    Raises:
        ConfigError: there is no such method or preset, or a setting does not fit.
    """
    method = _import(name)
    if preset not in method.presets:
        raise ConfigError(f"{name} has no preset {preset!r}; it has {', '.join(method.presets)}")
    return method().changed(method.presets[preset]).changed_by_text(assignments)


def choose_methods(
    names: Sequence[str], preset: str = "default", assignments: Sequence[str] = ()
) -> list["Method"]:
    """Return several methods; one that lacks the preset takes its default.

    Args:
        names: of `METHODS`.
        preset: of those methods that have it.
        assignments: `method.name=value` texts that change single settings.

    Raises:
        ConfigError: no method has the preset, or an assignment names none of the methods.
    """
    own: dict[str, list[str]] = {name: [] for name in names}
    for text in assignments:
        name, _, assignment = text.partition(".")
        if name not in own or not assignment:
            raise ConfigError(
                f"--set {text}: expected METHOD.NAME=VALUE with one of {', '.join(own)}"
            )
        own[name].append(assignment)
    having = [name for name in own if preset in _import(name).presets]
    if not having:
        raise ConfigError(f"none of {', '.join(own)} has a preset {preset!r}")
    return [
        choose_method(name, preset if name in having else "default", texts)
        for name, texts in own.items()
    ]


def _import(name: str) -> "type[Method]":
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=3)
        advice = f"did you mean {', '.join(near)}?" if near else f"expected {', '.join(METHODS)}"
        raise ConfigError(f"method {name!r} is unknown; {advice}")
    module, _, kind = METHODS[name].partition(":")
    method: type[Method] = getattr(import_module(module), kind)
    return method
